package proxy

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"foreman/inventory"
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
		{path: "/v1/messages", passes: "POST OPTIONS"},
		{path: "/v1/images/generations", passes: "POST OPTIONS"},
		{path: "/v1/images/edits", passes: "POST OPTIONS"},

		{path: "/api/embed", passes: "POST OPTIONS"},
		{path: "/api/embeddings", passes: "POST OPTIONS"},
		{path: "/v1/embeddings", passes: "POST OPTIONS"},

		{path: "/api/tags", passes: "OPTIONS", answers: "GET HEAD"},

		{path: "/", passes: "GET HEAD OPTIONS"},
		{path: "/api/ps", passes: "GET OPTIONS"},
		{path: "/api/show", passes: "POST OPTIONS"},
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

		{path: "/healthz", answers: "GET HEAD"},
		{path: "/readyz", answers: "GET HEAD"},
		{path: "/metrics", answers: "GET HEAD"},
	} {
		passes, answers := strings.Fields(test.passes), strings.Fields(test.answers)
		allow := slices.DeleteFunc(append(answers, passes...), func(m string) bool { return m == "OPTIONS" })
		for _, method := range append(methods, "TRACE", "PRI", "post", "X") {
			body := ""
			if method == "POST" {
				body = chatBody
			}
			before := len(stub.seen())
			a := f.do(t, method, test.path, body)
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

// TestOtherPathsNeverReachTheTarget: Ollama's router, or another proxy before
// it, reads some of these as /api/chat.
func TestOtherPathsNeverReachTheTarget(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	for _, path := range []string{
		"/api", "/api/", "/v1", "/v1/", "/favicon.ico", "/debug/pprof/", "/metrics/", "/api/unknown",
		"/api/chat/", "//api/chat", "/api//chat", "/./api/chat", "/api/./chat", "/api/x/../chat", "/../api/chat",
		"/api%2Fchat", "/api%2fchat", "/api/%63hat", "/%61pi/chat", "/api/chat%20", "/api/chat%00", "/api/chat%0a", "/api/chat%3Fx", "/api/chat%23",
		"/api/chat;x", "/api/chat;x=1", "/api;x/chat", "/api/chat.", "/api/chat.json", `/api\chat`, "/api%5Cchat", "/API/chat", "/api/Chat",
		"/v1/chat", "/v1/chat/completions/", "/v1/messages/count_tokens", "/v1/embeddings/", "/api/tags/", "/api/ps/",
		"/v1/models/", "/v1/models//", "/v1/models/a//b", "/v1/models/.", "/v1/models/..", "/v1/models/../chat/completions", "/v1/models/a/..",
		"/v1/models/%2e%2e/chat/completions", "/v1/models/..%2fchat", "/v1/models/a%2Fb", "/v1/models/a%20b", "/v1/models/a%5Cb", "/v1/models/%C3%A9", "/v1/models/a%2525",
		"/api/blobs", "/api/blobs/", "/api/blobs/a/b", "/api/blobs/..", "/api/blobs/%2e%2e", "/api/blobs/sha256:00/",
		"/healthz/", "/readyz/", "/healthz%2F",
	} {
		for _, method := range methods {
			a := f.do(t, method, path, "")
			if a.status != 404 {
				t.Errorf("%s %s: %d; want 404", method, path, a.status)
			}
			want := `{"error":"foreman has no such path"}` + "\n"
			switch {
			case strings.HasPrefix(path, "/v1/messages/"):
				want = `{"type":"error","error":{"type":"not_found_error","message":"foreman has no such path"}}` + "\n"
			case strings.HasPrefix(path, "/v1/"):
				want = `{"error":{"message":"foreman has no such path","type":"invalid_request_error","param":null,"code":null}}` + "\n"
			}
			if method == "HEAD" {
				want = ""
			}
			if a.body != want {
				t.Errorf("%s %s: %q; want %q", method, path, a.body, want)
			}
		}
	}
	for _, line := range []string{
		"OPTIONS * HTTP/1.1", "CONNECT localhost:11434 HTTP/1.1", "CONNECT /api/chat HTTP/1.1", "PRI * HTTP/2.0", "GET http://localhost HTTP/1.1",
		"POST http://localhost/api%2Fchat HTTP/1.1", "POST http://localhost//api/chat HTTP/1.1", "POST api/chat HTTP/1.1",
	} {
		a := f.raw(t, line+"\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", false)
		if a.status == 200 && line != "OPTIONS * HTTP/1.1" { // net/http's own answer
			t.Errorf("%s: 200 %q; want a refusal", line, a.body)
		}
	}
	if got := stub.seen(); len(got) > 0 {
		t.Errorf("at the target: %q; want nothing", got)
	}
}

// TestAbsoluteForm: a client may send the whole URL, as to a forward proxy. It
// is the path that counts, and the request goes to no other host.
func TestAbsoluteForm(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	for _, host := range []string{"localhost", "127.0.0.1:1"} {
		if a := f.raw(t, "GET http://"+host+"/api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n", false); a.status != 200 {
			t.Errorf("%s: %d %s; want 200", host, a.status, a.body)
		}
	}
	if a := f.raw(t, "GET http://evil.example/api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n", false); a.status != 403 {
		t.Errorf("evil.example: %d %s; want 403", a.status, a.body)
	}
	if a := f.raw(t, "POST http://localhost/api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", false); a.status != 400 {
		t.Errorf("chat: %d %s; want 400, as for every chat without a body", a.status, a.body)
	}
	if got, want := stub.seen(), []string{"GET /api/ps", "GET /api/ps"}; !slices.Equal(got, want) {
		t.Errorf("at the target: %q; want %q", got, want)
	}
}

func TestManagementRepolls(t *testing.T) {
	stub := newStub(t)
	stub.anything = func(w http.ResponseWriter, r *http.Request) {
		stub.answerPolls(answerWith("application/json", `{"models":[]}`))
		io.WriteString(w, "{}")
	}
	var polled chan struct{}
	f := newFront(t, stub.URL, func(o *Options) {
		o.Manage = true
		polled = watchPolls(o)
	})
	<-polled
	if a := f.do(t, "DELETE", "/api/delete", chatBody); a.status != 200 {
		t.Fatalf("got %d %s; want 200", a.status, a.body)
	}
	<-polled // at once, and not 30 s later
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

// watchPolls returns a channel that gets an event for each poll.
func watchPolls(o *Options) chan struct{} {
	polled := make(chan struct{}, 1000)
	o.Inventory.Polled = func(inventory.State) { polled <- struct{}{} }
	return polled
}
