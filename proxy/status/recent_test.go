package status

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// statuses returns the statuses of requests.
func statuses(requests []Request) []int {
	var all []int
	for _, r := range requests {
		all = append(all, r.Status)
	}
	return all
}

func TestRecentKeepsTheLast20(t *testing.T) {
	var recent Recent
	var want []int // the latest first
	for n := range 65 {
		if got := statuses(recent.Latest()); !slices.Equal(got, want) {
			t.Fatalf("after %d requests: got %v; want %v", n, got, want)
		}
		recent.Add(Request{Status: n})
		want = slices.Insert(want, 0, n)[:min(n+1, 20)]
	}
}

func TestLatestIsTheCallersOwn(t *testing.T) {
	var recent Recent
	recent.Add(Request{Status: 1})
	before := recent.Latest()
	for range recentLimit {
		recent.Add(Request{Status: 2})
	}
	recent.Latest()[0].Status = 3
	if before[0].Status != 1 || recent.Latest()[0].Status != 2 {
		t.Errorf("got %v before, and %v now; want 1, and 2", statuses(before), statuses(recent.Latest()))
	}
}

// TestRecentTogether needs the race detector.
func TestRecentTogether(t *testing.T) {
	const adders, each = 4, 500
	var recent Recent
	var wg sync.WaitGroup
	for range adders {
		wg.Go(func() {
			for n := range each {
				recent.Add(Request{Status: n})
			}
		})
		wg.Go(func() {
			for range each {
				recent.Latest()
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
