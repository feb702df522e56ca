package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A launch is where a chat that is ready waits for its turn. Being next, it goes on
// its way through ReverseProxy and Transport, until its first bytes are to be
// written to a connection that is open. There they are held. Whoever gives the turn
// up writes them, so that nothing else happens between the last byte of one chat and
// the first of the next. They are 4 KB at most, and the connection is idle: that
// does not block.
type launch struct {
	since    time.Time       // when it was made
	released chan struct{}   // closed when the chat may go
	done     <-chan struct{} // closed when it need not any more

	mu    sync.Mutex // guards what follows; whoever writes what was held has it
	stage stage
	conn  *targetConn // that carries the chat; nil: none yet
	held  []*piece    // for conn, in order; of a chat that is ready there is one
	gone  bool        // something was written
	kept  bool        // to a connection that was open before the turn
}

// The stages of a launch, in this order. The last two are ends.
type stage int

const (
	early   stage = iota // the turn has not come
	inTurn               // it has; whether the target can be asked is still to be seen
	going                // the chat may go, or has gone
	stopped              // the chat does not go any more
)

// A piece is what was to be written, and what became of it.
type piece struct {
	b       []byte
	n       int
	err     error
	written chan struct{} // closed when n and err are known
}

// newLaunch returns a launch for a chat that is over when done is closed.
func newLaunch(done <-chan struct{}) *launch {
	return &launch{since: time.Now(), released: make(chan struct{}), done: done}
}

// begin notes that the turn has come, and calls f. It returns false if that is too
// late.
func (l *launch) begin(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != early {
		return false
	}
	l.stage = inTurn
	f()
	return true
}

// giveUp stops a chat whose turn has not come. It returns false if that is too late.
func (l *launch) giveUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != early {
		return false
	}
	l.stage = stopped
	return true
}

// release lets the chat go: on the connection where it is held, or afresh.
func (l *launch) release(afresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stage != inTurn {
		return
	}
	l.stage = going
	close(l.released)
	if afresh {
		l.dropLocked()
	}
	for _, p := range l.held {
		p.n, p.err = l.conn.Conn.Write(p.b)
		close(p.written)
		if p.n > 0 {
			l.gone, l.kept = true, true
		}
	}
	l.held = nil
}

// end keeps a chat that has not gone from going. If it has gone and the target has
// not said all, it hangs up, before another goes.
func (l *launch) end(complete bool) {
	l.mu.Lock()
	if l.stage != going {
		l.stage = stopped
	}
	c := l.conn
	l.mu.Unlock()
	if c != nil && !complete {
		c.Close()
	}
}

// isEarly reports whether the turn has not come.
func (l *launch) isEarly() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stage == early
}

// attempted reports, after an attempt to send a chat, whether the target may have
// got anything of it, and whether on a connection that was open before the turn. If
// it has got nothing, it does not get anything of this attempt any more.
func (l *launch) attempted() (gone, kept bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gone {
		l.dropLocked()
	}
	return l.gone, l.kept
}

// dropLocked gives the connection up.
func (l *launch) dropLocked() {
	if l.conn != nil {
		l.conn.dropped = true
	}
	for _, p := range l.held {
		p.err = net.ErrClosed
		close(p.written)
	}
	l.held = nil
}

// carry notes which connection carries the chat.
func (l *launch) carry(c *targetConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
}

// write writes to a connection once the chat may go, unless the connection is closed
// or the chat is over before that.
func (l *launch) write(c *targetConn, b []byte) (int, error) {
	l.mu.Lock()
	switch {
	case c.dropped: // even TLS's goodbye would count as something
		l.mu.Unlock()
		return 0, net.ErrClosed
	case l.stage == going:
		l.gone = true
		l.mu.Unlock()
		return c.Conn.Write(b)
	}
	p := &piece{b: b, written: make(chan struct{})}
	l.held = append(l.held, p)
	l.mu.Unlock()
	select {
	case <-p.written:
		return p.n, p.err
	case <-c.closed:
	case <-l.done: // TLS would write its goodbye, before the connection is closed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-p.written:
	default:
		l.dropLocked()
	}
	return p.n, p.err
}

// A targetConn is a connection to the target, where a chat's first bytes can be held.
type targetConn struct {
	net.Conn
	launch atomic.Pointer[launch] // of the chat that it carries; nil: nothing is held
	closed chan struct{}
	close  func() error

	dropped bool // nothing is written any more; guarded by the launch
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// holding makes dial return targetConns.
func holding(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &targetConn{Conn: conn, closed: make(chan struct{})}
		c.close = sync.OnceValue(func() error {
			close(c.closed)
			return conn.Close()
		})
		return c, nil
	}
}

// holdAt has what is written to a targetConn, or to a TLS connection over one, wait
// for a launch; nil: it need not wait.
func holdAt(conn net.Conn, l *launch) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c := conn.(*targetConn)
	c.launch.Store(l)
	if l != nil {
		l.carry(c)
	}
}

func (c *targetConn) Write(b []byte) (int, error) {
	if l := c.launch.Load(); l != nil {
		return l.write(c, b)
	}
	return c.Conn.Write(b)
}

func (c *targetConn) Close() error { return c.close() }
