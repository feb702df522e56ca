package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"foreman/gate"
	"foreman/inventory"
)

// chat is the middleware before the worker model: it reads the body, checks the
// model and waits for the turn, in this order, and then passes the request on.
func (p *Proxy) chat(x *exchange, r *http.Request) error {
	body, err := p.readBody(x, r)
	defer func() { p.bodies.give(int64(cap(body))) }()
	if err != nil {
		return err
	}
	x.bodyRead = true
	model, err := readModel(body)
	if err != nil {
		return err
	}
	x.asked = model
	if err := p.Inventory.Check(r.Context(), model); err != nil {
		return fmt.Errorf("model %.100q: %w", model, err)
	}
	x.model = p.Inventory.State().Name(model)

	// What can be ready before the turn is: meanwhile the target sits idle.
	j := newJob(r.Context(), x)
	r = r.WithContext(j.ctx)
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()

	leave, err := p.enter(x, r.Context())
	if err != nil {
		return err
	}
	p.beginTurn(j, leave)
	defer j.end()
	if x.hungUp() {
		return context.Canceled
	}
	if err := p.stillThere(r.Context()); err != nil { // much may have happened while this chat waited
		return err
	}
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
