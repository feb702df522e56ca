package status

import "sync"

const (
	// recentLimit is how many requests are kept.
	recentLimit = 20
	// textLimit is how many characters of a path and of a model's name are kept:
	// clients choose both, and a model's name may be as long as a body.
	textLimit = 200
)

// Recent keeps the last requests, and what clients have had of the host. The zero value
// is ready.
type Recent struct {
	mu       sync.Mutex           // guards what follows
	requests [recentLimit]Request // a ring
	added    int                  // since the start
	usages   usages
}

// Add adds a request that has ended.
func (r *Recent) Add(request Request) {
	request.Route = shorten(request.Route, textLimit)
	request.Model = shorten(request.Model, textLimit)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests[r.added%recentLimit] = request
	r.added++
	r.usages.add(request)
}

// Latest returns the requests, the latest first.
func (r *Recent) Latest() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var latest []Request
	for i := r.added - 1; i >= max(0, r.added-recentLimit); i-- {
		latest = append(latest, r.requests[i%recentLimit])
	}
	return latest
}
