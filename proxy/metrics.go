package proxy

import (
	"cmp"
	"math"
	"runtime"
	"strconv"
	"time"

	"foreman/inventory"
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
func newInstruments(o Options, recent *status.Recent, embeds *embeds, pauser *pauser) *instruments {
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
	s.Func(metrics.CounterKind, "foreman_polls_total", "Polls of the inventory, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		polls := o.Inventory.State().Polls
		emit(float64(polls.OK), "ok")
		emit(float64(polls.Unreachable), inventory.Unreachable)
		emit(float64(polls.Unauthorized), inventory.Unauthorized)
		emit(float64(polls.BadAnswer), inventory.BadAnswer)
	})
	s.Func(metrics.CounterKind, "foreman_wakes_total", "Attempts to wake the target, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		wakes := o.Inventory.State().Wakes
		emit(float64(wakes.OK), "ok")
		emit(float64(wakes.Failed), "failed")
	})
	s.Func(metrics.CounterKind, "foreman_warms_total", "Attempts to warm the embedder, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		var ok, failed uint64
		if o.Warmer != nil {
			ok, failed = o.Warmer.Counts()
		}
		emit(float64(ok), "ok")
		emit(float64(failed), "failed")
	})
	addClients(s, recent.Named)
	s.Func(metrics.CounterKind, "foreman_retries_total", "Requests sent once more because the target had closed the kept-alive connection.", nil, func(emit func(float64, ...string)) {
		emit(float64(o.Target.Retries()))
	})
	s.Gauge("foreman_queue_depth", "Chats that wait for their turn.", func() float64 {
		waiting, _ := o.Gate.Len()
		return float64(waiting)
	})
	s.Gauge("foreman_chats_in_flight", "Chats that have their turn, 0 or 1.", func() float64 {
		_, busy := o.Gate.Len()
		return boolToFloat(busy)
	})
	if embeds != nil {
		s.Gauge("foreman_embeds_in_flight", "Embeddings at the target, at most FOREMAN_EMBEDS; without that they are not counted.", func() float64 {
			atHost, _ := embeds.count()
			return float64(atHost)
		})
		s.Gauge("foreman_embeds_waiting", "Embeddings that wait until fewer than FOREMAN_EMBEDS are at the target.", func() float64 {
			_, waiting := embeds.count()
			return float64(waiting)
		})
	}
	s.Gauge("foreman_paused", "Whether the target is kept for its owner.", func() float64 {
		return boolToFloat(pauser.now() != nil)
	})
	s.Gauge("foreman_target_up", "Whether the last poll of the target was good.", func() float64 {
		return boolToFloat(!o.Inventory.State().Degraded())
	})
	s.Gauge("foreman_target_waking", "Whether the target is being woken.", func() float64 {
		return boolToFloat(!o.Inventory.State().Waking.IsZero())
	})
	s.Gauge("foreman_inventory_models", "Models that the target holds, as last known.", func() float64 {
		return float64(o.Inventory.State().Len())
	})
	s.Gauge("foreman_inventory_age_seconds", "Time since the last good poll.", func() float64 {
		if last := o.Inventory.State().LastPoll; !last.IsZero() {
			return time.Since(last).Seconds()
		}
		return math.NaN()
	})
	s.Gauge("foreman_embedder_resident", "Whether the embedder was resident at the last poll.", func() float64 {
		return boolToFloat(o.EmbedModel != "" && o.Inventory.State().IsResident(o.EmbedModel))
	})
	s.Func(metrics.GaugeKind, "foreman_build_info", "What runs, in its labels; always 1.", []string{"version", "goversion"}, func(emit func(float64, ...string)) {
		emit(1, o.Version, runtime.Version())
	})
	s.Process()
	return m
}

// addClients adds what the chats of named clients come to.
func addClients(s *metrics.Set, named func() map[string]status.Sum) {
	s.Func(metrics.CounterKind, "foreman_chat_seconds_total", "Time for which chats had their turn, by the name of the client's token; other: without one.", []string{"client"}, func(emit func(float64, ...string)) {
		for client, sum := range named() {
			emit(time.Duration(sum.Held).Seconds(), cmp.Or(client, tokens.Other))
		}
	})
	s.Func(metrics.CounterKind, "foreman_client_tokens_total", "Tokens of chats by the name of the client's token, as the target says where it does: prompt, those of them that it had read before (cached), and completion.", []string{"client", "kind"}, func(emit func(float64, ...string)) {
		for client, sum := range named() {
			if client == "" {
				continue
			}
			emit(float64(sum.PromptTokens), client, promptTokens)
			emit(float64(sum.CachedTokens), client, cachedTokens)
			emit(float64(sum.CompletionTokens), client, completionTokens)
		}
	})
}

// ofClient returns the metrics of a client's chats alone.
func ofClient(recent *status.Recent, client string) *metrics.Set {
	s := new(metrics.Set)
	addClients(s, func() map[string]status.Sum {
		return map[string]status.Sum{client: recent.Named()[client]}
	})
	return s
}

func boolToFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
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
