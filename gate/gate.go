// Package gate gives one request at a time the turn.
//
// A sync.Mutex alone will not do: its Lock is not first come, first served, and
// a caller that has lost interest cannot leave it (golang.org/issue/40026). So
// here the Mutex guards the line and is not the line. Whoever leaves hands the
// turn directly to the next, so that nobody can slip in between the two.
//
// [Gate.Join] gives a request a place in line, [Turn.Wait] waits there, on the caller's
// own goroutine, and [Turn.Leave] ends it all.
//
// Whose turn is next, and who may stand in line, follows from three rules (rules.go):
// clients share the gate's time, see [Gate.Fair]; where a change from one kind of
// request to another is expensive, as it is where each kind is a model to be loaded, the
// gate stays with a kind for a while, see [Gate.Affinity]; and no client can take all
// places, see [Gate.Join].
//
// The gate knows nothing of HTTP or of Ollama, and it forgets everything when
// the process ends.
package gate

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Errors of [Gate.Join] and [Turn.Wait]. Where the caller's context has ended, the
// error is the context's cause instead.
var (
	ErrFull   = errors.New("the line is full")
	ErrClosed = errors.New("the gate is closed")

	errLeft = errors.New("the place in line was given up")
)

// A Gate gives one request at a time the turn. Make one with [New].
type Gate struct {
	// Fair has clients share the gate's time: the request goes first whose client is
	// furthest behind, in time that its requests had the turn. A client that has nobody
	// here saves nothing up, and is not ahead for longer than those here need to get as
	// much each. Of one client, and of clients that have had as much, the request goes
	// first that came first. Without Fair that is the first of all that came.
	Fair bool

	// Affinity is how long those who would go first may be overtaken by requests of the
	// kind that had the turn last, counted from the first that was, until one of another
	// kind has its turn. 0: they may not be overtaken.
	Affinity time.Duration

	limit int // how many may wait

	mu       sync.Mutex // guards what follows
	closed   bool
	holder   *Turn     // has the turn; nil: nobody has
	line     list.List // of *Turn, in order of arrival
	arrivals int       // so far
	waiting  map[Kind]*lanes
	ranked   time.Time     // when the turns' ranks were reckoned
	meanTurn time.Duration // see [Gate.MeanTurn]

	// For the rules.
	clients    map[string]*client // those here, and those whose account still matters
	here       int                // how many clients have a request in line or with the turn
	remembered int                // how many clients there may be before some are forgotten
	virtual    float64            // time; see elapseLocked
	reckoned   time.Time          // until when virtual and the accounts are reckoned
	kind       Kind               // of the request that had the turn last
	overtaken  time.Time          // since when others are overtaken by that kind; zero: none is
}

// A Kind is what requests are grouped by; see [Gate.Affinity].
type Kind struct {
	Model   string
	Options string // with which the model is loaded
}

// A Request is what the gate and those who look at the line know of a request.
type Request struct {
	Kind       Kind
	Client     string // who asks; see [Gate.Fair]
	Weight     int    // of the client; 0: 1
	Background bool   // it can wait
	ID         string // identifies the request
	Value      any    // what the caller knows of the request; the gate does not look at it
}

// A Turn is a request's place in the line and, from when Wait returns nil, its turn.
type Turn struct {
	request Request
	gate    *Gate
	client  *client
	number  int // in order of arrival
	arrived time.Time
	settled chan struct{} // closed when it has the turn, or was turned away

	// Gate.mu guards these.
	inLine *list.Element // in Gate.line; nil: not in line
	inLane *list.Element // in its lane
	rank   int           // see [Turn.Position]; 0: not reckoned yet
	began  time.Time     // when it got the turn; zero: it has not
	held   time.Duration // for how long it had the turn
	err    error         // why it was turned away
}

// New returns an open gate where at most limit requests wait behind the holder.
func New(limit int) *Gate {
	return &Gate{limit: limit, waiting: map[Kind]*lanes{}, clients: map[string]*client{}}
}

// Join takes the turn, if that is free, or the last place in line. The caller must
// call [Turn.Leave] in the end. Where the line is full, whoever has most requests there,
// the newcomer counted in, loses the last of them: its Wait returns ErrFull. If that is
// the newcomer's client, or it has as many, Join returns ErrFull. It returns ErrClosed
// after [Gate.Close].
func (g *Gate) Join(r Request) (*Turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	g.elapseLocked()
	if g.holder != nil && g.line.Len() >= g.limit {
		last := g.crowdingLocked(r.Client)
		if last == nil {
			return nil, ErrFull
		}
		g.turnAwayLocked(last, ErrFull)
	}
	g.arrivals++
	t := &Turn{request: r, gate: g, number: g.arrivals, arrived: g.reckoned, settled: make(chan struct{})}
	t.client = g.arriveLocked(r.Client)
	if g.holder == nil {
		g.admitLocked(t)
	} else {
		g.lineUpLocked(t)
	}
	return t, nil
}

// Position returns the request's place in line: 1 for the one that goes first, 0 for one
// that has the turn. It may be a second old.
func (t *Turn) Position() int {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.inLine == nil {
		return 0
	}
	if t.rank == 0 || time.Since(g.ranked) >= time.Second {
		g.elapseLocked()
		g.rankLocked()
	}
	return t.rank
}

// Wait waits until the request has the turn. It may be called again. The error is
// ErrFull if the request had to make room, see [Gate.Join], ErrClosed after [Gate.Close],
// or the cause of ctx if ctx has ended, even if the turn has come: the caller has lost
// interest, and its Leave passes the turn on.
func (t *Turn) Wait(ctx context.Context) error {
	select {
	case <-t.settled:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.err // it has not changed since settled was closed
}

// Waited returns how long the request waited for its turn, or has been waiting.
func (t *Turn) Waited() time.Duration {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	if t.began.IsZero() {
		return time.Since(t.arrived)
	}
	return t.began.Sub(t.arrived)
}

// Held returns for how long the request had the turn, once it has left.
func (t *Turn) Held() time.Duration {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	return t.held
}

// Leave ends the turn, or gives up the place in line. It may be called again, from
// any goroutine.
func (t *Turn) Leave() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case t.inLine != nil:
		g.elapseLocked()
		g.turnAwayLocked(t, errLeft)
	case g.holder == t:
		g.elapseLocked()
		g.holder = nil
		t.held = g.reckoned.Sub(t.began)
		if g.meanTurn == 0 {
			g.meanTurn = t.held
		}
		g.meanTurn += (t.held - g.meanTurn) / 4
		g.departLocked(t.client)
		if next := g.nextLocked(); next != nil {
			g.timeAffinityLocked(next)
			g.stepOutLocked(next)
			g.admitLocked(next)
		}
	}
}

// Close turns away everybody in line and everybody who comes later. The holder
// keeps its turn.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.elapseLocked()
	for g.line.Len() > 0 {
		g.turnAwayLocked(g.line.Front().Value.(*Turn), ErrClosed)
	}
}

// Closed reports whether [Gate.Close] was called.
func (g *Gate) Closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// Len returns how many requests wait, and whether one has the turn.
func (g *Gate) Len() (waiting int, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.line.Len(), g.holder != nil
}

// MeanTurn returns how long turns took lately: a mean in which the last turn counts a
// quarter, the one before it a quarter of the rest, and so on. It is 0 until a turn has
// ended.
func (g *Gate) MeanTurn() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.meanTurn
}

// Holder returns the model of the request that has the turn, and since when it has
// it; "" if nobody has.
func (g *Gate) Holder() (model string, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == nil {
		return "", time.Time{}
	}
	return g.holder.request.Kind.Model, g.holder.began
}

// A Place is a request in line, or the one that has the turn.
type Place struct {
	Request
	Since    time.Time // when it joined the line, or got the turn
	Position int       // in line, as [Turn.Position]
	Next     bool      // it would get the turn if that were given up now
}

// Line returns who has the turn, nil if nobody does, and who waits, in order of
// arrival.
func (g *Gate) Line() (holder *Place, waiting []Place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == nil {
		return nil, nil
	}
	g.elapseLocked()
	g.rankLocked()
	next := g.nextLocked()
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		waiting = append(waiting, Place{t.request, t.arrived, t.rank, t == next})
	}
	return &Place{Request: g.holder.request, Since: g.holder.began}, waiting
}

// admitLocked gives t the turn.
func (g *Gate) admitLocked(t *Turn) {
	g.holder, t.began = t, g.reckoned
	g.kind = t.request.Kind
	close(t.settled)
}

// turnAwayLocked takes t out of the line for good.
func (g *Gate) turnAwayLocked(t *Turn, why error) {
	g.stepOutLocked(t)
	g.departLocked(t.client)
	t.err = why
	close(t.settled)
}

// rankLocked reckons in which order those in line go, if nobody else comes, turns take
// as long as they did lately, and none goes before another by affinity.
func (g *Gate) rankLocked() {
	g.ranked = g.reckoned
	var turn float64 // for each; without shares it does not matter
	if g.Fair {
		turn = float64(g.meanTurn)
	}
	// What will have been added to a client's account by then: the rest of the turn that
	// somebody has, and the turns of those before it.
	ahead := map[*client]float64{
		g.holder.client: max(0, turn-float64(g.reckoned.Sub(g.holder.began))),
	}
	type start struct {
		*Turn
		at float64 // its client's account then
	}
	starts := make([]start, 0, g.line.Len())
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		starts = append(starts, start{t, t.client.account + ahead[t.client]})
		ahead[t.client] += turn
	}
	slices.SortStableFunc(starts, func(a, b start) int { return cmp.Compare(a.at, b.at) })
	for i, s := range starts {
		s.rank = i + 1
	}
}
