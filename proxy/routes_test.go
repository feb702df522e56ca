package proxy

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// TestRoutes asks for each path with each method and looks at what comes
// through to the target. The table is written out once more here, on purpose.
func TestRoutes(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	for _, test := range []struct{ path, passes, answers string }{
		{path: "/api/chat", passes: "POST OPTIONS"},
		{path: "/api/generate", passes: "POST OPTIONS"},
		{path: "/v1/chat/completions", passes: "POST OPTIONS"},
		{path: "/v1/completions", passes: "POST OPTIONS"},
		{path: "/v1/responses", passes: "POST OPTIONS"},
		{path: "/v1/responses/compact", passes: "POST OPTIONS"},
		{path: "/v1/messages", passes: "POST OPTIONS"},
		{path: "/v1/audio/transcriptions", passes: "POST OPTIONS"},
		{path: "/v1/images/generations", passes: "POST OPTIONS"},
		{path: "/v1/images/edits", passes: "POST OPTIONS"},

		{path: "/api/embed", passes: "POST OPTIONS"},
		{path: "/api/embeddings", passes: "POST OPTIONS"},
		{path: "/v1/embeddings", passes: "POST OPTIONS"},

		{path: "/api/tags", passes: "OPTIONS", answers: "GET HEAD"},

		{path: "/api/ps", passes: "GET OPTIONS"},
		{path: "/api/show", passes: "POST OPTIONS"},
		{path: "/api/status", passes: "GET OPTIONS"},
		{path: "/api/version", passes: "GET HEAD OPTIONS"},
		{path: "/v1/models", passes: "GET OPTIONS"},
		{path: "/v1/models/chat", passes: "GET OPTIONS"},
		{path: "/v1/models/hf.co/someone/model:Q4_K_M", passes: "GET OPTIONS"},

		{path: "/api/pull", passes: "POST OPTIONS"},
		{path: "/api/push", passes: "POST OPTIONS"},
		{path: "/api/create", passes: "POST OPTIONS"},
		{path: "/api/copy", passes: "POST OPTIONS"},
		{path: "/api/delete", passes: "DELETE OPTIONS"},
		{path: "/api/blobs/sha256:0123abcd", passes: "HEAD POST OPTIONS"},

		{path: "/", answers: "GET HEAD"},
		{path: "/healthz", answers: "GET HEAD"},
		{path: "/readyz", answers: "GET HEAD"},
		{path: "/metrics", answers: "GET HEAD"},
	} {
		passes, answers := strings.Fields(test.passes), strings.Fields(test.answers)
		allow := append(answers, slices.DeleteFunc(slices.Clone(passes), func(m string) bool { return m == "OPTIONS" })...)
		if slices.Contains(passes, "OPTIONS") {
			allow = append(allow, "OPTIONS")
		}
		for _, method := range append(methods, "TRACE", "PRI", "post", "X") {
			body, header := "", []string(nil)
			switch {
			case method == "POST" && test.path == "/v1/audio/transcriptions":
				body, header = form(formModel+"chat", audio), []string{"Content-Type", multipartForm}
			case method == "POST":
				body = chatBody
			}
			before := len(stub.seen())
			a := f.do(t, method, test.path, body, header...)
			var want []string
			if slices.Contains(passes, method) {
				want = []string{method + " " + test.path}
			}
			if got := stub.seen()[before:]; !slices.Equal(got, want) {
				t.Errorf("%s %s: at the target %q; want %q", method, test.path, got, want)
			}
			status := 405
			if slices.Contains(passes, method) || slices.Contains(answers, method) {
				status = 200
			}
			if a.status != status {
				t.Errorf("%s %s: %d %s; want %d", method, test.path, a.status, a.body, status)
			}
			if got, want := a.header.Get("Allow"), strings.Join(allow, ", "); status == 405 && got != want {
				t.Errorf("%s %s: Allow %q; want %q", method, test.path, got, want)
			}
		}
	}
	f.expectIdle(t)
}

// TestOneSlashTooMany: a path with a slash behind it leads to the path without, if that
// one has the method, and never to the target.
func TestOneSlashTooMany(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
	token := []string{"Authorization", "Bearer " + clientToken}
	for _, test := range []struct {
		method, uri, to string
		status          int
	}{
		{"GET", "/api/tags/", "/api/tags", 301},
		{"HEAD", "/api/tags/", "/api/tags", 307},
		{"GET", "/v1/models/", "/v1/models", 301},
		{"GET", "/v1/models/a/b:c/", "/v1/models/a/b:c", 301},
		{"GET", "/status/?x=1&y=%2F", "/status?x=1&y=%2F", 301},
		{"POST", "/api/chat/", "/api/chat", 307},
		{"POST", "/v1/chat/completions/?x", "/v1/chat/completions?x", 307},
		{"POST", "/api/embed/", "/api/embed", 307},
		{"DELETE", "/api/delete/", "/api/delete", 307},
		{"GET", "/api/chat/", "", 404},
		{"OPTIONS", "/api/chat/", "", 404},
	} {
		a := f.do(t, test.method, test.uri, "", token...)
		if got := a.header.Get("Location"); a.status != test.status || got != test.to {
			t.Errorf("%s %s: %d to %q; want %d to %q", test.method, test.uri, a.status, got, test.status, test.to)
		}
		if a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: no X-Request-Id", test.method, test.uri)
		}
	}
	if a := f.do(t, "GET", "/api/tags/", ""); a.status != 401 {
		t.Errorf("without a token: %d; want 401", a.status)
	}
	// A body that does not come is not waited for.
	c := connect(t, f).send(t, "POST /api/chat/ HTTP/1.1\r\nHost: localhost\r\n"+
		"Authorization: Bearer "+clientToken+"\r\nContent-Length: 100\r\n\r\n")
	c.expect(t, 307, "without its body")
	if got := stub.seen(); len(got) > 0 {
		t.Errorf("at the target: %q; want nothing", got)
	}
	f.log.await(t, `"route":"/api/chat","path":"/api/chat/","status":307`)
}

func TestManagementRepolls(t *testing.T) {
	stub := newStub(t)
	stub.anything = func(w http.ResponseWriter, r *http.Request) {
		stub.answerPolls(answerWith("application/json", `{"models":[]}`))
		io.WriteString(w, "{}")
	}
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	if a := f.do(t, "DELETE", "/api/delete", chatBody); a.status != 200 {
		t.Fatalf("got %d %s; want 200", a.status, a.body)
	}
	if a := f.do(t, "GET", "/api/tags", ""); a.body != `{"models":[]}` {
		t.Errorf("tags %q; want those after the change", a.body)
	}
}

func TestPreflight(t *testing.T) {
	stub := newStub(t)
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.WriteHeader(http.StatusNoContent)
	}
	f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
	asks := []string{"Origin", "http://page.example", "Access-Control-Request-Method", "POST"}
	token := []string{"Authorization", "Bearer " + clientToken}
	for _, test := range []struct {
		name   string
		path   string
		header []string
		status int
	}{
		{"a browser's, without a token as ever", "/api/chat", asks, 204},
		{"with a token", "/api/chat", token, 204},
		{"both", "/api/chat", append(asks, token...), 204},
		{"neither", "/api/chat", nil, 401},
		{"no method asked for", "/api/chat", asks[:2], 401},
		{"no origin", "/api/chat", asks[2:], 401},
		{"unknown path", "/api/unknown", asks, 401},
		{"unknown path with a token", "/api/unknown", token, 404},
		{"foreman's own path", "/healthz", token, 405},
	} {
		before := len(stub.seen())
		a := f.do(t, "OPTIONS", test.path, "", test.header...)
		if a.status != test.status {
			t.Errorf("%s: %d; want %d", test.name, a.status, test.status)
		}
		if test.status == 204 && a.header.Get("Access-Control-Allow-Origin") != "http://page.example" && slices.Contains(test.header, "Origin") {
			t.Errorf("%s: Access-Control-Allow-Origin %q; want the target's", test.name, a.header.Get("Access-Control-Allow-Origin"))
		}
		if passed := len(stub.seen()) > before; passed != (test.status == 204) {
			t.Errorf("%s: passed %v; want %v", test.name, passed, !passed)
		}
	}
	if got := stub.mostOpen(); got != 1 {
		t.Errorf("%d preflights open at once; want 1: a preflight needs no turn", got)
	}
	f.expectIdle(t)
}

// TestEscapedColon: clients escape names as a part of a path, and there %3A is a colon.
func TestEscapedColon(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	for _, request := range [][]string{
		{"GET", "/v1/models/chat%3Alatest"},
		{"GET", "/v1/models/chat%3alatest"},
		{"GET", "/v1/models/hf.co/someone/chat%3Alatest"},
		{"OPTIONS", "/v1/models/chat%3Alatest"},
		{"HEAD", "/api/blobs/sha256%3A0123abcd"},
	} {
		a := f.do(t, request[0], request[1], "")
		if a.status != 200 {
			t.Errorf("%s: %d %s; want 200", request, a.status, a.body)
			continue
		}
		if got, want := (<-seen).uri, strings.ReplaceAll(strings.ToUpper(request[1]), "%3A", ":"); !strings.EqualFold(got, want) {
			t.Errorf("%s: the target got %q", request, got)
		}
	}
	if a := f.do(t, "GET", "/v1/models/chat%3Alatest/", ""); a.status != 301 || a.header.Get("Location") != "/v1/models/chat:latest" {
		t.Errorf("with a slash: %d to %q", a.status, a.header.Get("Location"))
	}
}

// TestFaultSideDoors: Ollama's router, or another proxy before it, reads some of these
// paths as /api/chat.
func TestFaultSideDoors(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	for _, path := range []string{
		"/api", "/api/", "/v1", "/v1/", "/favicon.ico", "/debug/pprof/", "/api/unknown",
		"/api/chat//", "/api/chat%2F", "//api/chat/", "//api/chat", "/api//chat", "/./api/chat", "/api/./chat", "/api/%2e/chat", "/api/x/../chat", "/../api/chat",
		"/api%2Fchat", "/api%2fchat", "/api/%63hat", "/%61pi/chat", "/api/chat%20", "/api/chat%00", "/api/chat%0a", "/api/chat%3Fx", "/api/chat%3F", "/api/chat%23",
		"/api/chat;x", "/api/chat;x=1", "/api/chat%3Bx", "/api;x/chat", "/api/chat.", "/api/chat.json", "/api%5Cchat", "/API/chat", "/API/CHAT", "/api/Chat",
		"/v1/chat", "/v1/messages/count_tokens", "/api/me", "/api/signout", "/api/experimental/web_search",
		"/v1/models//", "/v1/models/a//b", "/v1/models/.", "/v1/models/..", "/v1/models/../chat/completions", "/v1/models/../../api/chat", "/v1/models/a/..",
		"/v1/models/%2e%2e/chat/completions", "/v1/models/..%2fchat", "/v1/models/a%2Fb", "/v1/models/a%20b", "/v1/models/a%5Cb", "/v1/models/%C3%A9", "/v1/models/a%2525",
		"/v1/models/x%0d%0aHost:%20y",
		"/v1/models/a%3Ab%2Fc", "/v1/models/%61%3Ab", "/v1/models/a%253Ab", "/v1/models/a!%3Ab", "/v1/models/a%3Ab%20", "/v1/models/..%3A/x", "/v1/models%3A", "/api/chat%3A", "/api%3Achat",
		"/api/blobs", "/api/blobs/", "/api/blobs/a/b", "/api/blobs/..", "/api/blobs/%2e%2e", "/api/blobs/%61/", "/api/blobs/../",
		"/healthz//", "/healthz%2F",
	} {
		for _, method := range methods {
			want := `{"error":"foreman has no such path"}` + "\n"
			switch {
			case method == "HEAD":
				want = ""
			case strings.HasPrefix(path, "/v1/messages/"):
				want = `{"type":"error","error":{"type":"not_found_error","message":"foreman has no such path"}}` + "\n"
			case strings.HasPrefix(path, "/v1/"):
				want = `{"error":{"message":"foreman has no such path","type":"invalid_request_error","param":null,"code":null}}` + "\n"
			}
			if a := f.do(t, method, path, ""); a.status != 404 || a.body != want {
				t.Errorf("%s %s: %d %q; want 404 %q", method, path, a.status, a.body, want)
			}
		}
	}
	addr := strings.TrimPrefix(f.URL, "http://")
	for _, test := range []struct {
		line string // of the request
		want string // how the answer's status line goes on
	}{
		{"POST %2Fapi/chat HTTP/1.1", "400 "},
		{`POST /api\chat HTTP/1.1`, "404 "},
		{`GET /v1/models/..\x HTTP/1.1`, "404 "},
		{"POST api/chat HTTP/1.1", "400 "},
		{"POST ?/api/chat HTTP/1.1", "400 "},
		{"POST http:api/chat HTTP/1.1", "404 "},
		{"GET http://localhost HTTP/1.1", "404 "},
		{"POST http://" + addr + "//api/chat HTTP/1.1", "404 "},
		{"POST http://" + addr + "/api%2Fchat HTTP/1.1", "404 "},
		{"POST http://evil.example/api/chat HTTP/1.1", "403 "},
		{"GET http://evil.example/api/ps HTTP/1.1", "403 "},
		{"post /api/chat HTTP/1.1", "405 "},
		{"PRI /api/chat HTTP/1.1", "405 "},
		{"CONNECT /api/chat HTTP/1.1", "405 "},
		{"CONNECT " + addr + " HTTP/1.1", "404 "},
		{"CONNECT evil.example:443 HTTP/1.1", "403 "},
		{"OPTIONS * HTTP/1.1", "404 "},
		{"GET * HTTP/1.1", "404 "},
		{"PRI * HTTP/2.0", "404 "},
		{"POST /api/chat HTTP/2.0", "505 "},
		{"POST /api/chat HTTP/3.0", "505 "},
		{"POST /api/chat HTTP/0.9", "505 "},
		{"POST /api/chat", "400 "}, // HTTP/0.9 has no version
		{"GET /api/ps", "400 "},
		{"POST  /api/chat HTTP/1.1", "400 "},
	} {
		c := connect(t, f).send(t, test.line+"\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 30\r\n\r\n"+marked("door"))
		line, err := c.in.ReadString('\n')
		if _, got, _ := strings.Cut(line, " "); err != nil || !strings.HasPrefix(got, test.want) {
			t.Errorf("%q: answer %q, %v; want %s", test.line, line, err, test.want)
		}
		c.Close()
	}
	if got := stub.seen(); len(got) != 0 {
		t.Errorf("the target got %q; want nothing", got)
	}
}

// Whatever way a chat is spelt, if it gets through it does so with the turn.
func TestFaultSideDoorsThatAreGates(t *testing.T) {
	stub := newStub(t)
	var f *front
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		if _, busy := f.Gate.Len(); !busy {
			t.Errorf("%s reached the target without the turn", r.URL)
		}
		if path, _, _ := strings.Cut(r.RequestURI, "?"); path != "/api/chat" {
			t.Errorf("the target got %q; want /api/chat", r.RequestURI)
		}
	}
	f = newFront(t, stub.URL, nil)
	for _, request := range []string{
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST /api/chat? HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST /api/chat?x=/../y HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST /api/chat?%2 HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST http://127.0.0.1/api/chat HTTP/1.1\r\nHost: evil.example\r\n",
		"POST http://127.0.0.1:1/api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST http://localhost/api/chat?x HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST /api/chat HTTP/1.0\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nX-HTTP-Method-Override: GET\r\n",
	} {
		c := connect(t, f).send(t, request+"Content-Length: 30\r\n\r\n"+marked("door"))
		c.expect(t, http.StatusOK, strconv.Quote(request))
	}
}

// A target that switches protocols, asked for it or not, would make a tunnel past the gate.
func TestFaultUnaskedSwitch(t *testing.T) {
	for _, fields := range []string{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n"} {
		for _, path := range append(dialects, "/api/embed", "/api/show") {
			target := newRawTarget(t, func(c *net.TCPConn, _ int, _ string) bool {
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\ntunnel")
				io.Copy(io.Discard, c) // until foreman hangs up
				return false
			})
			f := newFront(t, target.URL, nil)
			for _, asked := range []string{"Connection: Upgrade\r\nUpgrade: websocket\r\n", ""} {
				a := f.raw(t, postOf(path, marked("switch"), asked), false)
				errorSeen{502, "the Ollama host answered nonsense", failed}.check(t, path, a)
			}
			f.expectIdle(t)
		}
	}
}

func TestFaultInformationalAnswers(t *testing.T) {
	target := newRawTarget(t, func(c *net.TCPConn, _ int, body string) bool {
		for _, line := range []string{"100 Continue", "102 Processing", "103 Early Hints", "199 Who Knows"} {
			io.WriteString(c, "HTTP/1.1 "+line+"\r\nX-Early: 1\r\nLink: </evil>\r\n\r\n")
		}
		io.WriteString(c, answerOf(body))
		return true
	})
	f := newFront(t, target.URL, nil)
	for _, path := range []string{"/api/chat", "/api/embed"} {
		c := connect(t, f).send(t, postOf(path, marked("early"), "Connection: close\r\n"))
		b, err := io.ReadAll(c)
		raw := string(b)
		if err != nil || !strings.HasPrefix(raw, "HTTP/1.1 200 OK\r\n") || strings.Count(raw, "HTTP/1.1") != 1 ||
			strings.Contains(raw, "Early") || strings.Contains(raw, "evil") || !strings.HasSuffix(raw, marked("early")) {
			t.Errorf("%s: answer %q, %v; want one 200 with nothing of what came before", path, raw, err)
		}
	}
}

// forwardable is what may reach the target: the table of routes, written once
// more and another way.
var forwardable = regexp.MustCompile(`^(` +
	`(OPTIONS|POST) /(api/(chat|generate|embed|embeddings|show)|v1/(chat/completions|completions|responses|messages|images/generations|images/edits|embeddings))|` +
	`(OPTIONS|GET|HEAD) /api/version|` +
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
	models := fixture(f, "tags.json")
	isWorker := regexp.MustCompile(`^POST .*(chat|generat|/v1/completions|responses|messages|images)`)
	var proxy *front
	var mu sync.Mutex // guards wrong
	var wrong []string
	fail := func(why string) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, why)
	}
	target := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		path, _, _ := strings.Cut(r.RequestURI, "?")
		switch request := r.Method + " " + path; {
		case request == "GET /api/tags": // a poll; clients are answered from the inventory
			w.Write(models)
		case !forwardable.MatchString(request):
			fail("the target got " + request)
		case isWorker.MatchString(request):
			if _, busy := proxy.Gate.Len(); !busy {
				fail("the target got " + request + " without the turn")
			}
		}
	})
	proxy = newFrontIn(f, target, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) { fail(string(line)) }),
			&slog.HandlerOptions{Level: slog.LevelError})) // a panic
	})

	f.Fuzz(func(t *testing.T, method string, path []byte) {
		var request bytes.Buffer
		request.WriteString(method + " ")
		request.Write(path)
		request.WriteString(" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"model\":\"chat\"}")
		c := newInputConn(request.Bytes())
		proxy.net.calls <- c
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
