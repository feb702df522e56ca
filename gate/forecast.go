package gate

import (
	"cmp"
	"container/list"
	"slices"
	"time"
)

// unknownTurn is how long a turn is taken to be while none has ended.
const unknownTurn = 10 * time.Second

// rankLocked reckons in which order those in line go, if there are any.
func (g *Gate) rankLocked() {
	g.elapseLocked(time.Now())
	g.ranked = g.now
	if g.line.Len() == 0 {
		return
	}
	for i, t := range g.copyLocked().foretell(g.holder.began, cmp.Or(g.meanTurn, unknownTurn)) {
		t.rank = i + 1
	}
}

// foretell returns in which order those in line go, if nobody comes or leaves any more and
// each turn takes as long; the one that runs began at a time. The gate, a copy, is at its
// end then.
func (g *Gate) foretell(began time.Time, turn time.Duration) (order []*Turn) {
	for end := began; ; end = g.now {
		if !g.holder.pause { // nobody knows how long that takes
			end = end.Add(turn)
		}
		if end.After(g.now) {
			g.elapseLocked(end)
		}
		t := g.handOverLocked()
		if t == nil {
			return order
		}
		if !t.pause {
			order = append(order, t)
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
			copied.lanes, copied.patient = make(map[class]*lane, len(c.lanes)), nil
			future.clients[name] = &copied
		}
	}
	future.patients = list.New()
	for e := g.patients.Front(); e != nil; e = e.Next() {
		c := future.clients[e.Value.(*client).name]
		c.patient = future.patients.PushBack(c)
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
