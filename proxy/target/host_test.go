package target

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	limit = 10 * time.Second // of every wait for the code under test
	token = "s3cret"
)

// A host plays a script at the level of bytes: each connection to it, in order of
// arrival, has a function of its own. One more connection fails the test.
type host struct {
	*Target          // the way to it
	t                testing.TB
	plays            []func(*conn)
	secure           *tls.Config            // nil: no TLS
	stop             func()                 // has further connections refused
	onWrite, onClose atomic.Pointer[func()] // run before the next Write, and before each Close, of the near end
	closed           chan struct{}          // gets one for each connection that was closed at the near end

	mu    sync.Mutex // guards what follows
	conns int
	log   []string // the requests that were read
}

// newHost starts a host that is reached by "http" or "https" on 127.0.0.1, or by
// "pipe", in memory, for bubbles of synctest.
func newHost(t testing.TB, network string, plays ...func(*conn)) *host {
	t.Helper()
	u := &url.URL{Scheme: "http", Host: "target.example", Path: "/base"}
	h := &host{Target: New(u, token), t: t, plays: plays, closed: make(chan struct{}, 100)}
	if network == "https" {
		srv := httptest.NewTLSServer(nil) // for its certificate
		srv.Close()
		h.secure = &tls.Config{Certificates: srv.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		h.pooled.TLSClientConfig, h.fresh.TLSClientConfig = &tls.Config{RootCAs: roots}, &tls.Config{RootCAs: roots}
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	dial := h.Dial
	if network == "pipe" {
		dial = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			running.Go(func() { h.play(far) })
			return near, nil
		}
	} else {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		h.stop = func() { ln.Close() }
		t.Cleanup(h.stop)
		u.Scheme, u.Host = network, ln.Addr().String()
		running.Go(func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				running.Go(func() { h.play(c) })
			}
		})
	}
	h.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		return &nearEnd{Conn: c, host: h}, err
	}
	t.Cleanup(h.CloseIdleConnections)
	return h
}

func (h *host) play(raw net.Conn) {
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(2 * limit))
	h.mu.Lock()
	n := h.conns
	h.conns++
	h.mu.Unlock()
	if n >= len(h.plays) {
		h.t.Errorf("there are more connections than %d", len(h.plays))
		return
	}
	c := &conn{Conn: raw, raw: raw, host: h, name: string(rune('A' + n))}
	if h.secure != nil {
		c.Conn = tls.Server(raw, h.secure)
	}
	c.r = bufio.NewReader(c.Conn)
	h.plays[n](c)
}

// request returns a chat that was addressed to the host.
func (h *host) request(ctx context.Context, body string) *http.Request {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/api/chat", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	h.Address(r)
	return r
}

// chat sends a chat and returns the body of the answer.
func (h *host) chat(body string) (string, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	resp, _, err := h.RoundTrip(h.request(ctx, body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// wantAnswer sends a chat and fails the test unless it is answered on this connection.
func (h *host) wantAnswer(body, conn string) {
	h.t.Helper()
	if got, err := h.chat(body); got != conn || err != nil {
		h.t.Fatalf("answer from %q, %v; want it from %q", got, err, conn)
	}
}

// want fails the test unless so many requests were sent once more, and the host has
// read this.
func (h *host) want(retries uint64, log ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := h.Retries(); got != retries || !slices.Equal(h.log, log) {
		h.t.Errorf("%d retries, the host read %.60q; want %d, %.60q", got, h.log, retries, log)
	}
}

// A conn is the host's end of a connection.
type conn struct {
	net.Conn          // where requests are read and answers written
	raw      net.Conn // beneath TLS, if there is TLS
	host     *host
	name     string // A, B, …
	r        *bufio.Reader
}

// read reads a request and logs it; nil: the connection has ended.
func (c *conn) read() *http.Request {
	r, err := http.ReadRequest(c.r)
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil
	}
	if got := r.Header["Accept-Encoding"]; got != nil {
		c.host.t.Errorf("%s: asked for %q; want what the client asks for", r.URL, got)
	}
	c.note(r.Method + " " + r.RequestURI + " " + string(body))
	return r
}

func (c *conn) note(line string) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	c.host.log = append(c.host.log, c.name+": "+line)
}

// logged is what the log shows of a chat.
func logged(conn, body string) string { return conn + ": POST /base/api/chat " + body }

func (c *conn) say(bytes string) { io.WriteString(c, bytes) }

// answer answers a request with the connection's name.
func (c *conn) answer() { c.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + c.name) }

// serve answers all requests.
func (c *conn) serve() {
	for c.read() != nil {
		c.answer()
	}
}

// eachWay runs a test for each way to end a connection, over TCP and TLS: as the
// kernel does it for a process that ended, and as a server does it.
func eachWay(t *testing.T, test func(t *testing.T, network string, die func(*conn))) {
	for _, network := range []string{"http", "https"} {
		for name, die := range map[string]func(*conn){
			"FIN":   func(c *conn) { c.raw.Close() },
			"RST":   func(c *conn) { c.raw.(*net.TCPConn).SetLinger(0); c.raw.Close() },
			"close": func(c *conn) { c.Conn.Close() },
		} {
			t.Run(network+"/"+name, func(t *testing.T) { test(t, network, die) })
		}
	}
}

// A nearEnd is foreman's end of a connection. Its second Close returns at once, as
// that of a TCP connection does.
type nearEnd struct {
	net.Conn
	host *host
	done atomic.Bool
}

func (c *nearEnd) Write(b []byte) (int, error) {
	if f := c.host.onWrite.Swap(nil); f != nil {
		(*f)()
	}
	return c.Conn.Write(b)
}

func (c *nearEnd) Close() error {
	if c.done.Swap(true) {
		return net.ErrClosed
	}
	if f := c.host.onClose.Load(); f != nil {
		(*f)()
	}
	defer func() { c.host.closed <- struct{}{} }()
	return c.Conn.Close()
}

// wait waits for an event.
func wait(t testing.TB, event <-chan struct{}) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(limit):
		t.Errorf("waited for %v", limit)
	}
}
