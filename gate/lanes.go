package gate

import (
	"container/heap"
	"container/list"
)

// A lane is the requests of one client and one kind that wait, in order of arrival.
type lane struct {
	client *client
	turns  list.List // of *Turn; never empty
	index  int       // in the lanes of its kind
}

func (l *lane) first() *Turn { return l.turns.Front().Value.(*Turn) }

// Lanes are those of one kind: a heap, with the lane first whose first request goes
// first by share. So who is next is known however long the line is.
type lanes []*lane

func (ls lanes) Len() int           { return len(ls) }
func (ls lanes) Less(i, j int) bool { return ls[i].first().goesBefore(ls[j].first()) }

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

// lineUpLocked gives t the last place in line.
func (g *Gate) lineUpLocked(t *Turn) {
	t.inLine = g.line.PushBack(t)
	t.client.waiting++
	kind := t.request.Kind
	if l := t.client.lanes[kind]; l != nil {
		t.inLane = l.turns.PushBack(t)
		return
	}
	l := &lane{client: t.client}
	t.client.lanes[kind] = l
	t.inLane = l.turns.PushBack(t)
	if g.waiting[kind] == nil {
		g.waiting[kind] = new(lanes)
	}
	heap.Push(g.waiting[kind], l)
}

// stepOutLocked takes t out of the line.
func (g *Gate) stepOutLocked(t *Turn) {
	g.line.Remove(t.inLine)
	t.inLine = nil
	t.client.waiting--
	kind := t.request.Kind
	l, ls := t.client.lanes[kind], g.waiting[kind]
	if l.turns.Len() == 1 {
		heap.Remove(ls, l.index) // while there is a first request to compare
		delete(t.client.lanes, kind)
	}
	l.turns.Remove(t.inLane)
	if l.turns.Len() > 0 {
		heap.Fix(ls, l.index)
	}
	if ls.Len() == 0 {
		delete(g.waiting, kind)
	}
	g.restAffinityLocked()
}
