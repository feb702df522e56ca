package cors

import (
	"fmt"
	"net/http"
	"testing"
)

// TestMemory: a page gets what the target granted it last, and nobody fills the memory.
func TestMemory(t *testing.T) {
	var m Memory
	granted := http.Header{"Access-Control-Allow-Origin": {"http://a.example"}, "Vary": {"Origin"}, "Date": {"today"}}
	m.Note("http://a.example", granted)
	m.Note("", granted)
	for origin, want := range map[string]int{"http://a.example": 2, "http://b.example": 0, "": 0} {
		answer := http.Header{}
		if m.Apply(origin, answer); len(answer) != want {
			t.Errorf("%q: got %v; want %d fields", origin, answer, want)
		}
	}
	for i := range 3 * limit {
		m.Note(fmt.Sprint(i), nil)
	}
	if n := len(m.byOrigin); n > limit {
		t.Errorf("%d origins remembered; want %d at most", n, limit)
	}
}
