package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClientAsks(t *testing.T) {
	for _, network := range []string{"http", "https"} {
		requests := make(chan *http.Request, 1)
		play := func(c *conn) { requests <- c.read(); c.answer() }
		h := newHost(t, network, play, play, play)
		check := func(contentType string) {
			t.Helper()
			r := <-requests
			got := []string{r.Host, r.Header.Get("Authorization"), r.UserAgent(), r.Header.Get("Via"), r.Header.Get("Content-Type")}
			if want := []string{h.url.Host, "Bearer " + token, "foreman", h.via, contentType}; !slices.Equal(got, want) || !r.Close {
				t.Errorf("%s: %q, close %v; want %q, close true", r.URL, got, r.Close, want)
			}
		}
		if got, err := h.Read(t.Context(), "/api/tags"); string(got) != "A" || err != nil {
			t.Errorf("Read: %q, %v; want the answer of A", got, err)
		}
		check("")
		if err := h.Embed(t.Context(), `a"b`, nil); err != nil {
			t.Errorf("Embed: %v", err)
		}
		check("application/json")
		if err := h.Embed(t.Context(), "embed", []byte(`{"num_ctx":512}`)); err != nil {
			t.Errorf("Embed with options: %v", err)
		}
		check("application/json")
		h.want(0, "A: GET /base/api/tags ", `B: POST /base/api/embed {"model":"a\"b","input":"warm","keep_alive":-1}`,
			`C: POST /base/api/embed {"model":"embed","input":"warm","keep_alive":-1,"options":{"num_ctx":512}}`)
	}
}

// TestClientErrors: each names the request, and a failure of the connection is told
// apart from an answer. A redirect that was followed would be one connection more.
func TestClientErrors(t *testing.T) {
	status := func(code int) string {
		return fmt.Sprintf("HTTP/1.1 %d Text\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\n{}", code)
	}
	answered := errors.New("none of the others")
	long := strings.Repeat("x", 600_000)
	for _, test := range []struct {
		answer string
		want   error // that it wraps
		text   string
	}{
		{status(302), answered, "answered 302 Text"},
		{status(401), ErrUnauthorized, "401 Text"},
		{status(403), ErrUnauthorized, "403 Text"},
		{status(500), answered, "answered 500 Text"},
		{status(201), answered, "answered 201 Text"},
		{status(508), ErrLoop, ""},
		{"220 smtp.example ESMTP\r\n", answered, "malformed"},
		{"", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200 OK\r\n", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Le", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n", ErrUnreachable, "EOF"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", ErrUnreachable, "unexpected EOF"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", answered, "invalid"},
		{"HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("0", 1<<20+1), answered, "larger than 1 MiB"},
		{"HTTP/1.1 200 OK\r\n" + long + "\r\n\r\n", answered, `malformed MIME header: missing colon: "xxx`},
		{"HTTP/1.1 401 " + long + "\r\n\r\n", ErrUnauthorized, "401 xxx"},
		{"HTTP/1.1 500 " + long + "\r\n\r\n", answered, "answered 500 xxx"},
	} {
		play := func(c *conn) { c.read(); c.say(test.answer) }
		h := newHost(t, "http", play, play)
		h.limit = 1 << 20
		_, read := h.Read(t.Context(), "/api/tags")
		for what, err := range map[string]error{"GET /base/api/tags": read, "POST /base/api/embed": h.Embed(t.Context(), "embed", nil)} {
			for _, sentinel := range []error{ErrUnreachable, ErrUnauthorized, ErrLoop} {
				if got, want := errors.Is(err, sentinel), sentinel == test.want; got != want {
					t.Errorf("%v wraps %q: %v; want %v", err, sentinel, got, want)
				}
			}
			if got := fmt.Sprint(err); !strings.HasPrefix(got, what+": ") || !strings.Contains(got, test.text) || strings.Contains(got, token) || len(got) > 700 {
				t.Errorf("error %s; want %s: … %s, and at most 700 bytes", got, what, test.text)
			}
		}
	}
}

func TestClientReadsUpToItsLimit(t *testing.T) {
	h := newHost(t, "http", func(c *conn) { c.read(); c.say("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("0", 1<<20)) })
	if h.limit != 32<<20 {
		t.Errorf("the limit is %d bytes; want 32 MiB", h.limit)
	}
	h.limit = 1 << 20 // or the race detector would take its time
	if answer, err := h.Read(t.Context(), "/api/tags"); err != nil || len(answer) != h.limit {
		t.Errorf("read %d bytes, %v; want %d", len(answer), err, h.limit)
	}
}

// What lies behind a certificate of nobody will not pass by itself.
func TestClientTrustsNoCertificateOfNobody(t *testing.T) {
	h := newHost(t, "https", func(c *conn) { c.read() })
	h.fresh.TLSClientConfig = nil
	if _, err := h.Read(t.Context(), "/api/tags"); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v; want an error that is not %v", err, ErrUnreachable)
	}
	h.want(0)
}

// An unreachable host may have lost the connections that were kept to it. They are
// used on if it has answered, whatever that was.
func TestClientDropsKeptConnections(t *testing.T) {
	ended := make(chan struct{})
	h := newHost(t, "http",
		func(c *conn) { c.serve(); close(ended) },
		func(c *conn) { c.read(); c.say("HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n") })
	h.wantAnswer("first", "A")
	if _, err := h.Read(t.Context(), "/api/tags"); err == nil || errors.Is(err, ErrUnreachable) {
		t.Errorf("500: %v; want another error than %v", err, ErrUnreachable)
	}
	h.wantAnswer("second", "A")
	h.stop()
	if _, err := h.Read(t.Context(), "/api/tags"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("refused: %v; want %v", err, ErrUnreachable)
	}
	wait(t, ended)
}

// A connFrom is a connection to another address than it seems.
type connFrom struct {
	net.Conn
	addr string
}

func (c connFrom) RemoteAddr() net.Addr { return c }
func (c connFrom) Network() string      { return "tcp" }
func (c connFrom) String() string       { return c.addr }

// The host's name leads to another address than before. Connections to the old one are
// not used again: neither those that are idle nor those that are in use when foreman
// finds out.
func TestClientFollowsAHostThatMoves(t *testing.T) {
	begun, moved := make(chan struct{}), make(chan struct{})
	once := func(c *conn) { c.read(); c.answer() }
	h := newHost(t, "http",
		func(c *conn) {
			c.read()
			c.answer()
			c.read()
			close(begun)
			wait(t, moved)
			c.answer()
			c.read()
		},
		once, once, (*conn).serve)
	addr, dial := "10.0.0.1:11434", h.Dial
	h.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		c, err := dial(ctx, network, h.url.Host)
		return connFrom{c, addr}, err
	}
	h.wantAnswer("first", "A")
	read := func() {
		if _, err := h.Read(t.Context(), "/api/tags"); err != nil {
			t.Error(err)
		}
	}
	read()
	var running sync.WaitGroup
	running.Go(func() { h.wantAnswer("second", "A") }) // nothing has moved
	wait(t, begun)
	addr = "10.0.0.2:11434"
	read()
	h.wantAnswer("between", "D")
	close(moved)
	running.Wait()
	h.wantAnswer("third", "D")
	h.want(0, logged("A", "first"), "B: GET /base/api/tags ", logged("A", "second"), "C: GET /base/api/tags ", logged("D", "between"), logged("D", "third"))
}

// A host that takes the connection and says nothing, or not all.
func TestClientsTimeLimit(t *testing.T) {
	left := errors.New("left")
	for _, said := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"} {
		for want, after := range map[error]struct{ limit, leave time.Duration }{
			ErrUnreachable: {3 * time.Second, time.Hour},
			left:           {time.Hour, 3 * time.Second},
		} {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, "pipe", func(c *conn) { c.read(); c.say(said); c.read() })
				limited, stop := context.WithTimeout(t.Context(), after.limit)
				defer stop()
				ctx, leave := context.WithCancelCause(limited)
				time.AfterFunc(after.leave, func() { leave(left) })
				began := time.Now()
				_, err := h.Read(ctx, "/api/tags")
				took := time.Since(began)
				if !errors.Is(err, want) || errors.Is(err, ErrUnreachable) == (want == left) || took != 3*time.Second {
					t.Errorf("%q: %v after %v; want %v after 3s", said, err, took, want)
				}
			})
		}
	}
}
