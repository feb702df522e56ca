package proxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/cors"
	"foreman/proxy/dialect"
	"foreman/proxy/tokens"
)

// chats serves requests for the worker model, one at a time.
type chats struct {
	bodies       *bodies
	inventory    *inventory.Inventory
	gate         *gate.Gate
	forwarder    *forwarder
	pauser       *pauser
	cors         *cors.Memory
	log          *slog.Logger
	queueTimeout time.Duration // longest wait for a turn; 0: as long as the client waits
	heartbeat    time.Duration // how long the client of a stream may hear nothing while it waits; 0: for ever
	stall        time.Duration // longest silence in an answer that has begun, of a target that is otherwise alive
	maxTurn      time.Duration // longest turn; 0: as long as it takes

	// The turn guards these.
	odd    map[string]bool         // the clients of whom it was told that their hint was not understood
	loaded map[string]*loadOptions // by model
}

// A chat is what a client asks of the worker model, read to its end and for a model
// that the target holds. What is exported is data: a persistent queue could keep it, and
// run it later, into any exchange.
type chat struct {
	ID         string // X-Request-Id
	Client     string // who asks
	Agent      string // User-Agent
	Arrived    time.Time
	Model      string // its name as the target spells it
	Asked      ask.Ask
	Weight     int    // of its client; 0: 1
	Background string // what says that it can wait; empty: nothing does
	Odd        string // the field that does not say whether it can; empty: none
	Host       string // that the client asked
	Path       string
	Query      string
	Header     http.Header
	Body       []byte

	joined   time.Time     // the line, or as it would have
	room     *room         // of Body
	token    *tokens.Token // that the request has; nil: none with a name
	cancel   context.CancelCauseFunc
	once     sync.Once // for stop
	upstream upstream
}

// serve serves a request for the worker model: it reads the body, checks the model, and
// runs the chat.
func (h *chats) serve(x *exchange, r *http.Request, token *tokens.Token, cancel context.CancelCauseFunc) error {
	if err := checkCoding(r); err != nil {
		return err
	}
	body, room, err := h.bodies.read(x, r, cancel)
	defer room.give()
	if err != nil {
		return err
	}
	asked, err := ask.Read(r, body)
	if err != nil {
		return err
	}
	x.Model = asked.Model
	model, err := h.inventory.Check(r.Context(), asked.Model, x.only)
	if err != nil {
		return modelRefused(asked.Model, err)
	}
	x.Model, x.Ungated = model.Name, ungated(model, asked)
	hinted, odd := ask.CanWait(r.Header)
	if x.Background = background(token, hinted, asked); x.Background != "" {
		room.canWait()
	}
	if token != nil {
		x.Weight = token.Weight
	}
	return h.run(r.Context(), x, &chat{
		ID: x.ID, Client: x.Client, Agent: x.Agent, Arrived: x.Began, Model: model.Name, Asked: asked,
		Weight: x.Weight, Background: x.Background, Odd: odd,
		Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header, Body: body,
		room: room, token: token, cancel: cancel,
	})
}

// What says that a chat can wait.
const (
	byFile   = "file"   // its client's line in the file of tokens
	byHeader = "header" // of its request
	byTier   = "tier"   // in its body
)

// background returns what says that a chat can wait; empty: nothing does.
func background(token *tokens.Token, hinted bool, asked ask.Ask) string {
	switch {
	case token != nil && token.Background:
		return byFile
	case hinted:
		return byHeader
	case asked.Flex:
		return byTier
	default:
		return ""
	}
}

// ungated returns why a chat needs no turn; empty: it does.
func ungated(model inventory.Model, asked ask.Ask) string {
	switch {
	case model.Remote:
		return ungatedRemote
	case asked.Unload:
		return ungatedUnload
	default:
		return ""
	}
}

// run waits for a chat's turn, if it needs one, and has the target answer it. The chat has
// its turn until the target has said all, or until run returns, whatever happened.
func (h *chats) run(ctx context.Context, x *exchange, c *chat) (err error) {
	wantsBeats := h.heartbeat > 0 && c.Asked.Stream
	if wantsBeats {
		c.Header.Del("Accept-Encoding") // the header that goes out with a beat could not tell the coding
	}
	request := c.request(ctx) // now, and not in its turn
	c.joined = time.Now()
	x.Arriving = c.joined.Sub(x.Began)
	c.upstream = upstream{x: x, stall: h.stall, isChat: true, asked: c.Asked.Model}
	if x.Ungated == "" {
		kind := gate.Kind{Model: c.Model, Options: c.Asked.Options}
		c.upstream.turn, err = h.gate.Join(gate.Request{
			Kind: kind, Client: c.Client, Weight: c.Weight, Background: c.Background != "", ID: rand.Text(), Value: c,
		})
		if err != nil {
			return h.turnedAway(err)
		}
		defer c.upstream.leave()
	}
	defer func() { c.record(x, err) }()
	waiting, cancel := ctx, context.CancelFunc(func() {})
	if h.queueTimeout > 0 && c.upstream.turn != nil {
		waiting, cancel = context.WithTimeoutCause(ctx, h.queueTimeout, errQueueTimeout)
	}
	defer cancel()
	if wantsBeats {
		beats := &heartbeats{
			x: x, every: h.heartbeat, since: c.joined, position: c.position, cancel: c.cancel,
			cors: h.cors, target: h.forwarder.target, log: h.log,
		}
		c.upstream.beats = beats
		beats.start()
		defer beats.stop()
	}
	if c.upstream.turn != nil {
		if err := h.await(ctx, waiting, x, c); err != nil {
			return h.turnedAway(err)
		}
	}
	if h.maxTurn > 0 { // also without a turn: nothing else bounds the wait for the first byte
		defer time.AfterFunc(h.maxTurn, func() { c.stop(errMaxTurn) }).Stop()
	}
	c.room.keep()
	if x.Ungated == ungatedUnload { // nobody is woken to be told that a model may go
		if err := h.inventory.Reachable(ctx); err != nil {
			return err
		}
		return h.forwarder.forward(&c.upstream, request)
	}
	if err := h.forwarder.forwardAwake(waiting, &c.upstream, request, c.Model); err != nil {
		return h.turnedAway(err)
	}
	return nil
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

// position returns the chat's place in line.
func (c *chat) position() int {
	if c.upstream.turn == nil {
		return 0
	}
	return c.upstream.turn.Position()
}

// await waits for a chat's turn. Waiting is ctx with the end of the longest wait.
func (h *chats) await(ctx, waiting context.Context, x *exchange, c *chat) error {
	turn := c.upstream.turn
	err := turn.Wait(waiting)
	if err == errQueueTimeout && turn.Position() == 0 {
		err = turn.Wait(ctx) // the turn came in time: it is foreman that took so long to notice
	}
	x.Queued, x.WasQueued = turn.Waited(), true
	switch {
	case err != nil:
		return err
	case c.token != nil && c.token.Revoked().Err() != nil:
		return errRevoked // the chat that had the turn may have ended by the same change, and sooner
	}
	x.gotTurn(x.Queued)
	h.warnOfOptions(c)
	h.tellOdd(c)
	return nil
}

// turnedAway returns an error of the line. Where that has no time or place for a chat, its
// client may try again when those who wait now will have had their turns, if turns take as
// long as they did lately.
func (h *chats) turnedAway(err error) error {
	why := explain(err)
	turn, pause := h.gate.MeanTurn(), h.pauser.now()
	if turn == 0 && pause == nil || why != errQueueFull && why != errQueueTimeout {
		return err
	}
	waiting, _ := h.gate.Len()
	later := *why
	later.retry = min(max(turn*time.Duration(waiting), time.Second), 10*time.Minute)
	if pause != nil {
		paused := paused(pause.Until, h.pauser.wall())
		later.text += ": " + paused.text
		later.retry += paused.retry
	}
	return &later
}

// stop ends a chat for a reason, and reports whether nobody has stopped it before.
func (c *chat) stop(why error) (first bool) {
	c.once.Do(func() {
		first = true
		c.cancel(why)
	})
	return first
}

// record completes the record of a chat that ends with err.
func (c *chat) record(x *exchange, err error) {
	c.upstream.leave()
	if x.timing != "" { // it had its turn
		x.Held = c.upstream.turn.Held()
		x.Idle = x.Held
		if sent := c.upstream.sent; !sent.IsZero() {
			x.Idle = max(sent.Sub(c.joined)-x.Queued, 0)
		}
		if !c.upstream.whole {
			x.Revoked = revokedFor(x, err)
		}
	}
	if c.upstream.whole && x.Status == http.StatusOK {
		x.Usage = c.upstream.tail.Usage()
		if c.upstream.turn != nil {
			c.upstream.turn.Loaded(x.Usage.Load)
		}
		if u := x.Usage; u.CompletionTokens > 0 && u.Completion == 0 && c.Asked.Stream { // only Ollama's own API says it
			x.Usage.Completion = c.upstream.took
		}
	}
	c.tellEnd(x, err)
}

// revokedFor returns why a turn was taken away that ended with err; empty: it was not.
func revokedFor(x *exchange, err error) string {
	if err == nil {
		return ""
	}
	why := explain(err)
	switch {
	case x.stalled:
		return revokedStalled
	case why == errClientLeft:
		return revokedLeft
	case why == errRevoked:
		return revokedToken
	case why == errAsleep, why == errStall, why == errMaxTurn, why.reason == revokedStopped:
		return why.reason
	default:
		return ""
	}
}

// tellEnd has a client whose stream somebody or FOREMAN_MAX_TURN ended in the middle hear
// why, as an error of its API: a person wants to know. The stream is cut behind it all the
// same, for clients that do not look.
func (c *chat) tellEnd(x *exchange, err error) {
	var why *refusal
	d := dialect.Of(x.Route)
	if !errors.As(err, &why) || why.reason != revokedStopped && why != errMaxTurn || x.Status != http.StatusOK || !c.Asked.Stream || x.sized ||
		x.Header().Get("Content-Encoding") != "" || !c.upstream.tail.EndsWith(d.Separator()) {
		return
	}
	x.Write(d.StreamError(dialect.Failure{Status: why.status, Text: why.text}))
	x.FlushError() // whoever does not take it gets the cut alone
}

// maxTold is how many clients, or models, are remembered of which something was told.
const maxTold = 1000

// tellOdd tells, once for each client, of a hint that was not understood. Where too many are
// remembered nothing is told of others.
func (h *chats) tellOdd(c *chat) {
	if c.Odd == "" || !h.log.Enabled(context.Background(), slog.LevelDebug) || h.odd[c.Client] || len(h.odd) >= maxTold {
		return
	}
	h.odd[c.Client] = true
	h.log.Debug("not understood: the field does not say whether the chat can wait", "field", c.Odd, "value", fmt.Sprintf("%.100s", strings.Join(c.Header[c.Odd], ", ")), "client", c.Client)
}

// loadOptions are the load options with which a model was asked for last.
type loadOptions struct {
	options string
	changes int // so far
}

// warnOfOptions warns, once for each model, when the options with which it is asked for
// keep changing: the target loads it again each time.
func (h *chats) warnOfOptions(c *chat) {
	last := h.loaded[c.Model]
	if last == nil {
		if len(h.loaded) >= maxTold {
			clear(h.loaded)
		}
		h.loaded[c.Model] = &loadOptions{options: c.Asked.Options}
		return
	}
	before := last.options
	if c.Asked.Options == before {
		return
	}
	last.options = c.Asked.Options
	last.changes++
	if last.changes == 2 {
		h.log.Warn("the load options of a model keep changing, and each time the target loads it again: have all clients ask for the same, or make a model of its own for each (ollama create)",
			"model", c.Model, "options", c.Asked.Options, "before", before)
	}
}
