package status

import (
	"cmp"
	"sync"
)

const (
	// chatsLimit and othersLimit are how many requests are kept.
	chatsLimit  = 20
	othersLimit = 5
	// textLimit is how many characters of a path and of a model's name are kept:
	// clients choose both, and a model's name may be as long as a body.
	textLimit = 200
)

// Recent keeps the last requests, chats and others apart, so that embeddings by the
// hundred do not wash the chats away; and what clients have had of the host. The zero
// value is ready.
type Recent struct {
	mu     sync.Mutex // guards what follows
	chats  ring
	others ring
	days   days
}

// Add adds a request that has ended.
func (r *Recent) Add(record Record) {
	record.Route = shorten(cmp.Or(record.Path, record.Route), textLimit)
	record.Model = shorten(record.Model, textLimit)
	record.Err = nil // its text may be long, too
	r.mu.Lock()
	defer r.mu.Unlock()
	if record.IsChat {
		r.chats.add(record, chatsLimit)
	} else {
		r.others.add(record, othersLimit)
	}
	r.days.add(record)
}

// Latest returns the records of the last requests, the latest first.
func (r *Recent) Latest() (chats, others []Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chats.latest(), r.others.latest()
}

// A ring has the last records that were added.
type ring struct {
	records []Record
	added   int
}

// add adds a record, in the place of the oldest if there are limit.
func (r *ring) add(record Record, limit int) {
	if len(r.records) < limit {
		r.records = append(r.records, record)
	} else {
		r.records[r.added%limit] = record
	}
	r.added++
}

// latest returns a copy, the latest first.
func (r *ring) latest() []Record {
	var latest []Record
	for i := range r.records {
		latest = append(latest, r.records[(r.added-1-i)%len(r.records)])
	}
	return latest
}
