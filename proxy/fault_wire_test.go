package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the tests of faults share: clients at the level of bytes, a target that
// answers when it is told to, and a network in memory for virtual time.

// marked returns the body of a chat that can be told from others by its mark.
func marked(mark string) string { return `{"model":"chat","mark":"` + mark + `"}` }

// postOf returns a POST as it is on the wire. Each field ends in a line break.
func postOf(path, body string, fields ...string) string {
	return "POST " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n" +
		strings.Join(fields, "") + "\r\n" + body
}

// A wire is a client's connection.
type wire struct {
	net.Conn
	in *bufio.Reader
}

// connect opens a connection to a foreman. Its deadline is there so that a
// failure of foreman's does not hang the tests.
func connect(t testing.TB, f *front) *wire {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReader(c)}
}

func (w *wire) send(t testing.TB, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("client: %v", err)
	}
}

// answer reads one answer. Its error tells of a body that was cut.
func (w *wire) answer(t testing.TB) (resp *http.Response, body string, err error) {
	t.Helper()
	if resp, err = http.ReadResponse(w.in, nil); err != nil {
		t.Fatalf("client: no answer: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// status reads one answer that must be whole, and returns its status.
func (w *wire) status(t testing.TB) int {
	t.Helper()
	resp, _, err := w.answer(t)
	if err != nil {
		t.Fatalf("client: answer cut: %v", err)
	}
	return resp.StatusCode
}

// reset closes a connection so that the other end gets an RST, not a FIN.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// A holder is a target that hands over each chat that it gets.
type holder struct {
	tags    http.HandlerFunc
	arrived chan *held
}

// A held chat is one that the target has got and works for.
type held struct {
	body  string
	ctx   context.Context // ends when foreman gives the chat up
	lines chan string     // closed at the end
	said  chan error
}

func newHolder(t testing.TB) *holder {
	models := fixture(t, "tags.json")
	return &holder{
		tags:    func(w http.ResponseWriter, _ *http.Request) { w.Write(models) },
		arrived: make(chan *held, 1000),
	}
}

// newHeldFront starts a holder and a foreman in front of it, on sockets.
func newHeldFront(t testing.TB, change func(*Options)) (*front, *holder) {
	t.Helper()
	h := newHolder(t)
	ln := listen(t)
	serve(t, ln, h, newLog(t), nil)
	return newFront(t, "http://"+ln.Addr().String(), change), h
}

// newImpatientFront is the same, but that a client has only so long to take a byte.
func newImpatientFront(t testing.TB, stall time.Duration) (*front, *holder) {
	t.Helper()
	h := newHolder(t)
	ln := listen(t)
	serve(t, ln, h, newLog(t), nil)
	clients := Listener(listen(t)).(*listener)
	clients.stall = stall
	return newFrontOn(t, clients, "http://"+ln.Addr().String(), nil), h
}

func (h *holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/tags":
		h.tags(w, r)
		return
	case "/api/ps":
		io.WriteString(w, `{"models":[]}`)
		return
	}
	body, _ := io.ReadAll(r.Body)
	c := &held{string(body), r.Context(), make(chan string), make(chan error, 1)}
	h.arrived <- c
	for {
		select {
		case line, more := <-c.lines:
			if !more {
				return
			}
			io.WriteString(w, line)
			c.said <- http.NewResponseController(w).Flush()
		case <-c.ctx.Done():
			return
		}
	}
}

// next returns the chat that arrives next, which must be the one so marked.
func (h *holder) next(t testing.TB, mark string) *held {
	t.Helper()
	c := <-h.arrived
	if want := marked(mark); c.body != want {
		t.Fatalf("target got %q; want %q", c.body, want)
	}
	return c
}

// none fails the test if the target has got another chat.
func (h *holder) none(t testing.TB) {
	t.Helper()
	select {
	case c := <-h.arrived:
		t.Errorf("target got %q; want nothing", c.body)
	default:
	}
}

// say sends a line of the answer.
func (c *held) say(t testing.TB, line string) {
	t.Helper()
	c.lines <- line
	if err := <-c.said; err != nil {
		t.Fatalf("target: %v", err)
	}
}

// finish ends the answer.
func (c *held) finish() { close(c.lines) }

// gone waits until foreman has given the chat up.
func (c *held) gone() { <-c.ctx.Done() }

// connectIn opens a client's connection in a bubble.
func connectIn(t testing.TB, m *memory) *wire {
	t.Helper()
	c, err := m.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReader(c)}
}

// newFrontIn starts a foreman and its target in a bubble, and returns the
// network in front of foreman.
func newFrontIn(t testing.TB, target http.Handler, change func(*Options)) (*front, *memory) {
	t.Helper()
	outer, inner := newMemory(80), newMemory(11434)
	serve(t, inner, target, newLog(t), nil)
	f := newFrontOn(t, outer, "http://"+inner.Addr().String(), func(o *Options) {
		inner.through(o.Target)
		if change != nil {
			change(o)
		}
	})
	return f, outer
}
