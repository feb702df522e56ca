package status

import (
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// expectDownFrom fails the test unless the statuses of requests count down from
// the first, and nothing older than the limit is among them.
func expectDownFrom(t *testing.T, requests []Request, first int) {
	t.Helper()
	if got, want := len(requests), min(first, recentLimit); got != want {
		t.Fatalf("%d requests of %d; want %d", got, first, want)
	}
	for i, r := range requests {
		if r.Status != first-i {
			t.Fatalf("request %d of the latest: %d; want %d", i, r.Status, first-i)
		}
	}
}

func TestRecentKeepsTheLast20(t *testing.T) {
	var recent Recent
	for n := range 65 {
		expectDownFrom(t, recent.Latest(), n)
		recent.Add(Request{Status: n + 1})
	}
	if got := len(recent.Latest()); got != 20 {
		t.Errorf("%d requests; want 20", got)
	}
}

func TestLatestIsTheCallersOwn(t *testing.T) {
	var recent Recent
	recent.Add(Request{Status: 1})
	before := recent.Latest()
	for range recentLimit {
		recent.Add(Request{Status: 2})
	}
	expectDownFrom(t, before, 1)
	recent.Latest()[0].Status = 3
	if got := recent.Latest()[0].Status; got != 2 {
		t.Errorf("latest: %d; want 2", got)
	}
}

// TestRecentTogether needs the race detector.
func TestRecentTogether(t *testing.T) {
	const adders, each = 4, 500
	var recent Recent
	var wg sync.WaitGroup
	for adder := range adders {
		wg.Go(func() {
			for n := range each {
				recent.Add(Request{Status: n, Route: strings.Repeat("x", adder)})
			}
		})
		wg.Go(func() {
			for range each {
				newest := map[string]int{} // by adder
				for _, r := range recent.Latest() {
					if later, ok := newest[r.Route]; ok && r.Status != later-1 {
						t.Errorf("request %d comes after %d", r.Status, later)
					}
					newest[r.Route] = r.Status
				}
			}
		})
	}
	wg.Wait()
	if got := len(recent.Latest()); got != recentLimit {
		t.Errorf("%d requests; want %d", got, recentLimit)
	}
}

// TestRecentKeepsNoLongTexts: a client may name a model with megabytes.
func TestRecentKeepsNoLongTexts(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	var recent Recent
	recent.Add(Request{Route: long, Model: long})
	got := recent.Latest()[0]
	for _, text := range []string{got.Route, got.Model} {
		if n := utf8.RuneCountInString(text); n != textLimit+1 || !strings.HasSuffix(text, "é…") {
			t.Errorf("%d characters; want %d and an ellipsis", n, textLimit)
		}
	}
}
