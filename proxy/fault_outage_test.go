package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// One poll that is missed, on a busy host perhaps, does not turn a whole line away.
func TestFaultOneMissedPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newSleeper(t)
		f, network := newFrontIn(t, target, nil)
		var line []*wire
		for range 6 {
			c := connectIn(t, network)
			c.send(t, postOf("/api/chat", marked("same")))
			line = append(line, c)
			synctest.Wait()
		}
		target.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(inventoryMisses)
		target.sleep(false)
		if state := f.Inventory.State(); state.Reason != inventory.Unreachable || state.Unanswered != 1 {
			t.Fatalf("reason %q, %d unanswered; want one missed poll", state.Reason, state.Unanswered)
		}
		for i, c := range line {
			target.next(t, "same").finish()
			if got := c.status(t); got != http.StatusOK {
				t.Errorf("chat %d: status %d; want 200", i, got)
			}
		}
	})
}

// inventoryMisses is when a poll has failed that was asked for and gets no answer.
const inventoryMisses = 4*time.Second + 250*time.Millisecond + 1

// A host that falls asleep in the middle of what is not a chat.
func TestFaultHostFallsAsleepWithinAPassedAnswer(t *testing.T) {
	for _, path := range []string{"/api/embed", "/api/show", "/api/pull"} {
		synctest.Test(t, func(t *testing.T) {
			target := newSleeper(t)
			_, network := newFrontIn(t, target, func(o *Options) { o.Manage = true })
			c := connectIn(t, network)
			c.send(t, postOf(path, marked("half")))
			running := target.next(t, "half")
			running.say(t, "{}\n")
			if _, err := c.in.Peek(len("HTTP/1.1 200 OK")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Minute) // for a pull that has nothing to tell
			target.sleep(true)
			began := time.Now()
			if _, body, err := c.answer(t); err == nil {
				t.Errorf("%s: got a whole answer, %q; want it cut", path, body)
			}
			if took := time.Since(began); took > 45*time.Second {
				t.Errorf("%s: cut after %v; want 45 s at most", path, took)
			}
			running.gone()
		})
	}
}

// A lossy connection loses what is written to it, silently, once it is lost.
type lossy struct {
	net.Conn
	lost *atomic.Bool
}

func (l lossy) Write(b []byte) (int, error) {
	if l.lost.Load() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// The way to the host is another one after an outage, and the connections that were
// kept lead nowhere without knowing it.
func TestFaultKeptConnectionsAreLostInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newSleeper(t)
		var lost atomic.Pointer[atomic.Bool] // of connections that are made now
		lost.Store(new(atomic.Bool))
		f, network := newFrontIn(t, target, func(o *Options) {
			dial := o.Target.pooled.DialContext
			o.Target.pooled.DialContext = holding(func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				return lossy{c, lost.Load()}, err
			})
		})
		c := connectIn(t, network)
		c.send(t, postOf("/api/chat", marked("before")))
		target.next(t, "before").finish()
		if got := c.status(t); got != http.StatusOK {
			t.Fatalf("chat before: status %d; want 200", got)
		}
		lost.Swap(new(atomic.Bool)).Store(true)
		target.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(30 * time.Second)
		target.sleep(false)
		time.Sleep(10 * time.Second)

		began := time.Now()
		c.send(t, postOf("/api/chat", marked("after")))
		target.next(t, "after").finish()
		if got, took := c.status(t), time.Since(began); got != http.StatusOK || took > 0 {
			t.Errorf("chat after: status %d after %v; want 200 at once", got, took)
		}
	})
}

// A connection that breaks after the target has worked for long was not closed
// before: what was asked may have broken it.
func TestFaultNeverTwiceAfterWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		models := fixture(t, "tags.json")
		var chats atomic.Int64
		target := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/api/tags" {
				w.Write(models)
				return
			}
			io.Copy(io.Discard, r.Body)
			if chats.Add(1) > 1 {
				time.Sleep(time.Minute)
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "{}")
		})
		_, network := newFrontIn(t, target, nil)
		c := connectIn(t, network)
		c.SetDeadline(time.Time{})
		for i, want := range []int{http.StatusOK, http.StatusServiceUnavailable} {
			c.send(t, postOf("/api/chat", marked("any")))
			if got := c.status(t); got != want {
				t.Errorf("chat %d: status %d; want %d", i, got, want)
			}
		}
		if got := chats.Load(); got != 2 {
			t.Errorf("the target saw %d chats; want 2", got)
		}
	})
}

// The target dies in mid-stream: that too asks for a poll at once.
func TestFaultCutAsksForAPoll(t *testing.T) {
	for _, path := range []string{"/api/chat", "/api/embed"} {
		synctest.Test(t, func(t *testing.T) {
			host := newMemory(11434)
			stub := newStubOn(t, host)
			cut := func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, "{}\n")
				w.(http.Flusher).Flush()
				host.reset(true)
			}
			stub.chat, stub.embed = cut, cut
			f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) { host.through(o.Target) })
			time.Sleep(10 * time.Second)
			if a := f.do(t, "POST", path, chatBody); a.err != io.ErrUnexpectedEOF {
				t.Errorf("%s: ended with %v; want a cut", path, a.err)
			}
			synctest.Wait()
			if got := f.Inventory.State().Reason; got != inventory.Unreachable {
				t.Errorf("%s: reason %q at once; want %q", path, got, inventory.Unreachable)
			}
		})
	}
}

// A page is told the models that were last known, also by the request that finds
// the host away.
func TestFaultHostIsAwayWhenAPageAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newMemory(11434)
		stub := newStubOn(t, host)
		f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) { host.through(o.Target) })
		host.reset(true)
		a := f.do(t, "GET", "/api/tags", "", "Origin", "http://page.example")
		if a.status != http.StatusOK || a.body != string(fixture(t, "tags.json")) || a.header.Get("Age") == "" {
			t.Errorf("got %d, Age %q, %q; want the last known", a.status, a.header.Get("Age"), a.body)
		}
		time.Sleep(time.Second)
		if got := f.Inventory.State().Reason; got != inventory.Unreachable {
			t.Errorf("reason %q a second later; want %q", got, inventory.Unreachable)
		}
	})
}
