package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"foreman/gate"
	"foreman/proxy/ask"
	"foreman/proxy/target"
)

// A chat is what a client asks of the worker model, read to its end and for a model
// that the target holds. It is data: a persistent queue could keep it, and forward its
// request later, into any exchange.
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

// request returns the request that is sent to the target for a chat.
func (c *chat) request(ctx context.Context) *http.Request {
	r := (&http.Request{
		Method: http.MethodPost,
		URL:    &url.URL{Path: c.Path, RawQuery: c.Query},
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host:   c.Host,
		Header: c.Header,
	}).WithContext(ctx)
	inMemory(r, c.Body)
	return r
}

// serveChat serves a request for the worker model: it reads the body, checks the
// model, waits in line for the chat's turn, and forwards it. A chat that the target does
// no work for (see [record.Beside]) needs no turn. Any other has its turn until endCall,
// when the target has said all; or until this function returns, whatever happened.
func (p *Proxy) serveChat(x *exchange, r *http.Request) error {
	body, held, err := p.readBody(x, r)
	defer held.give()
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
	out := c.request(r.Context()) // now, and not in its turn
	x.joined = time.Now()
	if x.Beside == "" {
		x.key = p.underway.join(x)
		defer p.underway.leave(x.key)
		x.turn, err = p.Gate.Join(gate.Request{Kind: gate.Kind{Model: c.Model, Options: c.Options}, Client: c.Client, ID: x.key})
		if err != nil {
			return err
		}
		defer x.turn.Leave()
	}
	p.startBeats(x)
	defer x.beats.stop()
	if x.Beside == "" {
		if err := p.awaitTurn(r.Context(), x); err != nil {
			return err
		}
	}
	held.keep()
	return p.forward(x, out, p.StallTimeout)
}

// awaitTurn waits for a chat's turn, and then sees if the target can be asked: much
// may have happened meanwhile. One poll that failed is asked for again before a whole
// line is turned away; a host that is away for longer is not, and the line gets its
// answer at once.
func (p *Proxy) awaitTurn(ctx context.Context, x *exchange) error {
	patient, cancel := p.patience(ctx)
	defer cancel()
	err := x.turn.Wait(patient)
	if errors.Is(err, errQueueTimeout) && x.turn.Position() == 0 {
		err = x.turn.Wait(ctx) // the turn came in time: it is foreman that took so long to notice
	}
	x.Queued = x.turn.Waited()
	p.metrics.queueWait.Observe(x.Queued)
	switch {
	case err != nil:
		return err
	case x.token != nil && x.token.Revoked().Err() != nil:
		return errRevoked // the chat that had the turn may have ended by the same change, and sooner
	}
	x.hadTurn = true
	p.noteOptions(x)
	if p.Inventory.State().Asleep() {
		return target.ErrUnreachable
	}
	return p.Inventory.Reachable(ctx)
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

// roundTrip is the ReverseProxy's transport.
func (p *Proxy) roundTrip(r *http.Request) (resp *http.Response, err error) {
	// The call's own context, without ReverseProxy's trace, which would send the
	// target's informational answers on to a client that has asked for none.
	c := callOf(r)
	resp, c.x.sent, err = p.Target.RoundTrip(r.WithContext(c.ctx))
	c.x.beats.stop()
	return resp, err
}

// noteOptions warns, once for each model, when the options with which it is asked for
// keep changing: the target loads it again each time.
func (p *Proxy) noteOptions(x *exchange) {
	if before, flips := p.underway.noteOptions(x.Model, x.asked.Options); flips {
		p.Log.Warn("the load options of a model keep changing, and each time the target loads it again: have all clients ask for the same, or make a model of its own for each (ollama create)",
			"model", x.Model, "options", x.asked.Options, "before", before)
	}
}
