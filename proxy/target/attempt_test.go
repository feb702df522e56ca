package target

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wantUnreachable sends a chat and fails the test unless its connection fails.
func (h *host) wantUnreachable(body string) {
	h.t.Helper()
	if got, err := h.chat(body); !errors.Is(err, ErrUnreachable) {
		h.t.Errorf("answer %q, %v; want %v", got, err, ErrUnreachable)
	}
}

// A kept connection ends before anything is written on it, which foreman notices in
// time or not.
func TestFaultTargetRestartsBetweenTwoChats(t *testing.T) {
	eachWay(t, func(t *testing.T, network string, die func(*conn)) {
		for _, noticed := range []bool{true, false} {
			dying, dead := make(chan struct{}), make(chan struct{})
			h := newHost(t, network, func(c *conn) {
				c.read()
				c.answer()
				wait(t, dying)
				die(c)
				close(dead)
			}, (*conn).serve)
			h.wantAnswer("first", "A")
			restart := func() { close(dying); wait(t, dead) }
			if noticed {
				restart()
				wait(t, h.closed)
			} else {
				h.onWrite.Store(&restart)
			}
			h.wantAnswer("second", "B")
			retries := h.Retries() // 0 or 1 if it was not noticed: if nothing was written, Transport repeats
			if noticed || retries > 1 {
				retries = 0
			}
			h.want(retries, logged("A", "first"), logged("B", "second"))
		}
	})
}

// The host has read the chat, or a part of it, and ends the connection.
func TestFaultKeptConnectionClosesAsAChatIsWritten(t *testing.T) {
	large := strings.Repeat("0123456789abcde\n", 2<<20/16)
	for _, test := range []struct {
		body string
		all  bool // is read
	}{{"small", true}, {large, true}, {large, false}} {
		eachWay(t, func(t *testing.T, network string, die func(*conn)) {
			want := []string{logged("A", "first"), logged("A", test.body), logged("B", test.body)}
			if !test.all {
				want = slices.Delete(want, 1, 2)
			}
			h := newHost(t, network, func(c *conn) {
				c.read()
				c.answer()
				if test.all {
					c.read()
				} else {
					io.CopyN(io.Discard, c.r, 100<<10)
				}
				die(c)
			}, (*conn).serve)
			h.wantAnswer("first", "A")
			h.wantAnswer(test.body, "B")
			h.want(1, want...)
		})
	}
}

func TestFaultKeptConnectionClosesOnceTriedTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, network string, die func(*conn)) {
		h := newHost(t, network,
			func(c *conn) { c.read(); c.answer(); c.read(); die(c) },
			func(c *conn) { c.read(); die(c) })
		h.wantAnswer("first", "A")
		h.wantUnreachable("second")
		h.want(1, logged("A", "first"), logged("A", "second"), logged("B", "second"))
	})
}

func TestFaultNewConnectionNeverTwice(t *testing.T) {
	eachWay(t, func(t *testing.T, network string, die func(*conn)) {
		h := newHost(t, network, func(c *conn) { c.read(); die(c) })
		h.wantUnreachable("once")
		h.want(0, logged("A", "once"))
	})
}

func TestFaultNeverTwiceOnceAnAnswerBegan(t *testing.T) {
	for _, begun := range []string{
		"H", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le",
		"HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
	} {
		h := newHost(t, "http", func(c *conn) { c.read(); c.answer(); c.read(); c.say(begun) })
		h.wantAnswer("first", "A")
		if got, err := h.chat("second"); err == nil {
			t.Errorf("%q: answer %q; want an error", begun, got)
		}
		h.want(0, logged("A", "first"), logged("A", "second"))
	}
}

// A connection that breaks after the host has worked for long was not closed before.
func TestFaultNeverTwiceAfterWork(t *testing.T) {
	for _, work := range []time.Duration{retryWithin - 1, retryWithin} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t, "pipe", func(c *conn) { c.read(); c.answer(); c.read(); time.Sleep(work) }, (*conn).serve)
			h.wantAnswer("first", "A")
			if work < retryWithin {
				h.wantAnswer("second", "B")
				h.want(1, logged("A", "first"), logged("A", "second"), logged("B", "second"))
			} else {
				h.wantUnreachable("second")
				h.want(0, logged("A", "first"), logged("A", "second"))
			}
		})
	}
}

func TestNotSentAgain(t *testing.T) {
	left := errors.New("left")
	for _, want := range []error{left, ErrUnreachable} {
		ctx, cancel := context.WithCancelCause(t.Context())
		h := newHost(t, "http", func(c *conn) {
			c.read()
			c.answer()
			c.read()
			if want == left {
				cancel(left)
				c.read()
			}
		})
		h.wantAnswer("first", "A")
		r := h.request(ctx, "second")
		if want != left {
			r.GetBody = nil // the body is not at hand any more
		}
		if _, _, err := h.RoundTrip(r); !errors.Is(err, want) {
			t.Errorf("got %v; want %v", err, want)
		}
		h.want(0, logged("A", "first"), logged("A", "second"))
	}
}

// Closing a connection takes a second here. The host sees the end of the chat that
// its client left before it can see another one.
func TestFaultClientLeavesBeforeTheNextGoes(t *testing.T) {
	for _, when := range []string{"before the answer", "in mid-answer", "in mid-answer, and Transport closes too"} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t, "pipe", func(c *conn) {
				c.read()
				if when != "before the answer" {
					c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
				}
				if c.read() == nil {
					c.note("end")
				}
			}, (*conn).serve)
			slow := func() { time.Sleep(time.Second) }
			h.onClose.Store(&slow)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			resp, _, err := h.RoundTrip(h.request(ctx, "first"))
			if when != "before the answer" {
				if err != nil {
					t.Fatal(err)
				}
				if when != "in mid-answer" {
					cancel()
					synctest.Wait()
				}
				resp.Body.Close()
			} else if err != context.Canceled {
				t.Errorf("got %v; want %v", err, context.Canceled)
			}
			synctest.Wait() // for the host
			h.want(0, logged("A", "first"), "A: end")
			h.wantAnswer("second", "B")
		})
	}
}

// The connection of an answer that was read to its end is used again.
func TestAnswerReadToItsEnd(t *testing.T) {
	answers := []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
	}
	for _, network := range []string{"http", "https"} {
		h := newHost(t, network, func(c *conn) {
			for _, answer := range answers {
				c.read()
				c.say(answer)
			}
			c.serve()
		})
		for range answers {
			resp, _, err := h.RoundTrip(h.request(t.Context(), "any"))
			if err != nil {
				t.Fatal(err)
			}
			if resp.ContentLength != 0 { // else there is nothing to read
				io.Copy(io.Discard, resp.Body)
			}
			resp.Body.Close()
		}
		h.wantAnswer("last", "A")
	}
}

// As many connections are kept as there were requests at once. If one of them has
// ended, the others may have too: a chat that is sent once more goes on a new one.
func TestRetryTakesANewConnection(t *testing.T) {
	const n = 8
	arrived, all := make(chan struct{}, n), make(chan struct{}, n)
	plays := slices.Repeat([]func(*conn){func(c *conn) {
		for range 2 {
			c.read()
			arrived <- struct{}{}
			wait(t, all)
			c.answer()
		}
		c.read()
	}}, n)
	h := newHost(t, "http", append(plays, (*conn).serve)...)
	for range 2 {
		var clients sync.WaitGroup
		for range n {
			clients.Go(func() {
				if _, err := h.chat("together"); err != nil {
					t.Error(err)
				}
			})
		}
		for range n {
			wait(t, arrived)
		}
		for range n {
			all <- struct{}{}
		}
		clients.Wait()
	}
	h.wantAnswer("alone", "I")
	if got := h.Retries(); got != 1 {
		t.Errorf("%d retries; want 1", got)
	}
}
