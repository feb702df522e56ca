package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A script is a target that the test plays by hand, connection by connection.
type script struct {
	URL string

	mu    sync.Mutex // guards what follows
	conns int
	lines []string // CONNECTION: METHOD path length, as read; connections are A, B, …
}

// newScript starts a target. It answers polls; play gets every other connection
// with its first request, and returns to have it closed.
func newScript(t *testing.T, play func(a *act)) *script {
	t.Helper()
	ln := listen(t)
	s := &script{URL: "http://" + ln.Addr().String()}
	tags := string(fixture(t, "tags.json"))
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				a := &act{Conn: c, script: s, r: bufio.NewReader(c)}
				r, err := http.ReadRequest(a.r)
				if err != nil {
					return
				}
				if r.URL.Path == "/api/tags" {
					a.say(200, tags)
					return
				}
				s.mu.Lock()
				a.name = string(rune('A' + s.conns))
				s.conns++
				s.mu.Unlock()
				a.note(r)
				play(a)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		running.Wait()
	})
	return s
}

func (s *script) read() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

// An act is one connection of a script.
type act struct {
	net.Conn
	script *script
	name   string
	r      *bufio.Reader
}

// note reads a request's body and remembers the request.
func (a *act) note(r *http.Request) {
	n, _ := io.Copy(io.Discard, r.Body)
	a.script.mu.Lock()
	defer a.script.mu.Unlock()
	a.script.lines = append(a.script.lines, fmt.Sprintf("%s: %s %s %d", a.name, r.Method, r.URL.Path, n))
}

// next reads another request; false: there is none.
func (a *act) next() bool {
	r, err := http.ReadRequest(a.r)
	if err == nil {
		a.note(r)
	}
	return err == nil
}

// say answers and keeps the connection open.
func (a *act) say(status int, body string) {
	fmt.Fprintf(a, "HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// reset makes Close answer everything with RST.
func (a *act) reset() { a.Conn.(*net.TCPConn).SetLinger(0) }

// TestRetry: a request that meets a dead connection is sent once more, if that
// connection had served before, nothing of an answer came, and its body is at
// hand.
func TestRetry(t *testing.T) {
	const small, large = 100, 2 << 20
	keyed := []string{"Idempotency-Key", "k", "X-Idempotency-Key", "k"}
	drop := func(*act) {}
	serve := func(a *act) {
		for ok := true; ok; ok = a.next() {
			a.say(200, "{}")
		}
	}
	thenDrop := func(a *act) { // serves one request, reads another and hangs up
		a.say(200, "{}")
		a.next()
	}
	thenReset := func(a *act) { thenDrop(a); a.reset() }
	thenSay := func(bytes string) func(*act) {
		return func(a *act) { thenDrop(a); io.WriteString(a, bytes) }
	}
	for _, test := range []struct {
		name   string
		plays  []func(*act) // of connections A, B, …
		warm   bool         // a request goes before, so that the connection is a reused one
		path   string
		length int
		header []string
		status int
		want   []string // after the request before
	}{
		{"chat, reused", []func(*act){thenDrop, serve}, true, "/api/chat", small, nil, 200, []string{"A: POST /api/chat 100", "B: POST /api/chat 100"}},
		{"large chat, reused", []func(*act){thenDrop, serve}, true, "/api/chat", large, nil, 200, []string{"A: POST /api/chat 2097152", "B: POST /api/chat 2097152"}},
		{"chat, reused and reset", []func(*act){thenReset, serve}, true, "/v1/messages", small, nil, 200, []string{"A: POST /v1/messages 100", "B: POST /v1/messages 100"}},
		{"embed, reused", []func(*act){thenDrop, serve}, true, "/api/embed", small, nil, 200, []string{"A: POST /api/embed 100", "B: POST /api/embed 100"}},
		{"largest embed, reused", []func(*act){thenDrop, serve}, true, "/api/embed", replayLimit, nil, 200, []string{"A: POST /api/embed 1048576", "B: POST /api/embed 1048576"}},
		{"show, reused", []func(*act){thenDrop, serve}, true, "/api/show", small, nil, 200, []string{"A: POST /api/show 100", "B: POST /api/show 100"}},
		{"ps, reused", []func(*act){thenDrop, serve}, true, "/api/ps", 0, nil, 200, []string{"A: GET /api/ps 0", "B: GET /api/ps 0"}},
		{"chat, both die", []func(*act){thenDrop, drop, serve}, true, "/api/chat", small, nil, 503, []string{"A: POST /api/chat 100", "B: POST /api/chat 100"}},
		{"chat, both die, with a key", []func(*act){thenDrop, drop, serve}, true, "/api/chat", small, keyed, 503, []string{"A: POST /api/chat 100", "B: POST /api/chat 100"}},
		{"ps, both die", []func(*act){thenDrop, drop, serve}, true, "/api/ps", 0, nil, 503, []string{"A: GET /api/ps 0", "B: GET /api/ps 0"}},
		{"large embed", []func(*act){thenDrop, serve}, true, "/api/embed", large, nil, 503, []string{"A: POST /api/embed 2097152"}},
		{"chunked embed", []func(*act){thenDrop, serve}, true, "/api/embed", small, []string{"Transfer-Encoding", "chunked"}, 200, []string{"A: POST /api/embed 100", "B: POST /api/embed 100"}},
		{"large chunked embed", []func(*act){thenDrop, serve}, true, "/api/embed", large, []string{"Transfer-Encoding", "chunked"}, 503, []string{"A: POST /api/embed 2097152"}},
		{"new", []func(*act){drop, serve}, false, "/api/chat", small, nil, 503, []string{"A: POST /api/chat 100"}},
		{"new, with a key", []func(*act){drop, serve}, false, "/api/chat", small, keyed, 503, []string{"A: POST /api/chat 100"}},
		{"new embed", []func(*act){drop, serve}, false, "/api/embed", small, keyed, 503, []string{"A: POST /api/embed 100"}},
		{"new ps", []func(*act){drop, serve}, false, "/api/ps", 0, keyed, 503, []string{"A: GET /api/ps 0"}},
		{"a byte came", []func(*act){thenSay("H"), serve}, true, "/api/chat", small, nil, 502, []string{"A: POST /api/chat 100"}},
		{"100 came", []func(*act){thenSay("HTTP/1.1 100 Continue\r\n\r\n"), serve}, true, "/api/chat", small, keyed, 503, []string{"A: POST /api/chat 100"}},
		{"half a header came", []func(*act){thenSay("HTTP/1.1 200 OK\r\nX: 1\r\n"), serve}, true, "/api/embed", small, nil, 503, []string{"A: POST /api/embed 100"}},
		{"an error came", []func(*act){thenSay("HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}"), serve}, true, "/api/chat", small, nil, 503, []string{"A: POST /api/chat 100"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t, func(a *act) { test.plays[a.name[0]-'A'](a) })
			f := newFront(t, s.URL, func(o *Options) { o.MaxBody = 4 << 20 })
			if test.warm {
				if a := f.do(t, "POST", "/api/embed", embedBody); a.status != 200 {
					t.Fatalf("request before: %d %s", a.status, a.body)
				}
			}
			before := len(s.read())
			method, body := "GET", ""
			if test.length > 0 {
				method, body = "POST", chatBody+strings.Repeat(" ", test.length-len(chatBody))
			}
			a := f.do(t, method, test.path, body, test.header...)
			if a.status != test.status || a.err != nil {
				t.Errorf("got %d %s, %v; want %d", a.status, a.body, a.err, test.status)
			}
			if got := s.read()[before:]; !slices.Equal(got, test.want) {
				t.Errorf("the target read %q; want %q", got, test.want)
			}
			f.expectIdle(t)
		})
	}
}

// TestRestartBetweenRequests: the target closes all its connections while
// nothing happens on them. Whether foreman has noticed or not, no client may.
func TestRestartBetweenRequests(t *testing.T) {
	const n = 8
	for _, hangUp := range []struct {
		name string
		do   func(*act)
	}{{"FIN", func(*act) {}}, {"RST", (*act).reset}} {
		t.Run(hangUp.name, func(t *testing.T) {
			restart := make(chan struct{})
			var together sync.WaitGroup // so that there are n connections
			together.Add(n)
			s := newScript(t, func(a *act) {
				if a.name[0]-'A' < n {
					together.Done()
					together.Wait()
					a.say(200, "{}")
					<-restart
					hangUp.do(a)
					return
				}
				for ok := true; ok; ok = a.next() {
					a.say(200, "{}")
				}
			})
			f := newFront(t, s.URL, nil)
			all := func(path string) {
				var clients sync.WaitGroup
				for range n {
					clients.Go(func() {
						if a := f.do(t, "POST", path, chatBody); a.status != 200 || a.err != nil {
							t.Errorf("%s: %d %s, %v; want 200", path, a.status, a.body, a.err)
						}
					})
				}
				clients.Wait()
			}
			all("/api/embed")
			close(restart)
			all("/api/chat")
			all("/api/embed")
		})
	}
}
