package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
	"foreman/proxy/target"
	"foreman/proxy/tokens"
)

// secret is a part of every token and every prompt in these tests. It must not
// be in any log: newFront sees to that when a test ends.
const secret = "s3cr3t"

const (
	clientToken = secret + "-of-clients"
	targetToken = secret + "-of-the-target"
	chatBody    = `{"model":"chat","messages":[{"role":"user","content":"` + secret + ` prompt"}]}`
	embedBody   = `{"model":"embed","input":"` + secret + ` input"}`
)

// The table of routes once more, so that a slip there is seen.
var (
	workerPaths = []string{
		"/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions",
		"/v1/responses", "/v1/responses/compact", "/v1/messages", "/v1/images/generations", "/v1/images/edits",
	}
	embedPaths = []string{"/api/embed", "/api/embeddings", "/v1/embeddings"}
)

// fixture returns a file of the tree's testdata.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// listen returns a listener on a free port.
func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// serve serves h on ln until the test ends, and lets the test end only when
// every handler has returned. Their contexts end with cause.
func serve(t testing.TB, ln net.Listener, h http.Handler, log *logbook, cause error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	var running sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1) // for itself: it may outlive its connection, if that is hijacked
			defer running.Done()
			h.ServeHTTP(w, r)
		}),
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout:            10 * time.Second,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(log.handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				running.Add(1)
			case http.StateClosed, http.StateHijacked:
				running.Done()
			}
		},
	}
	running.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		cancel(cause)
		srv.Close()
		running.Wait()
	})
}

// A front is a foreman in front of a target, wired and served as main does.
type front struct {
	*Proxy
	Options
	URL    string
	net    *memory      // in a bubble
	client *http.Client // follows no redirect and asks for no compression
	log    *logbook

	mu       sync.Mutex // guards what follows
	handlers int        // that have not returned
	returned *sync.Cond
}

// ServeHTTP counts the handlers that have not returned: a client may have its
// whole answer a little sooner.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.count(1)
	defer f.count(-1)
	f.Proxy.ServeHTTP(w, r)
}

func (f *front) count(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handlers += n
	f.returned.Broadcast()
}

// newFront starts a foreman in front of the target at rawURL, after change has
// had its way with the options, and waits for its first poll to end.
func newFront(t testing.TB, rawURL string, change func(*Options)) *front {
	t.Helper()
	return newFrontOn(t, listen(t), rawURL, change)
}

func newFrontOn(t testing.TB, ln net.Listener, rawURL string, change func(*Options)) *front {
	t.Helper()
	f := &front{URL: "http://" + ln.Addr().String(), log: newLog(t)}
	f.returned = sync.NewCond(&f.mu)
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100}
	if m, ok := ln.(*memory); ok {
		f.net, transport.DialContext = m, m.dial
	}
	f.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       6 * time.Hour, // of a bubble, where time would fly for ever
	}

	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(f.log.handler())
	o := Options{
		Target:       target.New(u, ""),
		Gate:         gate.New(512),
		Log:          logger,
		Version:      "v1.2.3",
		MaxBody:      1 << 20,
		StallTimeout: 10 * time.Minute,
		MaxTurn:      time.Hour,
	}
	o.Inventory = inventory.New(o.Target, 30*time.Second, logger)
	before := o
	if change != nil {
		change(&o)
	}
	if o.Target != before.Target && o.Inventory == before.Inventory {
		o.Inventory = inventory.New(o.Target, 30*time.Second, logger)
	}
	f.Proxy, f.Options = New(o), o

	serve(t, ln, f, f.log, ErrShuttingDown)
	start(t, f.Inventory.Run)
	t.Cleanup(f.client.CloseIdleConnections)
	t.Cleanup(f.Target.CloseIdleConnections)
	if _, err := f.Inventory.Next(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// tokensOf returns a file of tokens with these lines.
func tokensOf(t testing.TB, lines string) *tokens.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := tokens.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs a loop until the test ends.
func start(t testing.TB, run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// An answer is what a client got, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // how the reading ended; nil: the answer is whole
}

// do sends a request to f. Header fields are given as name, value, name, value.
// A body begins as it is sent: it has a length unless header says
// Transfer-Encoding: chunked.
func (f *front) do(t testing.TB, method, path, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		switch header[i] {
		case "Host":
			r.Host = header[i+1]
		case "Transfer-Encoding":
			r.ContentLength = -1
		default:
			r.Header.Add(header[i], header[i+1])
		}
	}
	resp, err := f.client.Do(r)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

// basicAuth returns the field that a browser sends with a password.
func basicAuth(password string) string {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth("anybody", password)
	return r.Header.Get("Authorization")
}

// enter joins the line as a chat does, and waits for its turn.
func (f *front) enter(t testing.TB) *gate.Turn {
	t.Helper()
	turn, err := f.Gate.Join(gate.Request{Kind: gate.Kind{Model: "chat:latest"}})
	if err != nil {
		t.Fatal(err)
	}
	return turn
}

// latest returns the requests that have ended, the latest first.
func latest(f *front) []status.Record {
	page := &status.Page{Now: time.Now()}
	f.books.show(page)
	all := append(page.Chats, page.Others...)
	slices.SortStableFunc(all, func(a, b status.Record) int { return b.Ended.Compare(a.Ended) })
	return all
}

// expectIdle waits for all handlers to return, and fails the test if the turn or
// memory for bodies is not free then.
func (f *front) expectIdle(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	waitFor(t, f.returned, func() bool { return f.handlers == 0 })
	f.mu.Unlock()
	if waiting, busy := f.Gate.Len(); waiting != 0 || busy {
		t.Errorf("gate: %d waiting, busy %v; want nobody", waiting, busy)
	}
	if f.embeds != nil {
		if atHost, waiting := f.embeds.count(); atHost != 0 || waiting != 0 {
			t.Errorf("embeddings: %d at the target, %d waiting; want none", atHost, waiting)
		}
	}
	if got := f.held(); got != 0 {
		t.Errorf("%d bytes of bodies held; want 0", got)
	}
}

// held returns what bodies take of the budgets, in bytes.
func (f *front) held() (bytes int64) {
	for _, b := range []*bodies{f.chats.bodies, f.passes.bodies} {
		b.mu.Lock()
		bytes += b.used
		b.mu.Unlock()
	}
	return bytes
}

// waitFor waits until what holds that cond tells of, for 20 s at most. The caller has
// locked cond.L.
func waitFor(t testing.TB, cond *sync.Cond, holds func() bool) {
	t.Helper()
	late := false
	timer := time.AfterFunc(20*time.Second, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		late = true
		cond.Broadcast()
	})
	defer timer.Stop()
	for !holds() {
		if late {
			t.Fatal("waited for 20 s in vain")
		}
		cond.Wait()
	}
}

// A logbook shows what is logged with the test's output, and keeps it.
type logbook struct {
	out io.Writer

	mu       sync.Mutex // guards what follows
	more     *sync.Cond // a record was written
	text     strings.Builder
	requests []map[string]any
}

// newLog returns a log in which the secret must not be when the test ends.
func newLog(t testing.TB) *logbook {
	l := &logbook{out: t.Output()}
	l.more = sync.NewCond(&l.mu)
	if _, ok := t.(*testing.B); ok {
		l.out = io.Discard
	}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if strings.Contains(l.text.String(), secret) {
			t.Errorf("the log has the secret:\n%s", l.text.String())
		}
	})
	return l
}

func (l *logbook) handler() slog.Handler {
	if l.out == io.Discard {
		return slog.NewTextHandler(io.Discard, nil)
	}
	return slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(line)
	var record map[string]any
	if err := json.Unmarshal(line, &record); err != nil {
		return 0, err
	}
	if record["msg"] == "request" {
		l.requests = append(l.requests, record)
	}
	l.more.Broadcast()
	return l.out.Write(line)
}

// access waits for the records of n requests and returns them.
func (l *logbook) access(t testing.TB, n int) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	waitFor(t, l.more, func() bool { return len(l.requests) >= n })
	return slices.Clone(l.requests)
}

// await waits until the log has text in it.
func (l *logbook) await(t *testing.T, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	waitFor(t, l.more, func() bool { return strings.Contains(l.text.String(), text) })
}

// String returns the whole log so far.
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

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

// connect opens a connection to a foreman, on a socket or in a bubble. Its deadline is
// there so that a failure of foreman's does not hang the tests.
func connect(t testing.TB, f *front) *wire {
	t.Helper()
	dial, patience := new(net.Dialer).DialContext, 20*time.Second
	if f.net != nil {
		dial, patience = f.net.dial, 2*time.Hour
	}
	c, err := dial(t.Context(), "tcp", strings.TrimPrefix(f.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return &wire{c, bufio.NewReader(c)}
}

func (w *wire) send(t testing.TB, s string) *wire {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("client: %v", err)
	}
	return w
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

// expect reads one answer, which must be whole and have this status.
func (w *wire) expect(t testing.TB, status int, whose string) {
	t.Helper()
	if got := w.status(t); got != status {
		t.Errorf("%s: status %d; want %d", whose, got, status)
	}
}

// chat sends a chat so marked.
func (w *wire) chat(t testing.TB, mark string) *wire {
	t.Helper()
	return w.post(t, "/api/chat", mark)
}

// post sends what is so marked.
func (w *wire) post(t testing.TB, path, mark string) *wire {
	t.Helper()
	return w.send(t, postOf(path, marked(mark)))
}

// begun waits for the first line of an answer.
func (w *wire) begun(t testing.TB) {
	t.Helper()
	if _, err := w.in.Peek(len("HTTP/1.1 200 OK")); err != nil {
		t.Fatal(err)
	}
}

// newStubIn returns a stub in a bubble.
func newStubIn(t testing.TB) *stub {
	t.Helper()
	net := newMemory(11434)
	stub := newStubOn(t, net)
	stub.net = net
	return stub
}

// target returns a stub as foreman's target, with FOREMAN_OLLAMA_TOKEN.
func (s *stub) target(token string) *target.Target {
	u, _ := url.Parse(s.URL)
	return target.New(u, token)
}

// front starts a foreman in front of a stub in a bubble.
func (s *stub) front(t testing.TB, change func(*Options)) *front {
	t.Helper()
	return newFrontOn(t, newMemory(80), s.URL, func(o *Options) {
		s.net.through(o.Target)
		if change != nil {
			change(o)
		}
	})
}

// timedFront starts a stub and a foreman in front of it in a bubble.
func timedFront(t testing.TB, change func(*Options)) (*stub, *front) {
	t.Helper()
	stub := newStubIn(t)
	return stub, stub.front(t, change)
}

// inBubble runs a subtest by the clock of a bubble.
func inBubble(t *testing.T, name string, test func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// newFrontIn starts a foreman and its target in a bubble.
func newFrontIn(t testing.TB, target http.Handler, change func(*Options)) *front {
	t.Helper()
	inner := newMemory(11434)
	serve(t, inner, target, newLog(t), nil)
	return newFrontOn(t, newMemory(80), "http://"+inner.Addr().String(), func(o *Options) {
		inner.through(o.Target)
		if change != nil {
			change(o)
		}
	})
}

// A memory is a network with one listener. Its connections are pipes: sockets
// do not block durably in a testing/synctest bubble.
type memory struct {
	addr  net.TCPAddr
	calls chan net.Conn // to Accept
	over  chan struct{} // closed by Close
	close func()

	mu    sync.Mutex // guards what follows
	down  bool
	conns []net.Conn
}

func newMemory(port int) *memory {
	m := &memory{
		addr:  net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
		calls: make(chan net.Conn),
		over:  make(chan struct{}),
	}
	m.close = sync.OnceFunc(func() { close(m.over) })
	return m
}

func (m *memory) Addr() net.Addr { return &m.addr }

func (m *memory) Close() error {
	m.close()
	return nil
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.calls:
		return c, nil
	case <-m.over:
		return nil, net.ErrClosed
	}
}

// dial is a DialContext that leads to this listener from everywhere.
func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	m.mu.Lock()
	down := m.down
	m.conns = append(m.conns, here, there)
	m.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &m.addr, Err: syscall.ECONNREFUSED}
	}
	select {
	case m.calls <- there:
		return end{here}, nil
	case <-m.over:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &m.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reset breaks all connections; while down, new ones are refused.
func (m *memory) reset(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// dialBy has connections to the target opened by open, which gets the way to open one.
func dialBy(o *Options, open func(dial func() (net.Conn, error)) (net.Conn, error)) {
	dial := o.Target.Dial
	o.Target.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return open(func() (net.Conn, error) { return dial(ctx, network, addr) })
	}
}

// through makes a target reach this listener.
func (m *memory) through(t *target.Target) { t.Dial = m.dial }

// An end of a pipe reports a broken connection as a socket does.
type end struct{ net.Conn }

func (e end) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

func (e end) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return n, err
}
