package proxy

import (
	"container/list"
	"sync"
)

// A budget limits what all bodies take in memory together, of which each has its
// [room]. Where it is full, whoever holds most makes room.
type budget struct {
	limit int64 // bytes

	mu    sync.Mutex // guards what follows, and the rooms
	used  int64
	held  map[string]int64 // by client
	rooms list.List        // of *room, in order of arrival
}

// A room is what one body has of the budget.
type room struct {
	budget   *budget
	client   string
	turnAway func()        // ends the request of the body; nil: it may not be ended any more
	place    *list.Element // in budget.rooms; nil: it was given back
	size     int64         // bytes
}

// open returns an empty room for a body of a client, which the caller must give back in
// the end. turnAway is called at most once, before that or [room.keep], if others need the
// room.
func (b *budget) open(client string, turnAway func()) *room {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held == nil {
		b.held = map[string]int64{}
	}
	r := &room{budget: b, client: client, turnAway: turnAway}
	r.place = b.rooms.PushBack(r)
	return r
}

// take enlarges the room by n bytes, or returns [errNoRoom].
func (r *room) take(n int64) error {
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	for r.place != nil && b.used+n > b.limit {
		last := b.crowdingLocked(b.held[r.client] + n)
		if last == nil {
			return errNoRoom
		}
		last.turnAway() // locked: its request has not returned
		last.closeLocked()
	}
	if r.place == nil { // it was turned away itself
		return errNoRoom
	}
	r.addLocked(n)
	return nil
}

// keep sees to it that the body's request is not turned away any more.
func (r *room) keep() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.turnAway = nil
}

// give gives the room back.
func (r *room) give() {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	r.closeLocked()
}

// crowdingLocked returns who is to make room: the last body, of those that may be turned
// away, of the client that holds most; nil: that is no more than most, which is what the
// client would hold that needs the room.
func (b *budget) crowdingLocked(most int64) (last *room) {
	for e := b.rooms.Back(); e != nil; e = e.Prev() {
		if r := e.Value.(*room); r.turnAway != nil && r.size > 0 && b.held[r.client] > most {
			most, last = b.held[r.client], r
		}
	}
	return last
}

func (r *room) addLocked(n int64) {
	r.size += n
	r.budget.used += n
	r.budget.held[r.client] += n
}

func (r *room) closeLocked() {
	if r.place == nil {
		return
	}
	r.addLocked(-r.size)
	if r.budget.held[r.client] == 0 {
		delete(r.budget.held, r.client)
	}
	r.budget.rooms.Remove(r.place)
	r.place = nil
}
