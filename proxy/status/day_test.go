package status

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"foreman/proxy/usage"
)

// What clients have had is told for the day, and for those with a name since the start.
func TestDay(t *testing.T) {
	var r Recent
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	add := func(client string, named bool, held time.Duration, ended time.Time) {
		r.Add(Record{IsChat: true, Client: client, Named: named, Held: held, Ended: ended})
	}
	add("ann", true, 2*time.Second, noon)
	add("192.0.2.1", false, 5*time.Second, noon)
	add("ann", true, 2*time.Second, noon.Add(time.Hour))
	add("192.0.2.2", false, 0, noon) // no chat, or none that had its turn
	want := func(at time.Time, want ...Share) {
		t.Helper()
		if got := r.dayAt(at).Shares; !slices.Equal(got, want) {
			t.Errorf("got %v; want %v", got, want)
		}
	}
	want(noon, Share{"192.0.2.1", Sum{Chats: 1, Held: Span(5 * time.Second)}}, Share{"ann", Sum{Chats: 2, Held: Span(4 * time.Second)}})
	want(noon.Add(12 * time.Hour)) // midnight
	add("ann", true, time.Second, noon.Add(13*time.Hour))
	want(noon.Add(14*time.Hour), Share{"ann", Sum{Chats: 1, Held: Span(time.Second)}})
	if got, want := r.Named(), (map[string]Sum{"ann": {Chats: 3, Held: Span(5 * time.Second)}, "": {Chats: 1, Held: Span(5 * time.Second)}}); !maps.Equal(got, want) {
		t.Errorf("since the start: got %v; want %v", got, want)
	}

	for i := range 2 * sharesLimit { // nobody can fill the memory with addresses
		add(fmt.Sprint("client ", i), false, time.Second, noon.Add(14*time.Hour))
	}
	if got := r.dayAt(noon.Add(14 * time.Hour)).Shares; len(got) != sharesLimit+1 || got[0].Client != others || got[0].Chats != sharesLimit+1 {
		t.Errorf("got %d clients, first %v; want %d and what is beyond", len(got), got[0], sharesLimit+1)
	}
}

// The totals are of all that has ended today, whoever asked; tokens are told of each client,
// also of chats beside the line.
func TestDayTotals(t *testing.T) {
	var r Recent
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	add := func(isChat bool, held time.Duration, u usage.Usage) {
		r.Add(Record{IsChat: isChat, Client: "ann", Named: true, Held: held, Usage: u, Ended: noon})
	}
	add(true, time.Second, usage.Usage{PromptTokens: 20, CachedTokens: 5, CompletionTokens: 3})
	add(true, 2*time.Second, usage.Usage{PromptTokens: 20})
	add(true, 0, usage.Usage{CompletionTokens: 7}) // beside the line
	add(false, 0, usage.Usage{})
	sum := Sum{Chats: 2, Held: Span(3 * time.Second), PromptTokens: 40, CachedTokens: 5, CompletionTokens: 10}
	if got, want := r.dayAt(noon), (Day{[]Share{{"ann", sum}}, Totals{sum, 1}}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v; want %+v", got, want)
	}
	if got := r.Named(); got["ann"] != sum {
		t.Errorf("since the start: got %+v; want %+v", got, sum)
	}
	if got := r.dayAt(noon.Add(12 * time.Hour)); !reflect.DeepEqual(got, Day{}) {
		t.Errorf("after midnight: got %+v; want nothing", got)
	}
}

// The clock may step back over midnight, or forward by mistake, and a chat may be told
// of a little after midnight that ended before: neither erases what a day has had.
func TestDayOutlivesTheClocksSteps(t *testing.T) {
	var r Recent
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	midnight := noon.Add(12 * time.Hour)
	add := func(ended time.Time) {
		r.Add(Record{IsChat: true, Client: "ann", Held: time.Second, Ended: ended})
	}
	want := func(at time.Time, chats int64) {
		t.Helper()
		if got := r.dayAt(at); got.Totals.Chats != chats || chats > 0 && got.Shares[0].Chats != chats {
			t.Errorf("%v: got %+v; want %d chats", at, got, chats)
		}
	}
	add(noon)
	want(midnight.AddDate(1, 0, 0), 0) // wrong
	want(noon, 1)
	add(midnight)
	add(midnight.Add(-time.Second))
	want(midnight, 1)
	add(midnight)
	want(midnight.Add(-time.Second), 2)
	want(midnight, 2)
}
