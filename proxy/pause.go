package proxy

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
	"foreman/proxy/target"
	"foreman/warm"
)

// A pauser keeps foreman away from the target while the owner of its machine needs that:
// when somebody has paused, by the monotonic clock, and in quiet hours, by the clock on
// the wall. From then on nothing begins there that takes its memory; when the running chat
// has ended foreman has the turn, and has all that is resident unloaded.
type pauser struct {
	gate      *gate.Gate
	inventory *inventory.Inventory
	target    *target.Target
	warmer    *warm.Warmer                        // nil: no embedder is kept resident
	quiet     func(now time.Time) (end time.Time) // see Options.Quiet
	wall      func() time.Time                    // the clock on the wall
	log       *slog.Logger
	changed   chan struct{} // has one when Run is to look again

	mu      sync.Mutex         // guards what follows
	by      string             // who has paused; empty: nobody
	until   time.Time          // when that ends; zero: when somebody resumes
	hours   time.Time          // when the quiet hours end that it is in; zero: it is in none
	resumed time.Time          // when the quiet hours end that somebody has resumed last
	hold    *hold              // nil: not paused
	ended   []status.PastPause // pauses that have ended, the latest last
	embeds  int                // embeddings at the target
	idle    time.Time          // when the last one ended
}

// A hold is a pause from its beginning to its end, however often that was put off.
type hold struct {
	since    time.Time
	turn     *gate.Turn
	over     context.Context // ends with it
	end      context.CancelFunc
	unloaded bool // nothing is resident any more
}

// byHours is who pauses in quiet hours, and byClock who ends a pause that is over.
const (
	byHours = "FOREMAN_QUIET"
	byClock = "the clock"
)

// now returns what is known of the pause; nil: there is none.
func (p *pauser) now() *status.Pause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nowLocked()
}

func (p *pauser) nowLocked() *status.Pause {
	if p.hold == nil {
		return nil
	}
	return &status.Pause{By: p.by, Since: p.hold.since, Until: p.endLocked(), Unloaded: p.hold.unloaded}
}

// show has a page show the pause, and those before it.
func (p *pauser) show(page *status.Page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	page.Pause, page.PastPauses = p.nowLocked(), slices.Clone(p.ended)
}

// maxPastPauses is how many pauses are kept that have ended: more than there are in an
// hour, of which the page tells.
const maxPastPauses = 100

// endLocked returns when the pause ends, as the clock on the wall will show; zero: when
// somebody resumes.
func (p *pauser) endLocked() time.Time {
	if p.by == "" {
		return p.hours
	}
	if p.until.IsZero() {
		return time.Time{}
	}
	end := p.wall().Add(time.Until(p.until))
	if p.hours.After(end) {
		return p.hours
	}
	return end
}

// pause pauses for a time, whether it is paused or not, and returns when that ends; 0, and
// zero: when somebody resumes.
func (p *pauser) pause(by string, d time.Duration) (end time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by, p.until = by, time.Time{}
	if d > 0 {
		p.until = time.Now().Add(d)
	}
	p.followLocked(by)
	p.wake()
	return p.endLocked()
}

// resume ends the pause, and with it the quiet hours that it is in.
func (p *pauser) resume(by string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.by = ""
	if !p.hours.IsZero() {
		p.resumed = p.hours
	}
	p.followLocked(by)
	p.wake()
}

// wake has run look again.
func (p *pauser) wake() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// follow has it be paused, or not any more, as the clocks have it now.
func (p *pauser) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.followLocked(byClock)
}

// followLocked has the hold begin or end, as those who pause and the clocks have it.
func (p *pauser) followLocked(who string) {
	if p.by != "" && !p.until.IsZero() && time.Until(p.until) <= 0 {
		p.by = ""
	}
	p.hours = time.Time{}
	if p.quiet != nil {
		if end := p.quiet(p.wall()); !end.Equal(p.resumed) {
			p.hours = end
		}
	}
	paused := p.by != "" || !p.hours.IsZero()
	switch {
	case paused && p.hold == nil:
		turn, err := p.gate.Pause()
		if err != nil { // foreman ends
			return
		}
		p.hold = &hold{since: time.Now(), turn: turn}
		p.hold.over, p.hold.end = context.WithCancel(context.Background())
		p.inventory.Rest(true)
		if p.warmer != nil {
			p.warmer.Rest(true)
		}
		if p.by == "" {
			p.log.Info("paused", "by", byHours, "until", p.hours)
		}
	case !paused && p.hold != nil:
		p.hold.end()
		p.inventory.Rest(false)
		p.hold.turn.Leave()
		p.ended = append(p.ended[max(0, len(p.ended)+1-maxPastPauses):], status.PastPause{Since: p.hold.since, Until: time.Now()})
		p.log.Info("pause over", "by", who, "took", time.Since(p.hold.since).Round(time.Second).String())
		p.hold = nil
		if p.warmer != nil {
			p.warmer.Rest(false)
		}
	}
}

// refusal returns why nothing that takes the target's memory may go there; nil: it may.
func (p *pauser) refusal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusalLocked()
}

func (p *pauser) refusalLocked() error {
	if p.hold == nil {
		return nil
	}
	return paused(p.endLocked(), p.wall())
}

// enter has an embedding go to the target, until it leaves. The error is why it may not.
func (p *pauser) enter() (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refusalLocked(); err != nil {
		return nil, err
	}
	p.embeds++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.embeds--
		if p.embeds == 0 {
			p.idle = time.Now()
			if p.hold != nil {
				p.inventory.Refresh() // for keep
			}
		}
	}, nil
}

// clockTick is how soon a clock on the wall that was set is noticed.
const clockTick = 10 * time.Second

// run follows the clocks, and has what is resident unloaded in a pause, until ctx ends.
func (p *pauser) run(ctx context.Context) {
	var keepers sync.WaitGroup
	defer keepers.Wait()
	for kept := (*hold)(nil); ; {
		p.mu.Lock()
		p.followLocked(byClock)
		h, next := p.hold, p.nextLocked()
		p.mu.Unlock()
		if h != nil && h != kept {
			kept = h
			keepers.Go(func() { p.keep(ctx, h) })
		}
		select {
		case <-next:
		case <-p.changed:
		case <-ctx.Done():
			return
		}
	}
}

// nextLocked returns a channel with something to come when the clocks are to be looked at
// again; nil: they need not be.
func (p *pauser) nextLocked() <-chan time.Time {
	var waits []time.Duration
	if p.by != "" && !p.until.IsZero() {
		waits = append(waits, time.Until(p.until))
	}
	if p.quiet != nil {
		now := p.wall()
		waits = append(waits, clockTick, now.Truncate(time.Minute).Add(time.Minute).Sub(now))
	}
	if waits == nil {
		return nil
	}
	return time.After(slices.Min(waits))
}

const (
	unloadTimeout = 10 * time.Second       // for all that is resident
	lookAgain     = 500 * time.Millisecond // after models were asked to go
	patience      = 30 * time.Second       // until it is told that they do not
	lookLater     = 5 * time.Second        // from then on
)

// keep waits for a hold's turn, and then has the target unload what is resident, until
// nothing is and no embedding is there that began before. What is loaded after that is the
// owner's.
func (p *pauser) keep(ctx context.Context, h *hold) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.over, cancel)()
	if h.turn.Wait(ctx) != nil {
		return
	}
	began, again := time.Now(), lookAgain
	away, late := false, false // what was said
	var models []string
	p.inventory.Refresh()
	for seen := uint64(0); ; {
		state, err := p.inventory.Next(ctx, seen)
		if err != nil {
			return
		}
		seen = state.Seq
		switch {
		case state.Degraded():
			if !away {
				p.log.Info("paused while the target is away: what is resident when it is back will be unloaded", "reason", state.Reason)
				away = true
			}
			continue
		case len(state.Resident) > 0:
			models = p.unload(ctx, state.Resident, models)
			time.AfterFunc(again, p.inventory.Refresh)
		case state.ResidentRead.After(began) && p.isUnloaded(h, state.ResidentRead):
			p.log.Info("models unloaded", "models", models, "took", time.Since(began).Round(time.Millisecond).String())
			return
		}
		if !late && time.Since(began) >= patience {
			p.log.Warn("paused, and not all models are unloaded yet; will go on trying", "models", models, "resident_known", !state.ResidentRead.IsZero())
			late, again = true, lookLater
		}
	}
}

// unload asks the target to unload models, and returns their names with those before.
func (p *pauser) unload(ctx context.Context, resident []inventory.Resident, before []string) []string {
	ctx, cancel := context.WithTimeout(ctx, unloadTimeout)
	defer cancel()
	for _, m := range resident {
		if !slices.Contains(before, m.Name) {
			before = append(before, m.Name)
		}
		if err := p.target.Unload(ctx, m.Name); err != nil {
			p.log.Debug("model not unloaded", "model", m.Name, "err", err)
		}
	}
	return before
}

// isUnloaded notes that nothing was resident at a time, and reports whether that is all: no
// embedding was at the target then.
func (p *pauser) isUnloaded(h *hold, at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.unloaded = p.embeds == 0 && at.After(p.idle)
	return h.unloaded
}
