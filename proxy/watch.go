package proxy

import (
	"context"
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

// A call is a request that the target works on: from when it may be sent to the
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

// calls are those that are under way.
type calls struct {
	mu      sync.Mutex // guards what follows
	open    map[*call]struct{}
	options map[string]*lastOptions // by model
}

// lastOptions are the load options with which a model was asked for.
type lastOptions struct {
	options string
	changes int // so far
}

// noteOptions notes the load options of a chat that has its turn. It returns those of the
// chat before for the same model, and whether they have just changed for the second time.
func (cs *calls) noteOptions(model, options string) (before string, flips bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	last := cs.options[model]
	if last == nil {
		if cs.options == nil {
			cs.options = map[string]*lastOptions{}
		}
		cs.options[model] = &lastOptions{options: options}
		return options, false
	}
	before = last.options
	if options != before {
		last.options = options
		last.changes++
	}
	return before, options != before && last.changes == 2
}

// begin notes that a call may be sent from now on.
func (cs *calls) begin(c *call) {
	c.began = time.Now()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open == nil {
		cs.open = map[*call]struct{}{}
	}
	cs.open[c] = struct{}{}
}

func (cs *calls) end(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
}

// chat returns the call of the chat that has the turn; nil: there is none.
func (cs *calls) chat() *call {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		if c.x.turn != nil {
			return c
		}
	}
	return nil
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
	p.calls.mu.Lock()
	defer p.calls.mu.Unlock()
	for c := range p.calls.open {
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
