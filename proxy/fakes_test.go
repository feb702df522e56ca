package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"foreman/proxy/ask"
	"foreman/proxy/dialect"
)

// The three fakes of the target: a stub answers at once, a holder when the test says
// so, and a rawTarget at the level of bytes.

// A stub stands in for Ollama. Its handlers may be replaced before it is used.
type stub struct {
	URL                             string
	chat, embed, tags, ps, anything http.HandlerFunc
	root                            http.HandlerFunc // of foreman's own HEAD /
	net                             *memory          // in a bubble

	mu    sync.Mutex // guards what follows
	open  int        // requests for the worker model that are open
	most  int        // at once, so far
	polls int
	paths []string // METHOD path of all requests but polls
}

// newStub returns a stub that holds the models chat and embed, and answers as
// Ollama does.
func newStub(t testing.TB) *stub {
	t.Helper()
	return newStubOn(t, listen(t))
}

func newStubOn(t testing.TB, ln net.Listener) *stub {
	t.Helper()
	const js = "application/json; charset=utf-8"
	s := &stub{
		URL:      "http://" + ln.Addr().String(),
		tags:     answerWith(js, string(fixture(t, "tags.json"))),
		ps:       answerWith(js, string(fixture(t, "ps.json"))),
		embed:    answerWith(js, `{"model":"embed","embeddings":[[0.5,-0.25]]}`),
		anything: answerWith(js, `{}`),
		root:     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	}
	lines := strings.SplitAfter(string(fixture(t, "chat.ndjson")), "\n")
	s.chat = func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		for _, line := range lines {
			io.WriteString(w, line)
			w.(http.Flusher).Flush()
		}
	}
	serve(t, ln, s, newLog(t), nil)
	return s
}

// answerWith returns a handler that reads a request and answers 200.
func answerWith(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", contentType)
		io.WriteString(w, body)
	}
}

// refuseWith returns a handler that answers status and nothing more.
func refuseWith(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == "/api/tags" {
		s.mu.Lock()
		s.polls++
		tags := s.tags
		s.mu.Unlock()
		tags(w, r)
		return
	}
	switch {
	case !isPoll(r):
	case r.URL.Path == "/":
		s.root(w, r)
		return
	default:
		s.ps(w, r)
		return
	}
	s.mu.Lock()
	s.paths = append(s.paths, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	switch {
	case slices.Contains(workerPaths, r.URL.Path), r.URL.Path == ask.TranscriptionsPath:
		s.count(1)
		defer s.count(-1)
		s.chat(w, r)
	case slices.Contains(embedPaths, r.URL.Path):
		s.embed(w, r)
	case r.URL.Path == "/api/ps":
		s.ps(w, r)
	default:
		s.anything(w, r)
	}
}

// isPoll reports whether foreman asks for itself what is resident, or who is there.
func isPoll(r *http.Request) bool {
	return (r.URL.Path == "/api/ps" || r.URL.Path == "/api/version" || r.URL.Path == "/") && r.Header.Get("User-Agent") == "foreman"
}

func (s *stub) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	s.most = max(s.most, s.open)
}

// answerPolls replaces the answer to polls while the stub is in use.
func (s *stub) answerPolls(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags = h
}

// mostOpen returns how many worker requests were open at once at the most.
func (s *stub) mostOpen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// polled returns how many polls there were.
func (s *stub) polled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.polls
}

// seen returns METHOD and path of all requests but polls, in order.
func (s *stub) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.paths)
}

// A barrier stops requests at the stub, after their body was read, until
// the test or the client lets them go.
type barrier struct {
	arrived chan struct{} // one for each request that came
	release chan struct{} // one for each that may go on; closed: all
}

func newBarrier() barrier { return barrier{make(chan struct{}, 1000), make(chan struct{})} }

func (b barrier) then(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		b.arrived <- struct{}{}
		select {
		case <-b.release:
			next(w, r)
		case <-r.Context().Done():
		}
	}
}

// A holder is a target that hands over each chat that it gets.
type holder struct {
	tags    http.HandlerFunc
	takes   atomic.Int64 // nanoseconds, for tags
	arrived chan *held

	// A chat so marked gets an answer of size bytes as fast as they are taken, once
	// the test has seen its header: ReverseProxy flushes that from a goroutine of its
	// own, and while this waits for a mutex a bubble's time stands still.
	size  int // 0: it is held as any other
	begin chan struct{}

	mu   sync.Mutex    // guards wake
	wake chan struct{} // closed when it wakes; nil: it is awake
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
	h := &holder{arrived: make(chan *held, 1000), begin: make(chan struct{})}
	h.tags = func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(h.takes.Load()))
		if h.waken(r.Context()) {
			w.Write(models)
		}
	}
	return h
}

func (h *holder) sleeps() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wake != nil
}

// waken waits while the target sleeps, and reports whether it woke before ctx ended.
func (h *holder) waken(ctx context.Context) bool {
	h.mu.Lock()
	wake := h.wake
	h.mu.Unlock()
	if wake == nil {
		return true
	}
	select {
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// sleep has the target fall asleep, or wake: while it sleeps its connections stay
// open and nothing comes back on them until it wakes.
func (h *holder) sleep(asleep bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wake != nil {
		close(h.wake)
		h.wake = nil
	}
	if asleep {
		h.wake = make(chan struct{})
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

// newHeldFrontIn starts a holder and a foreman in front of it, in a bubble.
func newHeldFrontIn(t testing.TB, change func(*Options)) (*front, *holder) {
	t.Helper()
	h := newHolder(t)
	return newFrontIn(t, h, change), h
}

func (h *holder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/tags":
		h.tags(w, r)
		return
	case "/":
		h.waken(r.Context())
		return
	case "/api/ps":
		io.WriteString(w, `{"models":[]}`)
		return
	case "/api/version", "/v1/models":
		io.WriteString(w, `{}`)
		return
	}
	if r.Method == http.MethodOptions {
		return // no page may read anything
	}
	w.Header().Set("Content-Type", dialect.Of(r.URL.Path).ContentType())
	body, _ := io.ReadAll(r.Body)
	if !h.waken(r.Context()) {
		return
	}
	if h.size > 0 {
		if string(body) == marked("large") {
			h.stream(w)
		}
		return
	}
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

// inventoryMisses is when a poll has failed that was asked for and gets no answer.
const inventoryMisses = 8*time.Second + 250*time.Millisecond + 1

// hangDials has connections to the target not be opened either while it sleeps.
func (h *holder) hangDials(o *Options) {
	dial := o.Target.Dial
	o.Target.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if h.sleeps() {
			ctx, cancel := context.WithTimeout(ctx, 4*time.Second) // as target's dialler has it
			defer cancel()
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
		}
		return dial(ctx, network, addr)
	}
}

// stream writes the large answer.
func (h *holder) stream(w http.ResponseWriter) {
	http.NewResponseController(w).Flush()
	<-h.begin
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range h.size / len(line) {
		if _, err := w.Write(line); err != nil {
			return
		}
	}
}

// any returns the chat that arrives next. It waits for 20 s at most, of a bubble's
// time or of real time.
func (h *holder) any(t testing.TB) *held {
	t.Helper()
	select {
	case c := <-h.arrived:
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("target: no chat came")
		return nil
	}
}

// next returns the chat that arrives next, which must be the one so marked.
func (h *holder) next(t testing.TB, mark string) *held {
	t.Helper()
	c := h.any(t)
	if want := marked(mark); c.body != want {
		t.Fatalf("target got %q; want %q", c.body, want)
	}
	return c
}

// serves fails the test unless a chat that comes now gets its answer from the target.
func (h *holder) serves(t testing.TB, f *front, which string) {
	t.Helper()
	c := connect(t, f).chat(t, which)
	h.next(t, which).finish()
	c.expect(t, http.StatusOK, which)
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
func (c *held) gone() {
	select {
	case <-c.ctx.Done():
	case <-time.After(10 * time.Minute): // of a bubble's time, as a rule
		panic("target: the chat is still wanted")
	}
}

// A rawTarget is a target whose chats are answered at the level of bytes, and
// can be answered wrongly.
type rawTarget struct {
	URL string
	// answer answers the nth chat on a connection, from 0, and reports whether
	// to keep the connection. If it is nil, one chat is answered, and what comes on
	// the connection is kept, to its end.
	answer func(c *net.TCPConn, nth int, body string) (keep bool)

	mu    sync.Mutex // guards what follows
	conns []*net.TCPConn
	got   []string // the bodies of chats
	raw   []string // what came on each connection but those of polls, if answer is nil
}

func newRawTarget(t testing.TB, answer func(c *net.TCPConn, nth int, body string) bool) *rawTarget {
	t.Helper()
	ln := listen(t)
	target := &rawTarget{URL: "http://" + ln.Addr().String(), answer: answer}
	models := string(fixture(t, "tags.json"))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			target.mu.Lock()
			target.conns = append(target.conns, c.(*net.TCPConn))
			target.mu.Unlock()
			serving.Go(func() { target.serve(c.(*net.TCPConn), models) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		target.mu.Lock()
		for _, c := range target.conns {
			c.Close()
		}
		target.mu.Unlock()
		serving.Wait()
	})
	return target
}

func (target *rawTarget) serve(c *net.TCPConn, models string) {
	defer c.Close()
	var raw strings.Builder
	in := bufio.NewReader(io.TeeReader(c, &raw))
	poll := false
	if target.answer == nil {
		defer func() {
			if poll {
				return
			}
			target.mu.Lock()
			defer target.mu.Unlock()
			target.raw = append(target.raw, raw.String())
		}()
	}
	for nth := 0; ; nth++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		poll = r.URL.Path == "/api/tags" || isPoll(r)
		if r.URL.Path == "/api/tags" {
			io.WriteString(c, answerOf(models, "Connection: close\r\n"))
			return
		}
		if poll {
			io.WriteString(c, answerOf(`{"models":[]}`, "Connection: close\r\n"))
			return
		}
		target.mu.Lock()
		target.got = append(target.got, string(b))
		target.mu.Unlock()
		if target.answer == nil {
			io.WriteString(c, answerOf("{}", "Connection: close\r\n"))
			io.Copy(io.Discard, in)
			return
		}
		if !target.answer(c, nth, string(b)) {
			return
		}
	}
}

// chats returns the bodies of all chats so far, and forgets them.
func (target *rawTarget) chats() []string {
	target.mu.Lock()
	defer target.mu.Unlock()
	got := target.got
	target.got = nil
	return got
}

// answerOf returns a whole answer as it is on the wire.
func answerOf(body string, fields ...string) string {
	return "HTTP/1.1 200 OK\r\n" + strings.TrimPrefix(postOf("", body, fields...), "POST  HTTP/1.1\r\nHost: 127.0.0.1\r\n")
}

// resetTCP closes a connection so that the other end gets an RST, not a FIN.
func resetTCP(c *net.TCPConn) error {
	c.SetLinger(0)
	return c.Close()
}
