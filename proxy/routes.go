package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"foreman/proxy/ask"
)

// A class is a way to treat requests.
type class string

const (
	worker    class = "worker"    // one at a time, for a model that the target holds
	embed     class = "embed"     // passed, side by side
	tags      class = "inventory" // answered from the inventory
	read      class = "read"      // passed
	manage    class = "manage"    // passed if FOREMAN_MANAGE allows it
	own       class = "own"       // answered by foreman
	redirect  class = "redirect"  // a route's path with one slash too many
	preflight class = "preflight" // OPTIONS on a path that is passed: the target's CORS decides
	refused   class = "none"      // never passed
)

// A route is a path and what may be done there. Paths that are in no route never
// reach the target.
type route struct {
	path    string // exact, but for a {wildcard} at its end
	methods string
	class   class
}

var routes = []route{
	{"/api/chat", "POST", worker},
	{"/api/generate", "POST", worker},
	{"/v1/chat/completions", "POST", worker},
	{"/v1/completions", "POST", worker},
	{"/v1/responses", "POST", worker},
	{"/v1/responses/compact", "POST", worker},
	{"/v1/messages", "POST", worker},
	{ask.TranscriptionsPath, "POST", worker},
	{"/v1/images/generations", "POST", worker},
	{"/v1/images/edits", "POST", worker},

	{"/api/embed", "POST", embed},
	{"/api/embeddings", "POST", embed},
	{"/v1/embeddings", "POST", embed},

	{"/api/tags", "GET HEAD", tags},

	{"/api/ps", "GET", read},
	{"/api/show", "POST", read},
	{"/api/status", "GET", read},
	{"/api/version", "GET HEAD", read},
	{"/v1/models", "GET", read},
	{"/v1/models/{model...}", "GET", read},

	{"/api/pull", "POST", manage},
	{"/api/push", "POST", manage},
	{"/api/create", "POST", manage},
	{"/api/copy", "POST", manage},
	{"/api/delete", "DELETE", manage},
	{blobs + "{digest}", "HEAD POST", manage},

	{rootPath, "GET HEAD", own},
	{healthPath, "GET HEAD", own},
	{readyPath, "GET HEAD", own},
	{metricsPath, "GET HEAD", own},
	{statusPath, "GET HEAD POST", own},
}

// blobs is where the layers of models are.
const blobs = "/api/blobs/"

// Paths of foreman's own.
const (
	rootPath    = "/"
	healthPath  = "/healthz"
	readyPath   = "/readyz"
	metricsPath = "/metrics"
	statusPath  = "/status"
)

// noRoute is where a request goes that has no route.
var noRoute = route{path: "other", class: refused}

// routeFor returns the route of a request and how to treat it. Only a path that is
// spelt as in the table matches: to Ollama's router /api%2Fchat is a chat too,
// and would pass by the gate. Clients escape the colon in a model's name; nothing else.
func routeFor(r *http.Request) (*route, class, error) {
	plain := url.URL{Path: r.URL.Path}
	escaped := plain.EscapedPath() != r.URL.Path || r.URL.RawPath != "" && colons.Replace(r.URL.RawPath) != r.URL.Path
	rt := routeOf(r.URL.Path)
	if rt == nil && !escaped {
		if short := routeOf(strings.TrimSuffix(r.URL.Path, "/")); short != nil && short.allows(r.Method) {
			return short, redirect, nil
		}
	}
	switch {
	case rt == nil, escaped:
		return &noRoute, refused, fmt.Errorf("%w: %.100q", errNoRoute, r.URL.EscapedPath())
	case rt.allows(r.Method):
		return rt, rt.class, nil
	case r.Method == http.MethodOptions && rt.class != own:
		return rt, preflight, nil
	default:
		return rt, refused, methodRefused(rt.allowed())
	}
}

// colons puts colons in place of their escapes. No path in the table has one.
var colons = strings.NewReplacer("%3A", ":", "%3a", ":")

// routeOf returns the route of a path; nil: it has none.
func routeOf(path string) *route {
	if rt := exactRoutes[path]; rt != nil {
		return rt
	}
	i := slices.IndexFunc(routes, func(rt route) bool { return rt.matches(path) })
	if i < 0 {
		return nil
	}
	return &routes[i]
}

// exactRoutes are the routes without a wildcard, by path.
var exactRoutes = func() map[string]*route {
	exact := map[string]*route{}
	for i, rt := range routes {
		if !strings.Contains(rt.path, "{") {
			exact[rt.path] = &routes[i]
		}
	}
	return exact
}()

// allows reports whether the route is for a method.
func (rt *route) allows(method string) bool {
	return slices.Contains(strings.Fields(rt.methods), method)
}

// allowed is the value of an Allow field.
func (rt *route) allowed() string {
	allowed := strings.ReplaceAll(rt.methods, " ", ", ")
	if rt.class != own {
		allowed += ", " + http.MethodOptions
	}
	return allowed
}

// matches reports whether path is that of a route with a wildcard. That stands for one
// segment, with an ellipsis for one or more; none of them is empty or begins with a
// dot: no model's name does, and what follows could make some servers go up.
func (rt *route) matches(path string) bool {
	fixed, wildcard, _ := strings.Cut(rt.path, "{")
	rest, ok := strings.CutPrefix(path, fixed)
	segments := strings.Split(rest, "/")
	if wildcard == "" || !ok || len(segments) > 1 && !strings.Contains(wildcard, "...") {
		return false
	}
	return !slices.ContainsFunc(segments, func(s string) bool { return s == "" || s[0] == '.' })
}
