package status

import "sync"

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
func (r *Recent) Add(request Request) {
	request.Route = shorten(request.Route, textLimit)
	request.Model = shorten(request.Model, textLimit)
	r.mu.Lock()
	defer r.mu.Unlock()
	if request.IsChat {
		r.chats.add(request, chatsLimit)
	} else {
		r.others.add(request, othersLimit)
	}
	r.days.add(request)
}

// Latest returns the last requests, the latest first.
func (r *Recent) Latest() (chats, others []Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chats.latest(), r.others.latest()
}

// A ring has the last requests that were added.
type ring struct {
	requests []Request
	added    int
}

// add adds a request, in the place of the oldest if there are limit.
func (r *ring) add(request Request, limit int) {
	if len(r.requests) < limit {
		r.requests = append(r.requests, request)
	} else {
		r.requests[r.added%limit] = request
	}
	r.added++
}

// latest returns a copy, the latest first.
func (r *ring) latest() []Request {
	var latest []Request
	for i := range r.requests {
		latest = append(latest, r.requests[(r.added-1-i)%len(r.requests)])
	}
	return latest
}
