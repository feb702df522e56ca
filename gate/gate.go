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
// Whose turn is next, and who may stand in line, follows from four rules (rules.go):
// clients share the gate's time, see [Gate.Fair]; what can wait lets all else go first,
// see [Request.Background]; where a change from one kind of request to another is
// expensive, as it is where each kind is a model to be loaded, the gate stays with a kind
// for a while, see [Gate.Affinity]; and no client can take all places, see [Gate.Join].
//
// The gate knows nothing of HTTP or of Ollama, and it forgets everything when
// the process ends.
package gate

import (
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
	// Fair has clients share the gate's time by their weights: the request goes first whose
	// client is furthest behind, in time that its requests had the turn, divided by its
	// weight. A client that has nobody here saves nothing up, and is not ahead for longer
	// than those here need to get as much each. Of one client, and of clients that have had
	// as much, the request goes first that came first. Without Fair that is the first of all
	// that came.
	Fair bool

	// Affinity is how long those who would go first may be overtaken by requests of the
	// kind that had the turn last, counted from the first that was, until one of another
	// kind has its turn. 0: they may not be overtaken; negative: it follows how long kinds
	// take to load, see [Gate.AffinityNow]. With Fair, a client that weighs n times as much
	// as who would overtake it may be overtaken for an n-th of it.
	Affinity time.Duration

	limit int // how many may wait

	mu       sync.Mutex // guards what follows
	closed   bool
	line     list.List     // of *Turn, in order of arrival
	arrivals int           // so far
	ranked   time.Time     // when the turns' ranks were reckoned
	meanTurn time.Duration // see [Gate.MeanTurn]
	loads    map[string]time.Duration
	order
}

// A Kind is what requests are grouped by; see [Gate.Affinity].
type Kind struct {
	Model   string
	Options string // with which the model is loaded
}

// A Request is what the gate and those who look at the line know of a request.
type Request struct {
	Kind   Kind
	Client string // who asks; see [Gate.Fair]
	Weight int    // of the client, from now on; 0: 1

	// Background is set of a request that can wait: it goes when no other waits. When a
	// client's background has had no turn for ten minutes, its oldest goes as any other.
	Background bool

	ID    string // identifies the request
	Value any    // what the caller knows of the request; the gate does not look at it
}

// A Turn is a request's place in the line and, from when Wait returns nil, its turn.
type Turn struct {
	request Request
	gate    *Gate
	pause   bool // it is no request's; see [Gate.Pause]
	number  int  // in order of arrival
	arrived time.Time
	settled chan struct{} // closed when it has the turn, or was turned away

	// Gate.mu guards these.
	inLine  *list.Element // in Gate.line; nil: not in line
	rank    int           // see [Turn.Position]; 0: not reckoned yet
	began   time.Time     // when it got the turn; zero: it has not
	held    time.Duration // for how long it had the turn, until it was suspended or has left
	changed bool          // the one before it was of another kind
	err     error         // why it was turned away
}

// New returns an open gate where at most limit requests wait behind the holder.
func New(limit int) *Gate {
	return &Gate{limit: limit, loads: map[string]time.Duration{}, order: order{
		waiting: map[class]*lanes{}, clients: map[string]*client{}, patients: list.New(),
	}}
}

// Join takes the turn, if that is free, or the last place in line. The caller must
// call [Turn.Leave] in the end. Where the line is full, whoever has most requests there,
// the newcomer counted in, loses the last of them: its Wait returns ErrFull. If that is
// the newcomer's client, or it has as many, Join returns ErrFull. What can wait makes room
// for what cannot, whosever it is. Join returns ErrClosed after [Gate.Close].
func (g *Gate) Join(r Request) (*Turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	g.elapseLocked(time.Now())
	if g.holder != nil && g.line.Len() >= g.limit {
		last := g.crowdingLocked(r)
		if last == nil {
			return nil, ErrFull
		}
		g.turnAwayLocked(last, ErrFull)
	}
	t := g.newTurnLocked(r)
	g.arriveLocked(t)
	g.lineUpLocked(t)
	t.inLine = g.line.PushBack(t)
	if g.holder == nil {
		g.passOnLocked()
	}
	return t, nil
}

// Pause takes the turn before all who wait, and keeps them from it until the caller leaves
// it. That is charged to nobody: no client's account moves, nor does the time that they
// share. It is no request: those who look at the line see that nobody has the turn. When
// it is left, nothing counts as loaded. Of several, the first that came goes first.
// Pause returns ErrClosed after [Gate.Close], which also ends the wait for it.
func (g *Gate) Pause() (*Turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrClosed
	}
	g.elapseLocked(time.Now())
	t := g.newTurnLocked(Request{})
	t.pause = true
	g.pauses = append(g.pauses, t)
	if g.holder == nil {
		g.passOnLocked()
	}
	return t, nil
}

func (g *Gate) newTurnLocked(r Request) *Turn {
	g.arrivals++
	return &Turn{request: r, gate: g, number: g.arrivals, arrived: g.now, settled: make(chan struct{})}
}

// Unloaded says that nothing is loaded any more: the next kind will have to be, whichever
// it is.
func (g *Gate) Unloaded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unloadedLocked()
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

// Held returns for how long the request had the turn, once it has left, but for the time
// for which it was suspended.
func (t *Turn) Held() time.Duration {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	return t.held
}

// Suspend has the turn's time charged to nobody from now on: what all wait for is away. From
// now on nothing counts as loaded. Only who has the turn may call it, and may do so again.
func (t *Turn) Suspend() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == t && !g.idle {
		g.elapseLocked(time.Now())
		t.held += g.now.Sub(t.began)
		g.idle = true
		g.unloadedLocked()
	}
}

// Resume ends what Suspend has begun: the turn begins now.
func (t *Turn) Resume() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == t && g.idle {
		g.elapseLocked(time.Now())
		t.began, g.idle, t.changed = g.now, false, true
		g.kind = t.request.Kind
	}
}

// Loaded says how long the request's kind took to load in its turn, as far as the caller
// can tell; see [Gate.AffinityNow]. Where the turn before was of the same kind, or it took
// less than a tenth of a second, it was there already, and nothing is learnt.
func (t *Turn) Loaded(took time.Duration) {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if !t.changed || took < leastLoad {
		return
	}
	if len(g.loads) >= maxLoads {
		clear(g.loads) // models come and go; those that matter are told again
	}
	g.loads[t.request.Kind.Model] = took
}

// Leave ends the turn, or gives up the place in line. It may be called again, from
// any goroutine.
func (t *Turn) Leave() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.holder == t:
		g.elapseLocked(time.Now())
		if !g.idle {
			t.held += g.now.Sub(t.began)
		}
		if !t.pause && !g.idle {
			if g.meanTurn == 0 {
				g.meanTurn = t.held
			}
			g.meanTurn += (t.held - g.meanTurn) / 4
		}
		g.passOnLocked()
	case t.inLine != nil:
		g.elapseLocked(time.Now())
		g.turnAwayLocked(t, errLeft)
	case slices.Contains(g.pauses, t):
		g.turnAwayLocked(t, errLeft)
	}
}

// Close turns away everybody in line and everybody who comes later. The holder
// keeps its turn.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.elapseLocked(time.Now())
	for len(g.pauses) > 0 {
		g.turnAwayLocked(g.pauses[0], ErrClosed)
	}
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
	return g.line.Len(), g.holder != nil && !g.holder.pause
}

// MeanTurn returns how long turns took lately: a mean in which the last turn counts a
// quarter, the one before it a quarter of the rest, and so on. It is 0 until a turn has
// ended.
func (g *Gate) MeanTurn() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.meanTurn
}

// AffinityNow returns how long whoever would go first may be overtaken as things are:
// Affinity, or where that is negative three times as long as the slowest to load of the
// kinds that wait, as it was told last, see [Turn.Loaded]; but at least 20 s and at most
// two minutes, and 30 s where none was told; with its share of that, if it weighs more than
// who would overtake it.
func (g *Gate) AffinityNow() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := g.firstLocked()
	if first == nil {
		return g.worthLocked(false)
	}
	return g.affinityLocked(first, g.sameLocked(first))
}

// Holder returns the model of the request that has the turn, and since when it has
// it; "" if nobody has.
func (g *Gate) Holder() (model string, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder == nil || g.holder.pause {
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
	g.rankLocked()
	if g.holder != nil && !g.holder.pause {
		holder = &Place{Request: g.holder.request, Since: g.holder.began}
	}
	next := g.nextLocked()
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		waiting = append(waiting, Place{t.request, t.arrived, t.rank, t == next})
	}
	return holder, waiting
}

// passOnLocked takes the turn from whoever has it, and gives it to the next in line.
func (g *Gate) passOnLocked() {
	before := g.kind
	next := g.handOverLocked()
	if next == nil {
		return
	}
	next.changed = next.request.Kind != before
	if next.inLine != nil {
		g.line.Remove(next.inLine)
		next.inLine = nil
	}
	next.began = g.now
	close(next.settled)
}

// turnAwayLocked takes t out of the line for good.
func (g *Gate) turnAwayLocked(t *Turn, why error) {
	if t.pause {
		g.pauses = slices.DeleteFunc(g.pauses, func(p *Turn) bool { return p == t })
	} else {
		g.line.Remove(t.inLine)
		t.inLine = nil
		g.stepOutLocked(t)
		g.departLocked(t)
	}
	t.err = why
	close(t.settled)
}
