package proxy

import (
	"cmp"
	"strconv"
	"time"

	"foreman/proxy/metrics"
	"foreman/proxy/status"
	"foreman/proxy/tokens"
)

// bounds of the histograms, in seconds. A wait for a turn and an answer may both
// take from a millisecond to many minutes.
var bounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// instruments are foreman's metrics. Their labels come from closed sets: the route
// table, status codes and constants; never from a client.
type instruments struct {
	set       *metrics.Set
	requests  *metrics.Counter
	duration  *metrics.Histogram
	firstByte *metrics.Histogram
	queueWait *metrics.Histogram
	rejected  *metrics.Counter
	revoked   *metrics.Counter
	early     *metrics.Counter
	tokens    *metrics.Counter
	load      *metrics.Histogram
	idle      *metrics.Counter
}

// Values of the label kind.
const (
	promptTokens     = "prompt"
	cachedTokens     = "cached"
	completionTokens = "completion"
)

// newInstruments returns the metrics of a proxy. Series whose labels are known
// beforehand stand at 0 from the start, so that their first increase is one.
func newInstruments() *instruments {
	s := new(metrics.Set)
	m := &instruments{
		set:       s,
		requests:  s.Counter("foreman_requests_total", "Requests that have ended, by route and status; 499: the client left.", "route", "code"),
		duration:  s.Histogram("foreman_request_duration_seconds", "Time from a request's header to the end of its answer.", bounds, "route"),
		firstByte: s.Histogram("foreman_first_byte_seconds", "Time from a request's header to the header of its answer.", bounds, "route"),
		queueWait: s.Histogram("foreman_queue_wait_seconds", "Time that chats waited for their turn.", bounds),
		rejected:  s.Counter("foreman_rejected_total", "Requests that foreman itself answered with an error, by reason.", "reason"),
		revoked:   s.Counter("foreman_turns_revoked_total", "Chats whose turn was taken away before the target had answered them, by reason.", "reason"),
	}
	m.early = s.Counter("foreman_early_answers_total", "Answers whose header went out with a heartbeat, before the target had begun.")
	m.tokens = s.Counter("foreman_tokens_total", "Tokens of chats, as the target says where it does: prompt, as read, and completion, as made.", "kind")
	m.tokens.Init(promptTokens)
	m.tokens.Init(completionTokens)
	m.load = s.Histogram("foreman_model_load_seconds", "Time until a chat's model was loaded, as the target says where it does; milliseconds where it was resident.", bounds)
	m.idle = s.Counter("foreman_target_idle_seconds_total", "Time for which the target had nothing to do although a chat waited to be sent.")
	for _, reason := range reasons {
		m.rejected.Init(reason)
	}
	for _, reason := range []string{revokedLeft, revokedStalled, revokedAsleep, revokedStall, revokedMaxTurn, revokedStopped, revokedToken} {
		m.revoked.Init(reason)
	}
	return m
}

// ofClients returns what the chats of named clients come to, and under no name, those of
// all others.
func ofClients(named map[string]status.Sum) *metrics.Set {
	s := new(metrics.Set)
	seconds := s.Counter("foreman_chat_seconds_total", "Time for which chats had their turn, by the name of the client's token; other: without one.", "client")
	used := s.Counter("foreman_client_tokens_total", "Tokens of chats by the name of the client's token, as the target says where it does: prompt, those of them that it had read before (cached), and completion.", "client", "kind")
	for client, sum := range named {
		seconds.Add(time.Duration(sum.Held).Seconds(), cmp.Or(client, tokens.Other))
		if client != "" {
			used.Add(float64(sum.PromptTokens), client, promptTokens)
			used.Add(float64(sum.CachedTokens), client, cachedTokens)
			used.Add(float64(sum.CompletionTokens), client, completionTokens)
		}
	}
	return s
}

// ended counts a request that has ended.
func (m *instruments) ended(rec *status.Record) {
	m.requests.Inc(rec.Route, strconv.Itoa(rec.Status))
	if rec.WasQueued {
		m.queueWait.Observe(rec.Queued)
	}
	m.duration.Observe(rec.Duration, rec.Route)
	if rec.FirstByte > 0 {
		m.firstByte.Observe(rec.FirstByte, rec.Route)
	}
	if rec.Early {
		m.early.Inc()
	}
	m.tokens.Add(float64(rec.Usage.PromptTokens), promptTokens)
	m.tokens.Add(float64(rec.Usage.CompletionTokens), completionTokens)
	if rec.Usage.Load > 0 {
		m.load.Observe(rec.Usage.Load)
	}
	m.idle.Add(rec.Idle.Seconds())
	if rec.Reason != "" {
		m.rejected.Inc(rec.Reason)
	}
	if rec.Revoked != "" {
		m.revoked.Inc(rec.Revoked)
	}
}
