package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestFaultSideDoors(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	addr := strings.TrimPrefix(f.URL, "http://")
	body := marked("door")
	for _, test := range []struct {
		request string // up to the header; the Host is added but where it is there already
		want    string // how the answer's status line goes on
	}{
		{"POST /api%2Fchat HTTP/1.1", "404 "},
		{"POST /api%2fchat HTTP/1.1", "404 "},
		{"POST /api/%63hat HTTP/1.1", "404 "},
		{"POST /%61pi/chat HTTP/1.1", "404 "},
		{"POST %2Fapi/chat HTTP/1.1", "400 "},
		{"POST //api/chat HTTP/1.1", "404 "},
		{"POST /api//chat HTTP/1.1", "404 "},
		{"POST /api/chat/ HTTP/1.1", "404 "},
		{"POST /api/x/../chat HTTP/1.1", "404 "},
		{"POST /./api/chat HTTP/1.1", "404 "},
		{"POST /api/%2e/chat HTTP/1.1", "404 "},
		{"POST /v1/models/../../api/chat HTTP/1.1", "404 "},
		{"GET /v1/models/../../api/tags HTTP/1.1", "404 "},
		{"GET /v1/models/%2e%2e/x HTTP/1.1", "404 "},
		{`GET /v1/models/..\x HTTP/1.1`, "404 "},
		{"GET /v1/models/x%0d%0aHost:%20y HTTP/1.1", "404 "},
		{"GET /v1/models/ HTTP/1.1", "404 "},
		{"POST /api/blobs/a/b HTTP/1.1", "404 "},
		{"POST /api/chat;x HTTP/1.1", "404 "},
		{"POST /api/chat%3Bx HTTP/1.1", "404 "},
		{"POST /api/chat%00 HTTP/1.1", "404 "},
		{"POST /api/chat%20 HTTP/1.1", "404 "},
		{"POST /api/chat%3F HTTP/1.1", "404 "},
		{"POST /API/CHAT HTTP/1.1", "404 "},
		{"POST /api\\chat HTTP/1.1", "404 "},
		{"POST api/chat HTTP/1.1", "400 "},
		{"POST ?/api/chat HTTP/1.1", "400 "},
		{"POST http:api/chat HTTP/1.1", "404 "},
		{"POST http://" + addr + "//api/chat HTTP/1.1", "404 "},
		{"POST http://" + addr + "/api%2Fchat HTTP/1.1", "404 "},
		{"POST http://evil.example/api/chat HTTP/1.1", "403 "},
		{"GET /api/chat HTTP/1.1", "405 "},
		{"post /api/chat HTTP/1.1", "405 "},
		{"PRI /api/chat HTTP/1.1", "405 "},
		{"CONNECT /api/chat HTTP/1.1", "405 "},
		{"CONNECT " + addr + " HTTP/1.1", "404 "},
		{"CONNECT evil.example:443 HTTP/1.1", "403 "},
		{"TRACE / HTTP/1.1", "405 "},
		{"OPTIONS * HTTP/1.1", "200 "}, // net/http's own answer
		{"GET * HTTP/1.1", "404 "},
		{"PRI * HTTP/2.0", "404 "},
		{"POST /api/chat HTTP/2.0", "505 "},
		{"POST /api/chat HTTP/3.0", "505 "},
		{"POST /api/chat HTTP/0.9", "505 "},
		{"POST /api/chat", "400 "},
		{"POST  /api/chat HTTP/1.1", "400 "},
		{"GET /secret HTTP/1.1", "404 "},
	} {
		c := connect(t, f)
		c.send(t, test.request+"\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: "+"30"+"\r\n\r\n"+body)
		line, err := c.in.ReadString('\n')
		if _, got, _ := strings.Cut(line, " "); err != nil || !strings.HasPrefix(got, test.want) {
			t.Errorf("%q: answer %q, %v; want %s", test.request, line, err, test.want)
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
		if r.RequestURI != "/api/chat" {
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
		"POST http://localhost/api/chat?x HTTP/1.1\r\nHost: 127.0.0.1\r\n",
		"POST /api/chat HTTP/1.0\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
		"POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nX-HTTP-Method-Override: GET\r\n",
	} {
		c := connect(t, f)
		c.send(t, request+"Content-Length: 30\r\n\r\n"+marked("door"))
		if got := c.status(t); got != http.StatusOK {
			t.Errorf("%q: status %d; want 200", request, got)
		}
	}
}

func TestFaultFieldsOfTheClient(t *testing.T) {
	stub := newStub(t)
	var got *http.Request
	stub.chat = func(_ http.ResponseWriter, r *http.Request) { got = r }
	stub.embed = stub.chat
	u, _ := url.Parse(stub.URL)
	f := newFront(t, stub.URL, func(o *Options) { o.Target = NewTarget(u, targetToken) })
	const hostile = "Connection: Authorization, keep-alive, Via\r\n" +
		"Connection: Host,Content-Length , x-request-id,\t X-Secret , Upgrade, TE, Content-Type\r\n" +
		"Authorization: Bearer of-the-client\r\n" +
		"Upgrade: websocket\r\nTE: trailers, deflate\r\nX-Secret: 1\r\nKeep-Alive: 300\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n" +
		"Expect: 100-continue\r\nTrailer: X-Later\r\n" +
		"Forwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: h\r\nX-Forwarded-Proto: p\r\nx-forwarded-port: 1\r\n" +
		"X-Forwarded-Server: s\r\nX-Forwarded-Prefix: /p\r\nX-Forwarded-Scheme: x\r\nX-Forwarded-Ssl: on\r\nX-Real-IP: 1.2.3.4\r\n" +
		"Idempotency-Key: i\r\nX-Idempotency-Key: i\r\nOrigin: https://app.example\r\nX-Kept: kept\r\n"
	for _, path := range []string{"/api/chat", "/api/embed"} {
		c := connect(t, f)
		c.send(t, postOf(path, marked("fields"), hostile))
		if resp, err := http.ReadResponse(c.in, nil); err != nil || resp.StatusCode != http.StatusContinue {
			t.Fatalf("%s: %v, %v; want 100 Continue", path, resp, err)
		}
		if got := c.status(t); got != http.StatusOK {
			t.Fatalf("%s: status %d; want 200", path, got)
		}
		allowed := map[string]string{
			"Authorization":  "Bearer " + targetToken,
			"Content-Length": "32",
			"Origin":         "https://app.example",
			"X-Kept":         "kept",
			"X-Request-Id":   got.Header.Get("X-Request-Id"),
			"Via":            f.Target.via,
		}
		for name, values := range got.Header {
			if want, ok := allowed[name]; !ok || len(values) != 1 || values[0] != want {
				t.Errorf("%s: the target got %s: %q; want %q", path, name, values, want)
			}
		}
		if len(got.Header) != len(allowed) {
			t.Errorf("%s: the target got %d fields, %v; want %d", path, len(got.Header), got.Header, len(allowed))
		}
		if want := u.Host; got.Host != want {
			t.Errorf("%s: Host %q; want the target's, %q", path, got.Host, want)
		}
	}
}

// A target that switches protocols unasked would make a tunnel past the gate.
func TestFaultUnaskedSwitch(t *testing.T) {
	for path, fields := range map[string]string{
		"/api/chat":  "Connection: Upgrade\r\nUpgrade: websocket\r\n",
		"/api/embed": "Connection: Upgrade\r\nUpgrade: h2c\r\n",
		"/api/show":  "",
	} {
		target := newRawTarget(t, func(c *net.TCPConn, _ int, _ string) bool {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\ntunnel")
			io.Copy(io.Discard, c) // until foreman hangs up
			return false
		})
		f := newFront(t, target.URL, nil)
		c := connect(t, f)
		c.send(t, postOf(path, marked("switch"), "Connection: Upgrade\r\nUpgrade: websocket\r\n"))
		resp, body, err := c.answer(t)
		if err != nil || resp.StatusCode != http.StatusBadGateway || strings.Contains(body, "tunnel") {
			t.Errorf("%s: status %d, %q, %v; want 502", path, resp.StatusCode, body, err)
		}
		c = connect(t, f)
		c.send(t, postOf(path, marked("switch")))
		if got := c.status(t); got != http.StatusBadGateway { // the turn was free
			t.Errorf("%s: second request: status %d; want 502", path, got)
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
		c := connect(t, f)
		c.send(t, postOf(path, marked("early"), "Connection: close\r\n"))
		b, err := io.ReadAll(c)
		raw := string(b)
		if err != nil || !strings.HasPrefix(raw, "HTTP/1.1 200 OK\r\n") || strings.Count(raw, "HTTP/1.1") != 1 ||
			strings.Contains(raw, "Early") || strings.Contains(raw, "evil") || !strings.HasSuffix(raw, marked("early")) {
			t.Errorf("%s: answer %q, %v; want one 200 with nothing of what came before", path, raw, err)
		}
	}
}

// HTTP/0.9 has no header, and no version.
func TestFaultHTTP09(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	c := connect(t, f)
	c.send(t, "GET /api/ps\r\n\r\n")
	b, _ := io.ReadAll(bufio.NewReader(c))
	if got := string(b); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("answer %q; want 400", got)
	}
	if got := stub.seen(); !slices.Equal(got, nil) {
		t.Errorf("the target got %q; want nothing", got)
	}
}
