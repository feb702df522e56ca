package status

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// What clients have had is told for the day, and for those with a name since the start.
func TestUsage(t *testing.T) {
	var r Recent
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	add := func(client string, named bool, held time.Duration, ended time.Time) {
		r.Add(Request{Client: client, Named: named, Held: held, Ended: ended})
	}
	add("ann", true, 2*time.Second, noon)
	add("192.0.2.1", false, 5*time.Second, noon)
	add("ann", true, 2*time.Second, noon.Add(time.Hour))
	add("192.0.2.2", false, 0, noon) // no chat, or none that had its turn
	want := func(at time.Time, want ...Usage) {
		t.Helper()
		if got := r.Today(at); !slices.Equal(got, want) {
			t.Errorf("got %v; want %v", got, want)
		}
	}
	want(noon, Usage{"192.0.2.1", 1, 5 * time.Second}, Usage{"ann", 2, 4 * time.Second})
	want(noon.Add(12 * time.Hour)) // midnight
	add("ann", true, time.Second, noon.Add(13*time.Hour))
	want(noon.Add(14*time.Hour), Usage{"ann", 1, time.Second})
	named, other := r.Totals()
	if len(named) != 1 || named["ann"] != 5*time.Second || other != 5*time.Second {
		t.Errorf("got %v and %v; want 5s of ann and 5s", named, other)
	}

	for i := range 2 * usageLimit { // nobody can fill the memory with addresses
		add(fmt.Sprint("client ", i), false, time.Second, noon.Add(14*time.Hour))
	}
	if got := r.Today(noon.Add(14 * time.Hour)); len(got) != usageLimit+1 || got[0].Client != others || got[0].Chats != usageLimit+1 {
		t.Errorf("got %d clients, first %v; want %d and what is beyond", len(got), got[0], usageLimit+1)
	}
}

func TestPageShowsToday(t *testing.T) {
	p := busyPage()
	for i := range 12 {
		p.Today = append(p.Today, Usage{fmt.Sprint("client", i), i + 1, time.Duration(100-i) * time.Second})
	}
	got := text(between(t, render(t, p), live["today"][0], live["today"][1]))
	if want := "client0: 1 min 40 s of the host, 1 chat client1: 1 min 39 s of the host, 2 chats"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "10 chats and 2 more") {
		t.Errorf("got %q; want %q and so on, and 2 more", got, want)
	}
}
