package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"foreman/proxy/target"
	"foreman/proxy/tokens"
)

// An admission knows who may come in.
type admission struct {
	target       *target.Target
	token        string       // bearer that clients must send; empty: none
	tokens       *tokens.File // of named clients; nil: none
	clientHeader string       // field that names the client, of whoever has a token; empty: none
	hosts        []string     // accepted Host names; see Options
	log          *slog.Logger
	warned       sync.Map // why a client's name was not taken, as far as the log has it
}

// admit returns the named token that a request has, nil if it has none, and why it may
// not come in, if so: it comes from foreman itself, names a Host that is not accepted,
// or lacks a token.
func (a *admission) admit(r *http.Request, rt *route, class class) (*tokens.Token, error) {
	switch {
	case a.target.IsLoop(r):
		return nil, errLoop
	case !a.acceptsHost(r.Host):
		return nil, hostRefused(hostName(r.Host))
	case needsNoToken(r, rt, class):
		return nil, nil
	case !a.needsToken():
		return nil, nil
	}
	token, ok := a.tokenOf(r, rt.path == statusPath)
	if !ok {
		return nil, errToken
	}
	return token, nil
}

// maxClient is how many bytes a name in FOREMAN_CLIENT_HEADER may have: a letter of another
// script has nine, percent-encoded.
const maxClient = 256

// clientOf returns who a request is from, as the line, the log and the page have it: the
// name of its token; else what FOREMAN_CLIENT_HEADER says, if a token vouches for that;
// else its address. None of these can pass for one of another kind: the name of a token
// has no space and is no address.
func (a *admission) clientOf(r *http.Request, token *tokens.Token) string {
	if token != nil {
		return token.Name
	}
	if a.clientHeader != "" && a.token != "" {
		name := strings.Join(r.Header[a.clientHeader], ", ")
		switch {
		case len(r.Header[a.clientHeader]) > 1:
			a.warn("it came more than once")
		case len(name) > maxClient:
			a.warn(fmt.Sprintf("it is longer than %d bytes", maxClient))
		case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }):
			a.warn("it is not printable ASCII")
		case name != "":
			return name + " (header)"
		}
	}
	return addressOf(r)
}

// warn says, once for each reason, that a client's name was not taken.
func (a *admission) warn(reason string) {
	if _, known := a.warned.LoadOrStore(reason, true); !known {
		a.log.Warn("no client's name: its address stands in for it", "header", a.clientHeader, "reason", reason)
	}
}

// addressOf returns the address that a request is from, of IPv6 the network: a machine
// has 2^64 addresses there, and changes its own each day (RFC 8981). Where there is no
// router there is but one network for all machines, and no such change.
func addressOf(r *http.Request) string {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := from.Addr().Unmap()
	if addr.Is6() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
		return netip.PrefixFrom(addr, 64).Masked().String()
	}
	return addr.String()
}

// isPreflight reports whether a browser asks if it may send a request. It never
// sends a token with that question (https://fetch.spec.whatwg.org/#cors-preflight-fetch).
func isPreflight(r *http.Request, class class) bool {
	return class == preflight && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// needsNoToken reports whether a request is let in whoever sends it.
func needsNoToken(r *http.Request, rt *route, class class) bool {
	return rt.path == rootPath || rt.path == healthPath || rt.path == readyPath || isPreflight(r, class)
}

// tokenOf returns the token that a request has, nil if that has no name, and whether it
// has one: in the field Authorization or, as Anthropic's clients send it, in x-api-key.
// These send both, if their user has a key of another server too: what is none of
// foreman's tokens does not matter beside one that is. Tokens of two clients are as good
// as none, and so is a field that comes twice. Where a browser may ask, the token may be
// the password of Basic authentication, with any name: it has no other way.
func (a *admission) tokenOf(r *http.Request, browser bool) (token *tokens.Token, ok bool) {
	bearers, keys := r.Header["Authorization"], r.Header["X-Api-Key"]
	if len(bearers) > 1 || len(keys) > 1 {
		return nil, false
	}
	sent := slices.Clone(keys)
	for _, field := range bearers {
		scheme, bearer, _ := strings.Cut(field, " ")
		_, password, basic := r.BasicAuth()
		switch {
		case strings.EqualFold(scheme, "Bearer"):
			sent = append(sent, strings.TrimLeft(bearer, " "))
		case basic && browser:
			sent = append(sent, password)
		}
	}
	for _, s := range slices.Compact(sent) {
		switch found, right := a.tokenFor(s); {
		case right && ok:
			return nil, false
		case right:
			token, ok = found, true
		}
	}
	return token, ok
}

// tokenFor returns the named token that a client has sent, nil for FOREMAN_TOKEN, and
// whether it is one. Digests are compared, so that neither the time that it takes nor
// the length of a token gives anything away.
func (a *admission) tokenFor(sent string) (token *tokens.Token, ok bool) {
	if a.tokens != nil {
		token = a.tokens.Find(sent)
	}
	got, want := sha256.Sum256([]byte(sent)), sha256.Sum256([]byte(a.token))
	nameless := subtle.ConstantTimeCompare(got[:], want[:]) == 1 && a.token != ""
	return token, token != nil || nameless
}

// acceptsHost reports whether a request's Host is accepted: any, if FOREMAN_HOSTS does not
// say which and a token is needed, for a page that came under a name of its own has none.
func (a *admission) acceptsHost(hostport string) bool {
	return len(a.hosts) == 0 && a.needsToken() || a.knowsHost(hostport)
}

// knowsHost reports whether a Host is one that no web page can make a browser send
// from its own name (DNS rebinding): an address, or one of FOREMAN_HOSTS. Without those it
// may be any name that nobody can have registered.
func (a *admission) knowsHost(hostport string) bool {
	host := hostName(hostport)
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || host == "localhost" || slices.Contains(a.hosts, host) {
		return true
	}
	return len(a.hosts) == 0 && (!strings.Contains(host, ".") ||
		slices.ContainsFunc(localDomains, func(domain string) bool { return strings.HasSuffix(host, domain) }))
}

// localDomains are what no registry gives names in: RFC 6761, 6762 and 8375, ICANN's word
// on .internal, and what routers and Kubernetes use all the same.
var localDomains = []string{".local", ".localhost", ".internal", ".lan", ".home.arpa", ".svc", ".cluster.local"}

// hostName returns the name in a Host field, as FOREMAN_HOSTS has it.
func hostName(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// needsToken reports whether clients must have a token.
func (a *admission) needsToken() bool { return a.token != "" || a.tokens != nil }
