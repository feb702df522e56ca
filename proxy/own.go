package proxy

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/cors"
	"foreman/proxy/metrics"
	"foreman/proxy/target"
	"foreman/warm"
)

// health answers /healthz, which says that foreman lives, /readyz, which says that its
// target can be used, and that foreman is there to stay, / for the target, and /metrics.
type health struct {
	target    *target.Target
	inventory *inventory.Inventory
	gate      *gate.Gate
	warmer    *warm.Warmer // nil: no embedder is kept resident
	embeds    *embeds      // nil: nothing limits them
	pauser    *pauser
	books     *books
	cors      *cors.Memory
	embedder  string // the model that is kept resident; empty: none
	version   string
}

// healthJSON is what they answer.
type healthJSON struct {
	Status   string     `json:"status"` // ok, slow, waking, degraded, paused or shutting down
	Reason   string     `json:"reason,omitempty"`
	Until    *time.Time `json:"paused_until,omitempty"` // nil: not paused, or until somebody resumes
	Since    time.Time  `json:"since"`                  // when the status last changed
	LastPoll *time.Time `json:"last_poll"`              // the last good one; null: none yet
	Models   int        `json:"models"`                 // in the inventory
	Running  int        `json:"running"`                // chats at the target
	Waiting  int        `json:"waiting"`                // chats in line
	Version  string     `json:"version"`
}

func (h *health) serve(x *exchange) error {
	state := h.inventory.State()
	answer := healthJSON{Status: "ok", Reason: state.Reason, Since: state.Since.UTC(), Models: state.Len(), Version: h.version}
	if !state.LastPoll.IsZero() {
		last := state.LastPoll.UTC()
		answer.LastPoll = &last
	}
	waiting, busy := h.gate.Len()
	answer.Waiting = waiting
	if busy {
		answer.Running = 1
	}
	ready, retry := false, retryAfter
	pause := h.pauser.now()
	switch {
	case h.gate.Closed():
		answer.Status = "shutting down"
	case pause != nil:
		answer.Status, retry = "paused", paused(pause.Until, h.pauser.wall()).retry
		if !pause.Until.IsZero() {
			answer.Until = new(pause.Until.UTC())
		}
	case !state.Waking.IsZero():
		answer.Status, answer.Since = "waking", state.Waking.UTC()
	case state.Degraded():
		answer.Status = "degraded"
	case state.Slow:
		answer.Status, ready = "slow", true
	default:
		ready = true
	}
	status := http.StatusOK
	if x.route.path == readyPath {
		if !ready {
			status = http.StatusServiceUnavailable
			x.Header().Set("Retry-After", seconds(retry))
		}
	}
	x.Header().Set("Cache-Control", "no-store")
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	x.answer(status, jsonType, append(body, '\n'))
	return nil
}

// serveRoot answers GET and HEAD / as the target would, from the last poll. Clients ask
// there, often without their token, if somebody is there.
//
// For the command line, which asks HEAD / before each command, foreman is: `ollama list`
// then has the last list, and other commands get an error that says what is wrong, which
// an answer to HEAD cannot.
func (h *health) serveRoot(x *exchange) error {
	state := h.inventory.State()
	away := state.Reason == inventory.Unreachable || state.Reason == inventory.Starting
	switch {
	case h.gate.Closed():
		return errShuttingDown
	case away && (x.Method != http.MethodHead || state.Tags == nil):
		return errUnreachable
	}
	h.cors.Apply(x.request.Header.Get("Origin"), x.Header())
	x.answer(http.StatusOK, "text/plain; charset=utf-8", []byte("Ollama is running"))
	return nil
}

// serveMetrics answers /metrics. A client that may ask for some models alone gets those of
// its own chats.
func (h *health) serveMetrics(x *exchange) error {
	var text []byte
	if x.only != nil {
		text = h.books.clientMetrics(x.Client)
	} else {
		text = append(h.books.allMetrics(), h.present().Text()...)
	}
	x.Header().Set("Cache-Control", "no-store")
	x.answer(http.StatusOK, metrics.ContentType, text)
	return nil
}

const (
	// A load balancer asks for /readyz at least so often,
	probeInterval = 15 * time.Second
	// and has found out after this time that it is 503.
	noticeTime = 3 * time.Second
)

// awaitBalancer gives a load balancer, if one has asked for /readyz lately, the time to
// find out that the proxy is closed. Until then it opens connections, and whoever closes
// the listener may cut one of them off: the balancer would not know whether its request
// was read, and could not send it to another foreman. The wait ends with ctx at the
// latest.
func (h *health) awaitBalancer(ctx context.Context) {
	if time.Since(h.books.lastProbe()) > probeInterval {
		return
	}
	select {
	case <-time.After(noticeTime):
	case <-ctx.Done():
	}
}
