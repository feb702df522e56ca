package proxy

import (
	"math"
	"runtime"
	"time"

	"foreman/inventory"
	"foreman/proxy/metrics"
)

// newGauges returns the metrics that tell how things are now, or are counted elsewhere.
func (h *health) newGauges() *metrics.Set {
	s := new(metrics.Set)
	s.Func(metrics.CounterKind, "foreman_polls_total", "Polls of the inventory, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		polls := h.inventory.State().Polls
		emit(float64(polls.OK), "ok")
		emit(float64(polls.Unreachable), inventory.Unreachable)
		emit(float64(polls.Unauthorized), inventory.Unauthorized)
		emit(float64(polls.BadAnswer), inventory.BadAnswer)
	})
	s.Func(metrics.CounterKind, "foreman_wakes_total", "Attempts to wake the target, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		wakes := h.inventory.State().Wakes
		emit(float64(wakes.OK), "ok")
		emit(float64(wakes.Failed), "failed")
	})
	s.Func(metrics.CounterKind, "foreman_warms_total", "Attempts to warm the embedder, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		var ok, failed uint64
		if h.warmer != nil {
			ok, failed = h.warmer.Counts()
		}
		emit(float64(ok), "ok")
		emit(float64(failed), "failed")
	})
	s.Func(metrics.CounterKind, "foreman_retries_total", "Requests sent once more because the target had closed the kept-alive connection.", nil, func(emit func(float64, ...string)) {
		emit(float64(h.target.Retries()))
	})
	s.Gauge("foreman_queue_depth", "Chats that wait for their turn.", func() float64 {
		waiting, _ := h.gate.Len()
		return float64(waiting)
	})
	s.Gauge("foreman_chats_in_flight", "Chats that have their turn, 0 or 1.", func() float64 {
		_, busy := h.gate.Len()
		return boolToFloat(busy)
	})
	if h.embeds != nil {
		s.Gauge("foreman_embeds_in_flight", "Embeddings at the target, at most FOREMAN_EMBEDS; without that they are not counted.", func() float64 {
			atHost, _ := h.embeds.count()
			return float64(atHost)
		})
		s.Gauge("foreman_embeds_waiting", "Embeddings that wait until fewer than FOREMAN_EMBEDS are at the target.", func() float64 {
			_, waiting := h.embeds.count()
			return float64(waiting)
		})
	}
	s.Gauge("foreman_paused", "Whether the target is kept for its owner.", func() float64 {
		return boolToFloat(h.pauser.now() != nil)
	})
	s.Gauge("foreman_target_up", "Whether the last poll of the target was good.", func() float64 {
		return boolToFloat(!h.inventory.State().Degraded())
	})
	s.Gauge("foreman_target_waking", "Whether the target is being woken.", func() float64 {
		return boolToFloat(!h.inventory.State().Waking.IsZero())
	})
	s.Gauge("foreman_inventory_models", "Models that the target holds, as last known.", func() float64 {
		return float64(h.inventory.State().Len())
	})
	s.Gauge("foreman_inventory_age_seconds", "Time since the last good poll.", func() float64 {
		if last := h.inventory.State().LastPoll; !last.IsZero() {
			return time.Since(last).Seconds()
		}
		return math.NaN()
	})
	s.Gauge("foreman_embedder_resident", "Whether the embedder was resident at the last poll.", func() float64 {
		return boolToFloat(h.embedder != "" && h.inventory.State().IsResident(h.embedder))
	})
	s.Func(metrics.GaugeKind, "foreman_build_info", "What runs, in its labels; always 1.", []string{"version", "goversion"}, func(emit func(float64, ...string)) {
		emit(1, h.version, runtime.Version())
	})
	s.Process()
	return s
}

func boolToFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
