package proxy

import (
	"context"
	"sync"
	"time"
)

const (
	// A target that has been silent for so long is polled out of turn, and
	// again as often as one that is degraded.
	suspicious = 5 * time.Second
	// So many polls in a row without an answer, and the host is asleep or gone.
	// It takes at most 6 s until a silent target is polled out of turn, 4 s until
	// that poll fails, and twice 5 s for two more (inventory's pollTimeout and
	// degradedInterval): the turn is free well within 45 s.
	asleepAfter = 3
	// How often the jobs are looked at.
	watchInterval = time.Second
)

// jobs are those that are under way.
type jobs struct {
	mu   sync.Mutex // guards open
	open map[*job]struct{}
}

func (js *jobs) add(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	if js.open == nil {
		js.open = map[*job]struct{}{}
	}
	js.open[j] = struct{}{}
}

func (js *jobs) remove(j *job) {
	js.mu.Lock()
	defer js.mu.Unlock()
	delete(js.open, j)
}

// Run watches over all jobs until ctx ends. A job is taken away if the target is
// silent and does not answer polls, if the target is silent for the job's stall,
// or if the client has left unnoticed. A host that is asleep leaves its connections
// open and says nothing; the polls tell it from one that loads a model or reads a
// long prompt.
func (p *Proxy) Run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var polled time.Time // when it was last asked for a poll out of turn
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if p.look() && time.Since(polled) >= suspicious {
			polled = time.Now()
			p.Inventory.Refresh()
		}
	}
}

// look takes away the jobs that are to be, and reports whether the target has been
// silent to any other for so long that it should be polled.
func (p *Proxy) look() (poll bool) {
	asleep := p.Inventory.State().Unanswered >= asleepAfter
	p.jobs.mu.Lock()
	defer p.jobs.mu.Unlock()
	for j := range p.jobs.open {
		switch silence := j.silence(); {
		case j.x.hungUp():
			j.cancel(context.Canceled)
		case j.stall > 0 && silence >= j.stall:
			j.cancel(errStall)
		case silence < suspicious:
		case asleep:
			j.cancel(errAsleep)
		default:
			poll = true
		}
	}
	return poll
}
