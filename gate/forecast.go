package gate

import (
	"cmp"
	"slices"
	"time"
)

// unknownTurn is how long a turn is taken to be while none has ended.
const unknownTurn = 10 * time.Second

// rankLocked reckons in which order those in line go, if nobody comes or leaves any more
// and turns take as long as they did lately: a copy of the gate goes through them.
func (g *Gate) rankLocked() {
	g.ranked = g.now
	turn := cmp.Or(g.meanTurn, unknownTurn)
	future := g.copyLocked()
	end := future.holder.began
	for rank := 1; ; {
		if !future.holder.pause { // nobody knows how long that takes
			end = end.Add(turn)
		}
		if end.After(future.now) {
			future.elapseLocked(end)
		}
		end = future.now
		t := future.handOverLocked()
		if t == nil {
			return
		}
		if !t.pause {
			t.rank = rank
			rank++
		}
	}
}

// copyLocked returns a gate with the order of this one, and without its line. They share
// the turns.
func (g *Gate) copyLocked() *Gate {
	future := &Gate{Fair: g.Fair, Affinity: g.Affinity, loads: g.loads, order: g.order}
	future.pauses = slices.Clone(g.pauses)
	future.clients = make(map[string]*client, g.here)
	for name, c := range g.clients {
		if c.chats > 0 {
			copied := *c
			copied.lanes = make(map[class]*lane, len(c.lanes))
			future.clients[name] = &copied
		}
	}
	future.waiting = make(map[class]*lanes, len(g.waiting))
	for class, ls := range g.waiting {
		copied := make(lanes, len(*ls))
		for i, l := range *ls {
			name := l.turns[0].request.Client
			copied[i] = &lane{client: future.clients[name], background: l.background, turns: slices.Clone(l.turns), index: i}
			future.clients[name].lanes[class] = copied[i]
		}
		future.waiting[class] = &copied
	}
	return future
}
