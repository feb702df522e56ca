package gate

import (
	"container/heap"
	"container/list"
	"maps"
	"time"
)

// An order is what the rules know: who is here, and what became of them. It knows nothing
// of those who wait for it: a copy of it can tell the future.
type order struct {
	now     time.Time // until when all is reckoned
	holder  *Turn     // has the turn; nil: nobody has
	idle    bool      // the holder's turn is suspended; see [Turn.Suspend]
	pauses  []*Turn   // that wait; see [Gate.Pause]
	waiting map[class]*lanes

	clients    map[string]*client // those here, and those whose account still matters
	here       int                // how many clients have a request in line or with the turn
	remembered int                // how many clients there may be before some are forgotten
	virtual    float64            // time; see elapseLocked
	weights    int                // of the clients here
	pressing   int                // of those of them that have something here that cannot wait
	patients   *list.List         // of *client: whose background waits, in the order in which their patience ends

	kind      Kind      // of the request that had the turn last
	overtaken time.Time // since when others are overtaken by that kind; zero: none is
}

// A client is what the gate knows of whoever asks.
type client struct {
	name string

	// account is where the client stands on the scale of the gate's virtual time, in
	// nanoseconds: its turns move it on by what they take, divided by its weight.
	account float64
	weight  int

	chats                int // in line or with the turn
	pressing             int // of them, those that cannot wait
	ordinary, background int // in line: those that cannot wait, and those that can
	lanes                map[class]*lane

	asked    time.Time     // since when its background waits, or when that had the turn last
	patient  *list.Element // in order.patients; nil: it is not there
	promoted *Turn         // the one of its background that goes as any other; nil: none does
}

// Share: clients have the gate's time by their weights. Virtual time is what a client of
// weight 1 that was always here would have had by now. It never stands still while a turn
// runs, so whoever is ahead of it is so for a time that is known, whoever comes and goes.
// This is weighted fair queueing, of turns whose length is known at their end.

// elapseLocked moves time on, and stops on the way where somebody's patience ends.
func (g *Gate) elapseLocked(now time.Time) {
	for e := g.patients.Front(); e != nil; e = g.patients.Front() {
		c := e.Value.(*client)
		due := c.asked.Add(patience)
		if due.After(now) {
			break
		}
		if due.After(g.now) {
			g.shareLocked(due)
		}
		g.promoteLocked(c)
	}
	g.shareLocked(now)
}

// shareLocked moves virtual time on, divided by the weights of those who share it: the
// client that has the turn and all that have in line what cannot wait, or if nothing here
// is of that sort all that are here. The account of whoever has the turn is moved on by all
// of it, divided by its weight.
func (g *Gate) shareLocked(now time.Time) {
	took := float64(now.Sub(g.now))
	if g.now = now; !g.Fair || g.holder == nil || g.holder.pause || g.idle {
		return
	}
	c := g.clients[g.holder.request.Client]
	weights := g.pressing
	switch {
	case weights == 0:
		weights = g.weights
	case c.pressing == 0:
		weights += c.weight
	}
	g.virtual += took / float64(weights)
	g.moveLocked(c, c.account+took/float64(c.weight))
}

// moveLocked moves a client's account.
func (g *Gate) moveLocked(c *client, account float64) {
	c.account = account
	for class, l := range c.lanes {
		heap.Fix(g.waiting[class], l.index)
	}
}

// arriveLocked notes a request. A client starts at the virtual time that comes anew or
// after a pause, or whose requests could all wait so far, or where it was if that is
// ahead: nobody saves up.
func (g *Gate) arriveLocked(t *Turn) {
	c := g.clients[t.request.Client]
	if c == nil {
		c = &client{name: t.request.Client, lanes: map[class]*lane{}}
		g.clients[t.request.Client] = c
	}
	g.weighLocked(c, -1)
	if c.chats == 0 {
		g.here++
	}
	c.chats++
	if !t.request.Background {
		c.pressing++
	}
	c.weight = max(t.request.Weight, 1)
	g.weighLocked(c, 1)
	if c.chats == 1 || c.pressing == 1 && !t.request.Background {
		g.moveLocked(c, max(c.account, g.virtual))
	}
}

// weighLocked adds a client's weight to the sums, or takes it away.
func (g *Gate) weighLocked(c *client, sign int) {
	if c.chats > 0 {
		g.weights += sign * c.weight
	}
	if c.pressing > 0 {
		g.pressing += sign * c.weight
	}
}

// departLocked notes that a request is here no more, and forgets the accounts of clients
// that are not here and would start at the virtual time, as all do when nobody is. It
// looks for them when there are twice as many as the last time: that costs each request
// the same.
func (g *Gate) departLocked(t *Turn) {
	c := g.clients[t.request.Client]
	g.weighLocked(c, -1)
	c.chats--
	if !c.classOf(t).background {
		c.pressing--
	}
	g.weighLocked(c, 1)
	if c.promoted == t {
		c.promoted = nil
		if c.background > 0 && c.patient == nil {
			c.patient = g.patients.PushFront(c) // it has waited for long enough
		}
	}
	if c.chats > 0 {
		return
	}
	g.here--
	if g.here == 0 {
		clear(g.clients)
	} else if len(g.clients) > g.remembered {
		maps.DeleteFunc(g.clients, func(_ string, c *client) bool { return c.chats == 0 && c.account <= g.virtual })
		g.remembered = 2*len(g.clients) + 100
	}
}

// firstLocked returns who goes first by share, of what cannot wait if there is any; nil:
// nobody waits.
func (g *Gate) firstLocked() (first *lane) {
	for _, ls := range g.waiting {
		if l := (*ls)[0]; first == nil || l.goesBefore(first) {
			first = l
		}
	}
	return first
}

// Background: what can wait goes when nothing else waits, see [lane.goesBefore]. So that
// it does not wait for ever, of each client one goes as any other that has had none for
// so long.
const patience = 10 * time.Minute

// classOf returns the class that a client's request is of now.
func (c *client) classOf(t *Turn) class {
	return class{t.request.Kind, t.request.Background && t != c.promoted}
}

// inLine returns how many of a client's requests are in line, of those that can wait or of
// the others.
func (c *client) inLine(background bool) *int {
	if background {
		return &c.background
	}
	return &c.ordinary
}

// askLocked has a client's patience begin now.
func (g *Gate) askLocked(c *client) {
	g.calmLocked(c)
	c.asked, c.patient = g.now, g.patients.PushBack(c)
}

// calmLocked has no patience of a client's end.
func (g *Gate) calmLocked(c *client) {
	if c.patient != nil {
		g.patients.Remove(c.patient)
		c.patient = nil
	}
}

// promoteLocked has the oldest of a client's background go as any other, unless another of
// it has the turn, behind which its patience begins anew. The client starts as one that
// comes anew.
func (g *Gate) promoteLocked(c *client) {
	g.calmLocked(c)
	if h := g.holder; h.request.Background && g.clients[h.request.Client] == c {
		return
	}
	var oldest *Turn
	for class, l := range c.lanes {
		if t := l.turns[0]; class.background && (oldest == nil || t.number < oldest.number) {
			oldest = t
		}
	}
	g.stepOutLocked(oldest)
	g.weighLocked(c, -1)
	c.promoted = oldest
	c.pressing++
	g.weighLocked(c, 1)
	if c.pressing == 1 {
		g.moveLocked(c, max(c.account, g.virtual))
	}
	g.lineUpLocked(oldest)
}

// Affinity: the gate stays with a kind while others are overtaken for no longer than
// Affinity. There is one clock, for all whom that concerns, so that it runs out whoever
// comes and goes; for a client that weighs more than who overtakes it, it runs out sooner.

const (
	worthLoads    = 3 // how many loads it is worth to stay with a kind
	leastToStay   = 20 * time.Second
	longestToStay = 2 * time.Minute
	unknownToStay = 30 * time.Second // where no load was told
	leastLoad     = time.Second / 10 // what takes less was loaded before: of that Ollama says some ms
	maxLoads      = 1000             // that are remembered
)

// affinityLocked returns how long the first may be overtaken by the first of the kind that
// had the turn last; nil: nobody of that kind waits.
func (g *Gate) affinityLocked(first, same *lane) time.Duration {
	affinity := g.worthLocked(first.background)
	if g.Fair && same != nil && same.client.weight < first.client.weight {
		affinity = affinity / time.Duration(first.client.weight) * time.Duration(same.client.weight)
	}
	return affinity
}

// worthLocked returns for how long it is worth to overtake others of the same weight, of
// what can wait or of what cannot.
func (g *Gate) worthLocked(background bool) time.Duration {
	if g.Affinity >= 0 {
		return g.Affinity
	}
	var longest time.Duration
	for class := range g.waiting {
		if class.background == background {
			longest = max(longest, g.loads[class.kind.Model])
		}
	}
	if longest == 0 {
		return unknownToStay
	}
	return min(max(worthLoads*longest, leastToStay), longestToStay)
}

// nextLocked returns whose turn is next; nil: nobody waits. That is the first of the kind
// that had the turn last, until the clock has run out, and else the first of all. What can
// wait does not go before what cannot.
func (g *Gate) nextLocked() *Turn {
	if len(g.pauses) > 0 {
		return g.pauses[0]
	}
	first := g.firstLocked()
	if first == nil {
		return nil
	}
	same := g.sameLocked(first)
	affinity := g.affinityLocked(first, same)
	if same == nil || affinity == 0 || !g.overtaken.IsZero() && g.now.Sub(g.overtaken) >= affinity {
		return first.turns[0]
	}
	return same.turns[0]
}

// sameLocked returns the first of the kind that had the turn last, of what can wait if the
// first of all can; nil: there is none.
func (g *Gate) sameLocked(first *lane) *lane {
	if ls := g.waiting[class{g.kind, first.background}]; ls != nil {
		return (*ls)[0]
	}
	return nil
}

// handOverLocked ends the turn of whoever has it, and gives it to the next, who is
// returned; nil: nobody waits.
func (g *Gate) handOverLocked() *Turn {
	g.idle = false
	switch last := g.holder; {
	case last == nil:
	case last.pause:
		g.unloadedLocked()
	default:
		if c := g.clients[last.request.Client]; last.request.Background && c.background > 0 {
			g.askLocked(c)
		}
		g.departLocked(last)
	}
	next := g.nextLocked()
	if g.holder = next; next == nil {
		return nil
	}
	if next.pause {
		g.pauses = g.pauses[1:]
		return next
	}
	switch {
	case next.request.Kind != g.kind:
		g.kind, g.overtaken = next.request.Kind, time.Time{}
	case next != g.firstLocked().turns[0] && g.overtaken.IsZero():
		g.overtaken = g.now
	}
	g.stepOutLocked(next)
	return next
}

// restAffinityLocked stops the clock where nobody of another kind waits.
func (g *Gate) restAffinityLocked() {
	for class := range g.waiting {
		if class.kind != g.kind {
			return
		}
	}
	g.overtaken = time.Time{}
}

// unloadedLocked has the next kind be a new one, whichever it is.
func (g *Gate) unloadedLocked() { g.kind, g.overtaken = Kind{}, time.Time{} }

// Places: no client can keep all others out, and what can wait keeps nothing out that
// cannot.

// crowdingLocked returns who is to make room in a full line for a request: the last that
// can wait of whoever has most of those there. Where there is none, and the newcomer cannot
// wait either, it is the last of whoever has most that cannot. Among its like the newcomer
// is counted in, and nil says that it is the one to go. Of several who have most it is the
// one whose last came last.
func (g *Gate) crowdingLocked(newcomer Request) *Turn {
	for _, background := range []bool{true, false} {
		var last *Turn
		most := 0
		if newcomer.Background == background {
			if most = 1; g.clients[newcomer.Client] != nil {
				most += *g.clients[newcomer.Client].inLine(background)
			}
		}
		for e := g.line.Back(); e != nil; e = e.Prev() {
			t := e.Value.(*Turn)
			if c := g.clients[t.request.Client]; c.classOf(t).background == background && *c.inLine(background) > most {
				most, last = *c.inLine(background), t
			}
		}
		if last != nil || newcomer.Background {
			return last
		}
	}
	return nil
}
