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
// make two or three of a header and an embedding.
func TestAnswersInOnePiece(t *testing.T) {
	ln := &teller{Listener: listen(t)}
	serve(t, Listener(ln), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.Header.Get("X-Size"))
		if err != nil {
			t.Error(err)
		}
		x := newExchange(w, r, &nowhere, embed)
		x.relayed = true
		x.Header().Set("Content-Length", r.Header.Get("X-Size"))
		for left := size; left > 0; {
			part := strings.Repeat("x", min(left, 32<<10)) // as much as ReverseProxy writes at once
			if _, err := io.WriteString(x, part); err != nil {
				t.Error(err)
			}
			pieces := ln.told()
			if want := 1; len(part) <= 16<<10 && len(pieces) != want {
				t.Errorf("%d bytes went out in %d pieces; want %d", len(part), len(pieces), want)
			}
			if !strings.HasSuffix(strings.Join(pieces, ""), part) {
				t.Errorf("of %d bytes some have not gone out", len(part))
			}
			left -= len(part)
		}
	}), newLog(t), nil)

	for _, size := range []int{1, 2048, 4096 - 300, 4096, 9000, 15 << 10, 10 << 20} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+ln.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Size", strconv.Itoa(size))
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != strings.Repeat("x", size) || err != nil {
			t.Errorf("got %d bytes, %v; want %d", len(body), err, size)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
