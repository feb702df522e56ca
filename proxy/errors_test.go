package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// dialects are a path of each API whose errors foreman speaks.
var dialects = []string{"/api/chat", "/v1/chat/completions", "/v1/messages"}

// A errorSeen is an error that foreman itself answers with: its status, its text
// and what the Anthropic API calls it. The OpenAI API has two names, and codes.
type errorSeen struct {
	status    int
	text      string
	anthropic string
}

// in returns the body that tells the errorSeen in the dialect of a path.
func (r errorSeen) in(path string) string {
	switch {
	case path == "/v1/messages":
		return fmt.Sprintf(`{"type":"error","error":{"type":"%s","message":"%s"}}`+"\n", r.anthropic, r.text)
	case strings.HasPrefix(path, "/v1/"):
		kind, code := "invalid_request_error", "null"
		switch {
		case r.status >= 500:
			kind = "server_error"
		case r.status == 401:
			code = `"invalid_api_key"`
		case r.status == 404:
			code = `"model_not_found"`
		}
		return fmt.Sprintf(`{"error":{"message":"%s","type":"%s","param":null,"code":%s}}`+"\n", r.text, kind, code)
	default:
		if r.status == 401 {
			return fmt.Sprintf(`{"error":"%[1]s","status":"%[1]s"}`+"\n", r.text)
		}
		return fmt.Sprintf(`{"error":"%s"}`+"\n", r.text)
	}
}

// check fails the test unless a is the errorSeen, as one line of JSON.
func (r errorSeen) check(t *testing.T, path string, a answer) {
	t.Helper()
	if want := r.in(path); a.status != r.status || a.body != want || a.err != nil {
		t.Errorf("got %d %q, %v; want %d %q", a.status, a.body, a.err, r.status, want)
	}
	for name, want := range map[string]string{
		"Content-Type":     "application/json; charset=utf-8",
		"Retry-After":      map[int]string{503: "5"}[r.status],
		"X-Should-Retry":   map[int]string{504: "false"}[r.status],
		"WWW-Authenticate": map[int]string{401: `Bearer realm="foreman"`}[r.status],
		"Allow":            map[int]string{405: "POST, OPTIONS"}[r.status],
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s %q; want %q", name, got, want)
		}
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id")
	}
}

const (
	invalid = "invalid_request_error"
	failed  = "api_error"
)

func badJSON(text string) errorSeen { return errorSeen{400, text, invalid} }

// TestAnswers goes through the table of answers. Each row is asked for in each
// dialect; none leaves the turn or memory taken, and none but those that say so
// reaches the target. What else is wrong with a body is in package ask's tests, and
// with a token in TestFaultTokens.
func TestAnswers(t *testing.T) {
	cloud := func(model string) errorSeen {
		return errorSeen{404, "model '" + model + "' not found: a cloud model would run on the account of the Ollama host's owner, who must pull it first", "not_found_error"}
	}
	notFound := func(model string) errorSeen {
		return errorSeen{404, "model '" + model + "' not found", "not_found_error"}
	}
	unauthorized := errorSeen{401, "a valid token is required, as Authorization: Bearer or as x-api-key, and not those of two clients", "authentication_error"}
	tooLarge := errorSeen{413, "request body larger than 1024 bytes", "request_too_large"}
	framing := errorSeen{400, "the request body is broken off or badly framed", invalid}
	unreachable := errorSeen{503, "the Ollama host is unreachable", "overloaded_error"}
	nonsense := errorSeen{502, "the Ollama host answered nonsense", failed}

	withToken := func(o *Options) { o.Token = clientToken }
	small := func(o *Options) { o.MaxBody = 1 << 10 }
	large := chatBody + strings.Repeat(" ", 1<<10-len(chatBody)+1)
	// occupy takes the turn before the request comes.
	occupy := func(t *testing.T, f *front) (undo func()) { return f.enter(t).Leave }
	// speak makes the target answer chats with raw bytes and hang up.
	speak := func(bytes string) func(*stub) {
		return func(s *stub) { s.chat = hijacked(bytes) }
	}

	for _, test := range []struct {
		name    string
		target  func(*stub)
		options func(*Options)
		before  func(*testing.T, *front) (undo func())
		method  string // if not POST
		header  []string
		body    string
		raw     string // the request as bytes, with PATH for its path
		hangUp  bool   // after them
		want    errorSeen
		reaches bool // the target
	}{
		{name: "400 no body", want: badJSON("missing request body")},
		{name: "400 no body, chunked", header: []string{"Transfer-Encoding", "chunked"}, want: badJSON("missing request body")},
		{name: "400 not JSON", body: "model=chat", want: badJSON("the request body is not JSON: invalid character 'm' looking for beginning of value")},
		{name: "400 no model", body: `{"messages":[]}`, want: badJSON("model is required")},
		{name: "400 half a body", raw: "POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n" + `{"model":"chat"}`, hangUp: true, want: framing},
		{name: "400 broken chunk", raw: "POST PATH HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", want: framing},
		{name: "400 half the chunks", raw: "POST PATH HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"model\":\"chat\"}\r\n", hangUp: true, want: framing},

		{name: "401 no token", options: withToken, body: chatBody, want: unauthorized},
		{name: "403 host", header: []string{"Host", "evil.example"}, body: chatBody, want: errorSeen{403, "this Host name is not accepted; whoever runs foreman can allow it: FOREMAN_HOSTS=evil.example (several with commas)", "permission_error"}},

		{name: "404 model", body: `{"model":"no-such:7b"}`, want: notFound("no-such:7b")},
		{name: "404 cloud", body: `{"model":"chat:cloud"}`, want: cloud("chat:cloud")},
		{name: "404 cloud tag", body: `{"model":"gpt-oss:120b-cloud"}`, want: cloud("gpt-oss:120b-cloud")},
		{name: "404 long model", body: `{"model":"` + strings.Repeat("x", 5000) + `"}`, want: notFound(strings.Repeat("x", 5000))},
		{name: "404 odd model", body: `{"model":"a\nb\u0000/../é"}`, want: notFound(`a\nb\u0000/../é`)},
		{name: "405", method: "GET", want: errorSeen{405, "method not allowed; allowed: POST, OPTIONS", invalid}},
		{name: "405 with a body", method: "PUT", body: chatBody, want: errorSeen{405, "method not allowed; allowed: POST, OPTIONS", invalid}},
		{name: "413 declared", options: small, body: large, want: tooLarge},
		{name: "413 declared and never sent", options: small, raw: "POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1025\r\n\r\n", want: tooLarge},
		{name: "413 chunked", options: small, header: []string{"Transfer-Encoding", "chunked"}, body: large, want: tooLarge},
		{name: "415", header: []string{"Content-Encoding", "gzip"}, body: chatBody, want: errorSeen{415, "only Content-Encoding: identity is supported here", invalid}},
		{name: "415 zstd", header: []string{"Content-Encoding", "zstd"}, body: chatBody, want: errorSeen{415, "only Content-Encoding: identity is supported here; in Codex, enable_request_compression=false sees to that", invalid}},
		{name: "415 twice", header: []string{"Content-Encoding", "identity", "Content-Encoding", "gzip"}, body: chatBody, want: errorSeen{415, "only Content-Encoding: identity is supported here", invalid}},

		{name: "502 not HTTP", target: speak("SSH-2.0-OpenSSH_9.6\r\n"), body: chatBody, want: nonsense, reaches: true},
		{name: "502 no status", target: speak("HTTP/1.1 050 Odd\r\nContent-Length: 15\r\n\r\n{\"error\":\"odd\"}"), body: chatBody, want: nonsense, reaches: true},
		{name: "502 endless header", target: speak("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20)), body: chatBody, want: nonsense, reaches: true},
		{name: "503 hangs up", target: speak(""), body: chatBody, want: unreachable, reaches: true},
		{name: "503 hangs up within the header", target: speak("HTTP/1.1 200 OK\r\n"), body: chatBody, want: unreachable, reaches: true},
		{
			name: "503 degraded", target: func(s *stub) { s.tags = refuseWith(500) }, body: chatBody,
			want: errorSeen{503, "model 'chat' unknown, and the Ollama host does not tell its models now", "overloaded_error"},
		},
		{
			name: "503 queue full", options: func(o *Options) { o.Gate = gate.New(0) }, before: occupy, body: chatBody,
			want: errorSeen{503, "too many chats are waiting", "overloaded_error"},
		},
		{
			name: "503 waited too long", options: func(o *Options) { o.QueueTimeout = time.Millisecond }, before: occupy, body: chatBody,
			want: errorSeen{503, "waited too long for a turn", "overloaded_error"},
		},
		{
			name: "503 too many bytes", body: chatBody,
			before: func(_ *testing.T, f *front) func() {
				others := f.chats.bodies.open("others", func(error) {})
				others.take(f.chats.bodies.limit)
				others.keep()
				return others.give
			},
			want: errorSeen{503, "too many bytes are waiting", "overloaded_error"},
		},
		{
			name: "503 shutting down", body: chatBody,
			before: func(_ *testing.T, f *front) func() { f.Gate.Close(); return func() {} },
			want:   errorSeen{503, "foreman is shutting down", "overloaded_error"},
		},
	} {
		for _, path := range dialects {
			t.Run(test.name+path, func(t *testing.T) {
				stub := newStub(t)
				if test.target != nil {
					test.target(stub)
				}
				f := newFront(t, stub.URL, test.options)
				undo := func() {}
				if test.before != nil {
					undo = test.before(t, f)
				}
				method := test.method
				if method == "" {
					method = "POST"
				}
				var a answer
				if test.raw != "" {
					a = f.raw(t, strings.ReplaceAll(test.raw, "PATH", path), test.hangUp)
				} else {
					a = f.do(t, method, path, test.body, test.header...)
				}
				undo()
				test.want.check(t, path, a)
				f.expectIdle(t)
				var want []string
				if test.reaches {
					want = []string{method + " " + path}
				}
				if got := stub.seen(); !slices.Equal(got, want) {
					t.Errorf("at the target: %q; want %q", got, want)
				}
			})
		}
	}
}

// raw sends bytes to f and reads the answer, as a client that has no more to
// say if hangUp is set.
func (f *front) raw(t *testing.T, request string, hangUp bool) answer {
	t.Helper()
	c := connect(t, f)
	defer c.Close()
	c.send(t, request)
	if hangUp {
		c.Conn.(*net.TCPConn).CloseWrite()
	}
	return readAnswer(t, c.in)
}

// readAnswer reads the final answer; informational ones come before it.
func readAnswer(t *testing.T, c io.Reader) answer {
	t.Helper()
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	for err == nil && resp.StatusCode < 200 {
		resp, err = http.ReadResponse(r, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body), err}
}

// hijacked returns a handler that writes bytes to the connection and closes it.
func hijacked(bytes string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer c.Close()
		io.WriteString(c, bytes)
	}
}

func TestUnreachableTargetIs503(t *testing.T) {
	ln := listen(t)
	ln.Close()
	f := newFront(t, "http://"+ln.Addr().String(), nil)
	want := errorSeen{503, "the Ollama host is unreachable", "overloaded_error"}
	for _, path := range append(dialects, "/api/embed", "/v1/embeddings", "/api/show") {
		want.check(t, path, f.do(t, "POST", path, chatBody))
	}
	for _, path := range []string{"/api/ps", "/api/version", "/v1/models", "/api/tags"} {
		want.check(t, path, f.do(t, "GET", path, ""))
	}
	f.expectIdle(t)
}

func TestTargetOwnErrorsPassUnchanged(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 408, 413, 429, 499, 500, 502, 503, 504} {
		stub := newStub(t)
		const body = `{"error":"what Ollama says", "odd" : 1}`
		handler := func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Retry-After", "77")
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
		stub.chat, stub.embed = handler, handler
		f := newFront(t, stub.URL, nil)
		for _, path := range []string{"/api/chat", "/v1/messages", "/api/embed"} {
			a := f.do(t, "POST", path, chatBody)
			if a.status != status || a.body != body || a.header.Get("Retry-After") != "77" || a.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: got %d %v %q; want the target's own %d", path, a.status, a.header, a.body, status)
			}
		}
		f.expectIdle(t)
	}
}

func TestManagementOffIs403(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	want := errorSeen{status: 403, text: "model management is off; whoever runs foreman can turn it on with FOREMAN_MANAGE=true"}
	for _, rt := range []string{"POST /api/pull", "POST /api/push", "POST /api/create", "POST /api/copy", "DELETE /api/delete", "POST /api/blobs/sha256:00"} {
		method, path, _ := strings.Cut(rt, " ")
		want := want
		if path == "/api/pull" { // as the command line does after a misspelt name
			want.text = "model not pulled: is its name in the list of models? " + want.text
		}
		want.check(t, path, f.do(t, method, path, chatBody))
	}
	if a := f.do(t, "HEAD", "/api/blobs/sha256:00", ""); a.status != 403 || a.body != "" {
		t.Errorf("HEAD of a blob: %d %q; want 403 and no body", a.status, a.body)
	}
	if got := stub.seen(); len(got) > 0 {
		t.Errorf("at the target: %q; want nothing", got)
	}
}

func TestTooLargeEmbedIs413(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.MaxBody = 1 << 10 })
	want := errorSeen{413, "request body larger than 1024 bytes", ""}
	body := embedBody + strings.Repeat(" ", 1<<10)
	for _, path := range []string{"/api/embed", "/v1/embeddings"} {
		want.check(t, path, f.do(t, "POST", path, body))
		want.check(t, path, f.do(t, "POST", path, body, "Transfer-Encoding", "chunked"))
	}
	want.check(t, "/api/embed", f.raw(t, "POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n", false)) // and never sent
	framing := badJSON("the request body is broken off or badly framed")
	framing.check(t, "/api/embed", f.raw(t, "POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{}", true))
	framing.check(t, "/api/embed", f.raw(t, "POST /api/embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}", false))
}

// TestSteadyUploadIsNotSlow: 64 KiB/s for two minutes is a large body on a poor
// line, and its deadline must not outlive the upload.
func TestSteadyUploadIsNotSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, func(o *Options) { o.MaxBody = 16 << 20 })
		stub.chat = func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			time.Sleep(5 * time.Minute) // loads the model
			io.WriteString(w, "{}")
		}
		body, upload := io.Pipe()
		go func() {
			io.WriteString(upload, chatBody)
			for range 120 {
				time.Sleep(time.Second)
				io.WriteString(upload, strings.Repeat(" ", 64<<10))
			}
			upload.Close()
		}()
		resp, err := f.client.Post(f.URL+"/api/chat", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("got %s; want 200", resp.Status)
		}
	})
}
