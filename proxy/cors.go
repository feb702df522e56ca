package proxy

import (
	"net/http"
	"sync"
)

// corsFields are the header fields with which a server lets a web page read an
// answer (https://fetch.spec.whatwg.org/#http-cors-protocol).
var corsFields = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"}

// Which web pages may read answers is for the target to say. What it said last to a
// page goes for foreman's own answers too, also while the target is away: without
// those fields a browser hides the answer from the page.
type corsMemory struct {
	mu       sync.Mutex // guards byOrigin
	byOrigin map[string]http.Header
}

// corsLimit is how many origins are remembered. There are a few, as a rule; of too
// many all are forgotten.
const corsLimit = 100

// note remembers what an answer of the target lets the page do that a request comes
// from, if it comes from one.
func (m *corsMemory) note(origin string, answer http.Header) {
	if origin == "" {
		return
	}
	fields := http.Header{}
	for _, name := range corsFields {
		if values := answer[name]; values != nil {
			fields[name] = values
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byOrigin == nil || len(m.byOrigin) >= corsLimit {
		m.byOrigin = map[string]http.Header{}
	}
	m.byOrigin[origin] = fields
}

// apply sets the fields that a page got last in an answer of foreman's own.
func (m *corsMemory) apply(origin string, answer http.Header) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, values := range m.byOrigin[origin] {
		answer[name] = values
	}
}
