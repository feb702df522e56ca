package target

import (
	"context"
	"errors"
)

// ErrStale is what a hold returns if the connection that was opened before it is not
// to be used: the request goes on a new one.
var ErrStale = errors.New("the connection is stale")

type holdKey struct{}

// A Hold holds a request before anything of it is sent.
type Hold struct {
	// Wait is called when there is a connection for the request. It is sent when Wait
	// returns nil. Wait may be called again, where another connection is taken.
	Wait func() error
	// Sent is called when the request is about to be sent: once more if it is sent once
	// more.
	Sent func()
}

// WithHold returns a context whose request is held: RoundTrip opens a connection, or
// takes one that was kept, and then calls h.Wait, on its own goroutine. It returns
// Wait's error if that is another than [ErrStale].
func WithHold(ctx context.Context, h Hold) context.Context {
	return context.WithValue(ctx, holdKey{}, &h)
}

// holdOf returns the hold of a request's context; nil: it has none.
func holdOf(ctx context.Context) *Hold {
	hold, _ := ctx.Value(holdKey{}).(*Hold)
	return hold
}
