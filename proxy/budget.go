package proxy

import (
	"container/list"
	"context"
	"sync"
)

// A budget limits what all bodies take in memory together, of which each has its
// [room]. Where it is full, whoever holds most makes room, of what can wait first.
type budget struct {
	limit int64 // bytes

	mu    sync.Mutex // guards what follows, and the rooms
	used  int64
	held  map[account]int64
	rooms list.List // of *room, in order of arrival
}

// An account is of a client's bodies: of those that can wait, or of the others.
type account struct {
	client     string
	background bool
}

// A room is what one body has of the budget.
type room struct {
	account
	budget *budget
	cancel context.CancelCauseFunc // of the body's request; nil: it may not be ended any more
	place  *list.Element           // in budget.rooms; nil: it was given back
	size   int64                   // bytes
}

// open returns an empty room for a body of a client, which the caller must give back in
// the end. Before that or [room.keep] the request is cancelled, if others need the room.
func (b *budget) open(client string, cancel context.CancelCauseFunc) *room {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = map[account]int64{}
	}
	r := &room{account: account{client: client}, budget: b, cancel: cancel}
	r.place = b.rooms.PushBack(r)
	return r
}

// take enlarges the room by n bytes, or returns [errNoRoom].
func (r *room) take(n int64) error {
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	for r.place != nil && b.used+n > b.limit {
		last := b.crowdingLocked(r, n)
		if last == nil {
			return errNoRoom
		}
		last.cancel(errNoRoom)
		last.closeLocked()
	}
	if r.place == nil { // it was turned away itself
		return errNoRoom
	}
	r.addLocked(n)
	return nil
}

// canWait notes that the body's request is one that can wait, as its body may have told.
func (r *room) canWait() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	if r.place == nil {
		return
	}
	size := r.size
	r.addLocked(-size)
	r.background = true
	r.addLocked(size)
}

// keep sees to it that the body's request is not turned away any more.
func (r *room) keep() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.cancel = nil
}

// give gives the room back.
func (r *room) give() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.closeLocked()
}

// crowdingLocked returns who is to make room for n bytes more in a room: the last body, of
// those that may be turned away, of whoever holds most of those that can wait; if there is
// none, and the room's own cannot wait either, of the others. Among its like the room is
// counted in, with the n bytes, and nil says that it is the one that gets none.
func (b *budget) crowdingLocked(r *room, n int64) (last *room) {
	for _, background := range []bool{true, false} {
		most := int64(0)
		if r.background == background {
			most = b.held[r.account] + n
		}
		for e := b.rooms.Back(); e != nil; e = e.Prev() {
			o := e.Value.(*room)
			if o.background == background && o.cancel != nil && o.size > 0 && b.held[o.account] > most {
				most, last = b.held[o.account], o
			}
		}
		if last != nil || r.background {
			return last
		}
	}
	return nil
}

func (r *room) addLocked(n int64) {
	b := r.budget
	r.size += n
	b.used += n
	if b.held[r.account] += n; b.held[r.account] == 0 {
		delete(b.held, r.account)
	}
}

func (r *room) closeLocked() {
	if r.place == nil {
		return
	}
	r.addLocked(-r.size)
	r.budget.rooms.Remove(r.place)
	r.place = nil
}
