package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// A sleeper is a holder that can fall asleep: its connections stay open and
// nothing comes back on them.
type sleeper struct {
	*holder
	mu     sync.Mutex // guards what follows
	asleep bool
}

func newSleeper(t testing.TB) *sleeper {
	s := &sleeper{holder: newHolder(t)}
	answer := s.tags
	s.tags = func(w http.ResponseWriter, r *http.Request) {
		if s.sleeps() {
			<-r.Context().Done()
			return
		}
		answer(w, r)
	}
	return s
}

func (s *sleeper) sleeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asleep
}

func (s *sleeper) sleep(asleep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asleep = asleep
}

func TestFaultHostFallsAsleep(t *testing.T) {
	for _, when := range []string{"before the first byte", "in mid-stream"} {
		for _, connecting := range []string{"succeeds", "hangs", "succeeds, polls are rare"} {
			t.Run(when+"/connecting "+connecting, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					target := newSleeper(t)
					f, network := newFrontIn(t, target, func(o *Options) {
						switch connecting {
						case "succeeds":
							return
						case "succeeds, polls are rare":
							o.Inventory = inventory.New(o.Target, time.Hour, o.Log)
							return
						}
						for _, transport := range []*http.Transport{o.Target.pooled, o.Target.fresh} {
							dial := transport.DialContext
							transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
								if target.sleeps() {
									ctx, cancel := context.WithTimeout(ctx, dialTimeout)
									defer cancel()
									<-ctx.Done()
									return nil, ctx.Err()
								}
								return dial(ctx, network, addr)
							}
						}
					})
					victim, queued := connectIn(t, network), connectIn(t, network)
					victim.send(t, postOf("/api/chat", marked("victim")))
					running := target.next(t, "victim")
					if when == "in mid-stream" {
						running.say(t, "{}\n")
						if _, err := victim.in.Peek(len("HTTP/1.1 200 OK")); err != nil {
							t.Fatal(err)
						}
					}
					queued.send(t, postOf("/api/chat", marked("queued")))
					synctest.Wait()

					target.sleep(true)
					began := time.Now()
					resp, body, err := victim.answer(t)
					switch {
					case when == "in mid-stream" && err == nil:
						t.Errorf("the victim got a whole answer, %q; want it cut", body)
					case when != "in mid-stream" && resp.StatusCode != http.StatusGatewayTimeout:
						t.Errorf("victim: status %d; want 504", resp.StatusCode)
					}
					if got := queued.status(t); got != http.StatusServiceUnavailable {
						t.Errorf("queued chat: status %d; want 503", got)
					}
					if took := time.Since(began); took > 45*time.Second {
						t.Errorf("the turn was free after %v; want 45s at most", took)
					}
					running.gone()
					target.none(t)
					f.expectIdle(t)

					target.sleep(false)
					time.Sleep(10 * time.Second) // a poll while degraded
					next := connectIn(t, network)
					next.send(t, postOf("/api/chat", marked("next")))
					target.next(t, "next").finish()
					if got := next.status(t); got != http.StatusOK {
						t.Errorf("chat after the host woke: status %d; want 200", got)
					}
				})
			})
		}
	}
}

// What passes the gate by waits no longer for a host that is asleep.
func TestFaultHostFallsAsleepUnderAnEmbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newSleeper(t)
		f, network := newFrontIn(t, target, nil)
		victim := connectIn(t, network)
		victim.send(t, postOf("/api/embed", marked("victim")))
		running := target.next(t, "victim")
		target.sleep(true)
		began := time.Now()
		if got := victim.status(t); got != http.StatusGatewayTimeout {
			t.Errorf("victim: status %d; want 504", got)
		}
		running.gone()
		late := connectIn(t, network)
		late.send(t, postOf("/api/embed", marked("late")))
		if got := late.status(t); got != http.StatusServiceUnavailable {
			t.Errorf("an embed while the host sleeps: status %d; want 503", got)
		}
		if took := time.Since(began); took > 45*time.Second {
			t.Errorf("both were answered after %v; want 45s at most", took)
		}
		target.none(t)

		target.sleep(false)
		next := connectIn(t, network)
		next.send(t, postOf("/api/embed", marked("next")))
		target.next(t, "next").finish()
		if got := next.status(t); got != http.StatusOK {
			t.Errorf("embed after the host woke: status %d; want 200", got)
		}
		f.expectIdle(t)
	})
}

func TestFaultLivingHostIsSilent(t *testing.T) {
	for _, when := range []string{"before the first byte", "in mid-stream"} {
		for _, silence := range []time.Duration{9 * time.Minute, 11 * time.Minute} {
			t.Run(when+"/"+silence.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					target := newHolder(t)
					_, network := newFrontIn(t, target, nil)
					silent := connectIn(t, network)
					silent.send(t, postOf("/api/chat", marked("silent")))
					running := target.next(t, "silent")
					if when == "in mid-stream" {
						time.Sleep(5 * time.Minute) // a silence of its own
						running.say(t, "{}\n")
						if _, err := silent.in.Peek(len("HTTP/1.1 200 OK")); err != nil {
							t.Fatal(err)
						}
					}
					began := time.Now()
					time.AfterFunc(silence, running.finish)
					resp, _, err := silent.answer(t)
					took := time.Since(began)
					switch {
					case silence < 10*time.Minute:
						if resp.StatusCode != http.StatusOK || err != nil || took != silence {
							t.Errorf("status %d, %v after %v; want a whole 200 after %v", resp.StatusCode, err, took, silence)
						}
					case when == "in mid-stream" && err == nil:
						t.Errorf("whole answer after %v; want it cut", took)
					case when != "in mid-stream" && resp.StatusCode != http.StatusGatewayTimeout:
						t.Errorf("status %d; want 504", resp.StatusCode)
					case took < 10*time.Minute || took > 10*time.Minute+2*time.Second:
						t.Errorf("given up after %v; want 10m", took)
					}
					next := connectIn(t, network)
					next.send(t, postOf("/api/chat", marked("next")))
					go func() { target.next(t, "next").finish() }()
					if got := next.status(t); got != http.StatusOK {
						t.Errorf("next chat: status %d; want 200", got)
					}
				})
			})
		}
	}
}

// A rawTarget is a target whose chats are answered at the level of bytes, and
// can be answered wrongly.
type rawTarget struct {
	URL string
	// answer answers the nth chat on a connection, from 0, and reports whether
	// to keep the connection.
	answer func(c *net.TCPConn, nth int, body string) (keep bool)

	mu    sync.Mutex // guards what follows
	conns map[string]*net.TCPConn
	got   []string // the bodies of chats
}

func newRawTarget(t testing.TB, answer func(c *net.TCPConn, nth int, body string) bool) *rawTarget {
	t.Helper()
	ln := listen(t)
	target := &rawTarget{URL: "http://" + ln.Addr().String(), answer: answer, conns: map[string]*net.TCPConn{}}
	models := string(fixture(t, "tags.json"))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			target.mu.Lock()
			target.conns[c.RemoteAddr().String()] = c.(*net.TCPConn)
			target.mu.Unlock()
			serving.Go(func() { target.serve(c.(*net.TCPConn), models) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		target.drop((*net.TCPConn).Close)
		serving.Wait()
	})
	return target
}

func (target *rawTarget) serve(c *net.TCPConn, models string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for nth := 0; ; nth++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.URL.Path == "/api/tags" {
			io.WriteString(c, answerOf(models, "Connection: close\r\n"))
			return
		}
		target.mu.Lock()
		target.got = append(target.got, string(b))
		target.mu.Unlock()
		if !target.answer(c, nth, string(b)) {
			return
		}
	}
}

// drop does something to all connections, and forgets them.
func (target *rawTarget) drop(how func(*net.TCPConn) error) {
	target.mu.Lock()
	defer target.mu.Unlock()
	for addr, c := range target.conns {
		how(c)
		delete(target.conns, addr)
	}
}

// chats returns the bodies of all chats so far, and forgets them.
func (target *rawTarget) chats() []string {
	target.mu.Lock()
	defer target.mu.Unlock()
	got := target.got
	target.got = nil
	return got
}

// answerOf returns a whole answer as it is on the wire.
func answerOf(body string, fields ...string) string {
	return "HTTP/1.1 200 OK\r\n" + strings.TrimPrefix(postOf("", body, fields...), "POST  HTTP/1.1\r\nHost: 127.0.0.1\r\n")
}

func resetTCP(c *net.TCPConn) error {
	c.SetLinger(0)
	return c.Close()
}

func TestFaultTargetDiesInMidStream(t *testing.T) {
	const line = `{"done":false}` + "\n"
	for framing, head := range map[string]string{
		"chunked":                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf\r\n" + line + "\r\n",
		"Content-Length":            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + line,
		"HTTP/1.0":                  "HTTP/1.0 200 OK\r\n\r\n" + line,
		"HTTP/1.1 without a length": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + line,
	} {
		for how, die := range map[string]func(*net.TCPConn) error{"FIN": (*net.TCPConn).Close, "RST": resetTCP} {
			for _, path := range []string{"/api/chat", "/api/embed"} {
				t.Run(path[1:]+"/"+framing+"/"+how, func(t *testing.T) {
					seen := make(chan bool) // the client has the line
					target := newRawTarget(t, func(c *net.TCPConn, _ int, body string) bool {
						if body == marked("next") {
							io.WriteString(c, answerOf("{}"))
							return true
						}
						io.WriteString(c, head)
						<-seen
						die(c)
						return false
					})
					f := newFront(t, target.URL, nil)
					victim, next := connect(t, f), connect(t, f)
					victim.send(t, postOf(path, marked("victim")))
					resp, err := http.ReadResponse(victim.in, nil)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(resp.Body, make([]byte, len(line))); err != nil {
						t.Fatal(err)
					}
					next.send(t, postOf("/api/chat", marked("next")))
					seen <- true
					if rest, err := io.ReadAll(resp.Body); err == nil {
						t.Errorf("clean end after %q; want a cut", rest)
					}
					if got := next.status(t); got != http.StatusOK {
						t.Errorf("next chat: status %d; want 200", got)
					}
					if got := target.chats(); len(got) != 2 {
						t.Errorf("target got %q; want each chat once", got)
					}
				})
			}
		}
	}
}

// To a client that speaks HTTP/1.0 the end of the connection is the end of the
// answer, unless it is an RST.
func TestFaultTargetDiesUnderAnHTTP10Client(t *testing.T) {
	seen := make(chan bool)
	target := newRawTarget(t, func(c *net.TCPConn, _ int, body string) bool {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
		<-seen
		return false
	})
	f := newFront(t, target.URL, nil)
	c := connect(t, f)
	c.send(t, strings.Replace(postOf("/api/chat", marked("victim")), "HTTP/1.1", "HTTP/1.0", 1))
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, len("{}"))); err != nil {
		t.Fatal(err)
	}
	seen <- true
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("clean end after %q; want a cut", rest)
	}
}
