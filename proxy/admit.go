package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"foreman/proxy/target"
)

// admit reports why a request may not come in, if so: it comes from foreman
// itself, names a Host that is not accepted, or lacks the token.
func (p *Proxy) admit(r *http.Request, rt *route, class class) error {
	switch {
	case p.Target.IsLoop(r):
		return target.ErrLoop
	case !p.acceptsHost(r.Host):
		return errHost
	case rt.path == healthPath, rt.path == readyPath, isPreflight(r, class):
		return nil
	case rt.path == statusPath && p.hasPassword(r):
		return nil
	case !p.hasToken(r):
		return errToken
	}
	return nil
}

// isPreflight reports whether a browser asks if it may send a request. It never
// sends a token with that question (https://fetch.spec.whatwg.org/#cors-preflight-fetch).
func isPreflight(r *http.Request, class class) bool {
	return class == preflight && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// hasToken reports whether a request has the token, if one is needed: in the field
// Authorization or, as Anthropic's clients send it, in x-api-key. A field that comes
// twice, or that has another token than the other, is as good as none.
func (p *Proxy) hasToken(r *http.Request) bool {
	if p.Token == "" {
		return true
	}
	bearers, keys := r.Header["Authorization"], r.Header["X-Api-Key"]
	if len(bearers) > 1 || len(keys) > 1 || len(bearers)+len(keys) == 0 {
		return false
	}
	for _, field := range bearers {
		scheme, token, _ := strings.Cut(field, " ")
		if !strings.EqualFold(scheme, "Bearer") || !p.isToken(strings.TrimLeft(token, " ")) {
			return false
		}
	}
	return len(keys) == 0 || p.isToken(keys[0])
}

// hasPassword reports whether a browser has sent the token in the one way in
// which a browser can: as the password of Basic authentication, with any name.
func (p *Proxy) hasPassword(r *http.Request) bool {
	_, password, ok := r.BasicAuth()
	return ok && len(r.Header["Authorization"]) == 1 && p.isToken(password)
}

// isToken compares digests, so that neither the time that it takes nor the
// length of the token gives anything away.
func (p *Proxy) isToken(s string) bool {
	got, want := sha256.Sum256([]byte(s)), sha256.Sum256([]byte(p.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// acceptsHost reports whether a request's Host is accepted: any, on an address that
// is not a loopback one and without FOREMAN_HOSTS, as Ollama has it.
func (p *Proxy) acceptsHost(hostport string) bool {
	return len(p.Hosts) == 0 && !p.Loopback || p.knowsHost(hostport)
}

// knowsHost reports whether a Host is one that no web page can make a browser send
// from its own name (DNS rebinding): an address, or one of FOREMAN_HOSTS. Without
// those it may be one of the local names too, by Ollama's own rule, server/routes.go
// there.
func (p *Proxy) knowsHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" || slices.Contains(p.Hosts, host) {
		return true
	}
	if len(p.Hosts) > 0 {
		return false
	}
	hostname, err := os.Hostname()
	return host == "" || err == nil && host == strings.ToLower(hostname) ||
		strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".local") || strings.HasSuffix(host, ".internal")
}
