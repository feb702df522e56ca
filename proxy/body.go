package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// bodies reads the bodies of requests into memory.
type bodies struct {
	budget
	max int64 // bytes in one body
}

func newBodies(max, all int64) *bodies {
	return &bodies{budget: budget{limit: all}, max: max}
}

// read reads a request's body to its end, before the request goes on: a slow upload must
// not hold the turn, net/http notices that a client hangs up only after its body has been
// read, and what is in memory can be sent twice. It also keeps Transport from seeing an
// answer before the end of the body, and then cutting the answer
// (golang.org/issue/40747). The memory is taken from the budget as it fills, whatever
// length was declared; the caller gives the room back. Until that is kept, the request may
// be cancelled, if others need the room.
func (b *bodies) read(x *exchange, r *http.Request, cancel context.CancelCauseFunc) ([]byte, *room, error) {
	room := b.open(x.Client, cancel)
	if r.ContentLength > b.max {
		return nil, room, &http.MaxBytesError{Limit: b.max}
	}
	if r.ContentLength == 0 {
		return nil, room, nil
	}
	upload := newUpload(x, r)
	upload.body = http.MaxBytesReader(x, upload.body, b.max)
	body, err := fill(room, upload, r.ContentLength, b.max)
	x.bodyRead = upload.finish() && err == nil
	return body, room, err
}

// checkCoding refuses a body that is compressed: foreman reads it.
func checkCoding(r *http.Request) error {
	for _, coding := range r.Header["Content-Encoding"] {
		switch strings.ToLower(coding) {
		case "", "identity":
		case "zstd":
			return errZstd
		default:
			return errEncoding
		}
	}
	return nil
}

// inMemory gives a request a body that can be sent any number of times.
func inMemory(r *http.Request, body []byte) {
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
}

// fill reads a body of at most limit bytes into memory, and returns what it has read. A
// declared length that is not known is negative.
func fill(room *room, src io.Reader, declared, limit int64) (body []byte, err error) {
	for {
		if len(body) == cap(body) {
			if body, err = grow(room, body, declared, limit); err != nil {
				return body, err
			}
		}
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF:
			return body, nil
		case err != nil:
			return body, err
		}
	}
}

// grow returns body with more room, which it takes from the budget: twice as much as has
// come, but no more than was declared. Of little that was declared all is taken
// when the first of it has come. The copy that it makes is not counted twice: on a
// slow machine many are copied at once, and others would be refused for that.
func grow(room *room, body []byte, declared, limit int64) ([]byte, error) {
	size := max(2*int64(cap(body)), 4<<10)
	switch {
	case int64(cap(body)) >= declared: // none was, or only the end is still to come
	case declared <= 64<<10 && cap(body) > 0:
		size = declared
	default:
		size = min(size, declared)
	}
	size = min(size, limit+1)
	if err := room.take(size - int64(cap(body))); err != nil {
		return body, err
	}
	larger := make([]byte, len(body), size)
	copy(larger, body)
	return larger, nil
}

// How fast a body must arrive. A client has a credit of time for which it may let foreman
// wait: so much at most, and a second is earned back with so many bytes.
const (
	uploadCredit = 30 * time.Second
	uploadRate   = 32 << 10 // bytes per second
)

// An upload is a client's body. It limits how slow that may be, ends with its request, and
// separates its errors from those of the target. The caller must call finish in the end.
type upload struct {
	ctx     context.Context // of the request
	body    io.ReadCloser
	rc      *http.ResponseController
	credit  time.Duration // that is left
	callOff func() bool   // has the end of ctx set no deadline; false: it sets one, or has done so
	cut     chan struct{} // closed when it has

	over chan struct{} // closed when all was read, or something went wrong
	err  error         // io.EOF when all was read, else what went wrong: Transport may report what that led to instead
}

func newUpload(w http.ResponseWriter, r *http.Request) *upload {
	u := &upload{
		ctx: r.Context(), body: r.Body, rc: http.NewResponseController(w), credit: uploadCredit,
		cut: make(chan struct{}), over: make(chan struct{}),
	}
	u.callOff = context.AfterFunc(u.ctx, func() {
		defer close(u.cut)
		u.rc.SetReadDeadline(time.Now())
	})
	return u
}

// finish sees to it that no deadline is set from now on. It reports whether the connection
// may go on to another request: if this one has ended its deadline was set, and net/http may
// have taken that for the client's end.
func (u *upload) finish() bool {
	if u.callOff() {
		return true
	}
	<-u.cut
	return false
}

// Read reads on until all was read or something went wrong. Behind that no deadline is
// set: net/http reads on in the background, to notice when the client leaves, and would
// take the deadline for that.
func (u *upload) Read(b []byte) (n int, err error) {
	if u.err != nil {
		return 0, u.err
	}
	if n, err = u.read(b); err != nil {
		u.err = err
		close(u.over)
	}
	return n, err
}

func (u *upload) read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	began := time.Now()
	// A deadline would count the time that foreman itself was stopped, and bytes that have
	// come meanwhile would not be read. So a timer sets it.
	expired, due := make(chan struct{}), began.Add(u.credit)
	timer := time.AfterFunc(u.credit, func() {
		defer close(expired)
		if now := time.Now(); now.Sub(due) > stoppedTime {
			due = now.Add(stoppedTime)
		}
		u.rc.SetReadDeadline(due)
	})
	n, err := u.body.Read(b)
	slow := !timer.Stop()
	if slow {
		<-expired
		u.rc.SetReadDeadline(time.Time{}) // or net/http would take the deadline for the client's end
	}
	waited := time.Since(began)
	if err == nil && waited > u.credit {
		waited = 0 // foreman was stopped
	}
	earned := time.Duration(n) * time.Second / uploadRate
	u.credit = min(u.credit-waited+earned, uploadCredit)
	switch {
	case err == nil, err == io.EOF, errors.As(err, new(*http.MaxBytesError)):
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded) && slow:
		return n, errSlowUpload
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, cmp.Or(context.Cause(u.ctx), err)
	default:
		return n, fmt.Errorf("%w: %w", errBadUpload, err)
	}
}

// state reports whether the last byte has come, and what went wrong. Transport may read on
// when the target has answered.
func (u *upload) state() (ended bool, err error) {
	select {
	case <-u.over:
		if u.err != io.EOF {
			return false, u.err
		}
		return true, nil
	default:
		return false, nil
	}
}

func (u *upload) Close() error { return u.body.Close() }
