package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/cors"
	"foreman/proxy/dialect"
	"foreman/proxy/target"
	"foreman/proxy/usage"
)

// A forwarder sends requests to the target, and their answers back as they come.
type forwarder struct {
	target    *target.Target
	inventory *inventory.Inventory
	admission *admission
	cors      *cors.Memory
	log       *slog.Logger
	closing   context.Context // ends when foreman is to stop
	reverse   *httputil.ReverseProxy
}

func newForwarder(t *target.Target, inv *inventory.Inventory, a *admission, memory *cors.Memory, log *slog.Logger, closing context.Context) *forwarder {
	f := &forwarder{target: t, inventory: inv, admission: a, cors: memory, log: log, closing: closing}
	f.reverse = &httputil.ReverseProxy{
		//lint:ignore SA1019 Safe here: what a client could do to the headers behind the Director, direct undoes first.
		Director:       f.direct,
		Transport:      roundTripper(f.roundTrip),
		FlushInterval:  -1, // each line as it comes
		ModifyResponse: f.modify,
		ErrorHandler:   func(_ http.ResponseWriter, r *http.Request, err error) { upstreamOf(r).err = err },
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BufferPool:     buffers{},
	}
	return f
}

// An upstream is a request to the target, from when it is sent to the last byte of the answer.
type upstream struct {
	x      *exchange
	stall  time.Duration // longest silence in an answer that has begun, of a target that is otherwise alive; 0: any
	isChat bool          // its answer tells what it took
	asked  string        // the model of a chat, as it was asked for
	beats  *heartbeats   // while the target is silent; nil: none
	turn   *gate.Turn    // which the target's last byte ends; nil: it has none

	*watch                 // while it is at the target
	sent     time.Time     // when it went to the target; zero: it did not
	header   time.Time     // when the target's header came; zero: it did not
	tail     usage.Tail    // of a chat's answer
	whole    bool          // the target's last byte has come
	took     time.Duration // from header until then
	err      error         // why it failed, or why the answer is not whole
	progress atomic.Int64  // bytes of the answer's body so far, and one for its header; 0: none came
}

// forwardAwake forwards a request for a model to a target that is awake: it waits first, if
// need be, until the target is woken, and does so again if that has fallen asleep before it
// has said anything. Wait bounds the waiting before it is first forwarded.
func (f *forwarder) forwardAwake(wait context.Context, c *upstream, r *http.Request, model string) error {
	for lost := error(nil); ; wait = r.Context() {
		if state := f.inventory.State(); lost != nil || state.Reason == inventory.Unreachable || state.Asleep() {
			if err := f.awake(wait, c, r, model, lost); err != nil {
				return err
			}
		}
		lost = f.forward(c, r)
		slept := lost == errAsleep && c.header.IsZero() || errors.Is(lost, target.ErrUnreachable) && target.IsUnconnected(lost)
		if !slept {
			return lost
		}
		c.beats.start()
	}
}

// awake waits until the target is awake, see [inventory.Inventory.Awake], or foreman shuts
// down. A chat's turn costs nobody anything meanwhile, and begins when the target is back;
// then its model is looked for again: perhaps the target's models had never been read.
func (f *forwarder) awake(wait context.Context, c *upstream, r *http.Request, model string, lost error) error {
	wait, cancel := context.WithCancelCause(wait)
	defer cancel(nil)
	defer context.AfterFunc(f.closing, func() { cancel(errShuttingDown) })()
	if c.turn != nil {
		c.turn.Suspend()
	}
	err := f.inventory.Awake(wait, model, c.x.Began, lost)
	if err != nil || c.turn == nil {
		return err
	}
	c.turn.Resume()
	c.x.gotTurn(c.turn.Waited())
	_, err = f.inventory.Check(r.Context(), c.asked, c.x.only)
	return modelRefused(c.asked, err)
}

// leave ends the request's turn, or gives up its place in line, if it has one. It may be
// called again.
func (c *upstream) leave() {
	if c.turn == nil {
		return
	}
	c.turn.Leave()
	runtime.Gosched() // the next chat goes first: what is left to do for this one can wait
}

// forward carries a request through the ReverseProxy. The error says why there is no answer,
// or not a whole one: then the client has the beginning, see [exchange.begun].
func (f *forwarder) forward(c *upstream, r *http.Request) (err error) {
	c.err = nil // it may have been at the target before, and in vain
	f.beginWatch(c, context.WithValue(r.Context(), upstreamKey{}, c))
	defer c.endWatch()
	defer func() {
		if errors.Is(c.err, target.ErrUnreachable) {
			f.inventory.Refresh() // a poll at once finds out about the target
		}
		switch e := recover(); {
		case e == http.ErrAbortHandler: // the answer is cut; see net/http/httputil
			err = cmp.Or(c.err, context.Cause(c.ctx), errBrokenOff)
		case e != nil:
			panic(e)
		}
	}()
	f.reverse.ServeHTTP(c.x, r.WithContext(c.ctx))
	return c.err
}

// errBrokenOff is why an answer is not whole where nothing else says it: net/http could
// not write to the client.
var errBrokenOff = errors.New("the answer broke off")

type upstreamKey struct{}

// upstreamOf returns what belongs to a request on its way to the target, or back.
func upstreamOf(r *http.Request) *upstream {
	return r.Context().Value(upstreamKey{}).(*upstream)
}

// A roundTripper is a function that is an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// roundTrip is the ReverseProxy's transport.
func (f *forwarder) roundTrip(r *http.Request) (resp *http.Response, err error) {
	// The upstream request's own context, without ReverseProxy's trace, which would send the
	// target's informational answers on to a client that has asked for none.
	c := upstreamOf(r)
	resp, c.sent, err = f.target.RoundTrip(r.WithContext(c.ctx))
	c.beats.stop() // until ReverseProxy waits for the answer's body
	return resp, err
}

// modify sees the target's answer before the client does.
func (f *forwarder) modify(resp *http.Response) error {
	c := upstreamOf(resp.Request)
	coding := resp.Header.Get("Content-Encoding")
	switch {
	case resp.StatusCode < 200:
		return errSwitched
	case c.x.Early && resp.StatusCode != http.StatusOK:
		c.whole = true
		return refusedByTarget(resp)
	case c.x.Early && coding != "" && !strings.EqualFold(coding, "identity"):
		return errCompressed
	}
	f.cors.Note(c.x.request.Header.Get("Origin"), resp.Header, c.x.Class == preflight)
	resp.Header.Set("X-Request-Id", c.x.ID)
	if c.x.timing != "" {
		resp.Header.Add("Server-Timing", c.x.timing)
	}
	if isStream(resp, c.x.Route) {
		c.beats.follow(&c.tail)
	} else {
		c.beats = nil
	}
	c.header = time.Now()
	c.heard() // before it counts as begun: the wait for the header may have been longer than stall
	c.progress.Store(1)
	// RFC 9112, section 6.3: without a length and without chunks an answer ends
	// where the connection does, and its end looks like a cut.
	endless := resp.ContentLength < 0 && len(resp.TransferEncoding) == 0 && resp.Body != http.NoBody
	resp.Body = &answerBody{resp.Body, c, endless}
	return nil
}

// What makes an answer of the target nonsense.
var (
	errSwitched   = errors.New("target switched protocols unasked, or answered with no status")
	errCompressed = errors.New("target compressed its answer unasked")
)

// isStream reports whether an answer is a stream in the dialect of the path, between whose
// chunks others may come.
func isStream(resp *http.Response, path string) bool {
	if resp.StatusCode != http.StatusOK || resp.ContentLength >= 0 || resp.Header.Get("Content-Encoding") != "" {
		return false
	}
	contentType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && contentType == dialect.Of(path).ContentType()
}

// An answerBody is the body of the target's answer. It notes when the target is waited for,
// has the client hear heartbeats meanwhile, and ends the upstream request with the target's
// last byte: while the client takes the rest, the target can work for the next.
type answerBody struct {
	io.ReadCloser
	upstream *upstream
	endless  bool // it has no end that differs from a cut: so it is one
}

func (b *answerBody) Read(p []byte) (int, error) {
	c := b.upstream
	c.wait()
	c.beats.start()
	n, err := b.ReadCloser.Read(p)
	c.heard()
	c.beats.stop()
	c.progress.Add(int64(n))
	if c.isChat {
		c.tail.Add(p[:n])
	}
	if err == io.EOF && b.endless {
		err = io.ErrUnexpectedEOF
	}
	switch err {
	case nil:
	case io.EOF:
		c.whole = true
		c.leave()
		c.took = time.Since(c.header)
	default:
		c.err = target.Classify(c.ctx, err)
	}
	return n, err
}

// buffers lends the buffers through which answers are copied.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[32 << 10]byte)(b)) }
