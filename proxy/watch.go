package proxy

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
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
	// So many polls in a row without an answer, and the host is asleep or gone.
	// It takes at most 6 s until a silent target is polled out of turn, 4 s until
	// that poll fails, and twice 5 s for two more (inventory's pollTimeout and
	// degradedInterval): the turn is free well within 45 s.
	asleepAfter = 3
	// How often the calls are looked at.
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

// underway is what is going on: the calls, and the chats that wait for their turn or have
// it.
type underway struct {
	mu      sync.Mutex // guards what follows
	calls   map[*call]struct{}
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

// begin notes a call that is about to be sent.
func (u *underway) begin(c *call) {
	c.began = time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.calls == nil {
		u.calls = map[*call]struct{}{}
	}
	u.calls[c] = struct{}{}
	c.x.call = c
}

// end notes that a call is over. So is a chat then, but for what its client has still to
// take.
func (u *underway) end(c *call) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.calls, c)
	delete(u.chats, c.x.key)
}

// Run watches over all calls until ctx ends. A call is cancelled if the target is
// silent and does not answer polls, or if the target is silent for the call's
// stall. A host that is asleep leaves its connections open and says nothing; the
// polls distinguish it from one that loads a model or reads a long prompt.
func (p *Proxy) Run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var polled time.Time // when it was last asked for a poll out of turn
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if p.cancelSilent() && time.Since(polled) >= suspicious {
			polled = time.Now()
			p.Inventory.Refresh()
		}
	}
}

// cancelSilent cancels the calls whose target has gone silent, and reports whether
// it has been silent to any other for so long that it should be polled.
func (p *Proxy) cancelSilent() (poll bool) {
	asleep := p.Inventory.State().Unanswered >= asleepAfter
	p.underway.mu.Lock()
	defer p.underway.mu.Unlock()
	for c := range p.underway.calls {
		switch silence := c.silence(); {
		case c.stall > 0 && silence >= c.stall:
			c.cancel(errStall)
		case silence < suspicious:
		case asleep:
			c.cancel(errAsleep)
		default:
			poll = true
		}
	}
	return poll
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
