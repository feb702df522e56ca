package cors

import (
	"fmt"
	"net/http"
	"testing"
)

func granting(origin string) http.Header {
	return http.Header{"Access-Control-Allow-Origin": {origin}, "Vary": {"Origin"}, "Date": {"today"}}
}

// A page gets what the target granted it last, and no other page does.
func TestMemory(t *testing.T) {
	const a, b = "http://a.example", "http://b.example"
	var m Memory
	m.Note(a, granting(a), false)
	m.Note("", granting("*"), false)
	m.Note(b, http.Header{"Vary": {"Origin"}}, false)
	for origin, want := range map[string]int{a: 2, b: 0, "": 0} {
		answer := http.Header{}
		if m.Apply(origin, answer); len(answer) != want || m.Knows(origin) != (want > 0) {
			t.Errorf("%q: got %v, known: %t; want %d fields", origin, answer, m.Knows(origin), want)
		}
	}
	m.Note(a, http.Header{}, true) // an odd question may be why
	if !m.Knows(a) {
		t.Error("forgotten for a preflight")
	}
	m.Note(a, http.Header{}, false)
	if m.Knows(a) {
		t.Error("known, and granted no more")
	}
}

// Nobody fills the memory, or has it forget pages that were let in.
func TestMemoryIsBounded(t *testing.T) {
	const mine, asked, late = "http://mine.example", "http://asked.example", "http://late.example"
	var m Memory
	m.Note(mine, granting(mine), false)
	m.Note(asked, granting(asked), true)
	for i := range 3 * limit {
		for _, answer := range []http.Header{{}, granting("*")} {
			m.Note(fmt.Sprint(i), answer, true)
		}
	}
	if n := len(m.byOrigin); n != limit || !m.Knows(mine) || !m.Knows(asked) {
		t.Errorf("%d origins remembered, %t and %t; want %d, and both", n, m.Knows(mine), m.Knows(asked), limit)
	}
	m.Note(late, granting(late), false)
	if !m.Knows(mine) || !m.Knows(late) || m.Knows("7") {
		t.Error("want those kept that were let in")
	}
	for i := range 3 * limit {
		m.Note(fmt.Sprint(i), granting("*"), false)
	}
	if n := len(m.byOrigin); n > limit {
		t.Errorf("%d origins remembered; want %d at most", n, limit)
	}
}
