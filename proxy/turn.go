package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"foreman/inventory"
)

const (
	// A target that has been silent for so long is polled out of turn, and
	// again as often as one that is degraded.
	suspicious = 5 * time.Second
	// So many polls in a row without an answer, and the host is asleep or gone.
	// It takes at most 5 s until a silent target is polled out of turn, 4 s until
	// that poll fails, and twice 5 s for two more (inventory's pollTimeout and
	// degradedInterval): the turn is free well within 45 s.
	asleepAfter = 3
	// How often the silence is looked at.
	watchInterval = time.Second
)

// A turn is a chat's time at the worker model: from the gate to the last byte
// that the target has to say, to a client that reads.
type turn struct {
	x     *exchange
	ctx   context.Context // of the request to the target
	began time.Time
	end   func() // lets the next chat in; may be called twice

	// Nanoseconds from began, as counted by elapsed.
	waiting  atomic.Int64 // since when the target's next byte is waited for; or notWaiting
	answered atomic.Int64 // when its first byte came; 0: not yet

	received atomic.Int64 // bytes of the answer's body
	complete atomic.Bool  // the target's last byte has come
}

// notWaiting is for a turn while the client is to take what the target has said.
const notWaiting = -1

// beginTurn begins the turn of the chat that the gate let in, and watches over it.
// The turn is taken away, by cancelling the request to the target, when the
// target goes silent.
func (p *Proxy) beginTurn(ctx context.Context, x *exchange, leave func()) *turn {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &turn{x: x, ctx: ctx, began: time.Now()}
	over := make(chan struct{})
	t.end = sync.OnceFunc(func() {
		close(over)
		p.running.CompareAndSwap(t, nil)
		leave()
	})
	p.running.Store(t)
	go t.watch(over, cancel, p.Inventory, p.StallTimeout)
	return t
}

// watch cancels the request if the target is silent and does not answer polls,
// or is silent for stall, or if the client has left unnoticed. A host that is asleep leaves its connections open and
// says nothing; the polls tell it from one that loads a model or reads a long
// prompt.
func (t *turn) watch(over <-chan struct{}, cancel context.CancelCauseFunc, inv *inventory.Inventory, stall time.Duration) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var polled time.Duration // elapsed at the last poll out of turn
	for {
		select {
		case <-ticker.C:
		case <-over:
			return
		}
		if t.x.hungUp() {
			cancel(context.Canceled)
			return
		}
		waiting := t.waiting.Load()
		if waiting == notWaiting {
			continue
		}
		switch now := t.elapsed(); {
		case now-time.Duration(waiting) >= stall:
			cancel(errStall)
		case now-time.Duration(waiting) < suspicious:
		case inv.State().Unanswered >= asleepAfter:
			cancel(errAsleep)
		case now-polled >= suspicious:
			polled = now
			inv.Refresh()
		}
	}
}

func (t *turn) elapsed() time.Duration { return time.Since(t.began) }

// Answering returns the model of the chat that the target is answering and for
// how long it has been; "" if it answers none.
func (p *Proxy) Answering() (model string, d time.Duration) {
	t := p.running.Load()
	if t == nil || t.answered.Load() == 0 {
		return "", 0
	}
	return t.x.model, t.elapsed() - time.Duration(t.answered.Load())
}

// follow returns the body of the target's answer to a chat under its turn's eyes.
func (p *Proxy) follow(x *exchange, resp *http.Response) io.ReadCloser {
	t := x.turn
	t.answered.Store(int64(t.elapsed()))
	return &followed{resp.Body, p, x}
}

// A followed body tells the turn when the target is waited for, and ends the
// turn with the target's last byte: while the client takes the rest, the target
// can work for the next.
type followed struct {
	io.ReadCloser
	p *Proxy
	x *exchange
}

func (f *followed) Read(b []byte) (int, error) {
	t := f.x.turn
	t.waiting.Store(int64(t.elapsed()))
	n, err := f.ReadCloser.Read(b)
	t.waiting.Store(notWaiting)
	t.received.Add(int64(n))
	switch err {
	case nil:
	case io.EOF:
		t.complete.Store(true)
		t.end()
		runtime.Gosched() // the next chat goes first, then the rest of this one
	default:
		f.p.brokeOff(f.x, classify(t.ctx, err))
	}
	return n, err
}

// brokeOff notes why an answer that had begun came to no end. If that was the
// connection, a poll at once tells what to think of the target.
func (p *Proxy) brokeOff(x *exchange, cause error) {
	x.cause = cause
	if errors.Is(cause, inventory.ErrUnreachable) {
		p.Inventory.Refresh()
	}
}
