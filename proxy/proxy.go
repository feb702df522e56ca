// Package proxy is the way in: routes, admission, the chat's middleware, and the
// one [httputil.ReverseProxy] through which all that passes goes to the target.
//
// A request comes in at [Proxy.ServeHTTP]. It finds its route (routes.go), is
// admitted (admit.go) and treated as the route's class says: a chat waits for
// its turn (chat.go), an embedding passes, some paths foreman answers itself
// (own.go). What passes goes through the Director (director.go) to the
// [target.Target], and its answer comes back as it comes, while the watch (watch.go)
// looks after a target that goes silent. What fails, wherever it fails, becomes
// an answer in one ladder of errors (errors.go).
package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/conns"
	"foreman/proxy/cors"
	"foreman/proxy/status"
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
	StallTimeout time.Duration // longest silence of a target that is otherwise alive
	EmbedModel   string        // the embedder that is kept resident; empty: none
}

// A Proxy is the handler of everything that foreman answers. Make one with [New].
type Proxy struct {
	Options
	reverse  *httputil.ReverseProxy
	bodies   budget // for bodies in memory
	underway underway
	metrics  *instruments
	recent   status.Recent
	cors     cors.Memory

	preflights chan struct{} // has one for each that is at the target
	unlogged   quota         // of records of requests that needed no token, or had none

	closed atomic.Bool               // see [Proxy.Close]
	probed atomic.Pointer[time.Time] // when /readyz was asked for last; nil: it never was
}

// New returns a handler.
func New(o Options) *Proxy {
	p := &Proxy{Options: o, preflights: make(chan struct{}, maxPreflights)}
	p.metrics = newInstruments(p)
	p.bodies.limit = max(4*o.MaxBody, 256<<20)
	p.reverse = &httputil.ReverseProxy{
		//lint:ignore SA1019 Safe here: what a client could do to the headers behind the Director, direct undoes first.
		Director:       p.direct,
		Transport:      roundTripper(p.roundTrip),
		FlushInterval:  -1, // each line as it comes
		ModifyResponse: p.modify,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, err error) { w.(*exchange).failure = err },
		ErrorLog:       slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		BufferPool:     buffers{},
	}
	return p
}

// A roundTripper is a function that is an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, class, err := find(r)
	x := newExchange(w, r, rt, class)
	defer p.end(x)
	delete(r.Header, "Te") // ReverseProxy would put it back behind the Director
	token, refused := p.admit(r, rt, class)
	if refused != nil {
		err = refused // report it first: clients without access must not learn which paths exist
	} else {
		x.admitted, x.Client = true, p.clientOf(r, token)
		if !needsNoToken(r, rt, class) && !conns.Admit(r.Context()) {
			err = errNoPlace
		}
	}
	if token != nil || class == worker {
		ctx, cancel := context.WithCancelCause(r.Context()) // which ends with the request
		r = r.WithContext(ctx)
		x.request, x.cancel = r, cancel
	}
	if token != nil {
		x.token, x.Named = token, true
		defer context.AfterFunc(token.Revoked(), func() { x.cancel(errRevoked) })()
	}
	if err == nil {
		err = p.serve(x, r)
	}
	if err != nil {
		p.fail(x, err)
	}
	x.completed = true
}

// serve serves a request as its class says.
func (p *Proxy) serve(x *exchange, r *http.Request) error {
	if p.closed.Load() && x.Class != own && x.Class != redirect {
		return ErrShuttingDown
	}
	switch x.Class {
	case worker:
		return p.serveChat(x, r)
	case embed:
		return p.serveEmbed(x, r)
	case tags:
		return p.serveTags(x, r)
	case read:
		return p.serveRead(x, r)
	case manage:
		return p.serveManage(x, r)
	case own:
		return p.serveOwn(x, r)
	case redirect:
		return p.serveRedirect(x, r)
	case preflight:
		return p.servePreflight(x, r)
	default:
		return p.pass(x, r)
	}
}

// pass sends a request to the target and its answer back, beside any number of
// others.
func (p *Proxy) pass(x *exchange, r *http.Request) error {
	if r.ContentLength > p.MaxBody {
		return &http.MaxBytesError{Limit: p.MaxBody}
	}
	if err := p.Inventory.Reachable(r.Context()); err != nil {
		return err
	}
	return p.stream(x, r, p.MaxBody)
}

// A preflight needs no token, and so must cost little: no more of them than this are at
// the target at once, and none longer.
const (
	maxPreflights    = 8
	preflightTimeout = 10 * time.Second
)

// servePreflight passes a browser's question.
func (p *Proxy) servePreflight(x *exchange, r *http.Request) error {
	if r.ContentLength != 0 {
		return badRequest("a preflight has no body")
	}
	conns.Spare(r.Context())
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer time.AfterFunc(preflightTimeout, func() { cancel(errAsleep) }).Stop()
	select {
	case p.preflights <- struct{}{}:
		defer func() { <-p.preflights }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return p.pass(x, r.WithContext(ctx))
}

// serveEmbed passes an embedding, and tells the warmer which model has made it.
func (p *Proxy) serveEmbed(x *exchange, r *http.Request) error {
	err := p.pass(x, r)
	if p.Warmer != nil && x.Status == http.StatusOK && x.asked.Model != "" {
		p.Warmer.Embedded(x.asked.Model)
	}
	return err
}

// serveManage passes a request that changes the target's models, if that is allowed.
// Its body, a model's layer perhaps, may have any size.
func (p *Proxy) serveManage(x *exchange, r *http.Request) error {
	if !p.Manage {
		return errManage
	}
	defer p.Inventory.Refresh() // if the answer is cut, who knows what was done
	return p.stream(x, r, 0)
}

// stream forwards a request whose body, of at most limit bytes if that is not 0,
// goes on to the target as it comes, unless it is small, or an embedding's.
func (p *Proxy) stream(x *exchange, r *http.Request, limit int64) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead { // a body means nothing there (RFC 9110, section 9.3.1)
		x.abandonBody()
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
	}
	if r.ContentLength == 0 {
		return p.forward(x, r, 0)
	}
	// The target may answer before it has read the whole body. Without this, net/http
	// would then read the rest of it, and Transport would cut the answer off.
	http.NewResponseController(x).EnableFullDuplex()
	body := p.upload(x, r, limit)
	room := p.bodies.open(x.Client, nil)
	defer room.give()
	size := int64(replayLimit)
	if x.Class == embed {
		size = limit
	}
	held, err := hold(r, body, room, size)
	if err == nil && x.Class == embed {
		err = x.readModel(r.URL.Path, held)
	}
	if err == nil {
		err = p.forward(x, r, 0)
	}
	x.bodyRead = body.ended.Load()
	if !x.bodyRead { // net/http waits for the rest, if the answer came before it
		http.NewResponseController(x).SetReadDeadline(time.Now().Add(time.Second))
	}
	if cause := body.err.Load(); err != nil && cause != nil {
		return *cause
	}
	return err
}

// forward carries a request through the ReverseProxy. The target may be silent for
// as long as stall, if that is not 0, while it answers polls.
func (p *Proxy) forward(x *exchange, r *http.Request, stall time.Duration) error {
	c := &call{x: x, stall: stall}
	c.ctx, c.cancel = context.WithCancelCause(context.WithValue(r.Context(), callKey{}, c))
	defer c.cancel(nil)
	p.begin(c)
	defer p.endCall(c)
	p.reverse.ServeHTTP(x, r.WithContext(c.ctx))
	return x.failure
}

type callKey struct{}

// callOf returns the call that a request on its way to the target, or back, belongs
// to.
func callOf(r *http.Request) *call {
	return r.Context().Value(callKey{}).(*call)
}

// modify sees the target's answer before the client does.
func (p *Proxy) modify(resp *http.Response) error {
	if resp.StatusCode < 200 { // 101, or no status at all
		return errSwitched
	}
	c := callOf(resp.Request)
	if c.x.Early && resp.StatusCode != http.StatusOK {
		c.x.answered = true
		return readTargetError(resp)
	}
	if coding := resp.Header.Get("Content-Encoding"); c.x.Early && coding != "" && !strings.EqualFold(coding, "identity") {
		return errCompressed
	}
	p.cors.Note(c.x.request.Header.Get("Origin"), resp.Header)
	resp.Header.Set("X-Request-Id", c.x.ID)
	// RFC 9112, section 6.3: without a length and without chunks an answer ends
	// where the connection does, and its end looks like a cut.
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && resp.Body != http.NoBody {
		resp.Body = endless{resp.Body}
	}
	resp.Body = p.follow(c, resp)
	if c.x.Class == manage {
		resp.Body = p.settle(resp)
	}
	if c.x.hadTurn {
		resp.Header.Add("Server-Timing", c.x.serverTiming())
	}
	return nil
}

// brokeOff notes why an answer that had begun came to no end. If that was the
// connection, a poll at once finds out about the target.
func (p *Proxy) brokeOff(x *exchange, cause error) {
	x.Err = cause
	if errors.Is(cause, target.ErrUnreachable) {
		p.Inventory.Refresh()
	}
}

// settle sees to it that who has read the whole answer to a change finds that
// change in the inventory. An answer of known length comes when all is done; a
// stream of progress ends then.
func (p *Proxy) settle(resp *http.Response) io.ReadCloser {
	ctx := resp.Request.Context()
	if resp.ContentLength >= 0 {
		p.Inventory.Repoll(ctx)
		return resp.Body
	}
	return &settled{resp.Body, func() { p.Inventory.Repoll(ctx) }}
}

// A settled body reports its end when settle has returned.
type settled struct {
	io.ReadCloser
	settle func()
}

func (s *settled) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if err == io.EOF {
		s.settle()
	}
	return n, err
}

// An endless body has no end that differs from a cut: so it is one.
type endless struct{ io.ReadCloser }

func (e endless) Read(b []byte) (int, error) {
	n, err := e.ReadCloser.Read(b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// buffers lends the buffers through which answers are copied.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[32 << 10]byte)(b)) }
