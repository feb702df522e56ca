package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"foreman/inventory"
)

// tags answers with the target's models as last polled. A web page's request
// goes on to the target while that answers: its CORS decides.
func (p *Proxy) tags(x *exchange, r *http.Request) error {
	if r.Header.Get("Origin") != "" && !p.Inventory.State().Degraded() {
		if err := p.pass(x, r); !errors.Is(err, inventory.ErrUnreachable) && !errors.Is(err, errAsleep) {
			return err
		}
		p.Inventory.Refresh()
	}
	state := p.Inventory.State()
	switch {
	case state.Tags == nil && state.Reason == inventory.Unreachable:
		return inventory.ErrUnreachable
	case state.Tags == nil:
		return errNotPolled
	}
	p.tell(x, inventory.Answer{Body: state.Tags, Read: state.LastPoll})
	return nil
}

// KeptPaths are the other paths where the target's last answer has to do while
// it is away.
var KeptPaths = []string{"/api/version", "/v1/models"}

// read passes a request that reads from the target. While that is degraded, the
// last answer has to do, if there is one.
//
// HEAD / needs none. It is how the command line asks, before every command, if
// somebody is there, and foreman is: `ollama list` then has its list, and other
// commands are told what is wrong, which they do not read from an answer to HEAD.
func (p *Proxy) read(x *exchange, r *http.Request) error {
	state := p.Inventory.State()
	if r.Method == http.MethodHead && r.URL.Path == "/" && state.Degraded() && state.Tags != nil {
		x.abandonBody()
		x.Header().Set("X-Request-Id", x.id)
		x.WriteHeader(http.StatusOK)
		return nil
	}
	if kept, ok := state.Kept[r.URL.Path]; ok && state.Degraded() {
		p.tell(x, kept)
		return nil
	}
	return p.pass(x, r)
}

// tell answers with what the target said at a time gone by.
func (p *Proxy) tell(x *exchange, answer inventory.Answer) {
	x.abandonBody()
	h := x.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if strings.HasPrefix(x.route.path, "/v1/") {
		h.Set("Content-Type", "application/json") // as Ollama has it there
	}
	h.Set("Content-Length", strconv.Itoa(len(answer.Body)))
	h.Set("Age", strconv.Itoa(int(time.Since(answer.Read).Seconds()))) // RFC 9111, section 5.1
	h.Set("X-Request-Id", x.id)
	p.grants.apply(x)
	x.Write(answer.Body)
}

// Paths of foreman's own.
const (
	healthPath  = "/healthz"
	readyPath   = "/readyz"
	metricsPath = "/metrics"
	statusPath  = "/status"
)

// vitals is what /healthz and /readyz tell.
type vitals struct {
	Status   string     `json:"status"` // ok or degraded
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`     // when the status last changed
	LastPoll *time.Time `json:"last_poll"` // the last good one; null: none yet
	Models   int        `json:"models"`    // in the inventory
	Running  int        `json:"running"`   // chats at the target
	Waiting  int        `json:"waiting"`   // chats in line
	Version  string     `json:"version"`
}

// own answers the paths that are foreman's own.
func (p *Proxy) own(x *exchange, r *http.Request) error {
	x.abandonBody()
	x.Header().Set("X-Request-Id", x.id)
	switch x.route.path {
	case metricsPath:
		return p.metricsPage(x)
	case statusPath:
		return p.statusPage(x, r)
	default:
		return p.health(x)
	}
}

// health answers /healthz, which says that foreman lives, and /readyz, which
// says that its target can be used.
func (p *Proxy) health(x *exchange) error {
	state := p.Inventory.State()
	h := vitals{Status: "ok", Reason: state.Reason, Since: state.Since.UTC(), Models: state.Len(), Version: p.Version}
	if !state.LastPoll.IsZero() {
		last := state.LastPoll.UTC()
		h.LastPoll = &last
	}
	waiting, busy := p.Gate.Len()
	h.Waiting = waiting
	if busy {
		h.Running = 1
	}
	status := http.StatusOK
	if state.Degraded() {
		h.Status = "degraded"
		if x.route.path == readyPath {
			status = http.StatusServiceUnavailable
			x.Header().Set("Retry-After", retryAfter)
		}
	}
	x.Header().Set("Cache-Control", "no-store")
	writeJSON(x, status, h)
	return nil
}
