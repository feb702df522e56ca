package proxy

import (
	"net"
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
// taken a byte for 30 s while some were there, however small the pieces in which
// they come. One that is merely slow is not cut: what it takes starts the time
// anew. http.Server's WriteTimeout cannot do that, it limits the whole answer.
// Through TCP one sees a client take bytes only as its kernel acknowledges them,
// and without Linux only as the send buffer empties.
//
// Clients wait to be accepted while their connections would take more than half
// of the file descriptors that the process may have: the other half is for
// connections to the target.
func Listener(ln net.Listener) net.Listener {
	return &listener{
		Listener: ln,
		stall:    clientStall,
		places:   make(chan struct{}, max(1, (descriptorLimit()-spareDescriptors)/2)),
		closed:   make(chan struct{}),
	}
}

type listener struct {
	net.Listener
	stall  time.Duration
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
	return &conn{Conn: c, listener: l, left: unacknowledged}, nil
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
