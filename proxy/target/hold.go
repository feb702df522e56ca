package target

import (
	"context"
	"errors"
)

// ErrStale is what a hold returns if the connection that was opened before it is not
// to be used: the request goes on a new one.
var ErrStale = errors.New("the connection is stale")

type holdKey struct{}

// WithHold returns a context whose request is held before anything of it is sent:
// RoundTrip opens a connection, or takes one that was kept, and then calls hold, on
// its own goroutine. It sends the request when hold returns nil, and returns hold's
// error if that is another than [ErrStale]. It may call hold again where it takes
// another connection.
func WithHold(ctx context.Context, hold func() error) context.Context {
	return context.WithValue(ctx, holdKey{}, hold)
}

// holdOf returns the hold of a request's context; nil: it has none.
func holdOf(ctx context.Context) func() error {
	hold, _ := ctx.Value(holdKey{}).(func() error)
	return hold
}
