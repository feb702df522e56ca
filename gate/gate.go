// Package gate lets one visitor in at a time, in order of arrival.
//
// A sync.Mutex alone will not do: its Lock is not first come, first served, and
// a caller that has lost interest cannot leave it (golang.org/issue/40026). So
// here the Mutex guards the line and is not the line. Whoever leaves hands the
// turn directly to the next, so nobody can slip in between the two.
//
// Nor is time lost between the two: whoever is next is told so, and can get ready;
// whoever leaves starts the next one on its own goroutine. See [Turn.Start].
//
// One thing may change the order: visitors come in kinds, and where it costs to
// change from one kind to another, as it does where each kind is a model to be
// loaded, the gate stays with a kind for a while. See [Gate.Affinity].
//
// The gate knows nothing of HTTP or of Ollama, and it forgets everything when
// the process ends. A persistent queue with a worker loop would take the place
// of this package and keep the shape of [Gate.Enter]: wait until you are next,
// say what is to be done when the turn comes, and leave.
package gate

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Errors of [Gate.Enter] and [Turn.Start]. Where the caller's context ended first,
// Enter's error is the context's cause instead.
var (
	ErrFull   = errors.New("gate: the line is full")
	ErrClosed = errors.New("gate: closed")
)

// A Visitor is somebody who wants in.
type Visitor interface {
	// Kind is what the gate groups visitors by. It must not change.
	Kind() string
}

// A Gate admits one visitor at a time. Make one with [New].
type Gate struct {
	// Affinity is how long visitors of one kind may go before others that came
	// earlier. The first in line is let in once the kind that was let in last has
	// had the gate for Affinity and the first itself has waited for as long; until
	// then the next in line of that kind goes before it, if there is one. A kind's
	// time begins when it takes over from another, and goes on while the gate is
	// free. At 0 the order of arrival is strict; within a kind it always is.
	Affinity time.Duration

	limit int // how many may wait

	mu     sync.Mutex // guards what follows
	closed bool
	holder *Turn     // whose turn it is; nil: nobody's
	kind   string    // of the last who was let in
	since  time.Time // when that kind's time began
	line   list.List // of *Turn, in order of arrival
}

// A Turn is a visitor's, from when it is next.
type Turn struct {
	gate    *Gate
	visitor Visitor
	arrived time.Time
	called  chan error // receives once, under Gate.mu: nil if it is next, or in

	// Gate.mu guards these.
	state state
	place *list.Element // in Gate.line, while it waits or is next
	start func(error)   // see Start
}

// The states of a turn, in this order.
type state int

const (
	waiting state = iota // in line
	next                 // in line, and called: it is next, or was
	in                   // it is its turn
	out                  // it has left, or was turned away
)

// New returns an open gate where at most limit visitors wait behind the holder.
func New(limit int) *Gate {
	return &Gate{limit: limit}
}

// Enter waits until the visitor is next, or is let in at once. The caller must call
// [Turn.Leave] in the end.
//
// The error is ErrFull if too many wait already, ErrClosed after [Gate.Close], or
// the cause of ctx if ctx ended first.
func (g *Gate) Enter(ctx context.Context, v Visitor) (*Turn, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t, err := g.join(v)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-t.called:
	case <-ctx.Done():
	}
	if err == nil && ctx.Err() != nil { // both at once, perhaps
		err = context.Cause(ctx)
	}
	if err != nil {
		t.Leave()
		return nil, err
	}
	return t, nil
}

// Start says what is to be done as soon as the visitor is let in: f is called with
// nil, at once if it is in already, and otherwise by the goroutine of whoever
// leaves, which has nothing else to do before it. If the gate is closed before
// that, f is called with ErrClosed. It is called once at most, and not if the
// visitor has left before; it may still be running when Leave returns.
func (t *Turn) Start(f func(error)) {
	t.gate.mu.Lock()
	state := t.state
	t.start = f
	t.gate.mu.Unlock()
	switch state {
	case in:
		f(nil)
	case out:
		f(ErrClosed)
	}
}

// Leave ends the turn, or gives it up before it has come. It may be called again,
// from anywhere.
func (t *Turn) Leave() {
	g := t.gate
	g.mu.Lock()
	start := t.leaveLocked()
	g.mu.Unlock()
	if start == nil {
		return
	}
	start(nil)
	g.mu.Lock()
	g.callLocked() // only now: whoever is in comes first
	g.mu.Unlock()
}

// Close turns away everybody in line and everybody who comes later. The holder
// keeps its turn.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	var starts []func(error)
	for e := g.line.Front(); e != nil; e = g.line.Front() {
		t := g.line.Remove(e).(*Turn)
		if t.state == waiting {
			t.called <- ErrClosed
		} else if t.start != nil {
			starts = append(starts, t.start)
		}
		t.state = out
	}
	g.mu.Unlock()
	for _, start := range starts {
		start(ErrClosed)
	}
}

// Line returns who holds the turn, nil if nobody does; who waits, in order of
// arrival; and who of these would have the turn next if it were given up now.
func (g *Gate) Line() (holder Visitor, waiting []Visitor, next Visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for e := g.line.Front(); e != nil; e = e.Next() {
		waiting = append(waiting, e.Value.(*Turn).visitor)
	}
	if t := g.nextLocked(); t != nil {
		next = t.visitor
	}
	if g.holder != nil {
		holder = g.holder.visitor
	}
	return holder, waiting, next
}

// Len tells how many wait and whether somebody holds the turn.
func (g *Gate) Len() (waiting int, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.line.Len(), g.holder != nil
}

// join takes the free turn or a place at the end of the line.
func (g *Gate) join(v Visitor) (*Turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := &Turn{gate: g, visitor: v, arrived: time.Now(), called: make(chan error, 1)}
	switch {
	case g.closed:
		return nil, ErrClosed
	case g.holder == nil:
		g.admitLocked(t)
	case g.line.Len() >= g.limit:
		return nil, ErrFull
	default:
		t.place = g.line.PushBack(t)
		g.callLocked()
	}
	return t, nil
}

// leaveLocked takes t out, and lets the next in if it was its turn. It returns
// what that one wants to be done, if it is ready.
func (t *Turn) leaveLocked() (start func(error)) {
	g := t.gate
	was := t.state
	t.state = out
	switch was {
	case waiting:
		g.line.Remove(t.place)
	case next:
		g.line.Remove(t.place)
		g.callLocked()
	case in:
		g.holder = nil
		if t := g.nextLocked(); t != nil {
			g.line.Remove(t.place)
			g.admitLocked(t)
			if t.start != nil {
				return t.start
			}
			g.callLocked()
		}
	}
	return nil
}

// nextLocked returns whose turn it is: the first in line, or the first of the
// kind that was let in last; see Affinity.
func (g *Gate) nextLocked() *Turn {
	e := g.line.Front()
	if e == nil {
		return nil
	}
	first := e.Value.(*Turn)
	if time.Since(g.since) >= g.Affinity && time.Since(first.arrived) >= g.Affinity {
		return first
	}
	for ; e != nil; e = e.Next() {
		if t := e.Value.(*Turn); t.visitor.Kind() == g.kind {
			return t
		}
	}
	return first
}

// admitLocked gives t the turn.
func (g *Gate) admitLocked(t *Turn) {
	g.holder = t
	if kind := t.visitor.Kind(); kind != g.kind {
		g.kind, g.since = kind, time.Now()
	}
	if t.state == waiting {
		t.called <- nil
	}
	t.state = in
}

// callLocked tells whoever is next that it is.
func (g *Gate) callLocked() {
	if t := g.nextLocked(); t != nil && t.state == waiting {
		t.state = next
		t.called <- nil
	}
}
