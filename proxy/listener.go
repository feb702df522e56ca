package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// clientStall is how long a client may take no byte while bytes wait for it.
const clientStall = 30 * time.Second

// spareDescriptors are kept for what is neither a client's connection nor the
// one to the target that a client may need.
const spareDescriptors = 24

// Listener wraps ln in two ways.
//
// Writing to a client fails with os.ErrDeadlineExceeded when the client has not
// taken a byte for 30 s. One that is merely slow is not cut: what it takes starts
// the time anew. http.Server's WriteTimeout cannot do that, it limits the whole
// answer. Through TCP one sees a client take bytes only as its kernel
// acknowledges them, and without Linux only as the send buffer empties.
//
// Clients wait to be accepted while their connections would take more than half
// of the file descriptors that the process may have: the other half is for
// connections to the target.
func Listener(ln net.Listener) net.Listener {
	return &listener{
		Listener: ln,
		places:   make(chan struct{}, max(1, (descriptorLimit()-spareDescriptors)/2)),
		closed:   make(chan struct{}),
	}
}

type listener struct {
	net.Listener
	places chan struct{} // holds one token per open connection
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &conn{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// A conn is a client's connection.
type conn struct {
	net.Conn
	leave func() // gives its place to another
}

func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// Write writes in attempts of a second each, to see when the last byte was taken.
func (c *conn) Write(b []byte) (n int, err error) {
	taken := time.Now()
	left := 0 // bytes that were written before and not taken yet
	for {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(b[n:])
		n += m
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		before := left
		if left = unacknowledged(c.Conn); m > 0 || left < before {
			taken = time.Now()
		} else if time.Since(taken) >= clientStall {
			return n, err
		}
	}
}

// CloseWrite lets net/http say goodbye before it closes.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// reset closes the connection so that the client sees an error, not an end.
func (c *conn) reset() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return c.Close()
}
