package proxy

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"foreman/proxy/target"
	"foreman/proxy/usage"
)

const (
	// A target that has been silent for so long is polled out of turn, and
	// again as often as one that is degraded.
	suspicious = 5 * time.Second
	// A timer that fires so late was foreman's own, which was stopped and is not any more.
	stopped = 5 * time.Second
	// How often a call is looked at whose target is silent.
	watchInterval = time.Second
)

// A call is a request that the target works on: from when it is sent to the
// last byte of the answer. The watch cancels it when the target goes silent.
type call struct {
	ctx    context.Context // of that request
	cancel context.CancelCauseFunc
	x      *exchange
	stall  time.Duration // longest silence of a target that is otherwise alive; 0: any
	began  time.Time
	watch  *time.Timer   // looks at the call
	look   time.Duration // when it does next, since began
	awake  time.Duration // since when foreman has not been stopped, since began

	// Nanoseconds since began.
	waiting  atomic.Int64 // since when the target's next byte is waited for; or notWaiting
	answered atomic.Int64 // when its first byte came; 0: not yet

	received atomic.Int64 // bytes of the answer's body
	tail     usage.Tail   // of a chat's answer
}

// notWaiting is for a call while the client is to take what the target has said.
const notWaiting = -1

func (c *call) elapsed() time.Duration { return time.Since(c.began) }

// silence is for how long the target's next byte has been waited for.
func (c *call) silence() time.Duration {
	if waiting := c.waiting.Load(); waiting != notWaiting {
		return c.elapsed() - time.Duration(waiting)
	}
	return 0
}

// underway is what is going on: the chats that wait for their turn or have it.
type underway struct {
	mu      sync.Mutex              // guards what follows
	chats   map[string]*exchange    // by the key with which they stand at the gate
	options map[string]*lastOptions // by model
}

// join notes a chat that is about to stand in line, and returns a key for it that no
// other has, also of another run of foreman. Clients choose the ids of their requests.
func (u *underway) join(x *exchange) (key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.chats == nil {
		u.chats = map[string]*exchange{}
	}
	key = rand.Text()
	u.chats[key] = x
	return key
}

// leave notes that a chat stands in line no more and has no turn.
func (u *underway) leave(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.chats, key)
}

// chat returns the chat with a key, and its call; nil: it is gone, or has none yet.
func (u *underway) chat(key string) (*exchange, *call) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if x := u.chats[key]; x != nil {
		return x, x.call
	}
	return nil, nil
}

// stop ends the chat with a key for a reason, and returns it; nil: it is gone. First
// reports whether nobody has stopped it before.
func (u *underway) stop(key string, why error) (x *exchange, first bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if x = u.chats[key]; x == nil {
		return nil, false
	}
	first = !x.stopped
	x.stopped = true
	x.cancel(why)
	return x, first
}

// lastOptions are the load options with which a model was asked for.
type lastOptions struct {
	options string
	changes int // so far
}

// noteOptions notes the load options of a chat that has its turn. It returns those of the
// chat before for the same model, and whether they have just changed for the second time.
func (u *underway) noteOptions(model, options string) (before string, flips bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.options[model]
	if last == nil {
		if u.options == nil {
			u.options = map[string]*lastOptions{}
		}
		u.options[model] = &lastOptions{options: options}
		return options, false
	}
	before = last.options
	if options != before {
		last.options = options
		last.changes++
	}
	return before, options != before && last.changes == 2
}

// begin notes a call that is about to be sent, and watches over it until endCall.
func (p *Proxy) begin(c *call) {
	c.began, c.look = time.Now(), suspicious
	p.underway.mu.Lock()
	defer p.underway.mu.Unlock()
	c.x.call = c
	c.watch = time.AfterFunc(suspicious, func() { p.watch(c) })
}

// endCall ends a call, and a chat's turn with it. So is a chat over then, but for what its
// client has still to take. It may be called twice.
func (p *Proxy) endCall(c *call) {
	c.watch.Stop()
	if c.x.turn == nil {
		return
	}
	p.underway.leave(c.x.key)
	c.x.turn.Leave()
	runtime.Gosched() // the next chat goes first: what is left to do for this one can wait
}

// watch cancels a call if the target is silent and asleep, or silent for the call's
// stall, and else looks again later. A host that is asleep leaves its connections open
// and says nothing; the polls distinguish it from one that loads a model or reads a long
// prompt.
func (p *Proxy) watch(c *call) {
	now := c.elapsed()
	if now-c.look > stopped { // foreman was stopped, and has not read what the target said meanwhile
		c.awake = now
	}
	next := watchInterval
	switch silence := min(c.silence(), now-c.awake); {
	case c.ctx.Err() != nil: // the call is over
		return
	case c.stall > 0 && silence >= c.stall:
		c.cancel(errStall)
		return
	case silence < suspicious:
		next = suspicious - silence
	case p.Inventory.State().Asleep():
		c.cancel(errAsleep)
		return
	default:
		p.Inventory.Suspect()
	}
	c.look = now + next
	p.underway.mu.Lock() // in begin it may not be there yet
	defer p.underway.mu.Unlock()
	c.watch.Reset(next)
}

// follow returns the body of the target's answer to a call.
func (p *Proxy) follow(c *call, resp *http.Response) io.ReadCloser {
	c.answered.Store(int64(c.elapsed()))
	return &followed{resp.Body, p, c}
}

// A followed body notes when the target is waited for, and ends the call with the
// target's last byte: while the client takes the rest, the target can work for the
// next.
type followed struct {
	io.ReadCloser
	p *Proxy
	c *call
}

func (f *followed) Read(b []byte) (int, error) {
	f.c.waiting.Store(int64(f.c.elapsed()))
	n, err := f.ReadCloser.Read(b)
	f.c.waiting.Store(notWaiting)
	f.c.received.Add(int64(n))
	if f.c.x.Class == worker {
		f.c.tail.Add(b[:n])
	}
	switch err {
	case nil:
	case io.EOF:
		f.c.x.answered = true
		f.p.endCall(f.c)
		f.c.x.answering = f.c.elapsed() - time.Duration(f.c.answered.Load())
	default:
		f.p.brokeOff(f.c.x, target.Classify(f.c.ctx, err))
	}
	return n, err
}
