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
// Whose turn is next follows from two rules (rules.go): clients share the gate's time,
// see [Gate.Fair], and where a change from one kind of request to another is expensive,
// as it is where each kind is a model to be loaded, the gate stays with a kind for a
// while, see [Gate.Affinity]. Without them it is the order of arrival.
//
// The gate knows nothing of HTTP or of Ollama, and it forgets everything when
// the process ends.
package gate

import (
	"container/list"
	"context"
	"errors"
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
	// Fair has the request go first whose client's requests have had the turn for the
	// least time: among those with as much, and of one client, the one that came first.
	// Without it that is the first of all that came.
	Fair bool

	// Affinity is how long whoever goes first by that rule may be overtaken, from the
	// first time on, by requests of the kind that had the turn last. 0: never.
	Affinity time.Duration

	limit int // how many may wait

	mu       sync.Mutex // guards what follows
	closed   bool
	holder   *Turn               // has the turn; nil: nobody has
	kind     Kind                // of the request that had the turn last
	line     list.List           // of *Turn, in order of arrival
	accounts map[string]*account // by client; all of them have one where the gate is not fair
	ranked   time.Time           // when the turns' ranks were reckoned
	meanTurn time.Duration       // see [Gate.MeanTurn]
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
	ID     string // identifies the request
}

// A Turn is a request's place in the line and, from when Wait returns nil, its turn.
type Turn struct {
	request Request
	gate    *Gate
	arrived time.Time
	settled chan struct{} // closed when it has the turn, or was turned away

	// Gate.mu guards these.
	place     *list.Element // in Gate.line; nil: not in line
	account   *account
	overtaken time.Time     // when the first went before it by affinity; zero: none has
	rank      int           // see [Turn.Position]; 0: not reckoned yet
	began     time.Time     // when it got the turn; zero: it has not
	held      time.Duration // for how long it had the turn
	err       error         // why it was turned away
}

// New returns an open gate where at most limit requests wait behind the holder.
func New(limit int) *Gate {
	return &Gate{limit: limit, accounts: map[string]*account{}}
}

// Join takes the turn, if that is free, or the last place in line. The caller must
// call [Turn.Leave] in the end. The error is ErrFull if too many wait already, or
// ErrClosed after [Gate.Close].
func (g *Gate) Join(r Request) (*Turn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := &Turn{request: r, gate: g, arrived: time.Now(), settled: make(chan struct{})}
	switch {
	case g.closed:
		return nil, ErrClosed
	case g.holder != nil && g.line.Len() >= g.limit:
		return nil, ErrFull
	}
	t.account = g.openAccountLocked(r.Client)
	if g.holder == nil {
		g.admitLocked(t)
	} else {
		t.place = g.line.PushBack(t)
	}
	return t, nil
}

// Position returns the request's place in line: 1 for the one that goes first, 0 for one
// that has the turn. It may be a second old.
func (t *Turn) Position() int {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.place == nil {
		return 0
	}
	if t.rank == 0 || time.Since(g.ranked) >= time.Second {
		g.rankLocked()
	}
	return t.rank
}

// Wait waits until the request has the turn. It may be called again. The error is
// ErrClosed after [Gate.Close], or the cause of ctx if ctx has ended, even if the turn
// has come: the caller has lost interest, and its Leave passes the turn on.
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
	case t.place != nil:
		g.dropLocked(t, errLeft)
	case g.holder == t:
		g.holder = nil
		g.chargeLocked(t)
		if next := g.nextLocked(); next != nil {
			if first := g.firstLocked(anyKind); first != next && first.overtaken.IsZero() {
				first.overtaken = time.Now()
			}
			g.line.Remove(next.place)
			next.place = nil
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
	for g.line.Len() > 0 {
		g.dropLocked(g.line.Front().Value.(*Turn), ErrClosed)
	}
}

// Len returns how many requests wait, and whether one has the turn.
func (g *Gate) Len() (waiting int, busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.line.Len(), g.holder != nil
}

// MeanTurn returns how long turns took lately: a mean in which the last turn counts a quarter, the one before
// it a quarter of the rest, and so on. It is 0 until a turn has ended.
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
	if g.holder != nil {
		holder = &Place{Request: g.holder.request, Since: g.holder.began}
	}
	g.rankLocked()
	next := g.nextLocked()
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		waiting = append(waiting, Place{t.request, t.arrived, t.rank, t == next})
	}
	return holder, waiting
}

// admitLocked gives t the turn.
func (g *Gate) admitLocked(t *Turn) {
	g.holder, t.began = t, time.Now()
	g.kind = t.request.Kind
	close(t.settled)
}

// dropLocked takes t out of the line.
func (g *Gate) dropLocked(t *Turn, why error) {
	g.line.Remove(t.place)
	t.place, t.err = nil, why
	t.account.chats--
	close(t.settled)
}
