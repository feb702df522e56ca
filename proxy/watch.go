package proxy

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// suspicious is how long a target may be silent before it is polled out of turn, and
// watchInterval how often a request is looked at from then on. A timer that fires later than
// stoppedTime was foreman's own, which was stopped and is not any more.
const (
	suspicious    = 5 * time.Second
	watchInterval = time.Second
	stoppedTime   = 5 * time.Second
)

// A watch looks after an upstream request whose target is silent.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	began time.Time
	timer *time.Timer
	look  time.Duration // when it fires next, since began
	awake time.Duration // since when foreman has not been stopped, since began
	told  bool          // that the target is silent
	since atomic.Int64  // since when the target's next byte is waited for, in nanoseconds since began; or notWaiting
}

// notWaiting is for a request while the client is to take what the target has said.
const notWaiting = -1

// wait notes that the target's next byte is waited for from now on.
func (w *watch) wait() { w.since.Store(int64(time.Since(w.began))) }

// heard notes that the target has said something.
func (w *watch) heard() { w.since.Store(notWaiting) }

// silence is for how long the target's next byte has been waited for.
func (w *watch) silence(now time.Duration) time.Duration {
	if since := w.since.Load(); since != notWaiting {
		return now - max(time.Duration(since), w.awake)
	}
	return 0
}

// beginWatch watches over an upstream request until endWatch. A host that is asleep leaves its
// connections open and says nothing; the polls distinguish it from one that loads a model
// or reads a long prompt.
func (f *forwarder) beginWatch(c *upstream, ctx context.Context) {
	w := &watch{began: time.Now(), look: suspicious}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(math.MaxInt64, func() { f.lookAfter(c, w) })
	w.timer.Reset(suspicious)
	c.watch = w
}

func (w *watch) endWatch() {
	w.timer.Stop()
	w.cancel(nil)
}

// lookAfter cancels an upstream request if the target is silent and asleep, or silent for
// its stall within the answer, and else looks again later. Before the answer, which has one
// piece without a stream, a target that works may be silent for as long as it works: of that
// only log and page tell.
func (f *forwarder) lookAfter(c *upstream, w *watch) {
	now := time.Since(w.began)
	if now-w.look > stoppedTime { // foreman was stopped, and has not read what the target said meanwhile
		w.awake = now
	}
	next, begun := watchInterval, c.progress.Load() > 0 // before the silence is looked at, which ends as it begins
	switch silence := w.silence(now); {
	case w.ctx.Err() != nil: // the request is over
		return
	case begun && c.stall > 0 && silence >= c.stall:
		w.cancel(errStall)
		return
	case silence < suspicious:
		next = suspicious - silence
	case f.inventory.State().Asleep():
		w.cancel(errAsleep)
		return
	default:
		f.inventory.Suspect()
		if c.stall > 0 && silence >= c.stall && !w.told {
			w.told = true
			f.log.Warn("a chat has had nothing from the target for FOREMAN_STALL_TIMEOUT; whoever knows that nothing will come can stop it on /status",
				"silent", silence.Round(time.Second), "id", c.x.ID, "client", c.x.Client, "model", c.x.Model)
		}
	}
	w.look = now + next
	w.timer.Reset(next)
}
