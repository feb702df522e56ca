package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"foreman/proxy/ask"
)

// How fast a body must arrive. A client's patience is counted in the time that it
// lets foreman wait: so much at most, and a second is earned back with so many
// bytes.
const (
	uploadPatience = 30 * time.Second
	uploadRate     = 32 << 10 // bytes per second
)

// errUpload is wrapped by every error in reading a client's body.
var errUpload = errors.New("reading the request body")

// An upload is a client's body. It limits how slow and, if that is not 0, how
// large it may be, and separates its errors from those of the target.
type upload struct {
	body     io.ReadCloser
	rc       *http.ResponseController
	patience time.Duration // that is left
	ended    atomic.Bool
	noRoom   atomic.Bool           // it was turned away
	err      atomic.Pointer[error] // what went wrong; Transport may report what that led to instead
}

func (p *Proxy) upload(w http.ResponseWriter, r *http.Request, limit int64) *upload {
	body := r.Body
	if limit > 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	return &upload{body: body, rc: http.NewResponseController(w), patience: uploadPatience}
}

func (u *upload) Read(b []byte) (int, error) {
	if u.ended.Load() {
		// No deadline now: net/http reads on in the background, to notice when
		// the client leaves, and would take the deadline for that.
		return 0, io.EOF
	}
	began := time.Now()
	u.rc.SetReadDeadline(time.Time{})
	if u.noRoom.Load() { // turnAway may have set its deadline before
		u.rc.SetReadDeadline(began)
	}
	// A deadline would count the time that foreman itself was stopped, and bytes that have
	// come meanwhile would not be read.
	expired, due := make(chan struct{}), began.Add(u.patience)
	limit := time.AfterFunc(u.patience, func() {
		defer close(expired)
		if now := time.Now(); now.Sub(due) > stopped {
			due = now.Add(stopped)
		}
		u.rc.SetReadDeadline(due)
	})
	n, err := u.body.Read(b)
	if !limit.Stop() {
		<-expired
		u.rc.SetReadDeadline(time.Time{}) // or net/http would take the deadline for the client's end
	}
	waited := time.Since(began)
	if err == nil && waited > u.patience {
		waited = 0 // foreman was stopped
	}
	earned := time.Duration(n) * time.Second / uploadRate
	u.patience = min(u.patience-waited+earned, uploadPatience)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		u.ended.Store(true)
		return n, err
	case u.noRoom.Load():
		err = errNoRoom
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errSlowUpload
	default:
		err = fmt.Errorf("%w: %w", errUpload, err)
	}
	u.err.Store(&err)
	return n, err
}

// turnAway ends an upload that makes room for others, if there is more of it to come.
func (u *upload) turnAway() {
	u.noRoom.Store(true)
	if !u.ended.Load() {
		u.rc.SetReadDeadline(time.Now())
	}
}

func (u *upload) Close() error { return u.body.Close() }

// readBody reads a worker request's body to its end, before the request stands
// in line: a slow upload must not hold the turn, and net/http notices that a
// client hangs up only after its body has been read. The memory is taken from
// the budget as it fills, whatever length was declared; the caller gives the room back.
// Until it is kept, the request may be turned away, if others need the room.
func (p *Proxy) readBody(x *exchange, r *http.Request) (body []byte, held *room, err error) {
	u := p.upload(x, r, p.MaxBody)
	held = p.bodies.open(x.Client, func() {
		if x.cancel != nil {
			x.cancel(errNoRoom)
		}
		u.turnAway()
	})
	for _, coding := range r.Header["Content-Encoding"] {
		switch strings.ToLower(coding) {
		case "", "identity":
		case "zstd":
			return nil, held, errZstd
		default:
			return nil, held, errEncoding
		}
	}
	switch {
	case r.ContentLength == 0:
		return nil, held, badRequest("missing request body")
	case r.ContentLength > p.MaxBody:
		return nil, held, &http.MaxBytesError{Limit: p.MaxBody}
	}
	body, err = fill(held, u, r.ContentLength, p.MaxBody)
	return body, held, err
}

// replayLimit is the largest body of a passed request but an embedding's that is held
// back, so that it can be sent a second time.
const replayLimit = 1 << 20

// hold takes a body of a passed request, of at most limit bytes, into memory as it comes,
// so that it can be sent twice, and read. It also keeps Transport from seeing an answer
// before the end of such a body, and then cutting the answer (golang.org/issue/40747). A
// larger body, or one that the budget has no room for, goes on as it comes, and held is
// nil; none of it before its first megabyte, so a client that declares much and sends
// nothing costs the target nothing. The memory is taken from room.
func hold(r *http.Request, body *upload, room *room, limit int64) (held []byte, err error) {
	begin, err := fill(room, body, r.ContentLength, limit)
	switch err {
	case nil:
		inMemory(r, begin)
		return begin, nil
	case errFull, errNoRoom:
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(begin), body), body}
		return nil, nil
	default:
		return nil, err
	}
}

// readModel notes the model that the body of an embedding names, if there is one. All else
// that may be wrong with it the target tells the client itself.
func (x *exchange) readModel(path string, body []byte) (err error) {
	if x.asked, err = ask.JSON(path, body); err == ask.ErrModels {
		return err
	}
	return nil
}

// inMemory gives a request a body that can be sent any number of times.
func inMemory(r *http.Request, body []byte) {
	r.ContentLength, r.TransferEncoding = int64(len(body)), nil
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body, _ = r.GetBody()
}

// errFull is what fill returns when it has read up to its limit and more may come.
var errFull = errors.New("limit reached")

// fill reads a body into memory: to its end, or until it is longer than limit or
// the budget has no more room for it. Then it returns what it has.
func fill(room *room, src io.Reader, declared, limit int64) (body []byte, err error) {
	for {
		if len(body) == cap(body) {
			if int64(len(body)) > limit {
				return body, errFull
			}
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
