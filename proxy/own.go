package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"foreman/inventory"
	"foreman/proxy/target"
)

// serveTags answers with the target's models as last polled. A web page's request
// goes on to the target while that answers: its CORS decides.
func (p *Proxy) serveTags(x *exchange, r *http.Request) error {
	if r.Header.Get("Origin") != "" && !p.Inventory.State().Degraded() {
		if err := p.pass(x, r); !errors.Is(err, target.ErrUnreachable) && !errors.Is(err, target.ErrLocal) && !errors.Is(err, errAsleep) {
			return err
		}
		p.Inventory.Refresh()
	}
	state := p.Inventory.State()
	switch {
	case state.Tags == nil && state.Reason == inventory.Unreachable:
		return target.ErrUnreachable
	case state.Tags == nil:
		return errNotPolled
	}
	p.serveLast(x, inventory.Answer{Body: state.Tags, Read: state.LastPoll})
	return nil
}

// KeptPaths are the other paths where the target's last answer has to do while
// it is away.
var KeptPaths = []string{"/api/version", "/v1/models"}

// serveRead passes a request that reads from the target. While that is degraded, the
// last answer has to do, if there is one.
//
// HEAD / needs none. It is how the command line asks, before every command, if
// somebody is there, and foreman is: `ollama list` then has its list, and other
// commands get an error that says what is wrong, which an answer to HEAD cannot.
func (p *Proxy) serveRead(x *exchange, r *http.Request) error {
	state := p.Inventory.State()
	if r.Method == http.MethodHead && r.URL.Path == "/" && state.Degraded() && state.Tags != nil {
		x.abandonBody()
		x.Header().Set("X-Request-Id", x.ID)
		x.WriteHeader(http.StatusOK)
		return nil
	}
	if kept, ok := state.Kept[r.URL.Path]; ok && state.Degraded() {
		p.serveLast(x, kept)
		return nil
	}
	return p.pass(x, r)
}

// serveLast answers with what the target said at a time gone by.
func (p *Proxy) serveLast(x *exchange, answer inventory.Answer) {
	x.abandonBody()
	h := x.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if strings.HasPrefix(x.route.path, "/v1/") {
		h.Set("Content-Type", "application/json") // as Ollama has it there
	}
	h.Set("Content-Length", strconv.Itoa(len(answer.Body)))
	h.Set("Age", strconv.Itoa(int(time.Since(answer.Read).Seconds()))) // RFC 9111, section 5.1
	h.Set("X-Request-Id", x.ID)
	p.cors.Apply(x.request.Header.Get("Origin"), h)
	x.Write(answer.Body)
}

// serveRedirect sends a client to the path without the slash at its end, with the
// status that Ollama has for it.
func (p *Proxy) serveRedirect(x *exchange, r *http.Request) error {
	status := http.StatusTemporaryRedirect // keeps the method and the body
	if r.Method == http.MethodGet {
		status = http.StatusMovedPermanently
	}
	x.abandonBody()
	x.Header().Set("X-Request-Id", x.ID)
	p.cors.Apply(r.Header.Get("Origin"), x.Header())
	to := url.URL{Path: strings.TrimSuffix(r.URL.Path, "/"), RawQuery: r.URL.RawQuery}
	http.Redirect(x, r, to.String(), status)
	return nil
}

// Paths of foreman's own.
const (
	healthPath  = "/healthz"
	readyPath   = "/readyz"
	metricsPath = "/metrics"
	statusPath  = "/status"
)

// health is what /healthz and /readyz answer.
type health struct {
	Status   string     `json:"status"` // ok, slow, degraded or shutting down
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`     // when the status last changed
	LastPoll *time.Time `json:"last_poll"` // the last good one; null: none yet
	Models   int        `json:"models"`    // in the inventory
	Running  int        `json:"running"`   // chats at the target
	Waiting  int        `json:"waiting"`   // chats in line
	Version  string     `json:"version"`
}

// serveOwn answers the paths that are foreman's own.
func (p *Proxy) serveOwn(x *exchange, r *http.Request) error {
	x.Header().Set("X-Request-Id", x.ID)
	if r.Method == http.MethodPost {
		return p.serveStop(x, r)
	}
	x.abandonBody()
	switch x.route.path {
	case metricsPath:
		return p.serveMetrics(x)
	case statusPath:
		return p.serveStatus(x)
	default:
		return p.serveHealth(x)
	}
}

// serveHealth answers /healthz, which says that foreman lives, and /readyz, which
// says that its target can be used, and that foreman is there to stay.
func (p *Proxy) serveHealth(x *exchange) error {
	state := p.Inventory.State()
	h := health{Status: "ok", Reason: state.Reason, Since: state.Since.UTC(), Models: state.Len(), Version: p.Version}
	if !state.LastPoll.IsZero() {
		last := state.LastPoll.UTC()
		h.LastPoll = &last
	}
	waiting, busy := p.Gate.Len()
	h.Waiting = waiting
	if busy {
		h.Running = 1
	}
	switch {
	case p.closed.Load():
		h.Status = "shutting down"
	case state.Degraded():
		h.Status = "degraded"
	case state.Slow:
		h.Status = "slow"
	}
	status := http.StatusOK
	if x.route.path == readyPath {
		now := time.Now()
		p.probed.Store(&now)
		if h.Status != "ok" && h.Status != "slow" {
			status = http.StatusServiceUnavailable
			x.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		}
	}
	x.Header().Set("Cache-Control", "no-store")
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	writeJSON(x, status, append(body, '\n'))
	return nil
}

const (
	// A load balancer asks for /readyz at least so often,
	probeInterval = 15 * time.Second
	// and has found out after this time that it is 503.
	noticeTime = 3 * time.Second
)

// Close turns away the chats that wait, and from now on whoever asks for something
// that the target would do: with 503, so that a load balancer asks another foreman.
// /readyz is 503 too. What the target does already goes on.
func (p *Proxy) Close() {
	p.closed.Store(true)
	p.Gate.Close()
}

// AwaitBalancer gives a load balancer, if one has asked for /readyz lately, the time to
// find out that the proxy is closed. Until then it opens connections, and whoever closes
// the listener may cut one of them off: the balancer would not know whether its request
// was read, and could not send it to another foreman. The wait ends with ctx at the
// latest.
func (p *Proxy) AwaitBalancer(ctx context.Context) {
	probed := p.probed.Load()
	if probed == nil || time.Since(*probed) > probeInterval {
		return
	}
	select {
	case <-time.After(noticeTime):
	case <-ctx.Done():
	}
}
