package gate

import (
	"container/heap"
	"maps"
	"time"
)

// A client is what the gate knows of whoever asks.
type client struct {
	// account is where the client stands on the scale of the gate's virtual time, in
	// nanoseconds: its turns move it on by what they take.
	account float64
	chats   int // in line or with the turn
	waiting int // in line
	lanes   map[Kind]*lane
}

// Share: clients have the gate's time in equal parts. Virtual time is what a client that
// was always here would have had by now. It never stands still while a turn runs, so
// whoever is ahead of it is so for a time that is known, whoever comes and goes. This is
// weighted fair queueing with all weights 1, of turns whose length is known at their end.

// elapseLocked moves virtual time on by the time since it was last called, divided by
// the number of clients here, and the account of whoever has the turn by all of it.
func (g *Gate) elapseLocked() {
	now := time.Now()
	if g.Fair && g.holder != nil {
		took := float64(now.Sub(g.reckoned))
		g.virtual += took / float64(g.here)
		g.holder.client.account += took
		for kind, l := range g.holder.client.lanes {
			heap.Fix(g.waiting[kind], l.index)
		}
	}
	g.reckoned = now
}

// arriveLocked notes a request of a client. One that comes anew, or after a pause,
// starts at the virtual time, or where it was if that is ahead: nobody saves up.
func (g *Gate) arriveLocked(name string) *client {
	c := g.clients[name]
	if c == nil {
		c = &client{lanes: map[Kind]*lane{}}
		g.clients[name] = c
	}
	if c.chats == 0 {
		c.account = max(c.account, g.virtual)
		g.here++
	}
	c.chats++
	return c
}

// departLocked notes that a client has one request less here, and forgets the accounts
// of those who are not here and would start at the virtual time, as all do when nobody
// is. It looks for them when there are twice as many as the last time: that costs each
// request the same.
func (g *Gate) departLocked(c *client) {
	c.chats--
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

// goesBefore is the order by share: the smallest account goes first, then who came
// first.
func (t *Turn) goesBefore(other *Turn) bool {
	if t.client.account != other.client.account {
		return t.client.account < other.client.account
	}
	return t.number < other.number
}

// firstLocked returns who goes first by share; nil: nobody waits.
func (g *Gate) firstLocked() (first *Turn) {
	for _, ls := range g.waiting {
		if t := (*ls)[0].first(); first == nil || t.goesBefore(first) {
			first = t
		}
	}
	return first
}

// Affinity: the gate stays with a kind while others are overtaken for no longer than
// Affinity. There is one clock, for all whom that concerns, so that it runs out whoever
// comes and goes.

// nextLocked returns whose turn is next; nil: nobody waits. That is the first of the kind
// that had the turn last, until the clock has run out, and else the first of all.
func (g *Gate) nextLocked() *Turn {
	same := g.waiting[g.kind]
	if same == nil || g.Affinity == 0 || !g.overtaken.IsZero() && g.reckoned.Sub(g.overtaken) >= g.Affinity {
		return g.firstLocked()
	}
	return (*same)[0].first()
}

// timeAffinityLocked starts the clock where next, who is about to have the turn, goes
// before somebody of another kind, and stops it where the kind changes.
func (g *Gate) timeAffinityLocked(next *Turn) {
	switch {
	case next.request.Kind != g.kind:
		g.overtaken = time.Time{}
	case next != g.firstLocked() && g.overtaken.IsZero():
		g.overtaken = g.reckoned
	}
}

// restAffinityLocked stops the clock where nobody of another kind waits.
func (g *Gate) restAffinityLocked() {
	if others := len(g.waiting); others == 0 || others == 1 && g.waiting[g.kind] != nil {
		g.overtaken = time.Time{}
	}
}

// Places: no client can keep all others out.

// crowdingLocked returns who is to make room in a full line for a request of a client:
// the last request of whoever has most there, with the newcomer's counted in; nil: that
// is the newcomer. Of several who have most it is the one whose last came last.
func (g *Gate) crowdingLocked(newcomer string) (last *Turn) {
	most := 1
	if c := g.clients[newcomer]; c != nil {
		most += c.waiting
	}
	for e := g.line.Back(); e != nil; e = e.Prev() {
		if t := e.Value.(*Turn); t.client.waiting > most {
			most, last = t.client.waiting, t
		}
	}
	return last
}
