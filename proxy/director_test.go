package proxy

import (
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A sight is what the target sees of a request.
type sight struct {
	uri, host string
	header    http.Header
}

// observe makes all of the stub's handlers tell what they see.
func observe(s *stub) <-chan sight {
	seen := make(chan sight, 100)
	for _, handler := range []*http.HandlerFunc{&s.chat, &s.embed, &s.ps, &s.anything} {
		next := *handler
		*handler = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("User-Agent") == "foreman" { // a poll
				next(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			seen <- sight{r.RequestURI, r.Host, r.Header}
			next(w, r)
		}
	}
	return seen
}

// TestFaultFieldsOfTheClient sends every field that could do harm, and some that must
// pass.
func TestFaultFieldsOfTheClient(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	f := newFront(t, stub.URL, func(o *Options) { o.Target = stub.target(targetToken) })
	const harmful = "Connection: Authorization, keep-alive, Via,, Transfer-Encoding, X-Named\r\n" +
		"Connection: Host,Content-Length , x-request-id,\t x-other , Upgrade, HTTP2-Settings, TE, close\r\n" +
		"Authorization: Bearer of-the-client\r\nProxy-Authorization: x\r\nProxy-Authenticate: x\r\n" +
		"X-Named: 1\r\nX-Other: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n" +
		"Upgrade: websocket\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nTE: trailers, deflate\r\nExpect: 100-continue\r\nTrailer: X-Later\r\n" +
		"Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: h\r\nX-Forwarded-Proto: p\r\nx-forwarded-port: 1\r\n" +
		"X-Forwarded-Server: s\r\nX-Forwarded-Prefix: /p\r\nX-Forwarded-Scheme: x\r\nX-Forwarded-Ssl: on\r\nX-Real-IP: 1.2.3.4\r\n" +
		"Idempotency-Key: i\r\nX-Idempotency-Key: i\r\nVia: 1.1 elsewhere\r\n"
	harmless := []string{
		"User-Agent", "ollama-python/0.6.0", "Origin", "http://page.example", "Content-Type", "text/plain", "Accept", "application/x-ndjson",
		"X-Request-Id", "mine-7", "X-Stainless-Lang", "js", "Anthropic-Version", "2023-06-01", "Cookie", "a=b", "Referer", "http://page.example/x",
	}
	for _, request := range []string{
		"POST /api/chat", "POST /v1/chat/completions", "POST /api/embed", "GET /api/ps", "HEAD /api/version", "GET /v1/models/a/b:c", "OPTIONS /api/chat",
	} {
		fields, body := harmful, ""
		path, preflight := strings.CutPrefix(request, "OPTIONS ")
		if !preflight {
			_, path, _ = strings.Cut(request, " ")
		}
		want := http.Header{"Authorization": {"Bearer " + targetToken}, "Via": {viaOf(f)}}
		for i := 0; i < len(harmless); i += 2 {
			fields += harmless[i] + ": " + harmless[i+1] + "\r\n"
			want.Set(harmless[i], harmless[i+1])
		}
		if strings.HasPrefix(request, "POST ") {
			body = chatBody
			fields += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
			want.Set("Content-Length", strconv.Itoa(len(body)))
		}
		query := "?model=other&x=%2F"
		uri := path + query
		if preflight {
			want = http.Header{"Via": {viaOf(f)}, "Origin": want["Origin"], "X-Request-Id": want["X-Request-Id"]}
			uri = path
		}
		c := connect(t, f).send(t, request+query+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+fields+"\r\n"+body)
		if body != "" {
			if resp, err := http.ReadResponse(c.in, nil); err != nil || resp.StatusCode != http.StatusContinue {
				t.Fatalf("%s: %v, %v; want 100 Continue", request, resp, err)
			}
		}
		a := readAnswer(t, c.in)
		if a.status != 200 {
			t.Errorf("%s: %d %s; want 200", request, a.status, a.body)
			continue
		}
		got := <-seen
		if !maps.EqualFunc(got.header, want, slices.Equal) {
			t.Errorf("%s: header\n%v; want\n%v", request, got.header, want)
		}
		if got.uri != uri {
			t.Errorf("%s: request target %q; want %q", request, got.uri, uri)
		}
		if "http://"+got.host != stub.URL {
			t.Errorf("%s: Host %q; want the target's, %s", request, got.host, stub.URL)
		}
		if id := a.header.Get("X-Request-Id"); id != "mine-7" {
			t.Errorf("%s: X-Request-Id of the answer %q; want the client's", request, id)
		}
	}
}

// TestNothingIsAdded: a request without any field of its own goes on without
// User-Agent, Accept-Encoding, X-Forwarded-For.
func TestNothingIsAdded(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	f := newFront(t, stub.URL, nil)
	for _, request := range []string{
		"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\n" + `{"model":"chat"}`,
		"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n" + `{"model":"chat"}`,
		"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"GET /api/ps HTTP/1.0\r\nHost: localhost\r\n\r\n",
	} {
		if a := f.raw(t, request, false); a.status != 200 {
			t.Errorf("%q: %d %s; want 200", request, a.status, a.body)
			continue
		}
		got := <-seen
		names := slices.Sorted(maps.Keys(got.header))
		want := []string{"Content-Length", "Via", "X-Request-Id"}
		if strings.HasPrefix(request, "GET") {
			want = want[1:]
		}
		if !slices.Equal(names, want) {
			t.Errorf("%q: fields %q; want %q", request, names, want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	f := newFront(t, stub.URL, nil)
	for _, test := range []struct {
		id   string
		kept bool
	}{
		{"7f3a-11", true},
		{strings.Repeat("x", 128), true},
		{"", false},
		{strings.Repeat("x", 129), false},
		{"a b", false},
		{"a\tb", false},
		{"é", false},
	} {
		a := f.do(t, "POST", "/api/embed", embedBody, "X-Request-Id", test.id)
		if a.status != 200 {
			t.Errorf("%q: %d %s; want 200", test.id, a.status, a.body)
			continue
		}
		got := (<-seen).header.Get("X-Request-Id")
		if got != a.header.Get("X-Request-Id") || got == "" {
			t.Errorf("%q: the target got %q, the client %q; want one id", test.id, got, a.header.Get("X-Request-Id"))
		}
		if (got == test.id) != test.kept {
			t.Errorf("%q: became %q; want kept: %v", test.id, got, test.kept)
		}
	}
}

func TestBasePathOfTheTarget(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	polls := make(chan string, 10)
	anything := stub.anything
	stub.anything = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/some/where/api/tags" {
			polls <- r.RequestURI
			stub.tags(w, r)
			return
		}
		anything(w, r)
	}
	f := newFront(t, stub.URL+"/some/where", nil)
	if got, want := <-polls, "/some/where/api/tags"; got != want {
		t.Errorf("poll: %q; want %q", got, want)
	}
	for _, rt := range []struct{ method, path string }{{"POST", "/api/chat"}, {"GET", "/api/version"}, {"GET", "/v1/models/a/b:c"}} {
		if a := f.do(t, rt.method, rt.path, map[string]string{"POST": chatBody}[rt.method]); a.status != 200 {
			t.Errorf("%s: %d %s; want 200", rt.path, a.status, a.body)
			continue
		}
		if got, want := (<-seen).uri, "/some/where"+rt.path; got != want {
			t.Errorf("%s: request target %q; want %q", rt.path, got, want)
		}
	}
}

// TestAnswerPassesUnchanged: status, fields and trailers of the target's answer.
func TestAnswerPassesUnchanged(t *testing.T) {
	stub := newStub(t)
	stub.embed = func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Encoding", "gzip") // the bytes are not looked at
		h.Set("Location", "http://localhost/x")
		h["X-Two"] = []string{"a", "b"}
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("Keep-Alive", "timeout=5")
		h.Set("Trailer", "X-Sum")
		w.WriteHeader(http.StatusEarlyHints) // of no use to anybody here
		w.WriteHeader(http.StatusTemporaryRedirect)
		io.WriteString(w, "\x1f\x8bnot gzip")
		h.Set("X-Sum", "7")
	}
	f := newFront(t, stub.URL, nil)
	resp, body, err := connect(t, f).send(t, postOf("/api/embed", embedBody)).answer(t)
	if err != nil || body != "\x1f\x8bnot gzip" || resp.StatusCode != 307 {
		t.Errorf("got %d %q, %v; want 307 and the target's bytes", resp.StatusCode, body, err)
	}
	for name, want := range map[string]string{
		"Content-Encoding": "gzip", "Location": "http://localhost/x", "X-Two": "a|b", "X-Hop": "", "Keep-Alive": "", "Connection": "",
	} {
		if got := strings.Join(resp.Header[name], "|"); got != want {
			t.Errorf("%s %q; want %q", name, got, want)
		}
	}
	if got := resp.Trailer.Get("X-Sum"); got != "7" {
		t.Errorf("trailer X-Sum %q; want 7", got)
	}
}

// viaOf returns the Via field with which a foreman names itself.
func viaOf(f *front) string {
	r := &http.Request{URL: new(url.URL), Header: http.Header{}}
	f.Target.Address(r)
	return r.Header.Get("Via")
}
