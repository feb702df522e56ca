// Package cors remembers what the target lets web pages do.
//
// Which web pages may read answers is for the target to say. What it said last to a
// page goes for foreman's own answers too, also while the target is away: without
// those fields a browser hides the answer from the page.
package cors

import (
	"net/http"
	"sync"
)

// fields are the header fields with which a server lets a web page read an
// answer (https://fetch.spec.whatwg.org/#http-cors-protocol).
var fields = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"}

// A Memory has what the target granted last, by origin. The zero value is ready.
type Memory struct {
	mu       sync.Mutex // guards byOrigin
	byOrigin map[string]http.Header
}

// limit is how many origins are remembered. There are a few, as a rule; of too
// many all are forgotten.
const limit = 100

// Note remembers what an answer of the target lets the page do that a request comes
// from, if it comes from one.
func (m *Memory) Note(origin string, answer http.Header) {
	if origin == "" {
		return
	}
	granted := http.Header{}
	for _, name := range fields {
		if values := answer[name]; values != nil {
			granted[name] = values
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byOrigin == nil || len(m.byOrigin) >= limit {
		m.byOrigin = map[string]http.Header{}
	}
	m.byOrigin[origin] = granted
}

// Apply sets the fields that a page got last in an answer of foreman's own.
func (m *Memory) Apply(origin string, answer http.Header) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, values := range m.byOrigin[origin] {
		answer[name] = values
	}
}
