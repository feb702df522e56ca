package proxy

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// embeds lets a limited number of embeddings at the target at once. The clients of more
// take turns, and each one's own go in order of arrival: hundreds of one client must not
// delay the one of another.
type embeds struct {
	limit int

	mu      sync.Mutex // guards what follows
	closed  bool
	atHost  int
	waiting int
	turns   list.List // of *embedLine, none of them empty: whose turn is next first
	lines   map[string]*embedLine
}

// An embedLine is the embeddings of one client that wait, in order of arrival.
type embedLine struct {
	client string
	line   list.List     // of *embedWait
	place  *list.Element // in embeds.turns
}

// An embedWait is an embedding that waits.
type embedWait struct {
	line    *embedLine
	place   *list.Element // in line; nil: it waits no more
	settled chan struct{} // closed when it may go to the target, or was turned away
	err     error         // why it was turned away
}

// newEmbeds returns what limits embeddings; nil: nothing does.
func newEmbeds(limit int) *embeds {
	if limit == 0 {
		return nil
	}
	return &embeds{limit: limit, lines: map[string]*embedLine{}}
}

// enter waits until an embedding of a client may go to the target, and returns for how long
// it has; 0: it did not have to. In the end the caller calls leave, unless there is an error:
// the cause of ctx, if that ended first, or [errShuttingDown].
func (e *embeds) enter(ctx context.Context, client string) (waited time.Duration, err error) {
	w, err := e.join(client)
	if w == nil {
		return 0, err
	}
	joined := time.Now()
	select {
	case <-w.settled:
		err = w.err
	case <-ctx.Done():
		e.giveUp(w)
		err = context.Cause(ctx)
	}
	return time.Since(joined), err
}

// join returns the place of an embedding in line; nil: it may go at once, or there is an
// error.
func (e *embeds) join(client string) (*embedWait, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, errShuttingDown
	case e.atHost < e.limit:
		e.atHost++
		return nil, nil
	}
	l := e.lines[client]
	if l == nil {
		l = &embedLine{client: client}
		e.lines[client], l.place = l, e.turns.PushBack(l)
	}
	w := &embedWait{line: l, settled: make(chan struct{})}
	w.place = l.line.PushBack(w)
	e.waiting++
	return w, nil
}

// leave ends an embedding's stay at the target, and lets the next one go there.
func (e *embeds) leave() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leaveLocked()
}

func (e *embeds) leaveLocked() {
	if e.turns.Len() == 0 {
		e.atHost--
		return
	}
	l := e.turns.Front().Value.(*embedLine)
	e.turns.MoveToBack(l.place)
	e.settleLocked(l.line.Front().Value.(*embedWait), nil)
}

// settleLocked takes an embedding out of the line: it may go to the target, or err says
// why not.
func (e *embeds) settleLocked(w *embedWait, err error) {
	l := w.line
	l.line.Remove(w.place)
	w.place, w.err = nil, err
	e.waiting--
	if l.line.Len() == 0 {
		e.turns.Remove(l.place)
		delete(e.lines, l.client)
	}
	close(w.settled)
}

// giveUp takes out of the line whoever has left. If its turn has come meanwhile, the next
// has it.
func (e *embeds) giveUp(w *embedWait) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case w.place != nil:
		e.settleLocked(w, context.Canceled)
	case w.err == nil:
		e.leaveLocked()
	}
}

// close turns away all that wait, and whoever comes later.
func (e *embeds) close() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for e.turns.Len() > 0 {
		e.settleLocked(e.turns.Front().Value.(*embedLine).line.Front().Value.(*embedWait), errShuttingDown)
	}
}

// count returns how many embeddings are at the target, and how many wait.
func (e *embeds) count() (atHost, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.atHost, e.waiting
}
