package status

import (
	"cmp"
	"slices"
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
// value is ready. It is for one goroutine at a time.
type Recent struct {
	chats  []Record // the latest first
	others []Record
	today  day
	before day             // another day: the clock may step back to it
	named  map[string]*Sum // see Named
	hour   Hour
}

// Add adds a request that has ended.
func (r *Recent) Add(record Record) {
	record.Route = shorten(cmp.Or(record.Path, record.Route), textLimit)
	record.Model = shorten(record.Model, textLimit)
	record.Err = nil // its text may be long, too
	if record.IsChat {
		r.hour.addRecord(record)
		r.chats = insert(r.chats, record, chatsLimit)
	} else {
		r.others = insert(r.others, record, othersLimit)
	}
	r.count(record)
}

// insert puts a record before the others, of which it keeps so many that there are limit.
func insert(records []Record, record Record, limit int) []Record {
	return slices.Insert(records[:min(len(records), limit-1)], 0, record)
}

// Show has a page show the last requests, and what was done in the hour and on the day of
// page.Now.
func (r *Recent) Show(page *Page) {
	page.Chats, page.Others = slices.Clone(r.chats), slices.Clone(r.others)
	page.Day, page.Hour = r.dayAt(page.Now), r.hour.clone()
}
