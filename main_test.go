package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
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
	for pattern, body := range map[string]string{
		"GET /api/ps":     `{"models":[{"name":"embed:latest"}]}`, // for how long it does not say
		"POST /api/pull":  `{"status":"success"}`,
		"POST /api/embed": `{"embeddings":[[0.5]]}`,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) })
	}
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"version":%q}`, r.Header.Get("Authorization"))
	})
	mux.HandleFunc("OPTIONS /", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }) // it is stopped, to them
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
	signal context.CancelFunc // does what the first signal does
	ended  chan struct{}
	err    error // of run, once ended is closed
}

// getenv reads variables, each NAME=VALUE. The first one of a name counts.
func getenv(variables ...string) func(name string) string {
	return func(name string) string {
		for _, v := range variables {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

// start runs foreman in front of url, with these variables besides, until the test
// ends at the latest.
func start(t *testing.T, url string, variables ...string) *instance {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{log: newRecord(), signal: cancel, ended: make(chan struct{})}
	go func() {
		defer close(i.ended)
		environ := []string{"FOREMAN_TOKN=x", "HOME=/"}
		i.err = run(ctx, getenv(append(variables, "FOREMAN_ADDR=127.0.0.1:0", "FOREMAN_OLLAMA_URL="+url)...), environ, i.log)
	}()
	t.Cleanup(func() { i.end(t) })
	i.addr = i.log.await(t, listening, i.ended)
	i.URL = "http://" + i.addr
	return i
}

// end ends foreman, if it has not ended yet, and fails the test unless it ends well.
func (i *instance) end(t *testing.T) {
	t.Helper()
	i.signal()
	select {
	case <-i.ended:
		if i.err != nil {
			t.Errorf("run: %v", i.err)
		}
	case <-time.After(limit):
		t.Fatalf("foreman does not end; its log:\n%s", i.log)
	}
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

// whole is the answer to a chat that came to its end.
var whole = answer{200, "{\"done\":false}\n{\"done\":true}\n", nil}

// chat asks url for a chat and tells when its header has come and when all has.
func chat(t *testing.T, url, model string) (began <-chan struct{}, ended <-chan answer) {
	header, all := make(chan struct{}), make(chan answer, 1)
	c := client(t)
	go func() {
		resp, err := c.Post(url+"/api/chat", "application/json", strings.NewReader(`{"model":"`+model+`"}`))
		if err != nil {
			all <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		close(header)
		body, err := io.ReadAll(resp.Body)
		all <- answer{resp.StatusCode, string(body), err}
	}()
	return header, all
}

// running asks url for a chat, which has begun at the target and at its client.
func running(t *testing.T, o *ollama, url string) (at *said, ended <-chan answer) {
	t.Helper()
	began, ended := chat(t, url, "chat")
	at = receive(t, o.said)
	receive(t, began)
	return at, ended
}

// deaf sends addr a chat, and reads nothing of the answer.
func deaf(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn := open(t, addr)
	if _, err := io.WriteString(conn, "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n{\"model\":\"chat\"}"); err != nil {
		t.Fatal(err)
	}
	return conn
}

// send sends a request, whose Host may be chosen, and returns the answer.
func send(t *testing.T, method, url, host, body string) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	c := client(t)
	defer c.CloseIdleConnections()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(text), err}
}

// awaitAnswer asks for url until the answer has want in it.
func awaitAnswer(t *testing.T, url, want string) {
	t.Helper()
	for late := time.Now().Add(limit); ; {
		got := send(t, "GET", url, "", "")
		if strings.Contains(got.body, want) {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s: got %v; want %q in it", url, got, want)
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
	i := start(t, o.URL, "FOREMAN_EMBED_MODEL=embed", "FOREMAN_OLLAMA_TOKEN=hunter2")
	i.log.await(t, `msg="target ready" models=2\n`, i.ended)
	i.log.await(t, `msg="embedder warmed" model=embed`, i.ended)
	for _, want := range []string{
		`foreman_polls_total{result="ok"} 1`, `foreman_warms_total{result="ok"} 1`, "foreman_embedder_resident 1",
	} {
		awaitAnswer(t, i.URL+"/metrics", "\n"+want+"\n")
	}
	models, err := os.ReadFile("testdata/tags.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := send(t, "GET", i.URL+"/api/tags", "", ""), (answer{200, string(models), nil}); got != want {
		t.Errorf("got models %v; want %v", got, want)
	}
	at, ended := running(t, o, i.URL)
	close(at.finish)
	if got := receive(t, ended); got != whole {
		t.Errorf("got chat %v; want %v", got, whole)
	}
	i.end(t)
	log := i.log.String()
	for _, want := range []string{
		"level=INFO msg=starting version=", " commit=", " config.addr=127.0.0.1:0 config.ollama_url=" + o.URL + " config.ollama_token=(set) config.embed_model=embed ",
		"level=WARN msg=\"variable unknown to foreman\" name=FOREMAN_TOKN\n",
		"level=INFO msg=drained\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("got log\n%s\nwant in it\n%s", log, want)
		}
	}
	for _, secret := range []string{"hunter2", "name=HOME"} { // HOME has nothing to do with foreman
		if strings.Contains(log, secret) {
			t.Errorf("got log\n%s\nwant no %q in it", log, secret)
		}
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
		env := getenv("FOREMAN_ADDR=127.0.0.1:0", "FOREMAN_OLLAMA_URL="+newOllama(t).URL, "FOREMAN_LOG_FORMAT="+tt.format, "FOREMAN_LOG_LEVEL="+tt.level)
		if err := run(ctx, env, nil, log); err != nil {
			t.Errorf("%s, %s: %v", tt.format, tt.level, err)
		}
		if got := log.String(); !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s, %s: got log %q; want %q in it", tt.format, tt.level, got, tt.want)
		}
	}
}

// What a host sends too much of is in no log, and of what it sends wrong only so much.
func TestHostsBytesInTheLog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			go func() {
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				switch {
				case err != nil:
				case r.URL.Path == "/api/status":
					io.WriteString(c, "HTTP/1.1 200 OK\r\n"+strings.Repeat("nonsense ", 100_000)+"\r\n\r\n")
				default:
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"models\":[]}s3cret words")
					io.Copy(io.Discard, c)
				}
			}()
		}
	}()
	i := start(t, "http://"+ln.Addr().String())
	send(t, "GET", i.URL+"/api/ps", "", "")
	i.log.await(t, `level=WARN msg="said by net/http" err="Unsolicited response received on idle HTTP channel starting with"\n`, i.ended)
	send(t, "GET", i.URL+"/api/status", "", "")
	i.log.await(t, `status=502.*malformed MIME header`, i.ended)
	for line := range strings.Lines(i.log.String()) {
		if strings.Contains(line, "s3cret") || len(line) > 2000 {
			t.Errorf("a line of %d bytes in the log, with a host's words: %t: %.200s", len(line), strings.Contains(line, "s3cret"), line)
		}
	}
}

// Two foremen that are each other's target say so.
func TestTwoForemenInACircle(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	one := start(t, "http://"+addr, "FOREMAN_POLL_INTERVAL=100ms")
	other := start(t, one.URL, "FOREMAN_ADDR="+addr, "FOREMAN_POLL_INTERVAL=100ms")
	for _, i := range []*instance{one, other} {
		i.log.await(t, `msg="target degraded".*FOREMAN_OLLAMA_URL points back at it`, i.ended)
	}
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
		{"FOREMAN_QUIET", time.Now().Add(-time.Hour).Format("15:04-") + time.Now().Add(time.Hour).Format("15:04"), "POST", "/api/embed", "", "{}", 503, "paused until"},
		{"FOREMAN_MAX_BODY", "1KiB", "POST", "/api/chat", "", strings.Repeat(" ", 1025), 413, "1024"},
	} {
		i := start(t, newOllama(t).URL, tt.variable+"="+tt.value)
		got := send(t, tt.method, i.URL+tt.path, tt.host, tt.body)
		if got.status != tt.status || !strings.Contains(got.body, tt.text) || got.err != nil {
			t.Errorf("%s=%s: %s %s at %s: got %v; want %d and %q", tt.variable, tt.value, tt.method, tt.path, tt.host, got, tt.status, tt.text)
		}
	}
}

// The first chat has its turn at once: what it costs to take is no wait, however short
// a wait may be.
func TestVariablesOfTheLine(t *testing.T) {
	for variable, want := range map[string]string{
		"FOREMAN_MAX_QUEUE=0":       "{\"error\":\"too many chats are waiting\"}\n",
		"FOREMAN_QUEUE_TIMEOUT=1ns": "{\"error\":\"waited too long for a turn\"}\n",
	} {
		o := newOllama(t)
		i := start(t, o.URL, variable)
		at, first := running(t, o, i.URL)
		_, second := chat(t, i.URL, "chat")
		if got, want := receive(t, second), (answer{503, want, nil}); got != want {
			t.Errorf("%s: got %v; want %v", variable, got, want)
		}
		close(at.finish)
		receive(t, first)
	}
}

func TestAffinity(t *testing.T) {
	for variable, want := range map[string][]string{"FOREMAN_AFFINITY=0": {"embed", "chat"}, "FOREMAN_AFFINITY=1h": {"chat", "embed"}, "FOREMAN_AFFINITY=auto": {"chat", "embed"}} {
		o := newOllama(t)
		i := start(t, o.URL, variable)
		at, first := running(t, o, i.URL)
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
		for _, ended := range []<-chan answer{first, second, third} {
			receive(t, ended)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got turns of %v; want %v", variable, got, want)
		}
	}
}

func TestVariablesThatEndAnAnswer(t *testing.T) {
	for variable, logged := range map[string]string{
		"FOREMAN_STALL_TIMEOUT=1s": "said nothing for too long",
		"FOREMAN_MAX_TURN=1s":      "took longer than FOREMAN_MAX_TURN",
	} {
		o := newOllama(t)
		i := start(t, o.URL, variable)
		_, ended := running(t, o, i.URL)
		if got := receive(t, ended); got.err != io.ErrUnexpectedEOF {
			t.Errorf("%s: got %v; want it cut", variable, got)
		}
		i.log.await(t, logged, i.ended)
	}
}

// What the target answered last is known while it is away.
func TestAnswersAreKept(t *testing.T) {
	o := newOllama(t)
	i := start(t, o.URL, "FOREMAN_POLL_INTERVAL=100ms")
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
	i := start(t, o.URL, "FOREMAN_DRAIN_TIMEOUT=1h")
	at, first := running(t, o, i.URL)
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
	case got := <-first:
		t.Errorf("running: got %v before its end", got)
	default:
	}
	close(at.finish)
	if got := receive(t, first); got != whole {
		t.Errorf("running: got %v; want %v", got, whole)
	}
	i.end(t)
	if len(o.said) > 0 {
		t.Error("a queued chat has reached the target")
	}
}

// A pause keeps nobody from the end, and does not outlive it.
func TestDrainWhilePaused(t *testing.T) {
	o := newOllama(t)
	i := start(t, o.URL, "FOREMAN_DRAIN_TIMEOUT=1h")
	pause := func(url, form string) {
		t.Helper()
		if got := send(t, "POST", url+"/status", "", form); got.status != http.StatusOK { // after 303, the page
			t.Fatalf("%s: got %v; want the page", form, got)
		}
	}
	pause(i.URL, "pause=on")
	_, queued := chat(t, i.URL, "chat")
	awaitWaiting(t, i.URL, 1)
	i.signal()
	if got, want := receive(t, queued), (answer{503, "{\"error\":\"foreman is shutting down\"}\n", nil}); got != want {
		t.Errorf("queued: got %v; want %v", got, want)
	}
	i.log.await(t, `msg="shutting down" waiting_chats_turned_away=1 chat_running=false drain_timeout=1h0m0s\n`, i.ended)
	i.end(t)
	at, first := running(t, o, start(t, o.URL).URL)
	close(at.finish)
	receive(t, first)
}

// While a load balancer asks for /readyz, foreman goes on listening: whoever opens a
// connection gets an answer on it.
func TestDrainListens(t *testing.T) {
	o := newOllama(t)
	i := start(t, o.URL, "FOREMAN_DRAIN_TIMEOUT=2s") // else 3 s
	awaitAnswer(t, i.URL+"/readyz", `"status":"ok"`)
	asked, stop := make(chan answer), make(chan struct{})
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: limit}
	ask := func() (a answer) {
		resp, err := c.Get(i.URL + "/api/ps")
		if err != nil {
			return answer{err: err}
		}
		defer resp.Body.Close()
		a.status = resp.StatusCode
		_, a.err = io.Copy(io.Discard, resp.Body)
		return a
	}
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case asked <- ask():
				case <-stop:
					return
				}
			}
		})
	}
	if got := receive(t, asked); got != (answer{status: 200}) {
		t.Errorf("before: got %v; want 200", got)
	}
	i.signal()
	for {
		got := receive(t, asked)
		if got == (answer{status: 503}) {
			break
		}
		if got != (answer{status: 200}) {
			t.Errorf("got %v; want 200, and 503 from the signal on", got)
			break
		}
	}
	if got := send(t, "GET", i.URL+"/readyz", "", ""); got.status != 503 || !strings.Contains(got.body, `"status":"shutting down"`) {
		t.Errorf("/readyz: got %v; want 503", got)
	}
	close(stop)
	asking.Wait()
	i.end(t)
}

func TestDrainTimeout(t *testing.T) {
	for _, variable := range []string{"FOREMAN_DRAIN_TIMEOUT=0", "FOREMAN_DRAIN_TIMEOUT=1ms"} {
		o := newOllama(t)
		i := start(t, o.URL, variable)
		at, ended := running(t, o, i.URL)
		i.signal()
		if got, want := receive(t, ended), (answer{200, "{\"done\":false}\n", io.ErrUnexpectedEOF}); got != want {
			t.Errorf("%s: got %v; want %v", variable, got, want)
		}
		receive(t, at.left) // the target is told, too
		i.end(t)
		i.log.await(t, `level=WARN msg="drain timeout: cutting what still runs"\n`, nil)
		i.log.await(t, `msg=request [^\n]* cut=true err="foreman is shutting down"\n`, nil)
	}
}

// A client that reads nothing does not hold up the end, although foreman may be
// in the middle of writing to it.
func TestDrainTimeoutOfADeafClient(t *testing.T) {
	o := newOllama(t)
	o.flood = true
	i := start(t, o.URL, "FOREMAN_DRAIN_TIMEOUT=0")
	deaf(t, i.addr)
	at := receive(t, o.said)
	i.end(t)
	receive(t, at.left)
}

// A byte behind a request keeps net/http from noticing that its client leaves.
// foreman notices as soon as it writes.
func TestClientLeavesUnnoticed(t *testing.T) {
	o := newOllama(t)
	o.flood = true
	i := start(t, o.URL)
	conn := deaf(t, i.addr)
	at := receive(t, o.said)
	fmt.Fprint(conn, "\r\n")
	conn.Close()
	receive(t, at.left)
	i.log.await(t, `msg=request method=POST route=/api/chat status=499 `, i.ended)
}

func TestCheckHealth(t *testing.T) {
	check := func(addr string) error {
		return checkHealth(t.Context(), getenv("FOREMAN_ADDR="+addr))
	}
	i := start(t, newOllama(t).URL)
	_, port, err := net.SplitHostPort(i.addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{i.addr, ":" + port, "0.0.0.0:" + port, "[::]:" + port, "localhost:" + port} {
		if err := check(addr); err != nil {
			t.Errorf("%s: got %v; want no error", addr, err)
		}
	}
	i.end(t)
	if err := check(i.addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("none runs: got %v; want %v", err, syscall.ECONNREFUSED)
	}

	// Degraded is alive.
	i = start(t, i.URL)
	i.log.await(t, `msg="target degraded" reason=unreachable`, i.ended)
	if err := check(i.addr); err != nil {
		t.Errorf("degraded: got %v; want no error", err)
	}

	const zoned = "[::1%lo]:0"
	if ln, err := net.Listen("tcp", zoned); err != nil {
		t.Logf("no address with a zone to try: %v", err)
	} else {
		ln.Close()
		i = start(t, i.URL, "FOREMAN_ADDR="+zoned)
		_, port, _ := net.SplitHostPort(i.addr)
		if err := check("[::1%lo]:" + port); err != nil {
			t.Errorf("with a zone: got %v; want no error", err)
		}
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
		if got := isLoopback(&net.UnixAddr{Name: addr}); got != want { // its String is the name
			t.Errorf("%s: got %t; want %t", addr, got, want)
		}
	}
}

func TestBuiltFrom(t *testing.T) {
	recorded := func(settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: settings}
	}
	abc, clean, dirty := debug.BuildSetting{Key: "vcs.revision", Value: "abc"}, debug.BuildSetting{Key: "vcs.modified", Value: "false"}, debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for _, tt := range []struct {
		release, revision string
		info              *debug.BuildInfo
		version, commit   string
	}{
		{"", "", new(debug.BuildInfo), "unknown", "unknown"},
		{"", "", recorded(), "v1.2.3", "unknown"},
		{"", "", recorded(abc, clean), "v1.2.3", "abc"},
		{"", "", recorded(abc, dirty), "v1.2.3", "abc-dirty"},
		{"v4", "def", new(debug.BuildInfo), "v4", "def"},
		{"v4", "def", recorded(abc, dirty), "v4", "def"},
		{"v4", "", recorded(abc, dirty), "v4", "abc-dirty"},
		{"", "def", recorded(abc, clean), "v1.2.3", "def"},
	} {
		version, commit := builtFrom(tt.release, tt.revision, tt.info)
		if version != tt.version || commit != tt.commit {
			t.Errorf("release %q, revision %q, recorded %v: got %s, %s; want %s, %s", tt.release, tt.revision, tt.info, version, commit, tt.version, tt.commit)
		}
	}
}

const badConfiguration = `FOREMAN_ADDR="nowhere": expected HOST:PORT or :PORT
FOREMAN_TOKEN="(set)": expected visible ASCII characters and no space
FOREMAN_MANAGE="perhaps": expected true or false
`

// newCommand builds foreman, and returns what makes commands of it.
func newCommand(t *testing.T) func(args []string, variables ...string) *exec.Cmd {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "foreman")
	if _, err := os.ReadFile("main.go"); err != nil { // or a test result is kept although func main has changed
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return func(args []string, variables ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Env = slices.Concat([]string{"FOREMAN_ADDR=127.0.0.1:0"}, variables)
		return cmd
	}
}

// withDescriptors has a command start with so many descriptors.
func withDescriptors(cmd *exec.Cmd, n int) *exec.Cmd {
	cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0"`, n), cmd.Path}
	return cmd
}

// serve starts a foreman, which serves at addr.
func serve(t *testing.T, cmd *exec.Cmd) (addr string, log *record, ended <-chan struct{}) {
	t.Helper()
	log = newRecord()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { defer close(waited); cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-waited })
	return log.await(t, listening, waited), log, waited
}

func terminate(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// TestBinary is what a process of its own shows.
func TestBinary(t *testing.T) {
	command := newCommand(t)

	// A full queue must not lock out those who ask if foreman is alive: an orchestrator
	// would restart it.
	t.Run("few descriptors, and SIGTERM", func(t *testing.T) {
		cmd := withDescriptors(command(nil, "FOREMAN_OLLAMA_URL="+newOllama(t).URL, "FOREMAN_DRAIN_TIMEOUT=0"), 1024)
		addr, _, ended := serve(t, cmd)
		for range 513 { // one has its turn, FOREMAN_MAX_QUEUE wait
			deaf(t, addr)
		}
		awaitWaiting(t, "http://"+addr, 512)
		out, err := command([]string{"-healthcheck"}, "FOREMAN_ADDR="+addr).Output()
		if err != nil || !json.Valid(out) || !strings.Contains(string(out), `"status":`) {
			t.Errorf("-healthcheck: got %q, %v; want the state and exit status 0", out, err)
		}
		terminate(t, cmd)
		receive(t, ended)
		if got := cmd.ProcessState.String(); got != "exit status 0" {
			t.Errorf("got %s; want exit status 0", got)
		}
	})

	t.Run("status and output", func(t *testing.T) {
		none := "FOREMAN_ADDR=127.0.0.1:1"
		version := `foreman \S+ \(commit (?:unknown|[0-9a-f]{40}(?:-dirty)?), ` + regexp.QuoteMeta(fmt.Sprintf("%s, %s/%s)\n", runtime.Version(), runtime.GOOS, runtime.GOARCH))
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
			{nil, []string{"FOREMAN_TOKENS_FILE=main.go"}, 2, "", `(?s).*\nFOREMAN_TOKENS_FILE: main.go:1: expected the token of // to have (?s:.*)\nmain.go: and \d+ problems more\n`},
			{[]string{"-version"}, nil, 0, version, ""},
			{[]string{"-version"}, []string{"FOREMAN_ADDR=nowhere"}, 0, version, ""},
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
			{nil, []string{"FOREMAN_ADDR=192.0.2.1:0"}, 2, "", `(?s).*\nFOREMAN_ADDR: listen tcp [^\n]*\n`}, // nobody's: RFC 5737
			{nil, []string{"FOREMAN_ADDR=[fe80::1]:0"}, 2, "", `(?s).*\nFOREMAN_ADDR: listen tcp [^\n]*\n`}, // of which network it does not say
			{nil, []string{"FOREMAN_ADDR=256.0.0.1:80"}, 2, "", `FOREMAN_ADDR="256.0.0.1:80": expected HOST:PORT or :PORT; the host must be an IP address or a name\n`},
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

	t.Run("SIGTERM twice", func(t *testing.T) {
		o := newOllama(t)
		cmd := command(nil, "FOREMAN_OLLAMA_URL="+o.URL, "FOREMAN_DRAIN_TIMEOUT=1h")
		addr, log, ended := serve(t, cmd)
		at, cut := running(t, o, "http://"+addr)
		terminate(t, cmd)
		log.await(t, `msg="shutting down" .* chat_running=true `, ended)
		terminate(t, cmd)
		receive(t, ended)
		if got, want := cmd.ProcessState.String(), "signal: terminated"; got != want {
			t.Errorf("got %s; want %s", got, want)
		}
		if got := receive(t, cut); got.err == nil {
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
	names, function := map[string]bool{}, regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		for _, m := range function.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

const tokenOfAnn, tokenOfBob = "ann-has-a-token", "bob-has-a-token"

// attacks are what somebody without a token does with a connection. Each leaves it open.
var attacks = []struct {
	name  string
	times int // 0: more than there are descriptors
	text  string
}{
	{"silent", 0, ""},
	{"half a header", 0, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\nX-"},
	{"large header", 300, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n" + tinyFields()},
	{"401", 0, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"/healthz", 0, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"unsent body", 0, "POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"},
	{"unsent chunks", 0, "POST PATH HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"OPTIONS *", 0, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"},
	{"preflight", 0, "OPTIONS /api/show HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"}, // which the host does not answer
	{"preflight and more", 0, "OPTIONS /api/show HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\nG"},
}

// tinyFields are the fields that cost most memory: 16 KiB of them.
func tinyFields() string {
	var b strings.Builder
	for i := 0; b.Len() < 16<<10; i++ {
		fmt.Fprintf(&b, "%s:\r\n", strconv.FormatInt(int64(i), 36))
	}
	return b.String()
}

var attackedPaths = []string{
	"/", "/api/chat", "/v1/messages", "/v1/audio/transcriptions", "/api/embed", "/api/tags", "/api/ps", "/api/show", "/v1/models/x",
	"/api/pull", "/api/blobs/x", "/api/chat/", "/healthz", "/readyz", "/metrics", "/status", "/unknown", "/api%2Fchat",
}

// TestFaultCrowdWithoutAToken: whoever has no token costs nothing those who have one,
// with few descriptors and the memory of testdata/deploy/kubernetes.yaml.
func TestFaultCrowdWithoutAToken(t *testing.T) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil || own.Cur < 16000 {
		leave := t.Skipf
		if os.Getenv("CI") == "true" {
			leave = t.Fatalf
		}
		leave("the test itself needs 16,000 descriptors; it may have %d", own.Cur)
	}
	command := newCommand(t)
	for _, descriptors := range []int{1024, 256} {
		t.Run(fmt.Sprint(descriptors), func(t *testing.T) {
			t.Parallel() // it waits for places
			o := newOllama(t)
			file := filepath.Join(t.TempDir(), "tokens")
			writeTokens := func(lines ...string) {
				t.Helper()
				if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(file+".new", file); err != nil {
					t.Fatal(err)
				}
			}
			writeTokens("ann "+tokenOfAnn, "bob "+tokenOfBob)
			cmd := command(nil, "FOREMAN_OLLAMA_URL="+o.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_POLL_INTERVAL=1s", "GOMEMLIMIT=400MiB")
			addr, log, ended := serve(t, withDescriptors(cmd, descriptors))
			began := time.Now()
			if descriptors < 1000 {
				log.await(t, `msg="few file descriptors: [^\n]* descriptors=256 chats=123\n`, ended)
			}

			ann := open(t, addr)
			running := ann.ask(t, "POST", "/api/chat", tokenOfAnn, `{"model":"chat"}`)
			at := receive(t, o.said)
			bob := open(t, addr)
			waiting := make(chan string, 1)
			go func() { waiting <- bob.status(bob.ask(t, "POST", "/api/chat", tokenOfBob, `{"model":"chat"}`)) }()
			awaitWaiting(t, "http://"+addr, 1)
			kept := open(t, addr)
			kept.want(t, "POST", "/api/embed", tokenOfAnn, `{"model":"embed","input":"x"}`, "200")

			for _, attack := range attacks {
				for i := range cmp.Or(attack.times, descriptors+100) {
					text := strings.Replace(attack.text, "PATH", attackedPaths[i%len(attackedPaths)], 1)
					io.WriteString(open(t, addr), text) // it may be closed by now
				}
				before := time.Now()
				open(t, addr).want(t, "GET", "/healthz", "", "", "200")
				t.Logf("%s: /healthz after %v", attack.name, time.Since(before))
				kept.want(t, "POST", "/api/embed", tokenOfAnn, `{"model":"embed","input":"x"}`, "200")
				open(t, addr).want(t, "GET", "/api/ps", tokenOfBob, "", "200")
				select {
				case <-at.left:
					t.Fatalf("%s: the running chat is gone", attack.name)
				case got := <-waiting:
					t.Fatalf("%s: the waiting chat got %s", attack.name, got)
				default:
				}
			}

			writeTokens("ann " + tokenOfAnn)
			if got := receive(t, waiting); got != "401" {
				t.Errorf("the waiting chat, without its token: got %s; want 401", got)
			}
			if runtime.GOOS == "linux" {
				peak := peakMemory(t, cmd.Process.Pid)
				if t.Logf("peak of memory: %d MB", peak>>20); peak > 256<<20 { // half the limit there: bodies need the rest
					t.Error("want 256 MB at most")
				}
			}

			terminate(t, cmd)
			log.await(t, `msg="shutting down"`, ended)
			close(at.finish)
			if body, err := io.ReadAll(running.Body); string(body) != whole.body || err != nil {
				t.Errorf("the running chat: got %q, %v; want %q", body, err, whole.body)
			}
			receive(t, ended)
			if got := cmd.ProcessState.String(); got != "exit status 0" || !strings.Contains(log.String(), "msg=drained") {
				t.Errorf("got %s; want exit status 0 and all drained", got)
			}
			text := log.String()
			for _, never := range []string{"too many open files", "panic"} {
				if strings.Contains(text, never) {
					t.Errorf("got %q in the log", never)
				}
			}
			seconds := int(time.Since(began)/time.Second) + 1
			if got := strings.Count(text, " status=401 "); got > 10*(seconds+1) {
				t.Errorf("%d records of 401 in %d s; want ten a second at most", got, seconds)
			}
		})
	}
}

// TestFaultAllPlacesTaken: where those who were let in have taken all places, the next one
// is told so, and /healthz answers.
func TestFaultAllPlacesTaken(t *testing.T) {
	addr, _, _ := serve(t, withDescriptors(newCommand(t)(nil, "FOREMAN_OLLAMA_URL="+newOllama(t).URL), 64))
	for range 20 { // see conns.LimitsFor
		io.WriteString(open(t, addr), "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
	}
	awaitAnswer(t, "http://"+addr+"/api/ps", "too many clients are connected") // when they have been read
	open(t, addr).want(t, "GET", "/healthz", "", "", "200")
}

// peakMemory returns the most memory that a process has had, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("no peak of memory: %v", err)
	}
	kilobytes, _ := strconv.Atoi(string(m[1]))
	return kilobytes << 10
}

// A line is one connection to foreman.
type line struct {
	net.Conn
	in *bufio.Reader
}

func open(t *testing.T, addr string) *line {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * limit))
	return &line{conn, bufio.NewReader(conn)}
}

// ask sends a request and returns the answer's header, or nil if there was none.
func (l *line) ask(t *testing.T, method, path, token, body string) *http.Response {
	fmt.Fprintf(l, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", method, path, token, len(body), body)
	resp, err := http.ReadResponse(l.in, nil)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return nil
	}
	return resp
}

// status reads an answer to its end.
func (l *line) status(resp *http.Response) string {
	if resp == nil {
		return "none"
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err.Error()
	}
	return strconv.Itoa(resp.StatusCode)
}

func (l *line) want(t *testing.T, method, path, token, body, want string) {
	t.Helper()
	if got := l.status(l.ask(t, method, path, token, body)); got != want {
		t.Errorf("%s %s: got %s; want %s", method, path, got, want)
	}
}
