package gate_test

import (
	"context"
	"errors"
	"fmt"

	"foreman/gate"
)

// A guest asks for the model that he wants to talk to.
type guest struct{ model string }

func (g guest) Kind() string { return g.model }

func Example() {
	line := gate.New(512)
	leave, err := line.Enter(context.Background(), guest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer leave() // whatever happens
	fmt.Println("my turn")

	// Somebody else has to wait, and may lose interest.
	ctx, cancel := context.WithCancelCause(context.Background())
	outcome := make(chan error)
	go func() {
		_, err := line.Enter(ctx, guest{})
		outcome <- err
	}()
	cancel(errors.New("the client hung up"))
	fmt.Println(<-outcome)

	// Before the end, everybody in line is turned away.
	line.Close()
	_, err = line.Enter(context.Background(), guest{})
	fmt.Println(err)
	// Output:
	// my turn
	// the client hung up
	// gate: closed
}
