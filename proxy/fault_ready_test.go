package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
	down  atomic.Bool          // no connection can be made that is to be kept
	frail atomic.Pointer[bool] // connections break when something is written, which is taken or not; nil: they do not
	full  atomic.Bool          // connections take nothing
}

// A frailConn breaks under a Write, or blocks it until that or its end.
type frailConn struct {
	net.Conn
	d      *desk
	closed chan struct{}
	close  func()
}

func (c *frailConn) Write(b []byte) (int, error) {
	if taken := c.d.frail.Load(); taken != nil {
		c.Close()
		if *taken {
			return len(b), nil
		}
		return 0, &net.OpError{Op: "write", Err: net.ErrClosed}
	}
	if c.d.full.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

func (c *frailConn) Close() error {
	c.close()
	return c.Conn.Close()
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
			closed := make(chan struct{})
			return &frailConn{end{here}, d, closed, sync.OnceFunc(func() { close(closed) })}, nil
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

// The connection that was open and unused while the chat waited breaks just as the
// chat is written on it, or was broken already.
func TestFaultReadyConnectionClosesAsAChatIsWritten(t *testing.T) {
	for _, taken := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d, f, network := newDesk(t, nil)
			running, ready, clients := d.ready(t, network, "second")
			d.frail.Store(&taken)
			running.answer(t, "{}")
			clients[0].expectStatus(t, http.StatusOK)
			d.next(t, "second").finish()
			clients[1].expectStatus(t, http.StatusOK)
			ready.expect(t, "")
			// What the kernel has taken may have been sent.
			wantSamples(t, f, map[string]string{"foreman_retries_total": map[bool]string{true: "1", false: "0"}[taken]})
			f.expectIdle(t)
		})
	}
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

// What the target says before a chat's turn is no answer, not even if the turn comes
// a moment later.
func TestFaultReadyAnsweredJustBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, network := newDesk(t, nil)
		running, ready, clients := d.ready(t, network, "second", "third")
		io.WriteString(ready, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
		time.Sleep(10 * time.Millisecond)
		running.answer(t, "{}")
		clients[0].expectStatus(t, http.StatusOK)
		second := d.next(t, "second")
		ready.expect(t, "")
		running.expect(t, "") // the third is ready there
		second.finish()
		clients[1].expectStatus(t, http.StatusOK)
		running.expect(t, marked("third"))
		running.answer(t, "{}")
		clients[2].expectStatus(t, http.StatusOK)
		f.expectIdle(t)
	})
}

// The same at the moment of the turn: whichever comes first, nothing is sent twice.
func TestFaultReadyAnsweredAtItsTurn(t *testing.T) {
	for round := range 500 {
		synctest.Test(t, func(t *testing.T) {
			d, f, network := newDesk(t, nil)
			running, ready, clients := d.ready(t, network, "second")
			var racing sync.WaitGroup
			racing.Go(func() { io.WriteString(running, answerOf("{}")) })
			racing.Go(func() {
				io.WriteString(ready, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 5\r\n\r\ntired")
				ready.Close()
			})
			racing.Wait()
			clients[0].expectStatus(t, http.StatusOK)
			synctest.Wait()
			sent := len(ready.got)
			if len(d.arrived) > 0 {
				sent++
				(<-d.arrived).finish()
			}
			if sent != 1 {
				t.Errorf("round %d: sent %d times; want once", round, sent)
			}
			<-clients[1].answered
			synctest.Wait()
			f.expectIdle(t)
		})
	}
}

// A chat has waited for too long just as its turn comes: it is sent, or it is told.
func TestFaultReadyForTooLongAtItsTurn(t *testing.T) {
	for round := range 500 {
		synctest.Test(t, func(t *testing.T) {
			d, f, network := newDesk(t, func(o *Options) { o.QueueTimeout = time.Minute })
			running, ready, clients := d.ready(t, network, "second")
			time.Sleep(time.Minute)
			running.answer(t, "{}")
			synctest.Wait()
			want := http.StatusServiceUnavailable
			if len(ready.got) > 0 {
				ready.answer(t, "{}")
				want = http.StatusOK
			}
			if got := <-clients[1].answered; got != want {
				t.Errorf("round %d: status %d; want %d", round, got, want)
			}
			synctest.Wait()
			f.expectIdle(t)
		})
	}
}

// An answer without a body: Transport has the connection back before the answer is
// told, and another request may use it and break it by then.
func TestFaultReadyBehindAnAnswerWithoutABody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, f, network := newDesk(t, nil)
		running, _, clients := d.ready(t, network, "second")
		d.full.Store(true) // whoever passes the turn on takes its time
		io.WriteString(running, "HTTP/1.1 204 No Content\r\n\r\n")
		synctest.Wait()
		d.full.Store(false)
		embed := connectIn(t, network)
		embed.send(t, postOf("/api/embed", marked("embed")))
		synctest.Wait()
		embed.Close()
		synctest.Wait()
		clients[1].Close()
		clients[0].expectStatus(t, http.StatusNoContent)
		synctest.Wait()
		f.expectIdle(t)
	})
}

// An orderedConn counts how many connections are open on which a chat was written.
type orderedConn struct {
	net.Conn
	open, most *atomic.Int64
	chat       atomic.Bool
	close      func() error
}

func (c *orderedConn) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("POST /api/chat")) && !c.chat.Swap(true) {
		if n := c.open.Add(1); n > c.most.Load() {
			c.most.Store(n)
		}
	}
	return c.Conn.Write(b)
}

func (c *orderedConn) Close() error { return c.close() }

// A client leaves in mid-stream, and the next chat is ready: the connection of the
// former is closed before the next is written.
func TestFaultClientLeavesBeforeTheNextGoes(t *testing.T) {
	target := newStub(t)
	target.chat = func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for r.Context().Err() == nil {
			io.WriteString(w, "{}\n")
			http.NewResponseController(w).Flush()
		}
	}
	var open, most atomic.Int64
	f := newFront(t, target.URL, func(o *Options) {
		o.Target.pooled.DialContext = holding(func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			c := &orderedConn{Conn: conn, open: &open, most: &most}
			c.close = sync.OnceValue(func() error {
				err := conn.Close()
				if c.chat.Load() {
					open.Add(-1)
				}
				return err
			})
			return c, nil
		})
	})
	inLine := func(want int) func() bool {
		return func() bool { n, _ := f.Gate.Len(); return n == want }
	}
	running := connect(t, f)
	running.send(t, postOf("/api/chat", chatBody))
	for range 100 {
		next := connect(t, f)
		next.send(t, postOf("/api/chat", chatBody))
		await(t, inLine(1))
		if _, err := running.in.ReadString('}'); err != nil {
			t.Fatal(err)
		}
		reset(running.Conn)
		await(t, inLine(0))
		running = next
	}
	running.Close()
	if n := most.Load(); n != 1 {
		t.Errorf("%d connections were open at once on which a chat was written; want 1", n)
	}
}

// newFrontOverTLS starts a target that speaks TLS, and a foreman in front of it, in a
// bubble. What is held is then a record of TLS.
func newFrontOverTLS(t *testing.T, secure *httptest.Server, target http.Handler) (*front, *memory) {
	outer, inner := newMemory(80), newMemory(11434)
	serve(t, tls.NewListener(inner, secure.TLS), target, newLog(t), nil)
	f := newFrontOn(t, outer, "https://"+inner.Addr().String(), func(o *Options) {
		inner.through(o.Target)
		config := secure.Client().Transport.(*http.Transport).TLSClientConfig
		o.Target.pooled.TLSClientConfig, o.Target.fresh.TLSClientConfig = config.Clone(), config.Clone()
	})
	return f, outer
}

func TestReadyOverTLS(t *testing.T) {
	secure := httptest.NewTLSServer(nil) // for its certificate
	defer secure.Close()
	for _, outage := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			target := newSleeper(t)
			f, network := newFrontOverTLS(t, secure, target)
			first := chatIn(t, network, "first")
			running := target.next(t, "first")
			second, third := chatIn(t, network, "second"), chatIn(t, network, "third")
			target.none(t)
			if outage {
				target.sleep(true)
				f.Inventory.Refresh()
				time.Sleep(5 * time.Second)
				target.sleep(false)
				if err := f.Inventory.Repoll(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			running.finish()
			first.expectStatus(t, http.StatusOK)
			running = target.next(t, "second")
			synctest.Wait()
			third.Close() // ready by now: TLS's goodbye does not wait for its turn
			synctest.Wait()
			if waiting, busy := f.Gate.Len(); waiting != 0 || !busy {
				t.Errorf("outage %v: %d wait, busy %v; want nobody to wait", outage, waiting, busy)
			}
			running.finish()
			second.expectStatus(t, http.StatusOK)
			target.none(t)
			wantSamples(t, f, map[string]string{"foreman_retries_total": "0"})
			synctest.Wait()
			f.expectIdle(t)
		})
	}
}
