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
	leave, err := p.enter(x, r.Context())
	if err != nil {
		return err
	}
	return p.turn(x, r, body, leave)
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

// turn passes a chat on whose turn has come.
func (p *Proxy) turn(x *exchange, r *http.Request, body []byte, leave func()) error {
	j := newJob(r.Context(), x)
	p.beginTurn(j, leave)
	defer j.end()
	if x.hungUp() {
		return context.Canceled
	}
	if err := p.stillThere(j); err != nil { // much may have happened while this chat waited
		return err
	}
	r = r.WithContext(j)
	inMemory(r, body)
	return p.forward(x, r)
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

// enter waits for the turn, no longer than a client is to wait.
func (p *Proxy) enter(x *exchange, ctx context.Context) (leave func(), err error) {
	if p.QueueTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.QueueTimeout, errQueueTimeout)
		defer cancel()
	}
	x.joined = time.Now()
	leave, err = p.Gate.Enter(ctx, x)
	x.queued = time.Since(x.joined)
	if !errors.Is(err, gate.ErrFull) { // who never stood in line did not wait
		p.metrics.observe("foreman_queue_wait_seconds", "", x.queued)
	}
	return leave, err
}
