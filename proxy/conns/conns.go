// Package conns limits the connections of clients, so that whoever has no token costs
// foreman little and those who have one nothing.
//
// There are two kinds of connection: known ones, on which a request was let in, and
// strangers, on which none was yet. Each kind has places of its own. Where all places are
// taken, a new stranger gets that of the oldest stranger of the address that has most of
// them, and a connection that becomes known gets that of the known one that has been idle
// for longest. A known connection with a request is never closed here.
package conns

import (
	"container/list"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Limits share out the descriptors that a process may have.
type Limits struct {
	Strangers int // connections of clients on which no request was let in
	Known     int // the others, idle ones among them
	Host      int // connections to the Ollama host
	Line      int // chats that may wait; the known places that it leaves are for other requests
}

// What is not shared out: the log, the listener, polls, the tokens file, resolvers.
const reserve = 32

// LimitsFor shares out so many descriptors. Of enough of them a line of queue chats takes
// not more than half of the known connections; of few, the line is shorter.
func LimitsFor(descriptors uint64, queue int) Limits {
	n := int(min(descriptors, 1<<30))
	n = max(n-reserve, 32)
	l := Limits{
		Strangers: min(n/8, 128), // 16 KiB of header may take half a megabyte each
		Host:      min(n/4, 1024),
	}
	l.Known = min(n-l.Strangers-l.Host, 2*max(queue, 512))
	l.Line = min(queue, l.Known-l.Known/8)
	return l
}

// A Listener hands out connections while there are places. Its hooks belong into the
// http.Server that serves it. Make one with [Limit].
type Listener struct {
	net.Listener
	limits Limits
	grace  time.Duration // see [grace]
	log    *slog.Logger

	mu        sync.Mutex           // guards what follows
	strangers list.List            // of *conn, the oldest first
	byAddress map[netip.Prefix]int // strangers
	known     int                  // connections, idle ones among them
	idle      list.List            // of *conn, known and without a request, the one that is so for longest first
	warned    time.Time            // when it was last said that strangers are closed

	changed chan struct{} // receives when a stranger has left or may be closed
}

// A conn is the connection of a client.
type conn struct {
	*net.TCPConn
	listener *Listener
	raw      syscall.RawConn
	opened   time.Time
	address  netip.Prefix // see addressOf

	// The listener's mu guards what follows. It must not be held while anything is read: Close
	// waits for that.
	known  bool          // a request was let in
	waits  bool          // whoever serves it waits for bytes; only of a stranger
	spare  bool          // see [Spare]
	active bool          // a request is being answered
	place  *list.Element // in strangers or idle; nil: in none
}

// Limit returns a listener on ln, of TCP, that has no more connections than limits say.
func Limit(ln net.Listener, limits Limits, log *slog.Logger) *Listener {
	return &Listener{Listener: ln, limits: limits, grace: grace, log: log, byAddress: map[netip.Prefix]int{}, changed: make(chan struct{}, 1)}
}

// Accept returns the next connection. If that is one stranger too many, another one is
// closed before.
func (l *Listener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: accepted.(*net.TCPConn), listener: l, opened: time.Now(), address: addressOf(accepted.RemoteAddr())}
	if c.raw, err = c.SyscallConn(); err != nil {
		c.Close()
		return nil, err
	}
	for !l.enter(c) {
		select {
		case <-l.changed:
		case <-time.After(l.grace):
		}
	}
	return c, nil
}

// enter gives a stranger a place. It reports whether there was one.
func (l *Listener) enter(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.strangers.Len() >= l.limits.Strangers {
		oldest := l.crowdingLocked()
		if oldest == nil || !oldest.spare && time.Since(oldest.opened) < l.grace {
			return false
		}
		if now := time.Now(); now.Sub(l.warned) > time.Minute {
			l.warned = now
			l.log.Warn("too many connections on which no request was let in: the oldest ones of the address that has most of them are closed",
				"limit", l.limits.Strangers, "addr", oldest.RemoteAddr().String())
		}
		l.removeLocked(oldest)
		oldest.Close()
	}
	c.place = l.strangers.PushBack(c)
	l.byAddress[c.address]++
	return true
}

// crowdingLocked returns the oldest stranger of the address that has most, of those that
// may be closed; nil: none may.
func (l *Listener) crowdingLocked() (oldest *conn) {
	for e := l.strangers.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*conn); (oldest == nil || l.byAddress[c.address] > l.byAddress[oldest.address]) && c.mayGoLocked() {
			oldest = c
		}
	}
	return oldest
}

// grace is how long a stranger has to send something: of many who come at once, each does
// so a little later than it connects.
const grace = 500 * time.Millisecond

// mayGoLocked reports whether a stranger may be closed: what it has sent is read and
// answered first, however busy the machine is. Whoever reads from it stops to wait before
// that, and a request becomes active before it is answered.
func (c *conn) mayGoLocked() bool {
	if c.spare {
		return true
	}
	nothing := false
	c.raw.Control(func(fd uintptr) { nothing = isEmpty(fd) })
	return nothing && c.waits && !c.active
}

// addressOf returns what one client has for itself: an address of IPv4, or the /64 out of
// which a client of IPv6 takes its addresses.
func addressOf(a net.Addr) netip.Prefix {
	addr := a.(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
	prefix, _ := addr.Prefix(min(addr.BitLen(), 64)) // which is none too long
	return prefix
}

// removeLocked takes its place from a connection, which is then neither a stranger nor
// known.
func (l *Listener) removeLocked(c *conn) {
	switch {
	case c.known:
		c.known = false
		l.known--
		l.stopIdlingLocked(c)
	case c.place != nil:
		l.strangers.Remove(c.place)
		c.place = nil
		if l.byAddress[c.address]--; l.byAddress[c.address] == 0 {
			delete(l.byAddress, c.address)
		}
		l.tell()
	}
}

// stopIdlingLocked notes that a known connection is not idle.
func (l *Listener) stopIdlingLocked(c *conn) {
	if c.place != nil {
		l.idle.Remove(c.place)
		c.place = nil
	}
}

// Read says of a stranger that it waits until there is something to read, and never when
// something has been read.
func (c *conn) Read(b []byte) (int, error) {
	if c.setWaits(true) {
		c.raw.Read(func(fd uintptr) (done bool) {
			nothing := isEmpty(fd)
			if nothing {
				c.listener.tell()
			}
			return !nothing
		})
		c.setWaits(false) // its deadline may have passed
	}
	return c.TCPConn.Read(b)
}

// setWaits says of a stranger whether it waits. It reports whether the connection is one.
func (c *conn) setWaits(waits bool) bool {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.waits = waits && !c.known
	return !c.known
}

// tell has a stranger that waits for a place look again.
func (l *Listener) tell() {
	select {
	case l.changed <- struct{}{}:
	default: // it will anyway
	}
}

// CloseWrite is how net/http ends a connection from which more may come, half a second
// before it closes it.
func (c *conn) CloseWrite() error {
	c.setSpare()
	return c.TCPConn.CloseWrite()
}

func (c *conn) setSpare() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.spare = true
	c.listener.tell()
}

type key struct{}

// ConnContext is for [http.Server]. It lets [Admit] find the connection.
func (l *Listener) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, key{}, c)
}

// Admit makes the connection that a request came on a known one: the request is let in.
// It reports whether there was a place. ctx is the request's; if it has no connection of
// a [Listener], there is one.
func Admit(ctx context.Context) bool {
	c, ok := ctx.Value(key{}).(*conn)
	return !ok || c.listener.admit(c)
}

// Spare says that what is still to be done for a request is not worth a place: if it has
// come from a stranger, that may be closed.
func Spare(ctx context.Context) {
	if c, ok := ctx.Value(key{}).(*conn); ok {
		c.setSpare()
	}
}

func (l *Listener) admit(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.known || c.place == nil { // or it is closed, as the request will find out
		return true
	}
	if l.known >= l.limits.Known {
		longest := l.idle.Front()
		if longest == nil {
			return false
		}
		idle := longest.Value.(*conn)
		l.removeLocked(idle)
		idle.Close()
	}
	l.removeLocked(c)
	c.known = true
	l.known++
	return true
}

// ConnState is for [http.Server].
func (l *Listener) ConnState(served net.Conn, state http.ConnState) {
	c := served.(*conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		l.removeLocked(c)
	case http.StateActive:
		c.active = true
		if c.known {
			l.stopIdlingLocked(c)
		}
	case http.StateIdle:
		c.active, c.spare = false, false
		if c.known {
			c.place = l.idle.PushBack(c)
		} else {
			l.tell()
		}
	}
}
