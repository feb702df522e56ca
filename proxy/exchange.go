package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"foreman/gate"
	"foreman/proxy/ask"
	"foreman/proxy/status"
	"foreman/proxy/tokens"
)

// statusClientLeft is what the log says where the client left before the end of
// its answer (nginx's number; it is never sent).
const statusClientLeft = 499

// clientStall is how long one write to a client may take.
const clientStall = 30 * time.Second

// An exchange is one request and its answer. It is the ResponseWriter that the
// handlers write to, and it gathers the record of the request.
type exchange struct {
	http.ResponseWriter
	status.Record
	Class   class
	request *http.Request           // as it came in
	cancel  context.CancelCauseFunc // ends its context; only of a chat or with a token of its own
	route   *route

	token   *tokens.Token // that the request has; nil: none with a name
	asked   ask.Ask       // of a chat, or an embedding
	joined  time.Time     // when a chat joined the line, or passed beside it; zero: it never did
	beats   beats         // until the answer begins
	key     string        // of a chat that stands in line or has its turn; see [underway]
	turn    *gate.Turn    // of a chat that stands in line or has its turn
	call    *call         // set by Proxy.begin; nil until the target is asked
	sent    time.Time     // when a chat went to the target; zero: it did not
	failure error         // what ReverseProxy could not do

	renewed   time.Time     // when the write deadline was set
	admitted  bool          // the request was let in
	hadTurn   bool          // a chat's turn came
	bodyRead  bool          // its body was read to its end
	sized     bool          // the answer's length is known
	answered  bool          // the target's last byte has come
	answering time.Duration // from the target's header to that byte
	stopped   bool          // somebody has stopped it; underway.mu guards this
	stalled   bool          // the client took no byte for too long
	completed bool          // the handler came to its end; false: the answer was cut
}

func newExchange(w http.ResponseWriter, r *http.Request, rt *route, class class) *exchange {
	x := &exchange{ResponseWriter: w, request: r, route: rt, Class: class, Record: status.Record{
		Method: r.Method,
		Route:  rt.path,
		IsChat: class == worker,
		Client: addressOf(r),
		Addr:   r.RemoteAddr,
		Agent:  fmt.Sprintf("%.200s", r.UserAgent()),
		ID:     r.Header.Get("X-Request-Id"),
		Began:  time.Now(),
	}}
	if rt == &nowhere || class == redirect {
		x.Path = fmt.Sprintf("%.200s", r.URL.EscapedPath())
	}
	if !isRequestID(x.ID) {
		x.ID = rand.Text()
	}
	x.renewDeadline(x.Began)
	return x
}

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

// WriteHeader passes the status on, unless the client has one already. Then it is 200,
// and the answer to come is a success too: errors do not come this way, see
// [Proxy.refuse].
func (x *exchange) WriteHeader(status int) {
	if x.Status == 0 {
		x.Status = status
		x.FirstByte = time.Since(x.Began)
		x.sized = !x.Early && x.Header().Get("Content-Length") != ""
	}
	if !x.Early {
		x.ResponseWriter.WriteHeader(status)
	}
}

func (x *exchange) Write(b []byte) (int, error) {
	if x.Status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.renewDeadline(time.Now())
	n, err := x.ResponseWriter.Write(b)
	if x.Method != http.MethodHead {
		x.Bytes += int64(n)
	}
	x.note(err)
	return n, err
}

// FlushError is what http.ResponseController calls to flush. The header of an
// answer whose length is known waits for the first of its body, for ReverseProxy
// has that at hand or soon: one packet instead of two.
func (x *exchange) FlushError() error {
	if x.Bytes == 0 && x.sized {
		return nil
	}
	x.renewDeadline(time.Now())
	err := http.NewResponseController(x.ResponseWriter).Flush()
	x.note(err)
	return err
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// renewDeadline gives the client 30 s from now to take what is written next, or a
// second less: setting a deadline changes a timer in the runtime, and many small
// pieces may come in a second. http.Server's WriteTimeout cannot do that, it limits
// the whole answer.
func (x *exchange) renewDeadline(now time.Time) {
	if now.Sub(x.renewed) < time.Second {
		return
	}
	x.renewed = now
	http.NewResponseController(x.ResponseWriter).SetWriteDeadline(now.Add(clientStall))
}

// note remembers why writing to the client failed.
func (x *exchange) note(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		x.stalled = true
	}
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

// cut breaks a begun answer off. A client that speaks HTTP/1.0 takes the end of the
// connection for the end of the answer, unless that end is an error: so it is one.
func (x *exchange) cut() {
	if !x.request.ProtoAtLeast(1, 1) {
		if c, _, err := http.NewResponseController(x.ResponseWriter).Hijack(); err == nil {
			if tcp, ok := c.(interface{ SetLinger(seconds int) error }); ok {
				tcp.SetLinger(0)
			}
			c.Close()
		}
	}
	panic(http.ErrAbortHandler)
}

// serverTiming is the value of the Server-Timing field: the wait for the turn.
func (x *exchange) serverTiming() string {
	return fmt.Sprintf("queue;dur=%.3f", float64(x.Queued)/float64(time.Millisecond))
}

// end records the exchange. It is called deferred, so that a cut answer is recorded
// too: there ReverseProxy panics with http.ErrAbortHandler.
func (p *Proxy) end(x *exchange) {
	switch e := recover(); {
	case e == nil:
	case e == http.ErrAbortHandler:
		defer x.cut()
		p.tellStopped(x)
	default: // a defect of foreman's own
		x.Err = p.panicked(x, e)
		if x.Status != 0 || x.Early {
			defer x.cut()
			break
		}
		p.refuse(x, x.explain(x.Err))
		x.completed = true
	}
	x.renewDeadline(time.Now()) // for what net/http still has to write
	x.sumUp()
	p.metrics.ended(&x.Record)
	if x.admitted && x.Class != own && x.Class != preflight {
		p.recent.Add(x.Record)
	}
	if x.admitted && x.Class != preflight || p.unlogged.allow(&x.Record) {
		logRecord(x.request.Context(), p.Log, &x.Record, x.Class)
	}
}

// panicked logs a panic of foreman's own, and returns it as an error.
func (p *Proxy) panicked(x *exchange, e any) error {
	p.Log.Error("panic", "err", e, "id", x.ID, "stack", string(debug.Stack()))
	return fmt.Errorf("%w: %v", errDefect, e)
}

// sumUp completes the record.
func (x *exchange) sumUp() {
	x.Ended = time.Now()
	x.Duration = x.Ended.Sub(x.Began)
	x.Cut = !x.completed && (x.Status != 0 || x.Early)
	if x.hadTurn {
		x.Held = x.turn.Held()
		if x.Idle = x.Held; !x.sent.IsZero() {
			x.Idle = max(x.sent.Sub(x.joined)-x.Queued, 0)
		}
	}
	if !x.joined.IsZero() {
		x.Arriving = x.joined.Sub(x.Began)
	}
	switch {
	case x.stalled:
		x.Err = errClientStalled
	case x.Err == nil && !x.completed:
		x.Err = cmp.Or(context.Cause(x.request.Context()), errBrokenOff)
	}
	if x.Status == 0 || x.Err == context.Canceled {
		x.Status = statusClientLeft
	}
	if x.answered && x.Class == worker && x.Status == http.StatusOK {
		x.Usage = x.call.tail.Usage()
		if u := x.Usage; u.CompletionTokens > 0 && u.Completion == 0 && x.asked.Stream { // only Ollama's own API says it
			x.Usage.Completion = x.answering
		}
	}
	if x.hadTurn && !x.answered {
		switch {
		case x.stalled:
			x.Revoked = revokedStalled
		case errors.Is(x.Err, context.Canceled):
			x.Revoked = revokedLeft
		case errors.Is(x.Err, errAsleep):
			x.Revoked = revokedAsleep
		case errors.Is(x.Err, errStall):
			x.Revoked = revokedStall
		case errors.As(x.Err, new(*stopError)):
			x.Revoked = revokedStopped
		case errors.Is(x.Err, errRevoked):
			x.Revoked = revokedToken
		}
	}
}
