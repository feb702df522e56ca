// Package cors remembers what the target lets web pages do.
//
// Which web pages may read answers is for the target to say. What it granted last to a
// page goes for foreman's own answers too, also while the target is away: without
// those fields a browser hides the answer from the page.
package cors

import (
	"maps"
	"net/http"
	"sync"
)

// allowOrigin is the field without which a page may read nothing.
const allowOrigin = "Access-Control-Allow-Origin"

// fields are the header fields with which a server lets a web page read an
// answer (https://fetch.spec.whatwg.org/#http-cors-protocol).
var fields = []string{allowOrigin, "Access-Control-Allow-Credentials", "Vary"}

// A Memory has what the target granted last, by origin. The zero value is ready.
type Memory struct {
	mu       sync.Mutex // guards byOrigin
	byOrigin map[string]grant
}

// A grant is what the target lets a page do.
type grant struct {
	fields    http.Header
	preflight bool // to nothing but preflights so far
}

// limit is how many origins are remembered. There are a few, as a rule. Of too many those
// are forgotten first that have sent nothing but preflights.
const limit = 100

// Note remembers what an answer of the target lets the page do that a request comes
// from, if it comes from one, and forgets what it does not any more. A preflight anybody
// may send, from origins without number: it takes a place that is free, and no other.
func (m *Memory) Note(origin string, answer http.Header, preflight bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.byOrigin[origin]
	full := !known && len(m.byOrigin) >= limit
	switch {
	case origin == "", preflight && (known || full):
		return
	case answer.Get(allowOrigin) == "":
		delete(m.byOrigin, origin)
		return
	case full:
		maps.DeleteFunc(m.byOrigin, func(_ string, g grant) bool { return g.preflight })
		if len(m.byOrigin) >= limit {
			clear(m.byOrigin)
		}
	}
	granted := http.Header{}
	for _, name := range fields {
		if values := answer[name]; values != nil {
			granted[name] = values
		}
	}
	if m.byOrigin == nil {
		m.byOrigin = map[string]grant{}
	}
	m.byOrigin[origin] = grant{granted, preflight}
}

// Knows reports whether the target has granted something to a page.
func (m *Memory) Knows(origin string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.byOrigin[origin]
	return known
}

// Apply sets the fields that a page got last in an answer of foreman's own.
func (m *Memory) Apply(origin string, answer http.Header) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(answer, m.byOrigin[origin].fields)
}
