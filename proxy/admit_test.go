package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"foreman/proxy/tokens"
)

func TestFaultDNSRebinding(t *testing.T) {
	const named, local, any = 0, 1, 2 // FOREMAN_HOSTS; none; none, but a token
	options := [3]func(*Options){
		named: func(o *Options) { o.Hosts = []string{"foreman.lan", "gpu.example.com"} },
		any:   func(o *Options) { o.Token = clientToken },
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
		{"foreman.lan", [3]bool{true, true, true}},
		{"FOREMAN.lan:8080", [3]bool{true, true, true}},
		{"gpu.example.com.", [3]bool{true, false, true}},
		{"x.foreman.lan", [3]bool{false, true, true}},
		{"foreman.lan.evil.example", [3]bool{false, false, true}},
		{"gpu", [3]bool{false, true, true}},
		{"gpu.:8080", [3]bool{false, true, true}},
		{"a.localhost", [3]bool{false, true, true}},
		{"mac.local:8080", [3]bool{false, true, true}},
		{"host.docker.internal", [3]bool{false, true, true}},
		{"gpu.home.arpa", [3]bool{false, true, true}},
		{"foreman.ai.svc", [3]bool{false, true, true}},
		{"foreman.ai.svc.cluster.local:8080", [3]bool{false, true, true}},
		{"fritz.box", [3]bool{false, false, true}},
		{"gpu.tail1234.ts.net:8080", [3]bool{false, false, true}},
		{"evil.example", [3]bool{false, false, true}},
		{"evil.example:11434", [3]bool{false, false, true}},
		{"127.0.0.1.evil.example", [3]bool{false, false, true}},
		{"localhost.evil.example", [3]bool{false, false, true}},
		{"evil.home.arpa.example", [3]bool{false, false, true}},
		{"evil.notlocal", [3]bool{false, false, true}},
		{"evil.mylan", [3]bool{false, false, true}},
		{"arpa.evil-home.arpa", [3]bool{false, false, true}},
	}
	for mode, change := range options {
		stub := newStub(t)
		f := newFront(t, stub.URL, change)
		for _, test := range tests {
			for _, path := range []string{"/api/tags", "/api/ps", "/healthz", "/status", "/metrics"} {
				status := 403
				if test.ok[mode] {
					status = 200
				}
				a := f.do(t, "GET", path, "", "Host", test.host, "Authorization", "Bearer "+clientToken)
				if a.status != status {
					t.Errorf("mode %d: GET %s of host %q: %d; want %d", mode, path, test.host, a.status, status)
				}
				name, _, _ := strings.Cut(strings.ToLower(test.host), ":")
				if status == 403 && !strings.Contains(a.body, "FOREMAN_HOSTS="+strings.TrimSuffix(name, ".")+" ") {
					t.Errorf("mode %d: host %q: got %s; want what to set", mode, test.host, a.body)
				}
			}
		}
		if a := f.raw(t, "GET /api/tags HTTP/1.0\r\n\r\n", false); (a.status == 200) != (mode == local) {
			t.Errorf("mode %d: no host: %d", mode, a.status)
		}
	}
	f := newFront(t, newStub(t).URL, nil)
	if a := f.raw(t, "GET /api/ps HTTP/1.1\r\nHost: "+strings.Repeat("x", 300)+"%3Cb'$.example\r\n\r\n", false); a.status != 403 || !strings.Contains(a.body, "FOREMAN_HOSTS="+strings.Repeat("x", 253)+" ") {
		t.Errorf("long host: got %d %s; want it cut", a.status, a.body)
	}
	if a := f.raw(t, "GET /api/ps HTTP/1.1\r\nHost: a%3Cb'$.example\r\n\r\n", false); a.status != 403 || !strings.Contains(a.body, "FOREMAN_HOSTS=a?3cb??.example ") {
		t.Errorf("odd host: got %d %s; want it cleaned", a.status, a.body)
	}
}

// TestFaultTargetIsForemanItself: FOREMAN_OLLAMA_URL points at foreman itself. It says so, and does
// not wait for itself.
func TestFaultTargetIsForemanItself(t *testing.T) {
	ln := listen(t)
	f := newFrontOn(t, ln, "http://"+ln.Addr().String(), func(o *Options) { o.Manage = true })
	want := errorSeen{508, "the request came from this foreman: FOREMAN_OLLAMA_URL points back at it", failed}
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
			seen := observe(stub)
			polls := make(chan []string, 100)
			tags := stub.tags
			stub.tags = func(w http.ResponseWriter, r *http.Request) {
				polls <- r.Header["Authorization"]
				tags(w, r)
			}
			f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Target = test.ofClients, stub.target(test.outward) })
			for _, rt := range []struct{ method, path string }{
				{"POST", "/api/chat"}, {"POST", "/v1/messages"}, {"POST", "/api/embed"}, {"GET", "/api/ps"}, {"HEAD", "/api/version"}, {"OPTIONS", "/api/chat"},
			} {
				body := ""
				if rt.method == "POST" {
					body = chatBody
				}
				// A client that names the field in Connection must not strip what foreman sets.
				for _, connection := range []string{"keep-alive", "Authorization"} {
					want := test.want
					if connection == "Authorization" && test.outward == "" || rt.method == "OPTIONS" {
						want = nil
					}
					a := f.do(t, rt.method, rt.path, body, "Authorization", "Bearer "+clientToken, "Connection", connection)
					if a.status != 200 {
						t.Errorf("%s %s: %d %s; want 200", rt.method, rt.path, a.status, a.body)
						continue
					}
					if got := (<-seen).header["Authorization"]; strings.Join(got, "|") != strings.Join(want, "|") {
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

// Whoever has no token costs foreman and the target nothing, whatever body is sent.
func TestFaultBodiesWithoutAToken(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Manage = clientToken, true })
	const asks = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
	for _, test := range []struct {
		request, fields string
		want            int
	}{
		{"OPTIONS /api/chat", asks, 400},
		{"OPTIONS /api/embed", asks, 400},
		{"OPTIONS /api/tags", asks, 400},
		{"OPTIONS /api/pull", asks, 400},
		{"OPTIONS /v1/models/x", asks, 400},
		{"OPTIONS /healthz", asks, 405},
		{"OPTIONS /nowhere", asks, 401},
		{"OPTIONS /api/chat", "", 401},
		{"POST /api/chat", "", 401},
		{"POST /api/embed", "", 401},
		{"POST /api/blobs/sha256:0", "", 401},
		{"GET /status", "", 401},
		{"GET /healthz", "", 200},
		{"HEAD /readyz", "", 200},
		{"GET /", "", 200},
		{"POST /", "", 405},
		{"OPTIONS /", asks, 405},
		{"POST /healthz", "", 405},
	} {
		for _, head := range []string{"Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nf4240\r\n"} {
			c := connect(t, f).send(t, test.request+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+test.fields+head+strings.Repeat("y", 100_000))
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil || resp.StatusCode != test.want || !resp.Close {
				t.Errorf("%s: %v, %v; want %d at once, and the end of the connection", test.request, resp, err, test.want)
			}
			if used := f.held(); used != 0 {
				t.Errorf("%s: %d bytes held; want none", test.request, used)
			}
			c.Close()
		}
	}
	if got := stub.seen(); len(got) > 0 {
		t.Errorf("the target got %q; want nothing", got)
	}
}

func TestFaultTokens(t *testing.T) {
	stub := newStub(t)
	var got []string
	stub.chat = func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header["Authorization"]...)
		got = append(got, r.Header["X-Api-Key"]...)
	}
	stub.embed = stub.chat
	for _, outbound := range []string{"", targetToken} {
		got = nil
		f := newFront(t, stub.URL, func(o *Options) { // its log must not have the secret
			o.Token, o.Target = clientToken, stub.target(outbound)
		})
		for fields, want := range map[string]int{
			"Authorization: Bearer " + clientToken + "\r\n":     200,
			"authorization:  bearer   " + clientToken + " \r\n": 200,
			"":                                       401,
			"Authorization:\r\n":                     401,
			"Authorization: Bearer\r\n":              401,
			"Authorization: " + clientToken + "\r\n": 401,
			"Authorization: Basic " + clientToken + "\r\n":                                                    401,
			"Authorization: Bearer " + clientToken + "x\r\n":                                                  401,
			"Authorization: Bearer " + clientToken[1:] + "\r\n":                                               401,
			"Authorization: Bearer" + clientToken + "\r\n":                                                    401,
			"Authorization: Bearer " + strings.ToUpper(clientToken) + "\r\n":                                  401,
			"Authorization: Bearer " + targetToken + "\r\n":                                                   401,
			"Authorization: Bearer " + clientToken + ", Bearer x\r\n":                                         401,
			"Authorization: Bearer " + clientToken + "\r\nAuthorization: Bearer " + clientToken + "\r\n":      401,
			"Authorization: Bearer x\r\nAuthorization: Bearer " + clientToken + "\r\n":                        401,
			"X-Api-Key: " + clientToken + "\r\n":                                                              200,
			"x-api-key: " + clientToken + "\r\nAuthorization: Bearer " + clientToken + "\r\n":                 200,
			"X-Api-Key: x\r\nAuthorization: Bearer " + clientToken + "\r\n":                                   200,
			"X-Api-Key: " + clientToken + "\r\nAuthorization: Bearer x\r\n":                                   200,
			"X-Api-Key: " + clientToken + "\r\nAuthorization:\r\n":                                            200,
			"X-Api-Key: " + clientToken + "\r\nX-Api-Key: " + clientToken + "\r\n":                            401,
			"X-Api-Key:\r\nAuthorization: Bearer " + clientToken + "\r\n":                                     200,
			"X-Api-Key: " + clientToken + "\r\nAuthorization: Basic eDp5\r\n":                                 200,
			"X-Api-Key: x\r\nAuthorization: Bearer y\r\n":                                                     401,
			"X-Api-Key: " + clientToken + "\r\nX-Api-Key: x\r\nAuthorization: Bearer " + clientToken + "\r\n": 401,
			"X-Api-Key: Bearer " + clientToken + "\r\n":                                                       401,
			"X-Api-Key: " + clientToken + "x\r\n":                                                             401,
			"X-Api-Key:\r\n":                                                                                  401,
			"Connection: Authorization\r\nAuthorization: Bearer x\r\n":                                        401,
			"Proxy-Authorization: Bearer " + clientToken + "\r\nX-Authorization: " + "Bearer x" + "\r\n":      401,
			"Connection: Authorization\r\nAuthorization: Bearer " + clientToken + "\r\nX-Last: 1\r\n":         200,
			"Access-Control-Request-Method: POST\r\nOrigin: https://app.example\r\nX-Not-A-Preflight: 1\r\n":  401,
		} {
			for _, path := range []string{"/api/chat", "/api/embed", "/nowhere", "/api%2Fchat"} {
				c := connect(t, f).send(t, postOf(path, marked("token"), fields))
				want := want
				if want == 200 && (path == "/nowhere" || path == "/api%2Fchat") {
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
		if want := 20; outbound != "" && len(got) != want {
			t.Errorf("the target got %d tokens; want %d", len(got), want)
		}
	}
}

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
		{"foreman.example:8080", "http://foreman.example:8080", true},
	} {
		stub := newStub(t)
		seen := observe(stub)
		f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
		if a := f.do(t, "POST", "/api/chat", chatBody, "Host", test.host, "Origin", test.origin, "X-Api-Key", clientToken); a.status != 200 {
			t.Errorf("%+v: %d %s; want 200", test, a.status, a.body)
			continue
		}
		if got := (<-seen).header.Get("Origin"); (got != "") != test.passed {
			t.Errorf("%+v: the target got Origin %q", test, got)
		}
	}
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
		c := connect(t, f).send(t, postOf(path, marked("loop")))
		c.expect(t, http.StatusLoopDetected, path)
	}
}

// Who a request is from: the name of its token, else what a gateway with a token says,
// else its address without the port.
func TestWhoIsWho(t *testing.T) {
	stub := newStub(t)
	bearer := func(token string) []string { return []string{"Authorization", "Bearer " + secret + token} }
	user := []string{"X-User", "carla"}
	for _, test := range []struct {
		name   string
		token  bool // FOREMAN_TOKEN
		file   bool // FOREMAN_TOKENS_FILE
		header bool // FOREMAN_CLIENT_HEADER
		fields []string
		status int
		want   string
	}{
		{"nobody asks", false, false, true, user, 200, "127.0.0.1"},
		{"one token", true, false, false, slices.Concat(bearer("-of-clients"), user), 200, "127.0.0.1"},
		{"a gateway", true, false, true, slices.Concat(bearer("-of-clients"), user), 200, "carla (header)"},
		{"a gateway that says nothing", true, false, true, bearer("-of-clients"), 200, "127.0.0.1"},
		{"a gateway that says two things", true, false, true, slices.Concat(bearer("-of-clients"), user, user), 200, "127.0.0.1"},
		{"another script", true, false, true, append(bearer("-of-clients"), "X-User", strings.Repeat("%E5%BC%A0", 9)+" %D0%98"), 200, strings.Repeat("%E5%BC%A0", 9) + " %D0%98 (header)"},
		{"a long name", true, false, true, append(bearer("-of-clients"), "X-User", strings.Repeat("x", 256)), 200, strings.Repeat("x", 256) + " (header)"},
		{"one too long", true, false, true, append(bearer("-of-clients"), "X-User", strings.Repeat("x", 257)), 200, "127.0.0.1"},
		{"one not encoded", true, false, true, append(bearer("-of-clients"), "X-User", "张"), 200, "127.0.0.1"},
		{"a gateway without a token", true, false, true, user, 401, "127.0.0.1"},
		{"a name of a token", false, true, true, slices.Concat(bearer("-of-ann"), user), 200, "ann"},
		{"x-api-key", false, true, false, []string{"X-Api-Key", secret + "-of-bob"}, 200, "bob"},
		{"both", true, true, true, slices.Concat(bearer("-of-clients"), user), 200, "carla (header)"},
		{"a gateway with the name of a token", true, true, true, append(bearer("-of-clients"), "X-User", "ann"), 200, "ann (header)"},
		{"a gateway with an address", true, true, true, append(bearer("-of-clients"), "X-User", "127.0.0.1"), 200, "127.0.0.1 (header)"},
		{"another's", false, true, false, bearer("-of-clients"), 401, "127.0.0.1"},
		{"another server's key beside it", false, true, false, append(bearer("-of-ann"), "X-Api-Key", "sk-ant-1"), 200, "ann"},
		{"another server's bearer beside it", false, true, false, append(bearer("-of-another"), "X-Api-Key", secret+"-of-bob"), 200, "bob"},
		{"the same twice", false, true, false, append(bearer("-of-ann"), "X-Api-Key", secret+"-of-ann"), 200, "ann"},
		{"one of the file and FOREMAN_TOKEN", true, true, false, append(bearer("-of-clients"), "X-Api-Key", secret+"-of-bob"), 401, "127.0.0.1"},
		{"two of the file", false, true, false, append(bearer("-of-ann"), "X-Api-Key", secret+"-of-bob"), 401, "127.0.0.1"},
	} {
		f := newFront(t, stub.URL, func(o *Options) {
			if test.token {
				o.Token = clientToken
			}
			if test.file {
				o.Tokens = tokensOf(t, "ann "+secret+"-of-ann\nbob "+secret+"-of-bob\n")
			}
			if test.header {
				o.ClientHeader = "X-User"
			}
		})
		f.do(t, "POST", "/api/chat", chatBody, test.fields...)
		a := f.do(t, "POST", "/api/chat", chatBody, test.fields...)
		records := f.log.access(t, 2)
		if a.status != test.status || records[1]["client"] != test.want || !strings.HasPrefix(fmt.Sprint(records[1]["addr"]), "127.0.0.1:") {
			t.Errorf("%s: %d, client %v, addr %v; want %d, %s", test.name, a.status, records[1]["client"], records[1]["addr"], test.status, test.want)
		}
		reason := map[string]string{
			"one too long":                   "it is longer than 256 bytes",
			"one not encoded":                "it is not printable ASCII",
			"a gateway that says two things": "it came more than once",
		}[test.name]
		if got, log := strings.Count(f.log.String(), `"level":"WARN"`), f.log.String(); reason == "" && got != 0 || reason != "" && (got != 1 || !strings.Contains(log, `"header":"X-User","reason":"`+reason+`"`)) {
			t.Errorf("%s: got %d warnings; want one that says %q, if that is anything", test.name, got, reason)
		}
		before := strings.Count(f.log.String(), "carla")
		f.do(t, "OPTIONS", "/api/chat", "", slices.Concat(asks, user)...)
		if got := f.log.access(t, 3)[2]["client"]; got != "127.0.0.1" || strings.Count(f.log.String(), "carla") != before {
			t.Errorf("%s: without a token: client %v; want an address", test.name, got)
		}
	}
}

// A client without a name is the network that it comes from, if it may have many addresses
// there.
func TestAddressOfAClient(t *testing.T) {
	for from, want := range map[string]string{
		"192.0.2.7:1":                         "192.0.2.7",
		"[::ffff:192.0.2.7]:1":                "192.0.2.7",
		"[2001:db8:1:2:aaaa:bbbb:cccc:1]:443": "2001:db8:1:2::/64",
		"[2001:db8:1:2:dddd::2]:443":          "2001:db8:1:2::/64",
		"[2001:db8:1:3:aaaa:bbbb:cccc:1]:443": "2001:db8:1:3::/64",
		"[::1]:1":                             "::1",
		"[fe80::1%eth0]:1":                    "fe80::1%eth0",
		"@":                                   "@",
	} {
		if got := addressOf(&http.Request{RemoteAddr: from}); got != want {
			t.Errorf("%s: got %s; want %s", from, got, want)
		}
	}
}

// A token that is taken out of the file works no more, and what runs with it ends: in
// line, at the target, and in the middle of an answer. What another's token runs does not.
func TestTokenIsRevoked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("ann " + secret + "-of-ann\nbob " + secret + "-of-bob\n")
	f, target := newHeldFront(t, func(o *Options) {
		named, err := tokens.Open(file, o.Log)
		if err != nil {
			t.Fatal(err)
		}
		o.Tokens = named
		start(t, func(ctx context.Context) { named.Run(ctx, 10*time.Millisecond) })
	})
	send := func(of, mark string) *wire {
		c := connect(t, f).send(t, postOf("/api/chat", marked(mark), "Authorization: Bearer "+secret+"-of-"+of+"\r\n"))
		return c
	}
	running := send("ann", "running")
	chat := target.next(t, "running")
	chat.say(t, "a line\n")
	waiting := send("ann", "waiting")
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
	others := send("bob", "others")
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 2 })

	write("bob " + secret + "-of-bob\n")
	chat.gone()
	if resp, body, err := waiting.answer(t); err != nil || resp.StatusCode != 401 || !strings.Contains(body, "no longer valid") {
		t.Errorf("in line: got %v %s, %v; want 401", resp, body, err)
	}
	if resp, body, err := running.answer(t); resp.StatusCode != 200 || body != "a line\n" || err == nil {
		t.Errorf("running: got %v %q, %v; want it cut", resp, body, err)
	}
	target.next(t, "others").finish()
	others.expect(t, 200, "another's")
	send("ann", "later").expect(t, 401, "later")
	f.log.await(t, `"err":"this token is no longer valid"`)
	f.expectIdle(t)
	if a := f.do(t, "GET", "/metrics", "", "X-Api-Key", secret+"-of-bob"); !strings.Contains(a.body, "foreman_turns_revoked_total{reason=\"token revoked\"} 1\n") {
		t.Errorf("metrics: got %s; want one revoked turn", a.body)
	}
	if strings.Contains(f.log.String(), `"level":"WARN"`) {
		t.Error("what a revoked token ran is a warning in the log; want it told as what somebody wanted")
	}
}
