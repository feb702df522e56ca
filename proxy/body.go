package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// How fast a body must arrive: this long for a start, and a second more for each
// so many bytes.
const (
	uploadGrace = 30 * time.Second
	uploadRate  = 32 << 10 // bytes per second
)

// errUpload is wrapped by every error in reading a client's body.
var errUpload = errors.New("reading the request body")

// A budget limits what all waiting bodies together take in memory.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// An upload is a client's body. It limits how slow and, if that is not 0, how
// large it may be, and tells its errors from those of the target.
type upload struct {
	body  io.ReadCloser
	rc    *http.ResponseController
	began time.Time
	n     int64 // bytes read
	ended atomic.Bool
	err   atomic.Pointer[error] // what went wrong; Transport may report what that led to instead
}

func (p *Proxy) upload(w http.ResponseWriter, r *http.Request, limit int64) *upload {
	body := r.Body
	if limit > 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	return &upload{body: body, rc: http.NewResponseController(w), began: time.Now()}
}

func (u *upload) Read(b []byte) (int, error) {
	if u.ended.Load() {
		// No deadline now: net/http reads on in the background, to notice when
		// the client leaves, and would take the deadline for that.
		return 0, io.EOF
	}
	u.rc.SetReadDeadline(u.began.Add(uploadGrace + time.Duration(u.n)*time.Second/uploadRate))
	n, err := u.body.Read(b)
	u.n += int64(n)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		u.ended.Store(true)
		return n, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSlowUpload
	default:
		err = fmt.Errorf("%w: %w", errUpload, err)
	}
	u.err.Store(&err)
	return n, err
}

func (u *upload) Close() error { return u.body.Close() }

// readBody reads a worker request's body to its end, before the request stands
// in line: a slow upload must not hold the turn, and net/http notices that a
// client hangs up only after its body has been read. The memory is taken from
// the budget as it fills, whatever length was declared; the caller gives back
// cap(body).
func (p *Proxy) readBody(w http.ResponseWriter, r *http.Request) (body []byte, err error) {
	for _, coding := range r.Header["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return nil, errEncoding
		}
	}
	switch {
	case r.ContentLength == 0:
		return nil, badRequest("missing request body")
	case r.ContentLength > p.MaxBody:
		return nil, &http.MaxBytesError{Limit: p.MaxBody}
	}
	src := p.upload(w, r, p.MaxBody)
	for {
		if len(body) == cap(body) {
			if body, err = p.grow(body, r.ContentLength); err != nil {
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

// grow returns body with more room, at the budget's expense: twice as much as has
// come, but no more than was declared. Little that was declared is taken at once.
func (p *Proxy) grow(body []byte, declared int64) ([]byte, error) {
	size := max(2*int64(cap(body)), 4<<10)
	switch {
	case int64(cap(body)) >= declared: // none was, or the end is still to be told
	case declared <= 64<<10:
		size = declared
	default:
		size = min(size, declared)
	}
	size = min(size, p.MaxBody+1)
	if !p.bodies.take(size) {
		return body, errNoRoom
	}
	larger := make([]byte, len(body), size)
	copy(larger, body)
	p.bodies.give(int64(cap(body)))
	return larger, nil
}
