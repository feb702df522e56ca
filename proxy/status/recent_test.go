package status

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// statuses returns the statuses of requests.
func statuses(requests []Record) []int {
	var all []int
	for _, r := range requests {
		all = append(all, r.Status)
	}
	return all
}

// latest returns what a page shows of the last requests.
func latest(r *Recent) (chats, others []Record) {
	var page Page
	r.Show(&page)
	return page.Chats, page.Others
}

// TestRecentKeepsTheLast: twenty chats and five others, whatever else comes.
func TestRecentKeepsTheLast(t *testing.T) {
	var recent Recent
	var chats, others []int // the latest first
	for n := range 200 {
		gotChats, gotOthers := latest(&recent)
		if !slices.Equal(statuses(gotChats), chats) || !slices.Equal(statuses(gotOthers), others) {
			t.Fatalf("after %d requests: got %v and %v; want %v and %v", n, statuses(gotChats), statuses(gotOthers), chats, others)
		}
		isChat := n%30 == 0 || n > 150 && n%2 == 0
		recent.Add(Record{Status: n, IsChat: isChat})
		if isChat {
			chats = slices.Insert(chats, 0, n)[:min(len(chats)+1, 20)]
		} else {
			others = slices.Insert(others, 0, n)[:min(len(others)+1, 5)]
		}
	}
}

func TestLatestIsTheCallersOwn(t *testing.T) {
	var recent Recent
	recent.Add(Record{Status: 1})
	_, before := latest(&recent)
	for range othersLimit {
		recent.Add(Record{Status: 2})
	}
	_, now := latest(&recent)
	now[0].Status = 3
	_, now = latest(&recent)
	if before[0].Status != 1 || now[0].Status != 2 {
		t.Errorf("got %v before, and %v now; want 1, and 2", statuses(before), statuses(now))
	}
}

// TestRecentKeepsNoLongTexts: a client may name a model with megabytes.
func TestRecentKeepsNoLongTexts(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	var recent Recent
	recent.Add(Record{Route: long, Model: long})
	_, others := latest(&recent)
	got := others[0]
	for _, text := range []string{got.Route, got.Model} {
		if n := utf8.RuneCountInString(text); n != textLimit+1 || !strings.HasSuffix(text, "é…") {
			t.Errorf("%d characters; want %d and an ellipsis", n, textLimit)
		}
	}
}
