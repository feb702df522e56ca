package proxy

import (
	"sync"
	"time"

	"foreman/proxy/status"
)

// The books are what is kept of requests that have ended, so that all of them tell of the
// same requests.
type books struct {
	mu       sync.Mutex // guards what follows
	metrics  *instruments
	recent   status.Recent
	unlogged quota     // of records of requests that needed no token, or had none
	probed   time.Time // when /readyz was asked for last; zero: it never was
}

func newBooks() *books { return &books{metrics: newInstruments()} }

// add adds the record of a request, which was admitted or not. It reports whether the log
// is to have it, too.
func (b *books) add(rec *status.Record, class class, admitted bool) (toLog bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.metrics.ended(rec)
	if class == own && rec.Route == readyPath {
		b.probed = rec.Ended
	}
	if admitted && class != own && class != preflight {
		b.recent.Add(*rec)
	}
	return admitted && class != preflight && rec.Route != rootPath || b.unlogged.allow(rec)
}

// show has a page show them.
func (b *books) show(page *status.Page) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent.Show(page)
}

// allMetrics returns the metrics in the text format.
func (b *books) allMetrics() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(b.metrics.set.Text(), ofClients(b.recent.Named()).Text()...)
}

// clientMetrics returns those of a client's chats alone.
func (b *books) clientMetrics(client string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ofClients(map[string]status.Sum{client: b.recent.Named()[client]}).Text()
}

// lastProbe returns when /readyz was asked for last; zero: it never was.
func (b *books) lastProbe() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probed
}

// A quota limits how many records are written in a second: whoever has no token must not
// fill the log. What is left out is counted in the next record.
type quota struct {
	since   time.Time // when the second began
	written int       // in it
	left    int       // out, since one was written
}

const recordsPerSecond = 10

func (q *quota) allow(rec *status.Record) bool {
	if now := time.Now(); now.Sub(q.since) >= time.Second {
		q.since, q.written = now, 0
	}
	if q.written == recordsPerSecond {
		q.left++
		return false
	}
	q.written++
	rec.Unlogged, q.left = q.left, 0
	return true
}
