package conns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestLimitsFor: all kinds together leave the reserve, and a line of the default length
// has its places from 1,024 descriptors on.
func TestLimitsFor(t *testing.T) {
	for _, tt := range []struct {
		descriptors uint64
		queue       int
		want        Limits
	}{
		{0, 512, Limits{Strangers: 4, Host: 8, Known: 20, Line: 18}},
		{256, 512, Limits{Strangers: 28, Host: 56, Known: 140, Line: 123}},
		{256, 100, Limits{Strangers: 28, Host: 56, Known: 140, Line: 100}},
		{1024, 512, Limits{Strangers: 124, Host: 248, Known: 620, Line: 512}},
		{1024, 1000, Limits{Strangers: 124, Host: 248, Known: 620, Line: 543}},
		{20000, 0, Limits{Strangers: 128, Host: 1024, Known: 1024, Line: 0}},
		{math.MaxUint64, 512, Limits{Strangers: 128, Host: 1024, Known: 1024, Line: 512}},
		{math.MaxUint64, 1_000_000, Limits{Strangers: 128, Host: 1024, Known: 2_000_000, Line: 1_000_000}},
	} {
		got := LimitsFor(tt.descriptors, tt.queue)
		if got != tt.want {
			t.Errorf("%d descriptors, queue of %d: got %+v; want %+v", tt.descriptors, tt.queue, got, tt.want)
		}
		if sum := uint64(got.Strangers + got.Host + got.Known); sum > max(tt.descriptors, 64)-reserve {
			t.Errorf("%d descriptors: %d are shared out; want %d left", tt.descriptors, sum, reserve)
		}
	}
	if Descriptors() == 0 {
		t.Error("no descriptors")
	}
}

// A server is one behind a Listener. It lets in what asks for /in or /hold, and a request
// for /hold runs until something comes from hold.
type server struct {
	addr string
	hold chan struct{}
	idle chan string // receives the address of each client whose request is over: it may have the answer sooner
}

func serve(t *testing.T, limits Limits, grace time.Duration) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: ln.Addr().String(), hold: make(chan struct{}), idle: make(chan string, 1000)}
	l := Limit(ln, limits, slog.New(slog.NewTextHandler(t.Output(), nil)))
	l.grace = grace
	state := func(c net.Conn, state http.ConnState) {
		l.ConnState(c, state)
		if state == http.StateIdle {
			s.idle <- c.RemoteAddr().String()
		}
	}
	srv := &http.Server{ConnContext: l.ConnContext, ConnState: state, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/out":
		case !Admit(r.Context()):
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/hold":
			w.(http.Flusher).Flush()
			<-s.hold
		}
	})}
	ended := make(chan error)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		close(s.hold)
		srv.Close()
		<-ended
	})
	return s
}

// A client is one connection.
type client struct {
	net.Conn
	in     *bufio.Reader
	server *server
}

// connect opens a connection from an address.
func (s *server) connect(t *testing.T, from string) *client {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", s.addr)
	if err != nil && from != "127.0.0.1" && os.Getenv("CI") != "true" { // macOS has one
		t.Skipf("no second address of this machine: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{conn, bufio.NewReader(conn), s}
}

// wantClosed waits until the server closes the connection.
func (c *client) wantClosed(t *testing.T) {
	t.Helper()
	if b, err := io.ReadAll(c.in); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("got %q, %v; want the end", b, err)
	}
}

// begin sends a request and reads the header of the answer.
func (c *client) begin(t *testing.T, path string) *http.Response {
	t.Helper()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return resp
}

// end reads the rest of an answer, and waits until the server is done with the request.
func (c *client) end(t *testing.T, resp *http.Response) {
	t.Helper()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	for {
		select {
		case addr := <-c.server.idle:
			if addr == c.LocalAddr().String() {
				return
			}
		case <-time.After(time.Minute):
			t.Fatal("the request does not end")
		}
	}
}

// want sends a request and reads the answer.
func (c *client) want(t *testing.T, path string, status int) {
	t.Helper()
	resp := c.begin(t, path)
	if c.end(t, resp); resp.StatusCode != status {
		t.Errorf("%s: got %d; want %d", path, resp.StatusCode, status)
	}
}

// TestStrangers: of many strangers of one address some go, and nobody else's, and each
// new one gets its answer.
func TestStrangers(t *testing.T) {
	const places, many = 4, 10
	s := serve(t, Limits{Strangers: places, Known: 1}, grace)
	other := s.connect(t, "127.0.0.2") // the oldest of all
	other.want(t, "/out", 200)
	known := s.connect(t, "127.0.0.1")
	known.want(t, "/in", 200)
	closed, answered := make(chan struct{}, many), make(chan struct{}, many)
	var clients []*client
	for range many {
		c := s.connect(t, "127.0.0.1")
		c.want(t, "/out", 200)
		clients = append(clients, c)
		go func() {
			if _, err := c.in.Peek(1); err != nil {
				closed <- struct{}{}
			} else {
				answered <- struct{}{}
			}
		}()
	}
	for range many - (places - 1) {
		<-closed
	}
	for _, c := range clients {
		fmt.Fprint(c, "GET /out HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	for range places - 1 {
		<-answered
	}
	other.want(t, "/out", 200)
	known.want(t, "/in", 200)
}

// TestStrangersAtOnce: of many who connect at once and send a moment later, none is closed.
func TestStrangersAtOnce(t *testing.T) {
	const many = 100
	s := serve(t, Limits{Strangers: 4, Known: many}, time.Hour)
	var clients []*client
	for range many {
		clients = append(clients, s.connect(t, "127.0.0.1"))
	}
	for _, c := range clients {
		c.want(t, "/in", 200)
	}
}

// accepted returns a listener with one stranger, and the client's end of that.
func accepted(t *testing.T) (l *Listener, served *conn, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	l = Limit(ln, Limits{Strangers: 1}, slog.New(slog.DiscardHandler))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return l, c.(*conn), client
}

// TestCloseWhileItReads: a stranger that waits for bytes can be closed by the listener,
// which holds its mutex meanwhile, and Close waits for whoever reads.
func TestCloseWhileItReads(t *testing.T) {
	l, served, _ := accepted(t)
	over := make(chan error, 1)
	go func() {
		_, err := served.Read(make([]byte, 1))
		over <- err
	}()
	go func() {
		for waits := false; !waits; runtime.Gosched() {
			l.mu.Lock()
			if waits = l.crowdingLocked() == served; waits {
				served.Close()
			}
			l.mu.Unlock()
		}
	}()
	select {
	case err := <-over:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v; want that it is closed", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close waits for Read, and Read for the listener's mutex")
	}
}

// TestStrangersWithRequests: only a stranger that waits for bytes, of which there are none,
// and that has no request, may be closed.
func TestStrangersWithRequests(t *testing.T) {
	l, served, client := accepted(t)
	for _, tt := range []struct {
		name          string
		waits, active bool
		want          *conn
	}{
		{"not served yet", false, false, nil},
		{"waits", true, false, served},
		{"has a request", true, true, nil},
	} {
		served.waits = tt.waits
		served.active = tt.active
		if got := l.crowdingLocked(); got != tt.want {
			t.Errorf("%s: got %p; want %p", tt.name, got, tt.want)
		}
	}
	fmt.Fprint(client, "x")
	served.active = false
	if err := served.raw.Read(func(fd uintptr) bool { return !isEmpty(fd) }); err != nil {
		t.Fatal(err)
	}
	served.waits = true
	if got := l.crowdingLocked(); got != nil {
		t.Error("one with a byte to read may go")
	}
	if n, err := served.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := l.crowdingLocked(); got != nil {
		t.Error("one of which a byte was just read may go")
	}
}

// TestStrangersOldestFirst: of strangers who may go, those of the address that has most,
// and of them the oldest.
func TestStrangersOldestFirst(t *testing.T) {
	few, most := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	l := &Listener{byAddress: map[netip.Prefix]int{few: 1, most: 2}}
	var all []*conn
	for _, from := range []netip.Prefix{few, most, most, few} {
		c := &conn{listener: l, address: from, spare: true}
		l.strangers.PushBack(c)
		all = append(all, c)
	}
	if got := l.crowdingLocked(); got != all[1] {
		t.Errorf("got %p of %p", got, all)
	}
}

// TestKnown: only idle connections give their place to another one, the one that is idle
// for longest first; where none is, a request is not let in.
func TestKnown(t *testing.T) {
	s := serve(t, Limits{Strangers: 4, Known: 2}, grace)
	first, second, third := s.connect(t, "127.0.0.1"), s.connect(t, "127.0.0.1"), s.connect(t, "127.0.0.1")
	first.want(t, "/in", 200)
	second.want(t, "/in", 200)
	first.want(t, "/in", 200)
	third.want(t, "/in", 200)
	second.wantClosed(t)
	running := first.begin(t, "/hold")
	fourth := s.connect(t, "127.0.0.1")
	alsoRunning := fourth.begin(t, "/hold")
	third.wantClosed(t)
	fifth := s.connect(t, "127.0.0.1")
	fifth.want(t, "/in", 503)
	s.hold <- struct{}{}
	s.hold <- struct{}{}
	io.Copy(io.Discard, running.Body)
	fourth.end(t, alsoRunning) // whichever is over first
	fifth.want(t, "/in", 200)
}

// TestGiven: what a connection is given is taken back, however it ends.
func TestGiven(t *testing.T) {
	s := serve(t, Limits{Strangers: 1, Known: 1}, grace)
	for range 100 {
		c := s.connect(t, "127.0.0.1")
		c.want(t, "/out", 200)
		c.want(t, "/in", 200)
		c.want(t, "/in", 200)
		s.connect(t, "127.0.0.1").Close()
	}
}

func TestAddressOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1/32", "[::ffff:192.0.2.1]:80": "192.0.2.1/32", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64", "[fe80::1%7]:80": "fe80::/64",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := addressOf(tcp).String(); got != want {
			t.Errorf("%s: got %s; want %s", addr, got, want)
		}
	}
}

// Without a Listener there is always a place.
func TestAdmitWithoutListener(t *testing.T) {
	if !Admit(t.Context()) {
		t.Error("got false; want true")
	}
}
