package proxy

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// direct is the ReverseProxy's Director: it readdresses a request to the target.
//
// ReverseProxy removes hop-by-hop fields after the Director, those that the
// client names in Connection among them, and then puts Upgrade back. A client
// could so strip the token that is set here, or open a tunnel past the gate. So
// these fields go first. Fields that claim where a request comes from are not
// believed, and Idempotency-Key would make Transport repeat a request.
func (f *forwarder) direct(r *http.Request) {
	for _, field := range r.Header["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			r.Header.Del(strings.TrimSpace(name))
		}
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(r.Header, name)
		}
	}
	for _, name := range []string{
		"Connection", "Upgrade", "Te", "Expect",
		"Forwarded", "X-Real-Ip",
		"Idempotency-Key", "X-Idempotency-Key",
	} {
		delete(r.Header, name)
	}
	// A page that comes from foreman's own address, or from that of a proxy in
	// front, is no other origin; but the target knows itself by another name. Any
	// page may call itself by a name of its own that leads here (DNS rebinding), so
	// the name must be a known one.
	if origin := r.Header.Get("Origin"); (origin == "http://"+r.Host || origin == "https://"+r.Host) && f.admission.knowsHost(r.Host) {
		delete(r.Header, "Origin")
	}
	isPreflight := upstreamOf(r).x.Class == preflight
	if isPreflight {
		r.URL.RawQuery = ""
		maps.DeleteFunc(r.Header, func(name string, _ []string) bool { return !slices.Contains(preflightFields, name) })
	}
	r.Header["X-Forwarded-For"] = nil // or ReverseProxy would set it
	if f.admission.needsToken() {
		// They were for foreman: a client of Anthropic's API may send both.
		delete(r.Header, "Authorization")
		delete(r.Header, "X-Api-Key")
	}
	r.Header.Set("X-Request-Id", upstreamOf(r).x.ID)
	f.target.Address(r)
	if isPreflight {
		delete(r.Header, "Authorization")
	}
}

// preflightFields are all that the target gets of a preflight, which may come from
// anybody: what a browser asks with, and that by which a loop is known.
var preflightFields = []string{
	"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers", "Access-Control-Request-Private-Network", "Via",
}
