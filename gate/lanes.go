package gate

import (
	"cmp"
	"container/heap"
	"slices"
)

// A class is what the requests of a lane have in common.
type class struct {
	kind       Kind
	background bool
}

// A lane is the requests of one client and one class that wait, in order of arrival.
type lane struct {
	client     *client
	background bool    // their class says so
	turns      []*Turn // never empty
	index      int     // in the lanes of its class
}

// goesBefore is the order by share, in which what can wait goes last: the smallest account
// goes first, then who came first.
func (l *lane) goesBefore(other *lane) bool {
	switch {
	case l.background != other.background:
		return other.background
	case l.client.account != other.client.account:
		return l.client.account < other.client.account
	default:
		return l.turns[0].number < other.turns[0].number
	}
}

// Lanes are those of one class: a heap, with the lane first whose first request goes
// first by share. So who is next is known however long the line is.
type lanes []*lane

func (ls lanes) Len() int           { return len(ls) }
func (ls lanes) Less(i, j int) bool { return ls[i].goesBefore(ls[j]) }

func (ls lanes) Swap(i, j int) {
	ls[i], ls[j] = ls[j], ls[i]
	ls[i].index, ls[j].index = i, j
}

func (ls *lanes) Push(l any) {
	l.(*lane).index = len(*ls)
	*ls = append(*ls, l.(*lane))
}

func (ls *lanes) Pop() any {
	last := len(*ls) - 1
	l := (*ls)[last]
	(*ls)[last] = nil
	*ls = (*ls)[:last]
	return l
}

// find returns where in the lane t stands, or belongs.
func (l *lane) find(t *Turn) int {
	i, _ := slices.BinarySearchFunc(l.turns, t, func(a, b *Turn) int { return cmp.Compare(a.number, b.number) })
	return i
}

// lineUpLocked puts t in its lane.
func (g *Gate) lineUpLocked(t *Turn) {
	c := g.clients[t.request.Client]
	class := c.classOf(t)
	*c.inLine(class.background)++
	if class.background && c.background == 1 && c.promoted == nil {
		g.askLocked(c)
	}
	if l := c.lanes[class]; l != nil {
		l.turns = slices.Insert(l.turns, l.find(t), t)
		heap.Fix(g.waiting[class], l.index)
		return
	}
	l := &lane{client: c, background: class.background, turns: []*Turn{t}}
	c.lanes[class] = l
	if g.waiting[class] == nil {
		g.waiting[class] = new(lanes)
	}
	heap.Push(g.waiting[class], l)
}

// stepOutLocked takes t out of its lane.
func (g *Gate) stepOutLocked(t *Turn) {
	c := g.clients[t.request.Client]
	class := c.classOf(t)
	if *c.inLine(class.background)--; c.background == 0 {
		g.calmLocked(c)
	}
	l, ls := c.lanes[class], g.waiting[class]
	if len(l.turns) > 1 {
		i := l.find(t)
		l.turns[i] = nil
		if i == 0 { // without a copy of all that wait behind it
			l.turns = l.turns[1:]
		} else {
			l.turns = slices.Delete(l.turns, i, i+1)
		}
		heap.Fix(ls, l.index)
	} else {
		heap.Remove(ls, l.index)
		delete(c.lanes, class)
	}
	if ls.Len() == 0 {
		delete(g.waiting, class)
	}
	g.restAffinityLocked()
}
