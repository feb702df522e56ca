package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What befalls a chat that is ready before its turn: its connection to the target
// is open, and nothing must be written to it.

// A desk is a target to which the connections that foreman keeps lead one by one.
// New ones lead to the holder.
type desk struct {
	*sleeper
	conns chan *farEnd
	down  atomic.Bool // no connection can be made that is to be kept
	frail atomic.Bool // connections break when the next request is written
}

// A frailConn breaks under a Write.
type frailConn struct {
	net.Conn
	d *desk
}

func (c frailConn) Write(b []byte) (int, error) {
	if c.d.frail.Load() {
		c.Close()
	}
	return c.Conn.Write(b)
}

// A farEnd is the target's end of a connection.
type farEnd struct {
	net.Conn
	in  *bufio.Reader
	got chan string // bodies of the chats that came, closed at the connection's end
}

// newDesk starts one and a foreman in front of it, in a bubble.
func newDesk(t testing.TB, change func(*Options)) (*desk, *front, *memory) {
	d := &desk{sleeper: newSleeper(t), conns: make(chan *farEnd, 10)}
	f, network := newFrontIn(t, d.sleeper, func(o *Options) {
		o.Target.pooled.DialContext = holding(func(context.Context, string, string) (net.Conn, error) {
			if d.down.Load() {
				return nil, &net.OpError{Op: "dial", Err: net.ErrClosed}
			}
			here, there := net.Pipe()
			c := &farEnd{there, bufio.NewReader(there), make(chan string, 10)}
			go c.listen()
			d.conns <- c
			return frailConn{end{here}, d}, nil
		})
		if change != nil {
			change(o)
		}
	})
	return d, f, network
}

func (c *farEnd) listen() {
	defer close(c.got)
	for {
		r, err := http.ReadRequest(c.in)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(r.Body)
		c.got <- string(b)
	}
}

// expect fails the test unless this is what came last; "" is nothing.
func (c *farEnd) expect(t testing.TB, want string) {
	t.Helper()
	synctest.Wait()
	got := ""
	select {
	case got = <-c.got:
	default:
	}
	if got != want {
		t.Fatalf("target got %q; want %q", got, want)
	}
}

// answer answers a chat.
func (c *farEnd) answer(t testing.TB, body string) {
	t.Helper()
	if _, err := io.WriteString(c, answerOf(body)); err != nil {
		t.Fatal(err)
	}
}

// A reader is a client that reads its answer as soon as that comes.
type reader struct {
	*wire
	answered chan int // the status, 0 if there is no whole answer
}

// chatIn sends a chat in a bubble and waits until it has its turn, or stands in line.
func chatIn(t testing.TB, network *memory, mark string) *reader {
	t.Helper()
	c := &reader{connectIn(t, network), make(chan int, 1)}
	c.send(t, postOf("/api/chat", marked(mark)))
	go func() {
		resp, err := http.ReadResponse(c.in, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err != nil {
			c.answered <- 0
			return
		}
		c.answered <- resp.StatusCode
	}()
	synctest.Wait()
	return c
}

// expectStatus fails the test unless a client got this, or gets it.
func (c *reader) expectStatus(t testing.TB, want int) {
	t.Helper()
	if got := <-c.answered; got != want {
		t.Errorf("client: status %d; want %d", got, want)
	}
}

// ready has one chat run and others wait, of which the first is ready.
func (d *desk) ready(t testing.TB, network *memory, others ...string) (running, ready *farEnd, clients []*reader) {
	t.Helper()
	for i, mark := range append([]string{"running"}, others...) {
		clients = append(clients, chatIn(t, network, mark))
		if i == 0 {
			running = <-d.conns
			running.expect(t, marked("running"))
		}
	}
	if !d.down.Load() {
		ready = <-d.conns
		ready.expect(t, "")
	}
	if n := len(d.conns); n > 0 {
		t.Fatalf("%d more connections are open; want none", n)
	}
	return running, ready, clients
}

func TestReadyBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, network := newDesk(t, nil)
		running, ready, clients := d.ready(t, network, "second", "third", "fourth")
		answering, next := running, ready
		for i, mark := range []string{"second", "third", "fourth"} {
			answering.answer(t, "{}")
			next.expect(t, marked(mark))
			clients[i].expectStatus(t, http.StatusOK)
			answering, next = next, answering // whoever is next got ready on the connection that was free
			next.expect(t, "")
		}
		answering.answer(t, "{}")
		clients[3].expectStatus(t, http.StatusOK)
		if n := len(d.conns); n > 0 {
			t.Errorf("%d more connections were opened; want two in all", n)
		}
		wantSamples(t, f, map[string]string{"foreman_retries_total": "0"})
		f.expectIdle(t)
	})
}

// What a chat had got ready comes to nothing. It keeps its place, and goes on a new
// connection when its turn comes.
func TestFaultReadyForNothing(t *testing.T) {
	for name, happens := range map[string]func(t *testing.T, d *desk, f *front, ready *farEnd){
		"the target closes": func(_ *testing.T, _ *desk, _ *front, ready *farEnd) { ready.Close() },
		"the target gets tired of waiting": func(t *testing.T, _ *desk, _ *front, ready *farEnd) {
			io.WriteString(ready, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\n\r\ntired")
			ready.Close()
		},
		"the target says it and stays": func(t *testing.T, _ *desk, _ *front, ready *farEnd) {
			io.WriteString(ready, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
		},
		"an outage": func(_ *testing.T, d *desk, f *front, _ *farEnd) {
			d.sleep(true)
			f.Inventory.Refresh()
			time.Sleep(6 * time.Second)
			d.sleep(false)
			time.Sleep(10 * time.Second)
		},
		"no connection can be made": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, f, network := newDesk(t, nil)
				var running, ready *farEnd
				var clients []*reader
				if happens == nil {
					clients = append(clients, chatIn(t, network, "running"))
					running = <-d.conns
					running.expect(t, marked("running"))
					d.down.Store(true)
					clients = append(clients, chatIn(t, network, "second"))
				} else {
					running, ready, clients = d.ready(t, network, "second")
					happens(t, d, f, ready)
				}
				time.Sleep(time.Second)
				d.none(t)
				if waiting, busy := f.Gate.Len(); waiting != 1 || !busy {
					t.Fatalf("%d wait, busy %v; want 1 to wait", waiting, busy)
				}
				running.answer(t, "{}")
				clients[0].expectStatus(t, http.StatusOK)
				d.next(t, "second").finish()
				clients[1].expectStatus(t, http.StatusOK)
				if ready != nil {
					ready.expect(t, "")
				}
				wantSamples(t, f, map[string]string{"foreman_retries_total": "0"})
				f.expectIdle(t)
			})
		})
	}
}

// The connection breaks just as the chat is written on it, that was open and unused
// while the chat waited.
func TestFaultReadyConnectionClosesAsAChatIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, network := newDesk(t, nil)
		running, ready, clients := d.ready(t, network, "second")
		d.frail.Store(true)
		running.answer(t, "{}")
		clients[0].expectStatus(t, http.StatusOK)
		d.next(t, "second").finish()
		clients[1].expectStatus(t, http.StatusOK)
		ready.expect(t, "")
		wantSamples(t, f, map[string]string{"foreman_retries_total": "1"})
		f.expectIdle(t)
	})
}

// A chat that is ready does not get its turn: the target gets nothing of it, and
// the next one gets ready.
func TestFaultReadyAndGivenUp(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(f *front, client *reader)
		status  int // that it gets; 0: it has left
		others  int // the same for those behind it
	}{
		"its client leaves":   {func(_ *front, client *reader) { client.Close() }, 0, http.StatusOK},
		"it waits too long":   {func(*front, *reader) { time.Sleep(time.Minute) }, http.StatusServiceUnavailable, http.StatusServiceUnavailable},
		"foreman shuts down":  {func(f *front, _ *reader) { f.Gate.Close() }, http.StatusServiceUnavailable, http.StatusServiceUnavailable},
		"nothing befalls it":  {func(*front, *reader) {}, http.StatusOK, http.StatusOK},
		"it waits for longer": {func(*front, *reader) { time.Sleep(time.Minute - 1) }, http.StatusOK, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, f, network := newDesk(t, func(o *Options) { o.QueueTimeout = time.Minute })
				running, ready, clients := d.ready(t, network, "second", "third")
				test.happens(f, clients[1])
				synctest.Wait()
				if test.status != http.StatusOK {
					ready.expect(t, "")
					if _, err := ready.Write([]byte("x")); err == nil {
						t.Error("its connection is still open")
					}
				}
				next := ready
				if test.status == 0 {
					next = <-d.conns // the third is ready
					next.expect(t, "")
				}
				running.answer(t, "{}")
				clients[0].expectStatus(t, http.StatusOK)
				if test.status == http.StatusOK {
					next.expect(t, marked("second"))
					next.answer(t, "{}")
					next = running // kept, and free by then
				}
				if test.others == http.StatusOK {
					next.expect(t, marked("third"))
					next.answer(t, "{}")
				}
				for i, want := range []int{1: test.status, test.others} {
					if want == 0 {
						continue
					}
					clients[i].expectStatus(t, want)
				}
				d.none(t)
				synctest.Wait()
				f.expectIdle(t)
			})
		})
	}
}

// The target is unreachable when the turn of a chat comes that is ready.
func TestFaultReadyInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, network := newDesk(t, nil)
		running, ready, clients := d.ready(t, network, "second")
		d.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(5 * time.Second)
		running.answer(t, "{}")
		clients[0].expectStatus(t, http.StatusOK)
		clients[1].expectStatus(t, http.StatusServiceUnavailable)
		ready.expect(t, "")
		d.none(t)
		f.expectIdle(t)
	})
}

// With https what is held is a record of TLS.
func TestReadyOverTLS(t *testing.T) {
	h := newHolder(t)
	var fresh sync.Map // bodies of chats that came on a connection of their own
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Close && strings.HasPrefix(r.URL.Path, "/api/chat") {
			fresh.Store(r.RemoteAddr, true)
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	opened := make(chan struct{}, 10)
	f := newFront(t, srv.URL, func(o *Options) {
		config := srv.Client().Transport.(*http.Transport).TLSClientConfig
		o.Target.pooled.TLSClientConfig, o.Target.fresh.TLSClientConfig = config, config
		dial := o.Target.pooled.DialContext
		o.Target.pooled.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			defer func() { opened <- struct{}{} }()
			return dial(ctx, network, addr)
		}
	})
	first, second, third := connect(t, f), connect(t, f), connect(t, f)
	first.send(t, postOf("/api/chat", marked("first")))
	running := h.next(t, "first")
	<-opened
	second.send(t, postOf("/api/chat", marked("second")))
	<-opened // it gets ready
	h.none(t)
	running.finish()
	running = h.next(t, "second")
	third.send(t, postOf("/api/chat", marked("third")))
	for waiting := 0; waiting == 0; {
		waiting, _ = f.Gate.Len()
	}
	third.Close() // ready or nearly so: TLS's goodbye must not wait for the turn
	for waiting := 1; waiting > 0; {
		waiting, _ = f.Gate.Len()
	}
	running.finish()
	for i, c := range []*wire{first, second} {
		if got := c.status(t); got != http.StatusOK {
			t.Errorf("client %d: status %d; want 200", i, got)
		}
	}
	fresh.Range(func(any, any) bool { t.Error("a chat came on a connection of its own"); return true })
	h.none(t)
	f.expectIdle(t)
}
