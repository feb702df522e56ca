package proxy

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// grantFields are the header fields with which a server lets a web page read an
// answer (https://fetch.spec.whatwg.org/#http-cors-protocol).
var grantFields = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary"}

// Which web pages may read answers is for the target to say. What it has said
// goes for foreman's own answers too, also while the target is away: without
// those fields a browser hides the answer from the page.
type grants struct {
	mu       sync.Mutex // guards byOrigin
	byOrigin map[string]http.Header
}

// grantsLimit is how many origins are remembered. There are a few, as a rule; of
// too many all are forgotten.
const grantsLimit = 100

// note remembers what an answer of the target grants to the page that an exchange
// comes from, if it comes from one.
func (g *grants) note(x *exchange, answer http.Header) {
	origin := x.request.Header.Get("Origin")
	if origin == "" {
		return
	}
	granted := http.Header{}
	for _, name := range grantFields {
		if values := answer[name]; values != nil {
			granted[name] = values
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byOrigin == nil || len(g.byOrigin) >= grantsLimit {
		g.byOrigin = map[string]http.Header{}
	}
	g.byOrigin[origin] = granted
}

// apply sets what was granted last to the page that an exchange comes from.
func (g *grants) apply(x *exchange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, values := range g.byOrigin[x.request.Header.Get("Origin")] {
		x.Header()[name] = values
	}
}

// grant does the same for an error, after asking the target, should it answer in
// time, what it grants now.
func (p *Proxy) grant(x *exchange) {
	origin := x.request.Header.Get("Origin")
	if origin == "" {
		return
	}
	if !p.Inventory.State().Degraded() {
		ctx, cancel := context.WithTimeout(x.request.Context(), time.Second)
		defer cancel()
		ask := (&http.Request{Method: http.MethodHead, URL: new(url.URL), Header: http.Header{"Origin": {origin}}}).WithContext(ctx)
		p.Target.address(ask, "/")
		if resp, err := p.Target.pooled.RoundTrip(ask); err == nil {
			resp.Body.Close()
			p.grants.note(x, resp.Header)
		}
	}
	p.grants.apply(x)
}
