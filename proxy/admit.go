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
	"foreman/proxy/tokens"
)

// admit returns the named token that a request has, nil if it has none, and why it may
// not come in, if so: it comes from foreman itself, names a Host that is not accepted,
// or lacks a token.
func (p *Proxy) admit(r *http.Request, rt *route, class class) (*tokens.Token, error) {
	switch {
	case p.Target.IsLoop(r):
		return nil, target.ErrLoop
	case !p.acceptsHost(r.Host):
		return nil, errHost
	case rt.path == healthPath, rt.path == readyPath, isPreflight(r, class):
		return nil, nil
	case p.Token == "" && p.Tokens == nil:
		return nil, nil
	}
	token, ok := p.tokenOf(r)
	if !ok && rt.path == statusPath {
		token, ok = p.passwordOf(r)
	}
	if !ok {
		return nil, errToken
	}
	return token, nil
}

// clientOf returns who a request is from, as the line, the log and the page have it: the
// name of its token; else what FOREMAN_CLIENT_HEADER says, if a token vouches for that;
// else its address.
func (p *Proxy) clientOf(r *http.Request, token *tokens.Token) string {
	if token != nil {
		return token.Name
	}
	if p.ClientHeader != "" && p.Token != "" {
		if values := r.Header[p.ClientHeader]; len(values) == 1 && tokens.IsName(values[0]) {
			return values[0]
		}
	}
	return addressOf(r)
}

// addressOf returns a client's address without its port.
func addressOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// isPreflight reports whether a browser asks if it may send a request. It never
// sends a token with that question (https://fetch.spec.whatwg.org/#cors-preflight-fetch).
func isPreflight(r *http.Request, class class) bool {
	return class == preflight && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// tokenOf returns the token that a request has, nil if that has no name, and whether it
// has one: in the field Authorization or, as Anthropic's clients send it, in x-api-key. A
// field that comes twice, or that has another token than the other, is as good as none.
func (p *Proxy) tokenOf(r *http.Request) (token *tokens.Token, ok bool) {
	bearers, keys := r.Header["Authorization"], r.Header["X-Api-Key"]
	if len(bearers) > 1 || len(keys) > 1 {
		return nil, false
	}
	sent := slices.Clone(keys)
	for _, field := range bearers {
		scheme, bearer, _ := strings.Cut(field, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, false
		}
		sent = append(sent, strings.TrimLeft(bearer, " "))
	}
	if len(sent) == 0 || len(sent) == 2 && subtle.ConstantTimeCompare([]byte(sent[0]), []byte(sent[1])) == 0 {
		return nil, false
	}
	return p.find(sent[0])
}

// passwordOf returns the token that a browser has sent in the one way in which a browser
// can: as the password of Basic authentication, with any name.
func (p *Proxy) passwordOf(r *http.Request) (token *tokens.Token, ok bool) {
	_, password, ok := r.BasicAuth()
	if !ok || len(r.Header["Authorization"]) != 1 {
		return nil, false
	}
	return p.find(password)
}

// find returns the named token that a client has sent, nil for FOREMAN_TOKEN, and
// whether it is one. Digests are compared, so that neither the time that it takes nor
// the length of a token gives anything away.
func (p *Proxy) find(sent string) (token *tokens.Token, ok bool) {
	if p.Tokens != nil {
		token = p.Tokens.Find(sent)
	}
	got, want := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(p.Token))
	nameless := subtle.ConstantTimeCompare(got[:], want[:]) == 1 && p.Token != ""
	return token, token != nil || nameless
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
