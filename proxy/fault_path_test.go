package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"sync"
	"testing"
	"time"
)

// forwardable is what may reach the target: the table of routes, written once
// more and another way.
var forwardable = regexp.MustCompile(`^(` +
	`(OPTIONS|POST) /(api/(chat|generate|embed|embeddings|show)|v1/(chat/completions|completions|responses|messages|images/generations|images/edits|embeddings))|` +
	`(OPTIONS|GET|HEAD) /(api/version)?|` +
	`(OPTIONS|GET) /(api/ps|v1/models(/[^/ %\\]+)*)|` +
	`OPTIONS /api/(tags|pull|push|create|copy|delete|blobs/[^/ %\\]+)` +
	`)$`)

// An inputConn is a client's connection on which some bytes come and then the
// end. The client does not leave: net/http looks out for that with reads of one
// byte, and these last until the deadline or the answer ends them.
type inputConn struct {
	closed chan struct{}
	close  func()

	mu       sync.Mutex // guards what follows
	change   *sync.Cond
	in       []byte
	out      bytes.Buffer
	deadline time.Time
	over     bool
}

func newInputConn(in []byte) *inputConn {
	c := &inputConn{in: in, closed: make(chan struct{})}
	c.change = sync.NewCond(&c.mu)
	c.close = sync.OnceFunc(func() { close(c.closed) })
	return c
}

func (c *inputConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.in) == 0 {
		switch {
		case c.over:
			return 0, net.ErrClosed
		case len(b) > 1:
			return 0, io.EOF
		case !c.deadline.IsZero():
			return 0, os.ErrDeadlineExceeded
		}
		c.change.Wait()
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *inputConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *inputConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.change.Broadcast()
	c.close()
	return nil
}

func (c *inputConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.change.Broadcast()
	return nil
}

func (c *inputConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *inputConn) SetWriteDeadline(time.Time) error { return nil }
func (c *inputConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }
func (c *inputConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// FuzzPath sends a request with any bytes for its method and path to the real
// server and handler: nothing panics, and nothing reaches the target but what
// is in the table, a chat only with the turn.
func FuzzPath(f *testing.F) {
	inner, outer := newMemory(11434), newMemory(80)
	models := fixture(f, "tags.json")
	isWorker := regexp.MustCompile(`^POST .*(chat|generat|/v1/completions|responses|messages|images)`)
	var front *front
	var mu sync.Mutex // guards wrong
	var wrong []string
	fail := func(why string) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, why)
	}
	serve(f, inner, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch request := r.Method + " " + r.RequestURI; {
		case request == "GET /api/tags": // a poll; clients are answered from the inventory
			w.Write(models)
		case !forwardable.MatchString(request):
			fail("the target got " + request)
		case isWorker.MatchString(request):
			if _, busy := front.Gate.Len(); !busy {
				fail("the target got " + request + " without the turn")
			}
		}
	}), newLog(f), nil)
	front = newFrontOn(f, outer, "http://"+inner.Addr().String(), func(o *Options) {
		inner.through(o.Target)
		o.Log = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) { fail(string(line)) }),
			&slog.HandlerOptions{Level: slog.LevelError})) // a panic
	})

	f.Fuzz(func(t *testing.T, method string, path []byte) {
		var request bytes.Buffer
		request.WriteString(method + " ")
		request.Write(path)
		request.WriteString(" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"model\":\"chat\"}")
		c := newInputConn(request.Bytes())
		outer.calls <- c
		<-c.closed
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			got := wrong
			wrong = nil
			t.Fatalf("%q", got)
		}
	})
}

// A writerFunc is called with what is written.
type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}
