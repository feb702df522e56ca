package proxy

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/target"
)

// A chat is what a client asks of the worker model, read to its end and for a model
// that the target holds. It is data: a persistent queue could keep it, and have
// [Proxy.run] run it later, into any exchange.
type chat struct {
	ID      string // X-Request-Id
	Client  string // who asks
	Arrived time.Time
	Model   string // its name as the target spells it
	Options string // that make the target load the model again if they differ
	Host    string // that the client asked
	Path    string
	Query   string
	Header  http.Header
	Body    []byte
}

// kind is what the target has to load for a chat.
func (c *chat) kind() string { return strings.TrimSpace(c.Model + " " + c.Options) }

// serveChat serves a request for the worker model: it reads the body, checks the
// model, waits in line until the chat is next, and runs it. A chat that the target does
// no work for (see [record.Beside]) needs no turn. Any other has its turn
// from when awaitTurn returns, in the middle of run, until endCall, when the target
// has said all; or until this function returns, whatever happened.
func (p *Proxy) serveChat(x *exchange, r *http.Request) error {
	body, err := p.readBody(x, r)
	defer func() { p.bodies.give(int64(cap(body))) }()
	if err != nil {
		return err
	}
	x.bodyRead = true
	if err := p.checkModel(x, r, body); err != nil {
		return err
	}
	c := &chat{
		ID: x.ID, Client: x.Client, Arrived: x.Began, Model: x.Model, Options: x.asked.Options,
		Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header, Body: body,
	}
	x.joined = time.Now()
	defer p.startBeats(x)()
	if x.Beside != "" {
		return p.run(r.Context(), c, x)
	}

	patience, cancel := p.patience(r.Context())
	defer cancel()
	x.patience = patience
	x.key = p.underway.join(x)
	defer p.underway.leave(x.key)
	turn, err := p.Gate.Join(gate.Request{Kind: c.kind(), Client: c.Client, ID: x.key})
	if err == nil {
		defer turn.Leave()
		x.turn = turn
		err = p.awaitNext(x)
	}
	if err != nil {
		p.leftLine(x, err)
		return err
	}
	return p.run(r.Context(), c, x)
}

// awaitNext waits until a chat is next in line.
func (p *Proxy) awaitNext(x *exchange) error {
	if err := p.await(x.patience, x, x.turn.Next()); err != nil {
		return err
	}
	return cmp.Or(context.Cause(x.patience), x.turn.Err()) // both may have happened
}

// checkModel checks the model that a chat's body names, and whether the chat needs a
// turn at all.
func (p *Proxy) checkModel(x *exchange, r *http.Request, body []byte) error {
	asked, err := ask.Read(r, body)
	if err != nil {
		return err
	}
	x.asked, x.Model = asked, asked.Model
	model, err := p.Inventory.Check(r.Context(), asked.Model)
	if err != nil {
		return fmt.Errorf("model %.100q: %w", asked.Model, err)
	}
	x.Model = model.Name
	switch {
	case model.Remote:
		x.Beside = besideRemote
	case asked.Unload:
		x.Beside = besideUnload
	}
	return nil
}

// patience returns a context that ends when a chat has waited too long for its turn.
func (p *Proxy) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.QueueTimeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, p.QueueTimeout, errQueueTimeout)
}

// run carries a chat through the ReverseProxy, to the target and back.
func (p *Proxy) run(ctx context.Context, c *chat, x *exchange) error {
	r := (&http.Request{
		Method: http.MethodPost,
		URL:    &url.URL{Path: c.Path, RawQuery: c.Query},
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host:   c.Host,
		Header: c.Header,
	}).WithContext(ctx)
	inMemory(r, c.Body)
	return p.forward(x, r, p.StallTimeout)
}

// roundTrip is the ReverseProxy's transport.
func (p *Proxy) roundTrip(r *http.Request) (*http.Response, error) {
	c := callOf(r)
	if c.x.beats == nil {
		return p.send(c, r)
	}
	return p.meanwhile(c, func() (*http.Response, error) { return p.send(c, r) })
}

// send sends a request to the target. It is built by now, and a chat that is next has
// a connection opened for it and waits there for its turn: nothing is left to do then
// but to write it.
func (p *Proxy) send(c *call, r *http.Request) (*http.Response, error) {
	// The call's own context, without ReverseProxy's trace, which would send the
	// target's informational answers on to a client that has asked for none.
	ctx := c.ctx
	if c.x.turn == nil {
		p.underway.begin(c)
	} else {
		state := p.Inventory.State()
		since := state.Since
		if state.Unanswered >= asleepAfter { // a connection would only time out, and a line of chats one by one
			if err := p.awaitTurn(c, since); err != nil && err != target.ErrStale {
				return nil, err
			}
		}
		ctx = target.WithHold(c.ctx, target.Hold{
			Wait: func() error { return p.awaitTurn(c, since) },
			Sent: func() { c.x.sent = time.Now() },
		})
	}
	return p.Target.RoundTrip(r.WithContext(ctx))
}

// awaitTurn waits for a chat's turn, and then sees if the target can be asked: much
// may have happened meanwhile. One poll that failed is asked for again before a whole
// line is turned away; a host that is away for longer is not, and the line gets its
// answer at once. If there was an outage after since, when the chat's connection was
// not yet open, the way to the target may be another one: that connection is stale.
func (p *Proxy) awaitTurn(c *call, since time.Time) error {
	if c.x.call != nil {
		return nil // it has its turn
	}
	err := c.x.turn.Wait(c.x.patience)
	p.leftLine(c.x, err)
	if err != nil {
		return err
	}
	if c.x.token != nil && c.x.token.Revoked().Err() != nil {
		return errRevoked // the chat that had the turn may have ended by the same change, and sooner
	}
	p.underway.begin(c)
	p.noteOptions(c.x)
	if p.Inventory.State().Unanswered >= asleepAfter {
		return inventory.ErrUnreachable
	}
	if err := p.Inventory.Reachable(c.ctx); err != nil {
		return err
	}
	if !p.Inventory.State().Since.Equal(since) {
		return target.ErrStale
	}
	return nil
}

// noteOptions warns, once for each model, when the options with which it is asked for
// keep changing: the target loads it again each time.
func (p *Proxy) noteOptions(x *exchange) {
	if before, flips := p.underway.noteOptions(x.Model, x.asked.Options); flips {
		p.Log.Warn("the load options of a model keep changing, and each time the target loads it again: have all clients ask for the same, or make a model of its own for each (ollama create)",
			"model", x.Model, "options", x.asked.Options, "before", before)
	}
}

// leftLine notes how long a chat has waited for its turn, which has come or, for err,
// will not come any more. A chat that never joined the line did not wait.
func (p *Proxy) leftLine(x *exchange, err error) {
	if err == gate.ErrFull {
		return
	}
	if x.Queued = time.Since(x.joined); x.turn != nil {
		x.Queued = x.turn.Waited() // opening a connection is no waiting
	}
	p.metrics.queueWait.Observe(x.Queued)
}

// endCall ends a call, and a chat's turn with it. It may be called twice.
func (p *Proxy) endCall(c *call) {
	p.underway.end(c)
	if c.x.turn != nil {
		c.x.turn.Leave()
		runtime.Gosched() // the next chat goes first: what is left to do for this one can wait
	}
}
