package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// A memory is a network with one listener. Its connections are pipes: sockets
// do not block durably in a testing/synctest bubble.
type memory struct {
	addr  net.TCPAddr
	calls chan net.Conn // to Accept
	over  chan struct{} // closed by Close
	close func()

	mu    sync.Mutex // guards what follows
	down  bool
	conns []net.Conn
}

func newMemory(port int) *memory {
	m := &memory{
		addr:  net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
		calls: make(chan net.Conn),
		over:  make(chan struct{}),
	}
	m.close = sync.OnceFunc(func() { close(m.over) })
	return m
}

func (m *memory) Addr() net.Addr { return &m.addr }

func (m *memory) Close() error {
	m.close()
	return nil
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.calls:
		return c, nil
	case <-m.over:
		return nil, net.ErrClosed
	}
}

// dial is a DialContext that leads to this listener from everywhere.
func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	m.mu.Lock()
	down := m.down
	m.conns = append(m.conns, here, there)
	m.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &m.addr, Err: syscall.ECONNREFUSED}
	}
	select {
	case m.calls <- there:
		return end{here}, nil
	case <-m.over:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: &m.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reset breaks all connections; while down, new ones are refused.
func (m *memory) reset(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
	for _, c := range m.conns {
		c.Close()
	}
	m.conns = nil
}

// through makes a target reach this listener.
func (m *memory) through(t *Target) {
	t.pooled.DialContext = holding(m.dial)
	t.fresh.DialContext = holding(m.dial)
}

// An end of a pipe reports a broken connection as a socket does.
type end struct{ net.Conn }

func (e end) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

func (e end) Write(b []byte) (int, error) {
	n, err := e.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
	}
	return n, err
}
