package proxy

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A teller is a listener whose connections tell what is written to them, call by
// call: on a network each call is a packet.
type teller struct {
	net.Listener
	mu     sync.Mutex // guards pieces
	pieces []string
}

func (l *teller) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &toldConn{c, l}, err
}

type toldConn struct {
	net.Conn
	l *teller
}

func (c *toldConn) Write(b []byte) (int, error) {
	c.l.mu.Lock()
	c.l.pieces = append(c.l.pieces, string(b))
	c.l.mu.Unlock()
	return c.Conn.Write(b)
}

// told returns what was written since it was last called.
func (l *teller) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	pieces := l.pieces
	l.pieces = nil
	return pieces
}

// What the target says at once goes on at once, in one piece: net/http alone would
// make up to three of a header and an embedding.
func TestAnswersInOnePiece(t *testing.T) {
	stub := newStub(t)
	stub.embed = func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.Header.Get("X-Size"))
		if err != nil {
			t.Error(err)
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		io.WriteString(w, strings.Repeat("x", size))
	}
	ln := &teller{Listener: listen(t)}
	f := newFrontOn(t, ln, stub.URL, nil)

	for _, size := range []int{0, 1, 2048, 4096 - 300, 4096, 9000, 15 << 10} {
		got := f.do(t, "POST", "/api/embed", embedBody, "X-Size", strconv.Itoa(size))
		if len(got.body) != size || got.err != nil {
			t.Errorf("%d bytes, %v; want %d", len(got.body), got.err, size)
		}
		if pieces := ln.told(); len(pieces) != 1 {
			t.Errorf("an answer of %d bytes came in %d pieces; want 1", size, len(pieces))
		}
	}
	const large = 10 << 20
	if got := f.do(t, "POST", "/api/embed", embedBody, "X-Size", strconv.Itoa(large)); len(got.body) != large || got.err != nil {
		t.Errorf("%d bytes, %v; want %d", len(got.body), got.err, large)
	}
}
