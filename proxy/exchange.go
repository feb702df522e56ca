package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"foreman/inventory"
	"foreman/proxy/dialect"
	"foreman/proxy/status"
)

// clientStall is how long one write to a client may take.
const clientStall = 30 * time.Second

// An exchange is the ResponseWriter of one request. It notes in the record of the request
// what goes out, and lets a client that does not read wait no longer than clientStall.
type exchange struct {
	http.ResponseWriter
	status.Record
	Class   class
	request *http.Request // as it came in
	route   *route
	only    inventory.Patterns // the models that the client may ask for; nil: any

	mu       sync.Mutex // held while a piece of the answer goes out: the target's, or a heartbeat
	timing   string     // value of the Server-Timing field; empty: the request had no turn
	renewed  time.Time  // when the write deadline was set
	sized    bool       // the answer's length is known
	stalled  bool       // the client took no byte for too long
	bodyRead bool       // the request's body was read to its end
	admitted bool       // the request was let in
	owner    bool       // whoever sent it may pause
	cut      bool       // the answer is to be cut, or there is to be none
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
	if rt == &noRoute || class == redirect {
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

// gotTurn notes for how long the request has waited for its turn, also for the client.
func (x *exchange) gotTurn(queued time.Duration) {
	x.Queued = queued
	x.timing = fmt.Sprintf("queue;dur=%.3f", milliseconds(queued))
}

// WriteHeader passes the status on, unless the client has one already: an early 200. Then
// the answer to come is a success too; errors go by refuse.
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

// begun reports whether the client has a part of an answer.
func (x *exchange) begun() bool { return x.Status != 0 || x.Early }

func (x *exchange) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
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
// has that at hand or soon: one packet instead of two. An answer to a change of the
// target's models waits for the poll that follows.
func (x *exchange) FlushError() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.flush()
}

func (x *exchange) flush() error {
	if x.sized && (x.Bytes == 0 || x.Class == manage) {
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

// sumUp completes the record.
func (x *exchange) sumUp() {
	x.Ended = time.Now()
	x.Duration = x.Ended.Sub(x.Began)
	x.Cut = x.cut && x.begun()
	if x.stalled {
		x.Err = errClientStalled
	}
	if x.Status == 0 || x.Err == context.Canceled {
		x.Status = statusClientLeft
	}
}

// breakOff cuts the answer. A client that speaks HTTP/1.0 takes the end of the
// connection for the end of the answer, unless that end is an error: so it is one.
func (x *exchange) breakOff() {
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

// answer writes an answer of foreman's own.
func (x *exchange) answer(status int, contentType string, body []byte) {
	x.abandonBody()
	x.Header().Set("Content-Type", contentType)
	x.Header().Set("X-Request-Id", x.ID)
	if x.timing != "" {
		x.Header().Set("Server-Timing", x.timing)
	}
	x.Header().Set("Content-Length", strconv.Itoa(len(body))) // also if it is flushed
	x.WriteHeader(status)
	x.Write(body)
}

const jsonType = "application/json; charset=utf-8"

// refuse writes a refusal in the dialect of the path: as the answer, or where the client
// has the header of one already, as the end of its stream.
func (x *exchange) refuse(why *refusal) {
	x.Reason = why.reason
	d := dialect.Of(x.request.URL.Path)
	failure := dialect.Failure{Status: why.status, Code: why.code, Text: why.text}
	if x.Early {
		x.WriteHeader(why.status) // to be noted
		x.Write(d.StreamError(failure))
		return
	}
	switch {
	case why.status == http.StatusServiceUnavailable:
		x.Header().Set("Retry-After", seconds(cmp.Or(why.retry, retryAfter)))
	case why.status == http.StatusGatewayTimeout:
		x.Header().Set("X-Should-Retry", "false") // OpenAI's and Anthropic's clients would begin anew, and have the host do it all again
	case why.status == http.StatusUnauthorized && x.route.path == statusPath:
		x.Header().Set("WWW-Authenticate", `Basic realm="foreman", charset="UTF-8"`)
	case why.status == http.StatusUnauthorized:
		x.Header().Set("WWW-Authenticate", `Bearer realm="foreman"`)
	}
	if why.allow != "" {
		x.Header().Set("Allow", why.allow)
	}
	if why == errShuttingDown || !x.admitted { // whoever has no token may not keep a connection with it
		x.Header().Set("Connection", "close")
	}
	x.answer(why.status, jsonType, d.Error(failure))
}

// retryAfter is when a client that got a 503 may try again, unless that follows from
// the line: the longest time that a target can be back without foreman knowing.
const retryAfter = 5 * time.Second

// seconds is a time as the Retry-After field has it (RFC 9110, section 10.2.3).
func seconds(d time.Duration) string { return strconv.Itoa(int(math.Ceil(d.Seconds()))) }
