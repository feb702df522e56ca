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
	trailer   http.Header
	encoding  []string
}

// watch makes all of the stub's handlers tell what they see.
func watch(s *stub) <-chan sight {
	seen := make(chan sight, 100)
	for _, handler := range []*http.HandlerFunc{&s.chat, &s.embed, &s.ps, &s.anything} {
		next := *handler
		*handler = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("User-Agent") == "foreman" { // a poll
				next(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			seen <- sight{r.RequestURI, r.Host, r.Header, r.Trailer, r.TransferEncoding}
			next(w, r)
		}
	}
	return seen
}

// TestWhatTheTargetSees sends every field that could do harm, and some that must
// pass.
func TestWhatTheTargetSees(t *testing.T) {
	stub := newStub(t)
	seen := watch(stub)
	f := newFront(t, stub.URL, nil)
	harmful := []string{
		"Connection", "X-Named, x-other , Via,, Transfer-Encoding", "Connection", "Keep-Alive", "Connection", "Upgrade, HTTP2-Settings",
		"X-Named", "1", "X-Other", "2", "Keep-Alive", "timeout=5", "Proxy-Connection", "keep-alive", "Http2-Settings", "AAMA",
		"Upgrade", "h2c", "Te", "trailers", "Proxy-Authorization", "Basic x", "Proxy-Authenticate", "x",
		"Forwarded", "for=1.2.3.4", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https",
		"X-Forwarded-Port", "1", "X-Forwarded-Server", "evil.example", "X-Real-Ip", "1.2.3.4",
		"Idempotency-Key", "k", "X-Idempotency-Key", "k", "Via", "1.1 elsewhere",
	}
	harmless := []string{
		"User-Agent", "ollama-python/0.6.0", "Origin", "http://page.example", "Content-Type", "text/plain", "Accept", "application/x-ndjson",
		"X-Request-Id", "mine-7", "Authorization", "Bearer for-ollama", "X-Stainless-Lang", "js", "Anthropic-Version", "2023-06-01",
		"Cookie", "a=b", "Referer", "http://page.example/x",
	}
	via := viaOf(f)
	for _, rt := range []struct{ method, path string }{
		{"POST", "/api/chat"}, {"POST", "/v1/chat/completions"}, {"POST", "/api/embed"}, {"GET", "/api/ps"}, {"HEAD", "/"}, {"GET", "/v1/models/a/b:c"}, {"OPTIONS", "/api/chat"},
	} {
		body := ""
		if rt.method == "POST" {
			body = chatBody
		}
		a := f.do(t, rt.method, rt.path+"?model=other&x=%2F#f", body, append(harmful, harmless...)...)
		if a.status != 200 {
			t.Errorf("%s %s: %d %s; want 200", rt.method, rt.path, a.status, a.body)
			continue
		}
		got := <-seen
		want := http.Header{}
		for i := 0; i < len(harmless); i += 2 {
			want[harmless[i]] = []string{harmless[i+1]}
		}
		want["Via"] = []string{via}
		if body != "" {
			want["Content-Length"] = []string{strconv.Itoa(len(body))}
		}
		if !maps.EqualFunc(got.header, want, slices.Equal) {
			t.Errorf("%s %s: header\n%v; want\n%v", rt.method, rt.path, got.header, want)
		}
		if want := rt.path + "?model=other&x=%2F"; got.uri != want {
			t.Errorf("%s %s: request target %q; want %q", rt.method, rt.path, got.uri, want)
		}
		if want := strings.TrimPrefix(stub.URL, "http://"); got.host != want {
			t.Errorf("%s %s: Host %q; want the target's, %q", rt.method, rt.path, got.host, want)
		}
		if a.header.Get("X-Request-Id") != "mine-7" {
			t.Errorf("%s %s: X-Request-Id of the answer %q; want the client's", rt.method, rt.path, a.header.Get("X-Request-Id"))
		}
	}
}

// TestNothingIsAdded: a request without any field of its own goes on without
// User-Agent, Accept-Encoding, X-Forwarded-For.
func TestNothingIsAdded(t *testing.T) {
	stub := newStub(t)
	seen := watch(stub)
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
	seen := watch(stub)
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
	seen := watch(stub)
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
	for _, rt := range []struct{ method, path string }{{"POST", "/api/chat"}, {"GET", "/"}, {"GET", "/v1/models/a/b:c"}} {
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
	r, err := http.NewRequest("POST", f.URL+"/api/embed", strings.NewReader(embedBody))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "\x1f\x8bnot gzip" || resp.StatusCode != 307 {
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
