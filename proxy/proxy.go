// Package proxy is the way in: the routes, who may come in, the handlers, and the one
// [httputil.ReverseProxy] through which all that passes goes to the target.
//
// A chat's way, top to bottom on one goroutine:
//
//	proxy.go      ServeHTTP: the route, the admission, the handler of the class; in the
//	              end the record
//	chat.go       the body is read (body.go, budget.go), what it asks for (ask), whether
//	              the target holds the model (inventory); then the chat stands in line
//	              (gate) and waits for its turn
//	forward.go    in its turn it goes through the ReverseProxy, whose Director readdresses
//	              it (director.go), to the target (target), under watch (watch.go); bytes
//	              come back as they come, and the turn is left with the last
//	heartbeat.go  while none come the client hears heartbeats
//	exchange.go   all go out through the ResponseWriter, which notes them in the record
//	books.go      metrics and page have that record, and the log (record.go)
//
// What is no chat goes by pass.go instead: embeddings a few at a time if embeds.go limits
// them, and what reads of models by rights.go if the client may ask for some alone. While
// the target is kept for its owner, pause.go has the turn. foreman's own answers are in
// own.go, gauges.go and page.go. The tables and verdicts (routes.go, admit.go, errors.go)
// know nobody. A file uses only what comes behind it on the way.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/conns"
	"foreman/proxy/cors"
	"foreman/proxy/target"
	"foreman/proxy/tokens"
	"foreman/warm"
)

// Options are what a Proxy is made of. Target, Inventory, Gate and Log are
// required.
type Options struct {
	Target    *target.Target
	Inventory *inventory.Inventory
	Gate      *gate.Gate
	Warmer    *warm.Warmer // nil: no embedder is kept resident
	Log       *slog.Logger

	Version      string
	Token        string        // bearer that clients must send; empty: none
	Tokens       *tokens.File  // of named clients; nil: none
	ClientHeader string        // field that names the client, of whoever has a token; empty: none
	Hosts        []string      // accepted Host names, lower case, beside IP addresses and localhost; empty: any with a token, else those that nobody can register
	Manage       bool          // let model management through
	MaxBody      int64         // bytes in one request's body
	QueueTimeout time.Duration // longest wait for a turn; 0: as long as the client waits
	Heartbeat    time.Duration // how long the client of a stream may hear nothing while it waits; 0: for ever
	StallTimeout time.Duration // longest silence in a chat's answer that has begun, of a target that is otherwise alive
	MaxTurn      time.Duration // longest turn of a chat; 0: as long as it takes
	Embeds       int           // embeddings at the target at once; 0: any number
	EmbedModel   string        // the embedder that is kept resident; empty: none

	// Quiet returns when the quiet hours end that a clock on the wall shows now, in which the
	// target is kept for its owner; zero: it shows none. nil: there are none.
	Quiet func(now time.Time) (end time.Time)
}

// A Proxy is the handler of everything that foreman answers. Make one with [New].
type Proxy struct {
	admission *admission
	chats     *chats
	passes    *passes
	page      *page
	health    *health
	pauser    *pauser
	gate      *gate.Gate
	embeds    *embeds // nil: nothing limits them
	books     *books
	cors      *cors.Memory
	log       *slog.Logger
	close     context.CancelFunc // ends the wait for a target that is being woken
}

// New returns a handler.
func New(o Options) *Proxy {
	memory, embeds, books := new(cors.Memory), newEmbeds(o.Embeds), newBooks()
	admission := &admission{target: o.Target, token: o.Token, tokens: o.Tokens, clientHeader: o.ClientHeader, hosts: o.Hosts, log: o.Log}
	closing, close := context.WithCancel(context.Background())
	forwarder := newForwarder(o.Target, o.Inventory, admission, memory, o.Log, closing)
	waiting := newBodies(o.MaxBody, max(4*o.MaxBody, 256<<20))
	passing := newBodies(o.MaxBody, max(o.MaxBody, 64<<20)) // a full line turns no embedding away
	pauser := &pauser{
		gate: o.Gate, inventory: o.Inventory, target: o.Target, warmer: o.Warmer, quiet: o.Quiet, wall: time.Now, log: o.Log,
		changed: make(chan struct{}, 1),
	}
	pauser.follow() // it may be in quiet hours
	return &Proxy{
		admission: admission,
		chats: &chats{
			bodies: waiting, inventory: o.Inventory, gate: o.Gate, forwarder: forwarder, pauser: pauser, cors: memory, log: o.Log,
			queueTimeout: o.QueueTimeout, heartbeat: o.Heartbeat, stall: o.StallTimeout, maxTurn: o.MaxTurn, odd: map[string]bool{}, loaded: map[string]*loadOptions{},
		},
		passes: &passes{
			bodies: passing, embeds: embeds, inventory: o.Inventory, forwarder: forwarder, pauser: pauser, cors: memory, warmer: o.Warmer,
			maxTurn: o.MaxTurn, manage: o.Manage, preflights: make(chan struct{}, maxPreflights),
		},
		page: &page{
			bodies: passing, embeds: embeds, inventory: o.Inventory, gate: o.Gate, pauser: pauser, books: books, log: o.Log,
			target: o.Target.String(), embedder: o.EmbedModel, version: o.Version, stall: o.StallTimeout,
		},
		health: &health{
			target: o.Target, inventory: o.Inventory, gate: o.Gate, warmer: o.Warmer, embeds: embeds, pauser: pauser, books: books, cors: memory,
			embedder: o.EmbedModel, version: o.Version,
		},
		pauser: pauser,
		gate:   o.Gate,
		embeds: embeds,
		books:  books,
		cors:   memory,
		log:    o.Log,
		close:  close,
	}
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, class, err := routeFor(r)
	x := newExchange(w, r, rt, class)
	defer p.end(x)
	delete(r.Header, "Te") // here, for a heartbeat reads the header later; ReverseProxy would put it back behind the Director
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	r = r.WithContext(ctx)
	token, notAdmitted := p.admission.admit(r, rt, class)
	anybody := notAdmitted != nil || needsNoToken(r, rt, class) // may ask
	if notAdmitted != nil {
		err = notAdmitted // report it first: clients without access must not learn which paths exist
	} else {
		x.admitted, x.owner = true, token == nil || token.Owner
		if !anybody {
			x.Client = p.admission.clientOf(r, token)
			if !conns.Admit(r.Context()) {
				err = errNoPlace
			}
		}
	}
	if token != nil {
		x.Named, x.only = true, token.Models
		defer context.AfterFunc(token.Revoked(), func() { cancel(errRevoked) })()
	}
	if err == nil {
		err = p.serve(x, r, token, cancel)
	}
	if err != nil {
		p.fail(x, err)
	}
	if anybody && x.begun() { // net/http may still wait for a body
		x.FlushError()
		conns.Spare(r.Context())
	}
}

// serve has a request served as its class says.
func (p *Proxy) serve(x *exchange, r *http.Request, token *tokens.Token, cancel context.CancelCauseFunc) error {
	if x.Class != own && x.Class != redirect && p.gate.Closed() {
		return errShuttingDown
	}
	switch x.Class {
	case worker:
		return p.chats.serve(x, r, token, cancel)
	case embed:
		return p.passes.serveEmbed(x, r, cancel)
	case tags:
		return p.passes.serveTags(x, r)
	case read:
		return p.passes.serveRead(x, r, cancel)
	case manage:
		return p.passes.serveManage(x, r, cancel)
	case preflight:
		return p.passes.servePreflight(x, r, cancel)
	case redirect:
		return p.passes.serveRedirect(x, r)
	}
	switch x.route.path {
	case rootPath:
		return p.health.serveRoot(x)
	case metricsPath:
		return p.health.serveMetrics(x)
	case statusPath:
		return p.page.serve(x, r, cancel)
	default:
		return p.health.serve(x)
	}
}

// fail ends an exchange with an error: the client hears it, or has its answer cut.
func (p *Proxy) fail(x *exchange, err error) {
	x.Err = err
	why := explain(err)
	switch {
	case x.Status != 0, why.status == statusClientLeft: // an empty 200 would be a lie, should the client still read
		x.cut = true
		return
	case x.Class != own && x.Class != refused:
		p.cors.Apply(x.request.Header.Get("Origin"), x.Header())
	}
	x.refuse(why)
}

// end records an exchange, whatever happened.
func (p *Proxy) end(x *exchange) {
	if e := recover(); e != nil { // a defect of foreman's own
		p.log.Error("panic", "err", e, "id", x.ID, "stack", string(debug.Stack()))
		err := fmt.Errorf("panic: %v (%w)", e, errDefect)
		if x.Early {
			x.Err, x.cut = err, true
		} else {
			p.fail(x, err)
		}
	}
	x.renewDeadline(time.Now()) // for what net/http still has to write
	x.sumUp()
	if p.books.add(&x.Record, x.Class, x.admitted) {
		logRecord(p.log, &x.Record, x.Class)
	}
	if x.cut {
		x.breakOff()
	}
}

// Close turns away the chats and embeddings that wait, for a turn or for a target that is
// being woken, and from now on whoever asks for something that the target would do: with
// 503, so that a load balancer asks another foreman. /readyz is 503 too. What the target does already goes on.
func (p *Proxy) Close() {
	p.gate.Close()
	p.embeds.close()
	p.close()
}

// Run follows the clocks by which the target is paused, and has it unload its models in a
// pause, until ctx ends.
func (p *Proxy) Run(ctx context.Context) { p.pauser.run(ctx) }

// AwaitBalancer gives a load balancer, if one has asked for /readyz lately, the time to
// find out that the proxy is closed. Until then it opens connections, and whoever closes
// the listener may cut one of them off: the balancer would not know whether its request
// was read, and could not send it to another foreman. The wait ends with ctx at the
// latest.
func (p *Proxy) AwaitBalancer(ctx context.Context) { p.health.awaitBalancer(ctx) }
