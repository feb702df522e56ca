package proxy

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

func TestFaultTokens(t *testing.T) {
	stub := newStub(t)
	var got []string
	stub.chat = func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.Header["Authorization"]...) }
	stub.embed = stub.chat
	u, _ := url.Parse(stub.URL)
	for _, outbound := range []string{"", targetToken} {
		got = nil
		f := newFront(t, stub.URL, func(o *Options) { // its log must not have the secret
			o.Token = clientToken
			o.Target = NewTarget(u, outbound)
		})
		for fields, want := range map[string]int{
			"Authorization: Bearer " + clientToken + "\r\n":     200,
			"authorization:  bearer   " + clientToken + " \r\n": 200,
			"":                                       401,
			"Authorization:\r\n":                     401,
			"Authorization: Bearer\r\n":              401,
			"Authorization: " + clientToken + "\r\n": 401,
			"Authorization: Basic " + clientToken + "\r\n":                                                   401,
			"Authorization: Bearer " + clientToken + "x\r\n":                                                 401,
			"Authorization: Bearer " + clientToken[1:] + "\r\n":                                              401,
			"Authorization: Bearer " + targetToken + "\r\n":                                                  401,
			"Authorization: Bearer " + clientToken + ", Bearer x\r\n":                                        401,
			"Authorization: Bearer " + clientToken + "\r\nAuthorization: Bearer " + clientToken + "\r\n":     401,
			"Authorization: Bearer x\r\nAuthorization: Bearer " + clientToken + "\r\n":                       401,
			"Connection: Authorization\r\nAuthorization: Bearer x\r\n":                                       401,
			"Proxy-Authorization: Bearer " + clientToken + "\r\nX-Authorization: " + "Bearer x" + "\r\n":     401,
			"Connection: Authorization\r\nAuthorization: Bearer " + clientToken + "\r\nX-Last: 1\r\n":        200,
			"Access-Control-Request-Method: POST\r\nOrigin: https://app.example\r\nX-Not-A-Preflight: 1\r\n": 401,
		} {
			for _, path := range []string{"/api/chat", "/api/embed", "/nowhere"} {
				c := connect(t, f)
				c.send(t, postOf(path, marked("token"), fields))
				want := want
				if path == "/nowhere" && want == 200 {
					want = 404
				}
				resp, body, _ := c.answer(t)
				if resp.StatusCode != want {
					t.Errorf("%s, %q: status %d; want %d", path, fields, resp.StatusCode, want)
				}
				if strings.Contains(body, secret) {
					t.Errorf("%s, %q: the answer tells a token: %q", path, fields, body)
				}
			}
		}
		for _, authorization := range got {
			if outbound == "" || authorization != "Bearer "+outbound {
				t.Errorf("the target got %q; want %q", authorization, outbound)
			}
		}
		if want := 6; outbound != "" && len(got) != want {
			t.Errorf("the target got %d tokens; want %d", len(got), want)
		}
	}
}

// On a loopback address a web page must not reach foreman by a name of its own.
// A page under a name that its owner has led to foreman does not count as foreman's
// own, even where any Host is accepted: the target's CORS decides about it.
func TestFaultDNSRebindingMeetsTheTargetsCORS(t *testing.T) {
	for _, test := range []struct {
		host, origin string
		passed       bool
	}{
		{"evil.example:8080", "http://evil.example:8080", true},
		{"evil.example", "https://evil.example", true},
		{"127.0.0.1:8080", "http://127.0.0.1:8080", false},
		{"localhost:8080", "http://localhost:8080", false},
		{"gpu.local:8080", "http://gpu.local:8080", false},
		{"gpu.local:8080", "http://evil.example", true},
		{"foreman.lan:8080", "http://foreman.lan:8080", true},
	} {
		stub := newStub(t)
		seen := watch(stub)
		f := newFront(t, stub.URL, func(o *Options) { o.Loopback = false })
		if a := f.do(t, "POST", "/api/chat", chatBody, "Host", test.host, "Origin", test.origin); a.status != 200 {
			t.Errorf("%+v: %d %s; want 200", test, a.status, a.body)
			continue
		}
		if got := (<-seen).header.Get("Origin"); (got != "") != test.passed {
			t.Errorf("%+v: the target got Origin %q", test, got)
		}
	}
}

func TestFaultDNSRebinding(t *testing.T) {
	for _, test := range []struct {
		hosts    []string
		loopback bool
		host     string
		want     int
	}{
		{nil, true, "127.0.0.1:8080", 200},
		{nil, true, "[::1]:8080", 200},
		{nil, true, "10.1.2.3", 200},
		{nil, true, "LOCALHOST.", 200},
		{nil, true, "mac.local", 200},
		{nil, true, "host.docker.internal:8080", 200},
		{nil, true, "x.localhost", 200},
		{nil, true, "evil.example", 403},
		{nil, true, "localhost.evil.example", 403},
		{nil, true, "127.0.0.1.evil.example", 403},
		{nil, true, "evil-localhost", 403},
		{nil, true, "evillocal", 403},
		{nil, false, "evil.example", 200},
		{[]string{"foreman.lan"}, false, "foreman.lan:8080", 200},
		{[]string{"foreman.lan"}, false, "Foreman.LAN.", 200},
		{[]string{"foreman.lan"}, false, "x.foreman.lan", 403},
		{[]string{"foreman.lan"}, false, "mac.local", 403},
		{[]string{"foreman.lan"}, true, "mac.local", 403},
		{[]string{"foreman.lan"}, false, "192.168.1.2", 200},
		{[]string{"foreman.lan"}, false, "localhost:1", 200},
		{[]string{"foreman.lan"}, false, "", 403},
	} {
		stub := newStub(t)
		f := newFront(t, stub.URL, func(o *Options) { o.Hosts, o.Loopback = test.hosts, test.loopback })
		for _, path := range []string{"/api/chat", "/healthz"} {
			c := connect(t, f)
			c.send(t, "POST "+path+" HTTP/1.1\r\nHost: "+test.host+"\r\nContent-Length: 30\r\nConnection: close\r\n\r\n"+marked("host"))
			want := test.want
			if path == "/healthz" && want == 200 {
				want = 405
			}
			if got := c.status(t); got != want {
				t.Errorf("%q, %v, Host %q, %s: status %d; want %d", test.hosts, test.loopback, test.host, path, got, want)
			}
		}
		if got := stub.seen(); test.want == 403 && len(got) != 0 {
			t.Errorf("Host %q: the target got %q; want nothing", test.host, got)
		}
	}
}

func TestFaultTargetIsForemanItself(t *testing.T) {
	ln := listen(t)
	f := newFrontOn(t, ln, "http://"+ln.Addr().String(), nil)
	for _, path := range []string{"/api/chat", "/api/embed", "/v1/chat/completions", "/api/show"} {
		c := connect(t, f)
		c.send(t, postOf(path, marked("loop")))
		if got := c.status(t); got != http.StatusLoopDetected {
			t.Errorf("%s: status %d; want 508", path, got)
		}
	}
	f.expectIdle(t)
}

// The models come from an Ollama and the chats come back: a wrong rule in a
// proxy between the two. The turn is taken then, and must not be waited for.
func TestFaultChatsComeBack(t *testing.T) {
	stub := newStub(t)
	var back *httputil.ReverseProxy
	stub.chat = func(w http.ResponseWriter, r *http.Request) { back.ServeHTTP(w, r) }
	stub.embed = stub.chat
	f := newFront(t, stub.URL, nil)
	u, _ := url.Parse(f.URL)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	back = &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	for _, path := range []string{"/api/chat", "/api/embed"} {
		c := connect(t, f)
		c.send(t, postOf(path, marked("loop")))
		if got := c.status(t); got != http.StatusLoopDetected {
			t.Errorf("%s: status %d; want 508", path, got)
		}
	}
}
