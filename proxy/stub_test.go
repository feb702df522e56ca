package proxy

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/gate"
	"foreman/inventory"
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
		"/v1/responses", "/v1/messages", "/v1/images/generations", "/v1/images/edits",
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
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       ConnContext,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.handler(), slog.LevelDebug),
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

// A stub stands in for Ollama. Its handlers may be replaced before it is used.
type stub struct {
	URL                             string
	chat, embed, tags, ps, anything http.HandlerFunc

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
	s.mu.Lock()
	s.paths = append(s.paths, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	switch {
	case slices.Contains(workerPaths, r.URL.Path):
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

// A front is a foreman in front of a target, wired and served as main does.
type front struct {
	*Proxy
	URL    string
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
		transport.DialContext = m.dial
	}
	f.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}

	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(f.log.handler())
	o := Options{
		Target:       NewTarget(u, ""),
		Gate:         gate.New(512),
		Log:          logger,
		Version:      "v1.2.3",
		Loopback:     true,
		MaxBody:      1 << 20,
		StallTimeout: 10 * time.Minute,
	}
	o.Inventory = inventory.New(o.Target, 30*time.Second, logger)
	before := o
	if change != nil {
		change(&o)
	}
	if o.Target != before.Target && o.Inventory == before.Inventory {
		o.Inventory = inventory.New(o.Target, 30*time.Second, logger)
	}
	f.Proxy = New(o)

	if _, ok := ln.(*listener); !ok {
		ln = Listener(ln)
	}
	serve(t, ln, f, f.log, ErrShuttingDown)
	polled := make(chan struct{})
	first := sync.OnceFunc(func() { close(polled) })
	notify := f.Inventory.Polled
	f.Inventory.Polled = func(s inventory.State) {
		f.Proxy.Polled(s)
		if notify != nil {
			notify(s)
		}
		first()
	}
	start(t, f.Inventory.Run)
	start(t, f.Proxy.Run)
	t.Cleanup(f.client.CloseIdleConnections)
	t.Cleanup(f.Target.pooled.CloseIdleConnections)
	<-polled
	return f
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

// post sends a body and returns the answer, which it has read to its end.
func post(t testing.TB, url, body string) (*http.Response, string) {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// expectIdle waits for all handlers to return, and fails the test if the turn or
// memory for bodies is not free then.
func (f *front) expectIdle(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	for f.handlers > 0 {
		f.returned.Wait()
	}
	f.mu.Unlock()
	if waiting, busy := f.Gate.Len(); waiting != 0 || busy {
		t.Errorf("gate: %d waiting, busy %v; want nobody", waiting, busy)
	}
	if got := f.bodies.used.Load(); got != 0 {
		t.Errorf("%d bytes of bodies held; want 0", got)
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
func (l *logbook) access(n int) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.requests) < n {
		l.more.Wait()
	}
	return slices.Clone(l.requests)
}

// await waits until the log has text in it.
func (l *logbook) await(t *testing.T, text string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.text.String(), text) {
		l.more.Wait()
	}
}

// String returns the whole log so far.
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
