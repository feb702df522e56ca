package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A watch stands between foreman and Ollama and sees which chats are open, over
// all paths. Unlike the lab's meter it knows whose client has left, for a chat
// that foreman has given up may take a moment to be gone. Where Ollama breaks
// off, so does the watch, without a word of its own: foreman sees what it would
// see without it.
type watch struct {
	server *httptest.Server

	mu       sync.Mutex // guards what follows, and the flags of visits
	expected map[string]*visit
	open     map[*visit]bool
	most     int // chats open at once that foreman had not given up
	total    int
}

// A visit is a chat or an embed as the watch sees it.
type visit struct {
	id     string
	opened chan struct{} // closed when it has come as far as Ollama
	left   bool          // its client has left
	conn   *net.TCPConn  // on which foreman has sent it
}

// connKey is the context key of the connection on which a request came.
type connKey struct{}

// isClosed reports whether foreman has closed the connection of a visit, whoever has read that yet.
func (v *visit) isClosed() bool {
	raw, err := v.conn.SyscallConn()
	if err != nil {
		return true // the watch has closed it too
	}
	const established = 1 // include/net/tcp_states.h of Linux
	state := uint8(established)
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return err != nil || state != established
}

// TestWatchSeesWhoIsOpen: a visit counts until the other end of its connection is closed.
func TestWatchSeesWhoIsOpen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var visits []*visit
	var ends []net.Conn
	for range 2 {
		end, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer end.Close()
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends, visits = append(ends, end), append(visits, &visit{id: fmt.Sprint(len(ends)), opened: make(chan struct{}), conn: conn.(*net.TCPConn)})
	}
	w := &watch{expected: map[string]*visit{"1": visits[0], "2": visits[1]}, open: map[*visit]bool{}}
	w.begin("1", visits[0].conn, true)
	ends[0].Close()
	eventually(t, func() error {
		if !visits[0].isClosed() {
			return errors.New("the first connection is open, the watch says")
		}
		return nil
	})
	w.begin("2", visits[1].conn, true)
	if _, most, _ := w.counts(); most != 1 {
		t.Errorf("open at once, when the first was closed: got %d; want 1", most)
	}
	w.expected["3"] = &visit{id: "3", opened: make(chan struct{})}
	w.begin("3", visits[1].conn, true)
	if _, most, _ := w.counts(); most != 2 {
		t.Errorf("open at once, when the second was open: got %d; want 2", most)
	}
}

func startWatch(t *testing.T, target string) *watch {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{expected: map[string]*visit{}, open: map[*visit]bool{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport:     w,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // held in memory: see the lab's meter
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(rw, r)
	}))
	w.server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	w.server.Start()
	t.Cleanup(w.server.Close)
	return w
}

// expect announces the request with this X-Request-Id.
func (w *watch) expect(id string) *visit {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &visit{id: id, opened: make(chan struct{})}
	w.expected[id] = v
	return v
}

// leave is called before the client of a visit leaves, and forget after all.
func (w *watch) leave(v *visit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v.left = true
}

func (w *watch) forget(v *visit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.expected, v.id)
}

func (w *watch) hasLeft(v *visit) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return v.left
}

func (v *visit) hasOpened() bool {
	select {
	case <-v.opened:
		return true
	default:
		return false
	}
}

// counts returns how many chats there have been, how many were open at once at
// the most, and how many are open now.
func (w *watch) counts() (total, most, now int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total, w.most, len(w.open)
}

// RoundTrip counts a chat as open until its answer's body ends, before foreman
// can have seen the end. Embeds, and what is not expected, are not counted.
func (w *watch) RoundTrip(r *http.Request) (*http.Response, error) {
	conn := r.Context().Value(connKey{}).(*net.TCPConn)
	closed := w.begin(r.Header.Get("X-Request-Id"), conn, !strings.Contains(r.URL.Path, "embed"))
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		closed()
		return nil, err
	}
	resp.Body = &watched{resp.Body, closed}
	return resp, nil
}

func (w *watch) begin(id string, conn *net.TCPConn, chat bool) (closed func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := w.expected[id]
	if v == nil {
		return func() {}
	}
	if !v.hasOpened() { // foreman may send a chat again on a new connection
		close(v.opened)
	}
	if !chat {
		return func() {}
	}
	w.total++
	v.conn = conn
	w.open[v] = true
	present := 0
	for v := range w.open {
		if !v.left && !v.isClosed() {
			present++
		}
	}
	w.most = max(w.most, present)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open, v)
	}
}

type watched struct {
	io.ReadCloser
	closed func()
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.closed()
	}
	return n, err
}

func (b *watched) Close() error {
	defer b.closed()
	return b.ReadCloser.Close()
}
