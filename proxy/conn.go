package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A conn is a client's connection, as a [Listener] accepts it. It cuts those off who
// take nothing, writes what belongs together in one piece, and knows of a client
// that has left where net/http does not.
type conn struct {
	net.Conn
	listener *listener
	closed   sync.Once
	left     func(net.Conn) int // bytes that were written and that the client has not taken

	watched  atomic.Bool // net/http would notice that the client leaves
	gathered []byte      // to be written together; nil: what is written goes out

	// write alone uses these.
	written  int64     // bytes, so far
	taken    int64     // of these, when last looked
	looked   time.Time // when that was
	since    time.Time // when taken last grew, or nothing was left to take
	deadline time.Time // of the attempt to write
}

func (c *conn) Close() error {
	defer c.closed.Do(func() { <-c.listener.places }) // another may have its place
	return c.Conn.Close()
}

// gather keeps what is written from now on, until release. net/http would write an
// embedding with its header in two pieces, each a system call and a packet.
func (c *conn) gather() { c.gathered = buffers{}.Get()[:0] }

// release writes what was gathered.
func (c *conn) release() error {
	b := c.gathered
	c.gathered = nil
	defer buffers{}.Put(b[:cap(b)])
	if len(b) == 0 {
		return nil
	}
	_, err := c.write(b)
	return err
}

// Write writes b, or gathers it.
func (c *conn) Write(b []byte) (n int, err error) {
	switch {
	case c.gathered == nil:
		return c.write(b)
	case len(c.gathered)+len(b) <= cap(c.gathered):
		c.gathered = append(c.gathered, b...)
		return len(b), nil
	}
	gathered := c.gathered // too much for one piece
	c.gathered = c.gathered[:0]
	if _, err := c.write(gathered); err != nil {
		return 0, err
	}
	return c.write(b)
}

// write writes in attempts of a thirtieth of the time that the client has, a
// second, and looks as often whether it takes anything.
func (c *conn) write(b []byte) (n int, err error) {
	stall := c.listener.stall
	interval := stall / 30
	for blocked := false; ; blocked = true {
		now := time.Now()
		if blocked || now.Sub(c.looked) >= interval {
			if c.look(now, blocked) >= stall {
				return n, os.ErrDeadlineExceeded
			}
		}
		if c.deadline.Sub(now) < interval/2 { // a timer is dear
			c.deadline = now.Add(interval)
			if err := c.Conn.SetWriteDeadline(c.deadline); err != nil {
				return n, err
			}
		}
		m, err := c.Conn.Write(b[n:])
		n += m
		c.written += int64(m)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// look returns for how long the client has taken nothing although something was
// there to take: what was written before, or what a blocked Write has.
func (c *conn) look(now time.Time, blocked bool) time.Duration {
	left := int64(c.left(c.Conn))
	if taken := c.written - left; taken > c.taken || left == 0 && !blocked {
		c.taken, c.since = taken, now
	}
	c.looked = now
	return now.Sub(c.since)
}

// Read notes whether net/http would notice that the client leaves. To do so it
// reads on behind a request, into room for one byte; when it has a byte it reads no
// further before the answer is out.
func (c *conn) Read(b []byte) (int, error) {
	c.watched.Store(len(b) == 1)
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.watched.Store(false)
	}
	return n, err
}

// hungUp reports whether the client has closed its end and net/http does not look:
// where it does, the request's context ends.
func (c *conn) hungUp() bool { return !c.watched.Load() && hungUp(c.Conn) }

type connKey struct{}

// ConnContext is for [http.Server]: it lets requests know their connection, if a
// [Listener] has accepted it.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
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
