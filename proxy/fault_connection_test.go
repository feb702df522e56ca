package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const rounds = 200

// answerChats answers every chat and keeps the connection.
func answerChats(c *net.TCPConn, _ int, body string) bool {
	io.WriteString(c, answerOf(body))
	return true
}

// expectOwn fails the test unless the answer to a chat is the chat's own.
func expectOwn(t testing.TB, c *wire, body string) {
	t.Helper()
	resp, got, err := c.answer(t)
	if err != nil || resp.StatusCode != http.StatusOK || got != body {
		t.Fatalf("%.60q: status %d, %.60q, %v; want 200 and the chat's own answer", body, resp.StatusCode, got, err)
	}
}

func TestFaultTargetRestartsBetweenTwoChats(t *testing.T) {
	for how, die := range map[string]func(*net.TCPConn) error{"FIN": (*net.TCPConn).Close, "RST": resetTCP} {
		t.Run(how, func(t *testing.T) {
			target := newRawTarget(t, answerChats)
			f := newFront(t, target.URL, nil)
			c := connect(t, f)
			for round := range rounds {
				body := marked(strconv.Itoa(round))
				c.send(t, postOf("/api/chat", body))
				expectOwn(t, c, body)
				if got := target.chats(); !slices.Equal(got, []string{body}) {
					t.Fatalf("round %d: target got %q; want the chat once", round, got)
				}
				target.drop(die) // what the kernel does to the connections of a process that ends
			}
		})
	}
}

// A doomedConn breaks at the target's end just before the second request is
// written on it.
type doomedConn struct {
	net.Conn
	target *rawTarget
	nth    int // requests so far

	failures *atomic.Int64 // of Writes
}

func (c *doomedConn) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("POST /api/chat ")) {
		c.nth++
	}
	if c.nth == 2 {
		c.target.mu.Lock()
		far := c.target.conns[c.LocalAddr().String()]
		c.target.mu.Unlock()
		resetTCP(far)
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.failures.Add(1)
	}
	return n, err
}

func TestFaultKeptConnectionClosesAsAChatIsWritten(t *testing.T) {
	t.Run("write fails", func(t *testing.T) {
		target := newRawTarget(t, answerChats)
		var failures atomic.Int64
		f := newFront(t, target.URL, func(o *Options) {
			dial := o.Target.pooled.DialContext
			o.Target.pooled.DialContext = holding(func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &doomedConn{Conn: c, target: target, failures: &failures}, nil
			})
		})
		c := connect(t, f)
		for round := range rounds {
			body := marked(strconv.Itoa(round))
			c.send(t, postOf("/api/chat", body))
			expectOwn(t, c, body)
		}
		if got := target.chats(); len(got) != rounds {
			t.Errorf("target got %d chats; want each of %d once", len(got), rounds)
		}
		if failures.Load() == 0 {
			t.Errorf("no write failed; the test is worth nothing")
		}
	})

	// The target has read the chat, or a part of it, and closes.
	for how, die := range map[string]func(*net.TCPConn) error{"FIN": (*net.TCPConn).Close, "RST": resetTCP} {
		for size, pad := range map[string]string{"small": "", "1 MiB": strings.Repeat("x", 1<<20-100)} {
			t.Run("read fails/"+how+"/"+size, func(t *testing.T) {
				var broken atomic.Int64
				target := newRawTarget(t, func(c *net.TCPConn, nth int, body string) bool {
					if nth == 0 {
						return answerChats(c, nth, body)
					}
					broken.Add(1)
					die(c)
					return false
				})
				f := newFront(t, target.URL, nil)
				c := connect(t, f)
				n := rounds
				if pad != "" {
					n = 20
				}
				for round := range n {
					body := marked(strconv.Itoa(round) + pad)
					c.send(t, postOf("/api/chat", body))
					expectOwn(t, c, body)
				}
				if got := broken.Load(); got != int64(n/2) { // each second chat finds a connection that was used before
					t.Errorf("%d chats met a closed connection; want %d", got, n/2)
				}
				if got := target.chats(); len(got) != n+n/2 {
					t.Errorf("target got %d chats; want %d, half of them twice", len(got), n)
				}
			})
		}
	}
}

func TestFaultNewConnectionNeverTwice(t *testing.T) {
	for _, fields := range []string{
		"",
		"Idempotency-Key: once\r\n",
		"X-Idempotency-Key: once\r\n",
		"idempotency-key:\r\nx-IDEMPOTENCY-key:\r\n",
		"Idempotency-Key: once\r\nConnection: Idempotency-Key, X-Idempotency-Key\r\n",
	} {
		for _, path := range []string{"/api/chat", "/api/embed"} {
			for how, die := range map[string]func(*net.TCPConn) error{"FIN": (*net.TCPConn).Close, "RST": resetTCP} {
				target := newRawTarget(t, func(c *net.TCPConn, _ int, body string) bool {
					die(c)
					return false
				})
				f := newFront(t, target.URL, nil)
				c := connect(t, f)
				c.send(t, postOf(path, marked("once"), fields))
				if got := c.status(t); got != http.StatusServiceUnavailable {
					t.Errorf("%s, %q, %s: status %d; want 503", path, fields, how, got)
				}
				if got := target.chats(); len(got) != 1 {
					t.Errorf("%s, %q, %s: sent %d times; want once", path, fields, how, len(got))
				}
			}
		}
	}
}

// A target that closes every connection on which it gets a second request, and
// the new one too: the retry is the last.
func TestFaultKeptConnectionClosesOnceTriedTwice(t *testing.T) {
	var mu sync.Mutex
	dying := false
	target := newRawTarget(t, func(c *net.TCPConn, nth int, body string) bool {
		mu.Lock()
		defer mu.Unlock()
		if dying {
			return false
		}
		return answerChats(c, nth, body)
	})
	f := newFront(t, target.URL, nil)
	c := connect(t, f)
	c.send(t, postOf("/api/chat", marked("first"), "Idempotency-Key: once\r\n"))
	expectOwn(t, c, marked("first"))
	mu.Lock()
	dying = true
	mu.Unlock()
	target.chats()
	c.send(t, postOf("/api/chat", marked("second"), "Idempotency-Key: once\r\n"))
	if got := c.status(t); got != http.StatusServiceUnavailable {
		t.Errorf("status %d; want 503", got)
	}
	if got := target.chats(); len(got) != 2 {
		t.Errorf("sent %d times; want twice", len(got))
	}
	f.expectIdle(t)
}

// An answer has begun on a kept connection: whatever follows, the chat is not
// sent again.
func TestFaultNeverTwiceOnceAnAnswerBegan(t *testing.T) {
	for _, begun := range []string{"H", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le", "nonsense\r\n\r\n"} {
		target := newRawTarget(t, func(c *net.TCPConn, nth int, body string) bool {
			if nth == 0 {
				return answerChats(c, nth, body)
			}
			io.WriteString(c, begun)
			return false
		})
		f := newFront(t, target.URL, nil)
		c := connect(t, f)
		c.send(t, postOf("/api/chat", marked("first")))
		expectOwn(t, c, marked("first"))
		target.chats()
		c.send(t, postOf("/api/chat", marked("second")))
		if got := c.status(t); got != http.StatusBadGateway && got != http.StatusServiceUnavailable {
			t.Errorf("%q: status %d; want 502 or 503", begun, got)
		}
		if got := target.chats(); len(got) != 1 {
			t.Errorf("%q: sent %d times; want once", begun, len(got))
		}
	}
}
