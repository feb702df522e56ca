package main

import (
	"slices"
	"strings"
	"sync"
)

// A cache keeps the last prompts with their answers, as llama-server does: what a prompt
// has in common with one of them, from the beginning on, is not read again.
type cache struct {
	keep int // at most

	mu   sync.Mutex // guards kept
	kept []string   // the last one first
}

// find returns how many of a prompt's tokens need not be read: all but one at most. The
// text that has them is the prompt's from then on, unless the prompt has less than a
// quarter of it: then it stays, as in llama-server.
func (c *cache) find(prompt string, tokens int) (cached int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	best := -1
	for i, text := range c.kept {
		if n := common(text, prompt); n > cached {
			best, cached = i, n
		}
	}
	if best >= 0 && 4*cached >= len(c.kept[best]) {
		c.kept = slices.Delete(c.kept, best, best+1)
	}
	return max(0, min(cached, tokens-1)) // a token is a byte
}

// keepFirst keeps a text, and forgets the oldest where there are too many.
func (c *cache) keepFirst(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = slices.Insert(c.kept, 0, text)
	c.kept = c.kept[:min(len(c.kept), c.keep)]
}

// common returns how many bytes two texts have in common at their beginnings.
func common(a, b string) int {
	if strings.HasPrefix(b, a) {
		return len(a)
	}
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
