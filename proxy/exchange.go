package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"
)

// statusClientLeft is what the log says where the client left before the end of
// its answer (nginx's number; it is never sent).
const statusClientLeft = 499

// An exchange is one request and its answer. It is the ResponseWriter that the
// handlers write to, and it gathers what the log says at the end.
type exchange struct {
	http.ResponseWriter
	conn    *conn         // that it came by; nil: not through a Listener
	request *http.Request // as it came in
	route   *route
	class   class
	id      string
	began   time.Time

	asked     string        // the model that a chat names
	model     string        // the same as the target tells it, once it is known to hold it
	job       *job          // nil until the target may be asked: for a chat, until its turn
	joined    time.Time     // when it stood in line; zero: it never did
	queued    time.Duration // since then, until the turn or until it left
	status    int           // 0: nothing was answered
	firstByte time.Duration // until the answer's header was written
	bytes     int64         // of the answer's body
	failure   error         // what ReverseProxy could not do
	cause     error         // why the request failed, for the log alone
	reason    string        // the same from a closed set, where foreman answered an error

	bodyRead  bool // the request's body was read to its end
	relayed   bool // the answer is the target's
	sized     bool // the answer's length is known
	flushed   bool // nothing that was written is held back
	stalled   bool // the client took no byte for too long
	completed bool // the handler came to its end; false: the answer was cut
}

func newExchange(w http.ResponseWriter, r *http.Request, route *route, class class) *exchange {
	x := &exchange{ResponseWriter: w, request: r, route: route, class: class, began: time.Now()}
	x.conn, _ = r.Context().Value(connKey{}).(*conn)
	x.id = r.Header.Get("X-Request-Id")
	if !isRequestID(x.id) {
		var id [32]byte
		x.id = string(strconv.AppendUint(append(id[:0], idPrefix...), ids.Add(1), 36))
	}
	return x
}

// Request ids are one after the other; the prefix tells those of one foreman from
// those of another, and of the same one before it was started again.
var (
	idPrefix = rand.Text()[:10] + "-"
	ids      atomic.Uint64
)

// isRequestID reports whether a client's request id is short and printable.
func isRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// WriteHeader passes the status on.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
		x.firstByte = time.Since(x.began)
		x.sized = x.Header().Get("Content-Length") != ""
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(b []byte) (n int, err error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	if x.relayed && x.conn != nil {
		n, err = x.relay(b)
	} else {
		n, err = x.ResponseWriter.Write(b)
	}
	if x.request.Method != http.MethodHead {
		x.bytes += int64(n)
	}
	x.note(err)
	return n, err
}

// relay writes what has come from the target: at once, and in one piece.
func (x *exchange) relay(b []byte) (int, error) {
	x.conn.gather()
	n, err := x.ResponseWriter.Write(b)
	if err == nil {
		err = http.NewResponseController(x.ResponseWriter).Flush()
	}
	if e := x.conn.release(); err == nil && e != nil {
		// net/http thinks that all went well, and does not end the context.
		n, err, x.cause = 0, e, cmp.Or(context.Cause(x.request.Context()), context.Canceled)
	}
	x.flushed = err == nil
	return n, err
}

// FlushError is what http.ResponseController calls to flush. The header of an
// answer whose length is known waits for the first of its body, for ReverseProxy
// has that at hand or soon: one packet instead of two.
func (x *exchange) FlushError() error {
	if x.flushed || x.bytes == 0 && x.sized {
		return nil
	}
	err := http.NewResponseController(x.ResponseWriter).Flush()
	x.note(err)
	return err
}

// hadTurn reports whether the exchange is a chat that has had its turn.
func (x *exchange) hadTurn() bool { return x.class == worker && x.job != nil }

// hungUp reports whether the client is known to have left, as net/http knows or as
// the kernel does.
func (x *exchange) hungUp() bool {
	if x.request.Context().Err() != nil {
		return true
	}
	return x.conn != nil && x.conn.hungUp()
}

// abandonBody lets an answer go out before the request's body has come: what is
// left of that is not worth waiting for, and net/http would wait.
func (x *exchange) abandonBody() {
	if x.request.ContentLength == 0 || x.bodyRead {
		return
	}
	x.Header().Set("Connection", "close")
	http.NewResponseController(x).SetReadDeadline(time.Now().Add(time.Second))
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// note remembers why writing to the client failed.
func (x *exchange) note(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		x.stalled = true
	}
}

// reset makes a cut visible to a client that speaks HTTP/1.0. It takes the end of
// the connection for the end of the answer, unless that end is an error.
func (x *exchange) reset() {
	if x.request.ProtoAtLeast(1, 1) {
		return
	}
	c, _, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return
	}
	if c, ok := c.(*conn); ok {
		c.reset()
		return
	}
	c.Close()
}

// serverTiming is the value of the Server-Timing field: the wait for the turn.
func (x *exchange) serverTiming() string {
	return fmt.Sprintf("queue;dur=%.3f", float64(x.queued)/float64(time.Millisecond))
}

// end tells of the exchange. It is called deferred, so that a cut answer is told
// of too: there ReverseProxy panics with http.ErrAbortHandler.
func (p *Proxy) end(x *exchange) {
	switch e := recover(); {
	case e == nil:
	case e == http.ErrAbortHandler:
		x.reset()
		defer panic(e)
	default: // a defect of foreman's own
		x.cause = fmt.Errorf("panic: %v", e)
		p.Log.Error("panic", "err", e, "id", x.id, "stack", string(debug.Stack()))
		if x.status != 0 {
			defer panic(http.ErrAbortHandler)
			break
		}
		p.refuse(x, verdict{http.StatusInternalServerError, "defect", "foreman failed; its log says why"})
		x.completed = true
	}
	rec := x.record()
	p.metrics.ended(&rec)
	level := slog.LevelInfo
	if rec.Class != own {
		p.recent.add(rec)
	} else if rec.Reason == "" { // probes and scrapes; who is refused is worth a line
		level = slog.LevelDebug
	}
	if ctx, h := x.request.Context(), p.Log.Handler(); h.Enabled(ctx, level) {
		r := slog.NewRecord(time.Now(), level, "request", 0) // a Logger would look for its caller
		var attrs [12]slog.Attr
		r.AddAttrs(rec.appendTo(attrs[:0])...)
		h.Handle(ctx, r)
	}
}

// arriving is how long it took until the exchange stood in line.
func (x *exchange) arriving() time.Duration {
	if x.joined.IsZero() {
		return 0
	}
	return x.joined.Sub(x.began)
}

// record sums the exchange up.
func (x *exchange) record() record {
	cause := x.cause
	switch {
	case x.stalled:
		cause = errClientStalled
	case cause == nil && !x.completed:
		cause = cmp.Or(context.Cause(x.request.Context()), errBrokenOff)
	}
	rec := record{
		Method:    x.request.Method,
		Route:     x.route.path,
		Class:     x.class,
		Status:    x.status,
		Reason:    x.reason,
		Client:    x.request.RemoteAddr,
		ID:        x.id,
		Model:     x.model,
		Began:     x.began,
		Arriving:  x.arriving(),
		Queued:    x.queued,
		FirstByte: x.firstByte,
		Duration:  time.Since(x.began),
		Bytes:     x.bytes,
		Cut:       !x.completed && x.status != 0,
		Err:       cause,
	}
	if x.status == 0 || cause == context.Canceled {
		rec.Status = statusClientLeft
	}
	if x.hadTurn() && !x.job.complete.Load() {
		switch {
		case x.stalled:
			rec.Taken = takenStalled
		case errors.Is(cause, context.Canceled):
			rec.Taken = takenLeft
		case errors.Is(cause, errAsleep):
			rec.Taken = takenAsleep
		case errors.Is(cause, errStall):
			rec.Taken = takenStall
		}
	}
	return rec
}

// Why a turn is taken away before the target has said all.
const (
	takenLeft    = "client left"
	takenStalled = "client stalled"
	takenAsleep  = "host asleep"
	takenStall   = "stall timeout"
)

// Kind is what the gate groups by: the model.
func (x *exchange) Kind() string { return x.model }
