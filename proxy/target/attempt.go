package target

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// retryWithin is how soon after a request was sent a connection must break to
// have been closed before it: time for TCP to notice over a bad network.
const retryWithin = 5 * time.Second

// An attempt is a request sent once. It knows afterwards whether the request may be
// sent once more.
//
// Transport itself repeats a request only if nothing of it was written. But when a
// host restarts, the kept connections to it take a request and then break. So: if
// the connection was kept from another request and broke at once, without a byte of
// an answer, the host had most likely closed it before. One that breaks later may break
// because of the request, and a request on a new connection is never repeated.
type attempt struct {
	conn     net.Conn    // that carries the request; nil: none yet
	kept     bool        // it had carried another request
	sent     time.Time   // when the request went to it
	answered atomic.Bool // a byte of an answer came
}

// send sends the request on a connection of transport's.
func (a *attempt) send(transport *http.Transport, r *http.Request) (*http.Response, error) {
	traced := r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { // on this goroutine
			a.conn, a.kept, a.sent = info.Conn, info.Reused, time.Now()
		},
		GotFirstResponseByte: func() { a.answered.Store(true) },
	}))
	if r.GetBody != nil {
		// ReverseProxy has wrapped the body. Transport sends one that it knows to
		// be in memory together with the header, in one packet.
		traced.Body, _ = r.GetBody() // of a body in memory: it does not fail
	}
	resp, err := transport.RoundTrip(traced)
	if err != nil && hasEnded(a.conn) {
		err = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err) // net/http may find half a field wrong instead
	}
	if err == nil && resp.Body != http.NoBody {
		resp.Body = &answerBody{ReadCloser: resp.Body, conn: a.conn}
	}
	return resp, err
}

// mayBeRepeated reports whether a request whose attempt has failed may be sent once
// more.
func (a *attempt) mayBeRepeated(r *http.Request) bool {
	replayable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	return a.kept && !a.answered.Load() && time.Since(a.sent) < retryWithin && replayable && r.Context().Err() == nil
}

// A watched connection knows whether reading from it has failed.
type watched struct {
	net.Conn
	ended atomic.Bool
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.ended.Store(true)
	}
	return n, err
}

// hasEnded reports whether reading from a connection of a Target's has failed. There may
// be none.
func hasEnded(c net.Conn) bool {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	w, ok := c.(*watched)
	return ok && w.ended.Load()
}

// An answerBody that is closed before its end has the connection closed when Close
// returns. Transport closes it a moment later, and the target might see the next
// chat before that.
type answerBody struct {
	io.ReadCloser
	conn  net.Conn
	ended bool
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

func (b *answerBody) Close() error {
	if !b.ended {
		b.conn.Close()
	}
	return b.ReadCloser.Close()
}
