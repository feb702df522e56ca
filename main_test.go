package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// limit is how long anything that should happen may take. It is for machines that
// are busy with something else: a test that passes never waits for so long.
const limit = time.Minute

// receive returns what comes from a channel, or the zero value once it is closed.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(limit):
		t.Fatalf("nothing came within %v", limit)
		panic("not reached")
	}
}

// An ollama stands in for the real one. Each of its chats says so, writes a
// line, and then waits for the test or for its client to leave.
type ollama struct {
	URL    string
	stop   func()
	polled chan struct{} // receives at each poll
	said   chan *said
	flood  bool // chats write without end
}

// said is a chat that has begun at the target.
type said struct {
	model  string
	finish chan struct{} // closed by the test: write the rest
	left   chan struct{} // closed when the client has left instead
}

func newOllama(t *testing.T) *ollama {
	t.Helper()
	o := &ollama{polled: make(chan struct{}), said: make(chan *said, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/tags", func(w http.ResponseWriter, r *http.Request) {
		select {
		case o.polled <- struct{}{}:
		default: // nobody cares
		}
		http.ServeFile(w, r, "testdata/tags.json")
	})
	mux.HandleFunc("GET /api/ps", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"models":[{"name":"embed:latest"}]}`) // for how long it does not say
	})
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"version":%q}`, r.Header.Get("Authorization"))
	})
	mux.HandleFunc("POST /api/pull", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"status":"success"}`)
	})
	mux.HandleFunc("POST /api/embed", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"embeddings":[[0.5]]}`)
	})
	mux.HandleFunc("POST /api/chat", func(w http.ResponseWriter, r *http.Request) {
		s := &said{finish: make(chan struct{}), left: make(chan struct{})}
		var request struct{ Model string }
		json.NewDecoder(r.Body).Decode(&request)
		io.Copy(io.Discard, r.Body)
		s.model = request.Model
		io.WriteString(w, "{\"done\":false}\n")
		w.(http.Flusher).Flush()
		o.said <- s
		for o.flood {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				close(s.left)
				return
			}
		}
		select {
		case <-s.finish:
			io.WriteString(w, "{\"done\":true}\n")
		case <-r.Context().Done():
			close(s.left)
		}
	})
	srv := httptest.NewServer(mux)
	o.URL, o.stop = srv.URL, sync.OnceFunc(func() {
		srv.CloseClientConnections() // Close alone would wait for chats
		srv.Close()
	})
	t.Cleanup(o.stop)
	return o
}

// A record keeps what foreman writes, and lets tests wait for it.
type record struct {
	mu      sync.Mutex // guards what follows
	text    []byte
	changed chan struct{} // closed, and made anew, when text has grown
}

func newRecord() *record { return &record{changed: make(chan struct{})} }

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = append(r.text, b...)
	close(r.changed)
	r.changed = make(chan struct{})
	return len(b), nil
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.text)
}

// await waits for a match of pattern, and returns its first group. It fails the
// test if ended is closed before.
func (r *record) await(t *testing.T, pattern string, ended <-chan struct{}) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for late := time.After(limit); ; {
		r.mu.Lock()
		m, changed := re.FindSubmatch(r.text), r.changed
		r.mu.Unlock()
		if m != nil {
			return string(m[len(m)-1])
		}
		select {
		case <-changed:
		case <-ended:
			t.Fatalf("foreman ended without %q; its log:\n%s", pattern, r)
		case <-late:
			t.Fatalf("no %q within %v in foreman's log:\n%s", pattern, limit, r)
		}
	}
}

const listening = `msg=listening addr=(\S+)\n`

// An instance is a foreman that runs in this process.
type instance struct {
	URL    string
	addr   string
	log    *record
	signal context.CancelFunc // as the first signal does
	ended  chan struct{}
	err    error // of run, once ended is closed
}

// start runs foreman, with these variables besides FOREMAN_ADDR, until the test
// ends at the latest.
func start(t *testing.T, variables map[string]string) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{log: newRecord(), signal: cancel, ended: make(chan struct{})}
	getenv := func(name string) string {
		if name == "FOREMAN_ADDR" {
			return "127.0.0.1:0"
		}
		return variables[name]
	}
	go func() {
		defer close(i.ended)
		i.err = run(ctx, getenv, []string{"FOREMAN_TOKN=x", "HOME=/"}, i.log)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-i.ended:
		case <-time.After(limit):
			t.Errorf("foreman does not end; its log:\n%s", i.log)
		}
	})
	i.addr = i.log.await(t, listening, i.ended)
	i.URL = "http://" + i.addr
	return i
}

// client has connections of its own, which are gone at the end of the test.
func client(t *testing.T) *http.Client {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: limit}
}

// An answer is what came of a request.
type answer struct {
	status int
	body   string
	err    error // of reading the body
}

// chat asks url for a chat and tells when its header has come and when all has.
func chat(t *testing.T, url, model string) (began <-chan struct{}, ended <-chan answer) {
	header, whole := make(chan struct{}), make(chan answer, 1)
	c := client(t)
	go func() {
		resp, err := c.Post(url+"/api/chat", "application/json", strings.NewReader(`{"model":"`+model+`"}`))
		if err != nil {
			whole <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		close(header)
		body, err := io.ReadAll(resp.Body)
		whole <- answer{resp.StatusCode, string(body), err}
	}()
	return header, whole
}

// awaitAnswer asks for url until the answer has want in it.
func awaitAnswer(t *testing.T, url, want string) {
	t.Helper()
	c, late := client(t), time.Now().Add(limit)
	for body := []byte(nil); ; {
		if time.Now().After(late) {
			t.Fatalf("%s: got %s; want %q in it", url, body, want)
		}
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(body), want) {
			return
		}
	}
}

// awaitWaiting asks foreman until so many chats wait.
func awaitWaiting(t *testing.T, url string, want int) {
	t.Helper()
	awaitAnswer(t, url+"/healthz", fmt.Sprintf(`"waiting":%d,`, want))
}

func TestServes(t *testing.T) {
	o := newOllama(t)
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_EMBED_MODEL": "embed", "FOREMAN_OLLAMA_TOKEN": "hunter2"})
	i.log.await(t, `msg="target ready" models=2\n`, i.ended)
	i.log.await(t, `msg="embedder warmed" model=embed`, i.ended)
	for _, want := range []string{
		`foreman_polls_total{result="ok"} 1`, `foreman_warms_total{result="ok"} 1`, "foreman_embedder_resident 1",
	} {
		awaitAnswer(t, i.URL+"/metrics", "\n"+want+"\n")
	}
	resp, err := client(t).Get(i.URL + "/api/tags")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/tags.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got models %s; want %s", got, want)
	}
	_, ended := chat(t, i.URL, "chat")
	close(receive(t, o.said).finish)
	if got, want := receive(t, ended), (answer{200, "{\"done\":false}\n{\"done\":true}\n", nil}); got != want {
		t.Errorf("got chat %v; want %v", got, want)
	}
	i.signal()
	receive(t, i.ended)
	if i.err != nil {
		t.Errorf("run: %v", i.err)
	}
	log := i.log.String()
	for _, want := range []string{
		"level=INFO msg=starting version=", " config.addr=127.0.0.1:0 config.ollama_url=" + o.URL + " config.ollama_token=(set) config.embed_model=embed ",
		"level=WARN msg=\"variable unknown to foreman\" name=FOREMAN_TOKN\n",
		"level=INFO msg=drained\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("got log\n%s\nwant in it\n%s", log, want)
		}
	}
	if strings.Contains(log, "hunter2") {
		t.Errorf("the token is in the log:\n%s", log)
	}
	if strings.Contains(log, "name=HOME") {
		t.Errorf("a variable that has nothing to do with foreman is in the log:\n%s", log)
	}
	if _, err := net.Dial("tcp", i.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after the end: got %v; want %v", err, syscall.ECONNREFUSED)
	}
}

func TestLogFormatAndLevel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it ends as soon as it has begun
	for _, tt := range []struct{ format, level, want string }{
		{"json", "info", `"msg":"drained"`},
		{"text", "info", `level=INFO msg="no FOREMAN_EMBED_MODEL: no embedder is kept resident"`},
		{"text", "warn", ""},
	} {
		log := newRecord()
		variables := map[string]string{"FOREMAN_ADDR": "127.0.0.1:0", "FOREMAN_LOG_FORMAT": tt.format, "FOREMAN_LOG_LEVEL": tt.level, "FOREMAN_OLLAMA_URL": newOllama(t).URL}
		if err := run(ctx, func(name string) string { return variables[name] }, nil, log); err != nil {
			t.Errorf("%s, %s: %v", tt.format, tt.level, err)
		}
		if got := log.String(); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s, %s: got log %q; want %q in it", tt.format, tt.level, got, tt.want)
		}
	}
}

// send sends a request, whose Host may be chosen, and returns the answer.
func send(t *testing.T, method, url, host, body string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text), err}
}

// Each variable has the effect that it should have.
func TestVariablesReachTheirPlace(t *testing.T) {
	for _, tt := range []struct {
		variable, value    string
		method, path, host string
		body               string
		status             int
		text               string // part of the answer
	}{
		{"", "", "GET", "/api/version", "", "", 200, `{"version":""}`},
		{"FOREMAN_OLLAMA_TOKEN", "hunter2", "GET", "/api/version", "", "", 200, `{"version":"Bearer hunter2"}`},
		{"FOREMAN_TOKEN", "hunter2", "GET", "/api/version", "", "", 401, "token"},
		{"", "", "GET", "/api/version", "evil.example", "", 403, "FOREMAN_HOSTS"}, // the address is a loopback one
		{"FOREMAN_HOSTS", "foreman.lan", "GET", "/api/version", "foreman.lan", "", 200, "version"},
		{"FOREMAN_HOSTS", "foreman.lan", "GET", "/api/version", "gpu.local", "", 403, "FOREMAN_HOSTS"},
		{"", "", "POST", "/api/pull", "", "{}", 403, "FOREMAN_MANAGE"},
		{"FOREMAN_MANAGE", "true", "POST", "/api/pull", "", "{}", 200, "success"},
		{"FOREMAN_MAX_BODY", "1KiB", "POST", "/api/chat", "", strings.Repeat(" ", 1025), 413, "1024"},
	} {
		i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": newOllama(t).URL, tt.variable: tt.value})
		got := send(t, tt.method, i.URL+tt.path, tt.host, tt.body)
		if got.status != tt.status || !strings.Contains(got.body, tt.text) || got.err != nil {
			t.Errorf("%s=%s: %s %s at %s: got %v; want %d and %q", tt.variable, tt.value, tt.method, tt.path, tt.host, got, tt.status, tt.text)
		}
	}
}

func TestVariablesOfTheLine(t *testing.T) {
	for _, tt := range []struct{ variable, value, want string }{
		{"FOREMAN_MAX_QUEUE", "0", "{\"error\":\"too many chats are waiting\"}\n"},
		{"FOREMAN_QUEUE_TIMEOUT", "1ms", "{\"error\":\"waited too long for a turn\"}\n"},
	} {
		o := newOllama(t)
		i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, tt.variable: tt.value})
		_, running := chat(t, i.URL, "chat")
		at := receive(t, o.said)
		_, second := chat(t, i.URL, "chat")
		if got, want := receive(t, second), (answer{503, tt.want, nil}); got != want {
			t.Errorf("%s=%s: got %v; want %v", tt.variable, tt.value, got, want)
		}
		close(at.finish)
		receive(t, running)
	}
}

func TestAffinity(t *testing.T) {
	for value, want := range map[string][]string{"0": {"embed", "chat"}, "1h": {"chat", "embed"}} {
		o := newOllama(t)
		i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_AFFINITY": value})
		_, first := chat(t, i.URL, "chat")
		at := receive(t, o.said)
		_, second := chat(t, i.URL, "embed")
		awaitWaiting(t, i.URL, 1)
		_, third := chat(t, i.URL, "chat")
		awaitWaiting(t, i.URL, 2)
		var got []string
		for range 2 {
			close(at.finish)
			at = receive(t, o.said)
			got = append(got, at.model)
		}
		close(at.finish)
		receive(t, first)
		receive(t, second)
		receive(t, third)
		if !slices.Equal(got, want) {
			t.Errorf("FOREMAN_AFFINITY=%s: got turns of %v; want %v", value, got, want)
		}
	}
}

func TestPollInterval(t *testing.T) {
	o := newOllama(t)
	start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_POLL_INTERVAL": "100ms"})
	for range 3 {
		receive(t, o.polled)
	}
}

func TestStallTimeout(t *testing.T) {
	o := newOllama(t)
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_STALL_TIMEOUT": "1s"})
	_, running := chat(t, i.URL, "chat")
	if got := receive(t, running); got.err != io.ErrUnexpectedEOF {
		t.Errorf("got %v; want it cut", got)
	}
}

// What the target answered last is known while it is away.
func TestAnswersAreKept(t *testing.T) {
	o := newOllama(t)
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_POLL_INTERVAL": "100ms"})
	i.log.await(t, `msg="target ready"`, i.ended)
	for range 3 { // the first poll is over with all that belongs to it
		receive(t, o.polled)
	}
	o.stop()
	i.log.await(t, `msg="target degraded"`, i.ended)
	for path, want := range map[string]string{"/api/version": `{"version":""}`, "/api/tags": `"chat:latest"`} {
		if got := send(t, "GET", i.URL+path, "", ""); got.status != 200 || !strings.Contains(got.body, want) {
			t.Errorf("%s: got %v; want 200 and %s", path, got, want)
		}
	}
}

func TestDrain(t *testing.T) {
	o := newOllama(t)
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_DRAIN_TIMEOUT": "1h"})
	began, running := chat(t, i.URL, "chat")
	at := receive(t, o.said)
	receive(t, began)
	var queued []<-chan answer
	for range 5 {
		_, ended := chat(t, i.URL, "chat")
		queued = append(queued, ended)
	}
	awaitWaiting(t, i.URL, len(queued))

	i.signal()
	for _, ended := range queued { // while the one runs on
		if got, want := receive(t, ended), (answer{503, "{\"error\":\"foreman is shutting down\"}\n", nil}); got != want {
			t.Errorf("queued: got %v; want %v", got, want)
		}
	}
	i.log.await(t, `msg="shutting down" waiting_chats_turned_away=5 chat_running=true drain_timeout=1h0m0s\n`, i.ended)
	select {
	case <-i.ended:
		t.Error("ended before the running chat")
	case got := <-running:
		t.Errorf("running: got %v before its end", got)
	default:
	}
	close(at.finish)
	if got, want := receive(t, running), (answer{200, "{\"done\":false}\n{\"done\":true}\n", nil}); got != want {
		t.Errorf("running: got %v; want %v", got, want)
	}
	receive(t, i.ended)
	if i.err != nil {
		t.Errorf("run: %v", i.err)
	}
	if len(o.said) > 0 {
		t.Error("a queued chat has reached the target")
	}
}

func TestDrainTimeout(t *testing.T) {
	for _, limit := range []string{"0", "1ms"} {
		o := newOllama(t)
		i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_DRAIN_TIMEOUT": limit})
		began, running := chat(t, i.URL, "chat")
		at := receive(t, o.said)
		receive(t, began)
		i.signal()
		if got, want := receive(t, running), (answer{200, "{\"done\":false}\n", io.ErrUnexpectedEOF}); got != want {
			t.Errorf("%s: got %v; want %v", limit, got, want)
		}
		receive(t, at.left) // the target is told, too
		receive(t, i.ended)
		if i.err != nil {
			t.Errorf("%s: run: %v", limit, i.err)
		}
		i.log.await(t, `level=WARN msg="drain timeout: cutting what still runs"\n`, nil)
		i.log.await(t, `msg=request [^\n]* cut=true err="shutting down"\n`, nil)
	}
}

// A client that reads nothing does not hold up the end, although foreman may be
// in the middle of writing to it.
func TestDrainTimeoutOfADeafClient(t *testing.T) {
	o := newOllama(t)
	o.flood = true
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL, "FOREMAN_DRAIN_TIMEOUT": "0"})
	conn, err := net.Dial("tcp", i.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/chat HTTP/1.1\r\nHost: %s\r\nContent-Length: 16\r\n\r\n{\"model\":\"chat\"}", i.addr)
	at := receive(t, o.said)
	i.signal()
	receive(t, i.ended)
	if i.err != nil {
		t.Errorf("run: %v", i.err)
	}
	receive(t, at.left)
}

// A byte behind a request keeps net/http from noticing that its client leaves.
// foreman notices as soon as it writes.
func TestClientLeavesUnnoticed(t *testing.T) {
	o := newOllama(t)
	o.flood = true
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": o.URL})
	conn, err := net.Dial("tcp", i.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/chat HTTP/1.1\r\nHost: %s\r\nContent-Length: 16\r\n\r\n{\"model\":\"chat\"}", i.addr)
	at := receive(t, o.said)
	fmt.Fprint(conn, "\r\n")
	conn.Close()
	receive(t, at.left)
	i.log.await(t, `msg=request method=POST route=/api/chat status=499 `, i.ended)
}

func TestCheckHealth(t *testing.T) {
	check := func(addr string) error {
		return checkHealth(t.Context(), func(name string) string { return map[string]string{"FOREMAN_ADDR": addr}[name] })
	}
	i := start(t, map[string]string{"FOREMAN_OLLAMA_URL": newOllama(t).URL})
	_, port, err := net.SplitHostPort(i.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{i.addr, ":" + port, "0.0.0.0:" + port, "[::]:" + port, "localhost:" + port} {
		if err := check(addr); err != nil {
			t.Errorf("%s: got %v; want no error", addr, err)
		}
	}
	i.signal()
	receive(t, i.ended)
	if err := check(i.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("none runs: got %v; want %v", err, syscall.ECONNREFUSED)
	}

	// Degraded is alive.
	i = start(t, map[string]string{"FOREMAN_OLLAMA_URL": "http://" + i.addr})
	i.log.await(t, `msg="target degraded" reason=unreachable`, i.ended)
	if err := check(i.addr); err != nil {
		t.Errorf("degraded: got %v; want no error", err)
	}

	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if got, want := fmt.Sprint(check(other.Listener.Addr().String())), "/healthz answered 404 Not Found"; got != want {
		t.Errorf("another server: got %s; want %s", got, want)
	}
	if err := check("127.0.0.1:0"); err == nil {
		t.Error("port 0: got no error")
	}
}

func TestIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true,
		"[::]:80": false, "0.0.0.0:80": false, "192.0.2.1:80": false, "foreman.sock": false,
	} {
		if got := isLoopback(addrString(addr)); got != want {
			t.Errorf("%s: got %t; want %t", addr, got, want)
		}
	}
}

type addrString string

func (addrString) Network() string  { return "tcp" }
func (a addrString) String() string { return string(a) }

const badConfiguration = `FOREMAN_ADDR="nowhere": expected HOST:PORT or :PORT
FOREMAN_TOKEN="(set)": expected visible ASCII characters and no space
FOREMAN_MANAGE="perhaps": expected true or false
`

// TestBinary is what a process of its own shows.
func TestBinary(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "foreman")
	if _, err := os.ReadFile("main.go"); err != nil { // or a test result is kept although func main has changed
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	command := func(args []string, variables ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = slices.Concat([]string{"FOREMAN_ADDR=127.0.0.1:0"}, variables)
		return cmd
	}
	// A process is a foreman that serves.
	serve := func(t *testing.T, variables ...string) (cmd *exec.Cmd, url string, log *record, ended <-chan struct{}) {
		t.Helper()
		cmd, log = command(nil, variables...), newRecord()
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waited := make(chan struct{})
		go func() { defer close(waited); cmd.Wait() }()
		t.Cleanup(func() { cmd.Process.Kill(); <-waited })
		return cmd, "http://" + log.await(t, listening, waited), log, waited
	}

	// A full queue must not lock out those who ask if foreman is alive: an orchestrator
	// would restart it.
	t.Run("few descriptors", func(t *testing.T) {
		target := newOllama(t)
		few := command(nil, "FOREMAN_OLLAMA_URL="+target.URL)
		few.Path, few.Args = "/bin/sh", []string{"sh", "-c", `ulimit -n 1024 && exec "$0"`, binary}
		log := newRecord()
		few.Stderr = log
		if err := few.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); few.Wait() }()
		t.Cleanup(func() { few.Process.Kill(); <-ended })
		addr := strings.TrimPrefix(log.await(t, listening, ended), "http://")
		const chat = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n" + `{"model":"chat"}`
		for range 513 { // one has its turn, FOREMAN_MAX_QUEUE wait
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, chat)
		}
		health := ""
		for late := time.Now().Add(limit); !strings.Contains(health, `"waiting":512`); {
			if time.Now().After(late) {
				t.Fatalf("/healthz: %s; want 512 waiting", health)
			}
			resp, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + addr + "/healthz")
			if err != nil {
				t.Fatalf("/healthz: %v", err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			health = string(b)
		}
		if out, err := command([]string{"-healthcheck"}, "FOREMAN_ADDR="+addr).CombinedOutput(); err != nil {
			t.Errorf("-healthcheck: %v, %s; want exit status 0", err, out)
		}
	})

	t.Run("status and output", func(t *testing.T) {
		none := "FOREMAN_ADDR=127.0.0.1:1"
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		for _, tt := range []struct {
			args           []string
			variables      []string
			status         int
			stdout, stderr string // patterns of the whole
		}{
			{nil, []string{"FOREMAN_ADDR=nowhere", "FOREMAN_MANAGE=perhaps", "FOREMAN_TOKEN=hunter 2"}, 2, "", regexp.QuoteMeta(badConfiguration)},
			{nil, []string{"FOREMAN_TOKENS_FILE=main.go"}, 2, "", `(?s).*\nFOREMAN_TOKENS_FILE: main.go:1: expected a name and a token, (?s:.*)\nmain.go: and \d+ problems more\n`},
			{[]string{"-version"}, nil, 0, `foreman \S+\n`, ""},
			{[]string{"-version"}, []string{"FOREMAN_ADDR=nowhere"}, 0, `foreman \S+\n`, ""},
			{[]string{"-h"}, []string{"FOREMAN_TOKEN=hunter2"}, 0, `usage: foreman \[-h \| -version \| -healthcheck\]\n[^U]+\nVARIABLE +IN FORCE +DEFAULT\nFOREMAN_ADDR +127\.0\.0\.1:0 +:8080\n    address to listen on\n(?s:.*)\nFOREMAN_TOKEN +\(set\) +-\n(?s:.*)`, ""},
			{[]string{"-h"}, []string{"FOREMAN_ADDR=nowhere", "FOREMAN_TOKN=hunter2"}, 0, `usage: foreman (?s:.*)\n
Not usable, so that foreman does not start:
    FOREMAN_ADDR="nowhere": expected HOST:PORT or :PORT

Unknown to foreman, .*
    FOREMAN_TOKN
`, ""},
			{[]string{"-x"}, nil, 2, "", `flag provided but not defined: -x; see foreman -h\n`},
			{[]string{"serve"}, nil, 2, "", `unexpected argument "serve": .*\n`},
			{[]string{"-healthcheck"}, []string{none}, 1, "", `no foreman answers at FOREMAN_ADDR: .*connection refused\n`},
			{[]string{"-healthcheck"}, []string{"FOREMAN_ADDR=nowhere"}, 2, "", `FOREMAN_ADDR="nowhere": .*\n`},
			{nil, []string{"FOREMAN_ADDR=" + ln.Addr().String(), "FOREMAN_EMBED_MODEL=embed"}, 1, "", `(?s).*\nFOREMAN_ADDR: listen tcp [^\n]*: address already in use\n`},
		} {
			var stdout, stderr bytes.Buffer
			cmd := command(tt.args, tt.variables...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if cmd.ProcessState == nil {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.status {
				t.Errorf("%q %q: got exit status %d; want %d", tt.args, tt.variables, got, tt.status)
			}
			for name, out := range map[string]struct{ got, want string }{"stdout": {stdout.String(), tt.stdout}, "stderr": {stderr.String(), tt.stderr}} {
				if !regexp.MustCompile(`\A(?:` + out.want + `)\z`).MatchString(out.got) {
					t.Errorf("%q %q: got on %s\n%s\nwant\n%s", tt.args, tt.variables, name, out.got, out.want)
				}
				if strings.Contains(out.got, "hunter") {
					t.Errorf("%q %q: the token is on %s\n%s", tt.args, tt.variables, name, out.got)
				}
			}
		}
	})

	t.Run("SIGTERM", func(t *testing.T) {
		cmd, url, _, ended := serve(t, "FOREMAN_OLLAMA_URL="+newOllama(t).URL)
		check := command([]string{"-healthcheck"}, "FOREMAN_ADDR="+strings.TrimPrefix(url, "http://"))
		if out, err := check.Output(); err != nil || !json.Valid(out) || !strings.Contains(string(out), `"status":`) {
			t.Errorf("-healthcheck: got %q, %v; want the state and exit status 0", out, err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		receive(t, ended)
		if got := cmd.ProcessState.String(); got != "exit status 0" {
			t.Errorf("got %s; want exit status 0", got)
		}
	})

	t.Run("SIGTERM twice", func(t *testing.T) {
		o := newOllama(t)
		cmd, url, log, ended := serve(t, "FOREMAN_OLLAMA_URL="+o.URL, "FOREMAN_DRAIN_TIMEOUT=1h")
		began, running := chat(t, url, "chat")
		at := receive(t, o.said)
		receive(t, began)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		log.await(t, `msg="shutting down" .* chat_running=true `, ended)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(limit):
			t.Fatalf("still alive after the second signal; its log:\n%s", log)
		}
		if got, want := cmd.ProcessState.String(), "signal: terminated"; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
		if got := receive(t, running); got.err == nil {
			t.Errorf("running: got %v; want it cut", got)
		}
		receive(t, at.left)
	})
}

// TestTableOfFaults: each test that the table of faults names exists. Whoever
// renames one is told so here.
func TestTableOfFaults(t *testing.T) {
	const readme = "testdata/e2e/README.md"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| fault | what happens | test |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	exists := testFunctions(t)
	names, rows := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]*)`"), 0
	for row := range strings.Lines(table) {
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		named := names.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 3 || named == nil {
			t.Errorf("%s: no fault with what happens and a test: %s", readme, row)
		}
		for _, name := range named {
			if !exists[name[1]] {
				t.Errorf("%s: there is no %s: %s", readme, name[1], row)
			}
		}
	}
	if rows < 20 {
		t.Errorf("%s: found %d rows of the table of faults; want the whole of it", readme, rows)
	}
}

// testFunctions returns the names of all tests and fuzz tests of foreman.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	read := func(file string) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				names[f.Name.Name] = true
			}
		}
	}
	read("main_test.go")
	for _, dir := range []string{"config", "gate", "inventory", "proxy", "warm", "testdata/e2e"} {
		err := filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(file, "_test.go") {
				read(file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}
