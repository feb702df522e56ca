package proxy

import (
	"math"
	"runtime"
	"time"

	"foreman/inventory"
	"foreman/proxy/metrics"
)

// present returns the metrics that tell how things are now, or are counted elsewhere.
func (h *health) present() *metrics.Set {
	s, state := new(metrics.Set), h.inventory.State()
	polls := s.Counter("foreman_polls_total", "Polls of the inventory, by result.", "result")
	polls.Add(float64(state.Polls.OK), "ok")
	polls.Add(float64(state.Polls.Unreachable), inventory.Unreachable)
	polls.Add(float64(state.Polls.Unauthorized), inventory.Unauthorized)
	polls.Add(float64(state.Polls.BadAnswer), inventory.BadAnswer)
	wakes := s.Counter("foreman_wakes_total", "Attempts to wake the target, by result.", "result")
	wakes.Add(float64(state.Wakes.OK), "ok")
	wakes.Add(float64(state.Wakes.Failed), "failed")
	var warmed, notWarmed uint64
	if h.warmer != nil {
		warmed, notWarmed = h.warmer.Counts()
	}
	warms := s.Counter("foreman_warms_total", "Attempts to warm the embedder, by result.", "result")
	warms.Add(float64(warmed), "ok")
	warms.Add(float64(notWarmed), "failed")
	s.Counter("foreman_retries_total", "Requests sent once more because the target had closed the kept-alive connection.").Add(float64(h.target.Retries()))

	waiting, busy := h.gate.Len()
	s.Gauge("foreman_queue_depth", "Chats that wait for their turn.", float64(waiting))
	s.Gauge("foreman_chats_in_flight", "Chats that have their turn, 0 or 1.", boolToFloat(busy))
	if h.embeds != nil {
		atHost, waiting := h.embeds.count()
		s.Gauge("foreman_embeds_in_flight", "Embeddings at the target, at most FOREMAN_EMBEDS; without that they are not counted.", float64(atHost))
		s.Gauge("foreman_embeds_waiting", "Embeddings that wait until fewer than FOREMAN_EMBEDS are at the target.", float64(waiting))
	}
	age := math.NaN() // no poll was good yet
	if !state.LastPoll.IsZero() {
		age = time.Since(state.LastPoll).Seconds()
	}
	s.Gauge("foreman_paused", "Whether the target is kept for its owner.", boolToFloat(h.pauser.now() != nil))
	s.Gauge("foreman_target_up", "Whether the last poll of the target was good.", boolToFloat(!state.Degraded()))
	s.Gauge("foreman_target_waking", "Whether the target is being woken.", boolToFloat(!state.Waking.IsZero()))
	s.Gauge("foreman_inventory_models", "Models that the target holds, as last known.", float64(state.Len()))
	s.Gauge("foreman_inventory_age_seconds", "Time since the last good poll.", age)
	s.Gauge("foreman_embedder_resident", "Whether the embedder was resident at the last poll.", boolToFloat(h.embedder != "" && state.IsResident(h.embedder)))
	s.Gauge("foreman_build_info", "What runs, in its labels; always 1.", 1, "version", h.version, "goversion", runtime.Version())
	s.Process()
	return s
}

func boolToFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
