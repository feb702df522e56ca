// Package proxy is the way to the target and the way in: one
// [httputil.ReverseProxy], and what stands in front of it.
//
// A request comes in at [Proxy.ServeHTTP]. It finds its route (routes.go), is
// admitted (admit.go) and treated as the route's class says: a chat waits for
// its turn (chat.go), an embedding passes, some paths foreman answers itself
// (own.go). What passes goes through the Director (director.go) to the [Target],
// where a chat that is ready before its turn is held (launch.go), and its answer
// comes back as it comes. What fails, wherever it fails, is told to the client by
// one ladder of errors (errors.go).
package proxy

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"foreman/gate"
	"foreman/inventory"
)

// Options are what a Proxy is made of. Target, Inventory, Gate and Log are
// required.
type Options struct {
	Target    *Target
	Inventory *inventory.Inventory
	Gate      *gate.Gate
	Log       *slog.Logger

	Version      string
	Token        string        // bearer that clients must send; empty: none
	Hosts        []string      // accepted Host names, lower case, beside IP addresses and localhost; empty: see Loopback
	Loopback     bool          // without Hosts: accept the names that Ollama accepts on a loopback address, not any
	Manage       bool          // let model management through
	MaxBody      int64         // bytes in one request's body
	QueueTimeout time.Duration // longest wait for a turn; 0: as long as the client waits
	StallTimeout time.Duration // longest silence of a target that is otherwise alive

	EmbedModel string      // the embedder that is kept resident; empty: none
	Resident   func() bool // whether it was when last looked; nil: there is none
}

// A Proxy is the handler of everything that foreman answers. Make one with [New].
type Proxy struct {
	Options
	reverse *httputil.ReverseProxy
	bodies  budget // for the bodies of chats
	jobs    jobs
	running atomic.Pointer[job] // of the chat that has the turn; nil: none
	metrics *metrics
	recent  recent
	ps      psCache
	grants  grants
}

// New returns a handler. It has the target tell it of requests that are sent once
// more, and so must come before the target is used.
func New(o Options) *Proxy {
	p := &Proxy{Options: o, metrics: newMetrics()}
	o.Target.retried = func() { p.metrics.count("foreman_retries_total") }
	p.bodies.limit = max(4*o.MaxBody, 256<<20)
	p.reverse = &httputil.ReverseProxy{
		//lint:ignore SA1019 Safe here: what a client could do to the headers behind the Director, direct undoes first.
		Director:       p.direct,
		Transport:      o.Target,
		FlushInterval:  -1, // each line as it comes
		ModifyResponse: p.modify,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, err error) { w.(*exchange).failure = err },
		ErrorLog:       slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		BufferPool:     buffers{},
	}
	return p
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, class, err := find(r)
	x := newExchange(w, r, route, class)
	defer p.end(x)
	if closed := p.admit(r, route, class); closed != nil {
		err = closed // whoever is not let in is not told which paths there are
	}
	if err == nil {
		err = p.treat(x, r)
	}
	if err != nil {
		p.fail(x, err)
	}
	x.completed = true
}

// treat treats a request as its class says.
func (p *Proxy) treat(x *exchange, r *http.Request) error {
	switch x.class {
	case worker:
		return p.chat(x, r)
	case tags:
		return p.tags(x, r)
	case read:
		return p.read(x, r)
	case manage:
		return p.manage(x, r)
	case own:
		return p.own(x, r)
	default:
		return p.pass(x, r)
	}
}

// pass sends a request to the target and its answer back.
func (p *Proxy) pass(x *exchange, r *http.Request) error {
	if r.ContentLength > p.MaxBody {
		return &http.MaxBytesError{Limit: p.MaxBody}
	}
	if err := p.Inventory.Reachable(r.Context()); err != nil {
		return err
	}
	return p.stream(x, r, p.MaxBody)
}

// manage passes a request that changes the target's models, if that is allowed.
// Its body, a model's layer perhaps, may have any size.
func (p *Proxy) manage(x *exchange, r *http.Request) error {
	if !p.Manage {
		return errManage
	}
	defer p.Inventory.Refresh() // if the answer is cut, who knows what was done
	return p.stream(x, r, 0)
}

// stream forwards a request whose body, of at most limit bytes if that is not 0,
// goes on to the target as it comes, unless it is small.
func (p *Proxy) stream(x *exchange, r *http.Request, limit int64) error {
	j := newJob(r.Context(), x)
	r = r.WithContext(j)
	if r.ContentLength == 0 {
		return p.passOn(j, r)
	}
	body := p.upload(x, r, limit)
	release, err := p.hold(r, body)
	defer release()
	if err == nil {
		err = p.passOn(j, r)
	}
	x.bodyRead = body.ended.Load()
	if cause := body.err.Load(); err != nil && cause != nil {
		return *cause
	}
	return err
}

// passOn forwards a request beside any number of others.
func (p *Proxy) passOn(j *job, r *http.Request) error {
	p.beginPass(j)
	defer j.end()
	return p.forward(j.x, r)
}

// forward carries a request, whose context is a job, through the ReverseProxy.
func (p *Proxy) forward(x *exchange, r *http.Request) error {
	delete(r.Header, "Te") // ReverseProxy puts it back behind the Director
	p.reverse.ServeHTTP(x, r)
	return x.failure
}

// modify sees the target's answer before the client does.
func (p *Proxy) modify(resp *http.Response) error {
	if resp.StatusCode < 200 { // 101, or no status at all
		return errSwitched
	}
	x := jobOf(resp.Request).x
	p.grants.note(x, resp.Header)
	resp.Header.Set("X-Request-Id", x.id)
	// RFC 9112, section 6.3: without a length and without chunks an answer ends
	// where the connection does, and nobody can tell its end from a cut.
	if resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && resp.Body != http.NoBody {
		resp.Body = endless{resp.Body}
	}
	resp.Body = p.follow(x.job, resp)
	x.relayed = true
	if x.class == manage {
		resp.Body = p.settle(resp)
	}
	if x.hadTurn() {
		resp.Header.Add("Server-Timing", x.serverTiming())
	}
	return nil
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

// A settled body tells its end when settle has returned.
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

// An endless body has no end that can be told from a cut: so it is one.
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
