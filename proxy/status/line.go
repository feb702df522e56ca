package status

import (
	"cmp"
	"fmt"
	"slices"
)

// A batch is what one client has in line.
type batch struct {
	Client string
	Chats  []Chat // in the order of their turns
	Last   string // the key of the chat that came last
	Done   *Span  // how long it will take until all have had their turns; nil: nobody knows
}

// batches returns the line by client, in the order of their first turns.
func (p *Page) batches() (batches []*batch) {
	of := map[string]*batch{}
	for _, c := range slices.SortedFunc(slices.Values(p.Waiting), func(a, b Chat) int { return cmp.Compare(a.Position, b.Position) }) {
		b := of[c.Client]
		if b == nil {
			b = &batch{Client: c.Client}
			of[c.Client] = b
			batches = append(batches, b)
		}
		b.Chats = append(b.Chats, c)
		if c.Estimate != nil {
			b.Done = new(*c.Estimate + p.Turn)
		}
	}
	for _, c := range p.Waiting { // in order of arrival
		of[c.Client].Last = c.Key
	}
	return batches
}

// First returns the chat that has its turn first.
func (b *batch) First() Chat { return b.Chats[0] }

// Models says with which models a batch's chats are.
func (b *batch) Models() string {
	models := map[string]bool{}
	for _, c := range b.Chats {
		models[c.Model] = true
	}
	if len(models) > 1 {
		return fmt.Sprint(len(models), " models")
	}
	return b.First().Model
}

// Background says how many of a batch's chats can wait; empty: none.
func (b *batch) Background() string {
	n := 0
	for _, c := range b.Chats {
		if c.Background != "" {
			n++
		}
	}
	switch n {
	case 0:
		return ""
	case len(b.Chats):
		return "can wait"
	default:
		return fmt.Sprint(n, " can wait")
	}
}

// Next reports whether one of a batch's chats is next.
func (b *batch) Next() bool { return slices.ContainsFunc(b.Chats, func(c Chat) bool { return c.Next }) }
