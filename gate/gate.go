// Package gate lets one visitor in at a time, in order of arrival.
//
// A sync.Mutex alone will not do: its Lock is not first come, first served, and
// a caller that has lost interest cannot leave it (golang.org/issue/40026). So
// here the Mutex guards the line and is not the line. Whoever leaves hands the
// turn directly to the next, so nobody can slip in between the two.
//
// One thing may change the order: visitors come in kinds, and where it costs to
// change from one kind to another, as it does where each kind is a model to be
// loaded, the gate stays with a kind for a while. See [Gate.Affinity].
//
// The gate knows nothing of HTTP or of Ollama, and it forgets everything when
// the process ends. A persistent queue with a worker loop would take the place
// of this package and keep the shape of [Gate.Enter]: wait for a turn, get the
// function that ends it.
package gate

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// Errors of [Gate.Enter]. Where the caller's context ended first, the error is
// the context's cause instead.
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
	holder Visitor   // who holds the turn; nil: nobody
	kind   string    // of the last who was let in
	since  time.Time // when that kind's time began
	line   list.List // of *waiter, in order of arrival
}

// A waiter stands in line until its outcome is known.
type waiter struct {
	visitor Visitor
	arrived time.Time
	outcome chan error    // receives once, under Gate.mu: nil is the turn
	place   *list.Element // in Gate.line
}

// New returns an open gate where at most limit visitors wait behind the holder.
func New(limit int) *Gate {
	return &Gate{limit: limit}
}

// Enter waits for the visitor's turn and returns the function that ends it. The
// caller must call leave; calling it again, from anywhere, does nothing.
//
// Without a turn, leave is nil and err tells why: ErrFull if too many wait
// already, ErrClosed after [Gate.Close], or the cause of ctx if ctx ended first.
func (g *Gate) Enter(ctx context.Context, v Visitor) (leave func(), err error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w, err := g.join(v)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-w.outcome:
	case <-ctx.Done():
		g.withdraw(w)
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil { // the turn came and the caller left, both at once
		g.pass()
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(g.pass), nil
}

// Close turns away everybody in line and everybody who comes later. The holder
// keeps its turn.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for e := g.line.Front(); e != nil; e = g.line.Front() {
		g.line.Remove(e).(*waiter).outcome <- ErrClosed
	}
}

// Line returns who holds the turn, nil if nobody does; who waits, in order of
// arrival; and who of these would have the turn next if it were given up now.
func (g *Gate) Line() (holder Visitor, waiting []Visitor, next Visitor) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for e := g.line.Front(); e != nil; e = e.Next() {
		waiting = append(waiting, e.Value.(*waiter).visitor)
	}
	if e := g.nextLocked(); e != nil {
		next = e.Value.(*waiter).visitor
	}
	return g.holder, waiting, next
}

// Len tells how many wait and whether somebody holds the turn.
func (g *Gate) Len() (waiting int, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.line.Len(), g.holder != nil
}

// join takes the free turn or a place at the end of the line.
func (g *Gate) join(v Visitor) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := &waiter{visitor: v, arrived: time.Now(), outcome: make(chan error, 1)}
	switch {
	case g.closed:
		return nil, ErrClosed
	case g.holder == nil:
		g.admitLocked(w)
	case g.line.Len() >= g.limit:
		return nil, ErrFull
	default:
		w.place = g.line.PushBack(w)
	}
	return w, nil
}

// withdraw takes a waiter out of the line, or passes on the turn that it was
// given just before.
func (g *Gate) withdraw(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case err := <-w.outcome:
		if err == nil {
			g.passLocked()
		}
	default:
		g.line.Remove(w.place)
	}
}

func (g *Gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passLocked()
}

// passLocked hands the turn to the next in line, if there is one.
func (g *Gate) passLocked() {
	g.holder = nil
	if next := g.nextLocked(); next != nil {
		g.line.Remove(next)
		g.admitLocked(next.Value.(*waiter))
	}
}

// nextLocked returns whose turn it is: the first in line, or the first of the
// kind that was let in last; see Affinity.
func (g *Gate) nextLocked() *list.Element {
	first := g.line.Front()
	if first == nil || time.Since(g.since) >= g.Affinity && time.Since(first.Value.(*waiter).arrived) >= g.Affinity {
		return first
	}
	for e := first; e != nil; e = e.Next() {
		if e.Value.(*waiter).visitor.Kind() == g.kind {
			return e
		}
	}
	return first
}

// admitLocked gives a waiter the turn.
func (g *Gate) admitLocked(w *waiter) {
	g.holder = w.visitor
	if kind := w.visitor.Kind(); kind != g.kind {
		g.kind, g.since = kind, time.Now()
	}
	w.outcome <- nil
}
