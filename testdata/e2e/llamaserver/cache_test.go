package main

import (
	"strings"
	"testing"
)

func TestCache(t *testing.T) {
	c := cache{keep: 2}
	for i, step := range []struct {
		prompt string
		want   int
	}{
		{"first", 0},
		{"first", 4}, // its last token is always read
		{"first and more", 5},
		{"fir", 2}, // less than a quarter of what is kept, which stays
		{"first and more words", 14},
		{"third", 0},
		{"fir", 2}, // two are kept
	} {
		if got := c.find(step.prompt, len(step.prompt)); got != step.want {
			t.Errorf("step %d, %q: got %d tokens; want %d", i, step.prompt, got, step.want)
		}
		c.keepFirst(step.prompt)
	}
	if got := strings.Join(c.kept, ", "); got != "fir, third" {
		t.Errorf("kept: got %s; want fir, third", got)
	}
}
