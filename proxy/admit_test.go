package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
)

func TestToken(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
	for _, test := range []struct {
		name   string
		fields []string // of Authorization
		ok     bool
	}{
		{"none", nil, false},
		{"right", []string{"Bearer " + clientToken}, true},
		{"scheme in lower case", []string{"bearer " + clientToken}, true},
		{"more spaces", []string{"Bearer   " + clientToken + " "}, true},
		{"empty", []string{""}, false},
		{"scheme alone", []string{"Bearer"}, false},
		{"scheme and a space", []string{"Bearer "}, false},
		{"no scheme", []string{clientToken}, false},
		{"no space", []string{"Bearer" + clientToken}, false},
		{"another scheme", []string{"Basic " + clientToken}, false},
		{"too short", []string{"Bearer " + clientToken[:len(clientToken)-1]}, false},
		{"too long", []string{"Bearer " + clientToken + "x"}, false},
		{"in capitals", []string{"Bearer " + strings.ToUpper(clientToken)}, false},
		{"the target's", []string{"Bearer " + targetToken}, false},
		{"two in one field", []string{"Bearer " + clientToken + ", Bearer " + clientToken}, false},
		{"twice", []string{"Bearer " + clientToken, "Bearer " + clientToken}, false},
		{"right and wrong", []string{"Bearer " + clientToken, "Bearer x"}, false},
		{"wrong and right", []string{"Bearer x", "Bearer " + clientToken}, false},
	} {
		var header []string
		for _, field := range test.fields {
			header = append(header, "Authorization", field)
		}
		before := len(stub.seen())
		for _, rt := range []struct{ method, path string }{
			{"POST", "/api/chat"}, {"POST", "/api/embed"}, {"GET", "/api/tags"}, {"GET", "/api/ps"}, {"HEAD", "/"},
			{"POST", "/api/pull"}, {"GET", "/unknown"}, {"GET", "/api/chat"}, {"GET", "/api%2Ftags"},
		} {
			body := ""
			if rt.method == "POST" {
				body = chatBody
			}
			if a := f.do(t, rt.method, rt.path, body, header...); (a.status != 401) != test.ok {
				t.Errorf("%s: %s %s: %d; want let in: %v", test.name, rt.method, rt.path, a.status, test.ok)
			}
		}
		if passed := len(stub.seen()) > before; passed != test.ok {
			t.Errorf("%s: something reached the target: %v; want %v", test.name, passed, test.ok)
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if a := f.do(t, "GET", path, "", header...); a.status != 200 {
				t.Errorf("%s: GET %s: %d; want 200: it needs no token", test.name, path, a.status)
			}
		}
	}
	f.expectIdle(t)
}

func TestHosts(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const named, loopback, any = 0, 1, 2 // FOREMAN_HOSTS; none, on a loopback address; none, on another
	options := [3]func(*Options){
		named:    func(o *Options) { o.Hosts, o.Loopback = []string{"foreman.lan", "gpu.example.com"}, true },
		loopback: func(o *Options) { o.Loopback = true },
		any:      func(o *Options) { o.Loopback = false },
	}
	tests := []struct {
		host string
		ok   [3]bool
	}{
		{"localhost", [3]bool{true, true, true}},
		{"localhost:8080", [3]bool{true, true, true}},
		{"LocalHost.", [3]bool{true, true, true}},
		{"127.0.0.1", [3]bool{true, true, true}},
		{"192.168.1.7:8080", [3]bool{true, true, true}},
		{"[::1]", [3]bool{true, true, true}},
		{"[::1]:8080", [3]bool{true, true, true}},
		{"foreman.lan", [3]bool{true, false, true}},
		{"FOREMAN.lan:8080", [3]bool{true, false, true}},
		{"gpu.example.com.", [3]bool{true, false, true}},
		{"x.foreman.lan", [3]bool{false, false, true}},
		{"foreman.lan.evil.example", [3]bool{false, false, true}},
		{hostname, [3]bool{false, true, true}},
		{"a.localhost", [3]bool{false, true, true}},
		{"mac.local:8080", [3]bool{false, true, true}},
		{"host.docker.internal", [3]bool{false, true, true}},
		{"evil.example", [3]bool{false, false, true}},
		{"evil.example:11434", [3]bool{false, false, true}},
		{"127.0.0.1.evil.example", [3]bool{false, false, true}},
		{"localhost.evil.example", [3]bool{false, false, true}},
		{"evillocalhost", [3]bool{false, false, true}},
		{"internal", [3]bool{false, false, true}},
	}
	for mode, change := range options {
		stub := newStub(t)
		f := newFront(t, stub.URL, change)
		for _, test := range tests {
			for _, path := range []string{"/api/tags", "/api/ps", "/healthz"} {
				status := 403
				if test.ok[mode] {
					status = 200
				}
				if a := f.do(t, "GET", path, "", "Host", test.host); a.status != status {
					t.Errorf("mode %d: GET %s of host %q: %d; want %d", mode, path, test.host, a.status, status)
				}
			}
		}
		if a := f.raw(t, "GET /api/tags HTTP/1.0\r\n\r\n", false); (a.status == 200) != (mode != named) {
			t.Errorf("mode %d: no host: %d", mode, a.status)
		}
	}
}

// TestLoop: FOREMAN_OLLAMA_URL points at foreman itself. It says so, and does
// not wait for itself.
func TestLoop(t *testing.T) {
	ln := listen(t)
	f := newFrontOn(t, ln, "http://"+ln.Addr().String(), func(o *Options) { o.Manage = true })
	want := refusal{508, "the request came from this foreman: FOREMAN_OLLAMA_URL points back at it", failed}
	for _, path := range append(dialects, "/api/embed", "/v1/embeddings", "/api/show", "/api/pull") {
		a := f.do(t, "POST", path, chatBody)
		want.check(t, path, a)
	}
	if a := f.do(t, "GET", "/api/ps", ""); a.status != 508 {
		t.Errorf("GET /api/ps: %d; want 508", a.status)
	}
	if a := f.do(t, "GET", "/readyz", ""); a.status != 503 {
		t.Errorf("GET /readyz: %d; want 503", a.status)
	}
	f.expectIdle(t)
}

// TestLoopWithAnotherForeman: one foreman may stand in front of another.
func TestLoopWithAnotherForeman(t *testing.T) {
	inner := newFront(t, newStub(t).URL, nil)
	outer := newFront(t, inner.URL, nil)
	if a := outer.do(t, "POST", "/api/chat", chatBody); a.status != 200 {
		t.Errorf("got %d %s; want 200", a.status, a.body)
	}
}

// TestShuttingDownWhileWaiting: the server cancels what still runs with the
// cause ErrShuttingDown when its time to drain is over.
func TestShuttingDownWhileWaiting(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	turn, err := f.Gate.Enter(t.Context(), &exchange{request: new(http.Request)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequest("POST", "http://localhost/api/chat", strings.NewReader(chatBody))
		f.ServeHTTP(w, r.WithContext(ctx))
	}()
	await(t, func() bool { waiting, _ := f.Gate.Len(); return waiting == 1 })
	cancel(ErrShuttingDown)
	<-done
	if want := `{"error":"foreman is shutting down"}` + "\n"; w.Code != 503 || w.Body.String() != want {
		t.Errorf("got %d %q; want 503 %q", w.Code, w.Body, want)
	}
	turn.Leave()
	f.expectIdle(t)
}

// TestTokensOfBothSides: what the client sends is for foreman if foreman has a
// token of its own, else for the target; the target's token replaces both.
func TestTokensOfBothSides(t *testing.T) {
	for _, test := range []struct {
		name               string
		ofClients, outward string // FOREMAN_TOKEN, FOREMAN_OLLAMA_TOKEN
		want               []string
	}{
		{"neither", "", "", []string{"Bearer " + clientToken}},
		{"for clients", clientToken, "", nil},
		{"for the target", "", targetToken, []string{"Bearer " + targetToken}},
		{"both", clientToken, targetToken, []string{"Bearer " + targetToken}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stub := newStub(t)
			fields := make(chan []string, 100)
			for _, handler := range []*http.HandlerFunc{&stub.chat, &stub.embed, &stub.ps, &stub.anything} {
				next := *handler
				*handler = func(w http.ResponseWriter, r *http.Request) {
					fields <- r.Header["Authorization"]
					next(w, r)
				}
			}
			polls := make(chan []string, 100)
			tags := stub.tags
			stub.tags = func(w http.ResponseWriter, r *http.Request) {
				polls <- r.Header["Authorization"]
				tags(w, r)
			}
			u, err := url.Parse(stub.URL)
			if err != nil {
				t.Fatal(err)
			}
			f := newFront(t, stub.URL, func(o *Options) {
				o.Token = test.ofClients
				o.Target = NewTarget(u, test.outward)
			})
			for _, rt := range []struct{ method, path string }{
				{"POST", "/api/chat"}, {"POST", "/v1/messages"}, {"POST", "/api/embed"}, {"GET", "/api/ps"}, {"HEAD", "/"}, {"OPTIONS", "/api/chat"},
			} {
				body := ""
				if rt.method == "POST" {
					body = chatBody
				}
				// A client that names the field in Connection must not strip what foreman sets.
				for _, connection := range []string{"keep-alive", "Authorization"} {
					want := test.want
					if connection == "Authorization" && test.outward == "" {
						want = nil
					}
					a := f.do(t, rt.method, rt.path, body, "Authorization", "Bearer "+clientToken, "Connection", connection)
					if a.status != 200 {
						t.Errorf("%s %s: %d %s; want 200", rt.method, rt.path, a.status, a.body)
						continue
					}
					if got := <-fields; strings.Join(got, "|") != strings.Join(want, "|") {
						t.Errorf("%s %s, Connection: %s: Authorization %q; want %q", rt.method, rt.path, connection, got, want)
					}
				}
			}
			var poll string
			if test.outward != "" {
				poll = "Bearer " + test.outward
			}
			if got := strings.Join(<-polls, "|"); got != poll {
				t.Errorf("poll: Authorization %q; want %q", got, poll)
			}
		})
	}
}

// The listener that main uses must not hide what net/http wants of a connection.
var _ interface{ CloseWrite() error } = (*conn)(nil)
