package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"foreman/gate"
	"foreman/inventory"
)

// chat is the middleware before the worker model: it reads the body, checks the
// model and waits for the turn, in this order, and then passes the request on.
func (p *Proxy) chat(x *exchange, r *http.Request) error {
	body, err := p.readBody(x, r)
	defer func() { p.bodies.give(int64(cap(body))) }()
	if err == nil {
		x.bodyRead = true
		onOtherStack(func() { err = p.checkModel(x, r.Context(), body) })
	}
	if err != nil {
		return err
	}
	turn, err := p.enter(x, r.Context())
	if err != nil {
		return err
	}
	return p.turn(x, r, body, turn)
}

// checkModel checks the model that a chat's body names.
func (p *Proxy) checkModel(x *exchange, ctx context.Context, body []byte) (err error) {
	if x.asked, err = readModel(body); err != nil {
		return err
	}
	if x.model, err = p.Inventory.Check(ctx, x.asked); err != nil {
		return fmt.Errorf("model %.100q: %w", x.asked, err)
	}
	return nil
}

// onOtherStack runs f, which needs much stack, on a goroutine of its own. What a
// stack has grown to it keeps, and this goroutine's chat may wait for hours.
func onOtherStack(f func()) {
	done := make(chan any)
	go func() {
		defer func() {
			e := recover()
			if e != nil {
				e = fmt.Errorf("%v\n%s", e, debug.Stack()) // this stack is the one that tells
			}
			done <- e
		}()
		f()
	}()
	if e := <-done; e != nil {
		panic(e)
	}
}

// enter waits until the chat is next or let in, no longer than a client is to wait.
func (p *Proxy) enter(x *exchange, ctx context.Context) (*gate.Turn, error) {
	if p.QueueTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.QueueTimeout, errQueueTimeout)
		defer cancel()
	}
	x.joined = time.Now()
	turn, err := p.Gate.Enter(ctx, x)
	if err != nil && !errors.Is(err, gate.ErrFull) { // who never stood in line did not wait
		x.queued = time.Since(x.joined)
		p.waited(x)
	}
	return turn, err
}

// waited counts how long a chat has waited for its turn, which has come or will not
// come any more.
func (p *Proxy) waited(x *exchange) {
	p.metrics.observe("foreman_queue_wait_seconds", "", x.queued)
}

// turn gets a chat ready that is next, and passes it on when its turn has come.
func (p *Proxy) turn(x *exchange, r *http.Request, body []byte, turn *gate.Turn) error {
	j := p.newTurn(r.Context(), x, turn)
	defer func() {
		j.end()
		if !x.hadTurn() {
			x.queued = time.Since(x.joined)
			p.waited(x)
		}
	}()
	if p.QueueTimeout > 0 {
		timer := time.AfterFunc(time.Until(x.joined.Add(p.QueueTimeout)), func() {
			if j.launch.giveUp() {
				j.cancel(errQueueTimeout)
			}
		})
		defer timer.Stop()
	}
	turn.Start(func(err error) { p.beginTurn(j, err) })
	r = r.WithContext(j)
	inMemory(r, body)
	return p.forward(x, r)
}

// newTurn returns the job of a chat, which begins when its turn comes.
func (p *Proxy) newTurn(ctx context.Context, x *exchange, turn *gate.Turn) *job {
	j := newJob(ctx, x)
	j.launch = newLaunch(j.Done())
	j.stall = p.StallTimeout
	j.end = func() { // each of these may come twice
		j.launch.end(j.complete.Load())
		turn.Leave()
		p.running.CompareAndSwap(j, nil)
		p.jobs.remove(j)
	}
	return j
}

// beginTurn begins the job of a chat whose turn has come, or will not come because
// of err. The target is asked if it can be and if the client is still there: much
// may have happened while the chat waited.
func (p *Proxy) beginTurn(j *job, err error) {
	if err != nil {
		j.cancel(err)
		return
	}
	began := j.launch.begin(func() {
		j.x.queued = time.Since(j.x.joined)
		p.begin(j)
		p.running.Store(j)
	})
	if !began {
		return
	}
	p.waited(j.x)
	switch state := p.Inventory.State(); {
	case j.x.hungUp():
		j.cancel(context.Canceled)
	case state.Unanswered == 0 && state.Reason != inventory.Unreachable:
		// After an outage the way to the host may be another one.
		j.launch.release(state.Since.After(j.launch.since))
	default:
		go func() {
			if err := p.stillThere(j); err != nil {
				j.cancel(err)
				return
			}
			j.launch.release(true)
		}()
	}
}

// stillThere reports whether the target can be asked for anything. One poll that
// failed is asked for again before a whole line is turned away; a host that is
// away for longer is not, and the line gets its answer at once.
func (p *Proxy) stillThere(ctx context.Context) error {
	if p.Inventory.State().Unanswered >= asleepAfter {
		return inventory.ErrUnreachable
	}
	return p.Inventory.Reachable(ctx)
}
