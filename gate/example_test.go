package gate_test

import (
	"context"
	"errors"
	"fmt"

	"foreman/gate"
)

func Example() {
	line := gate.New(512)
	turn, err := line.Join(gate.Request{ID: "first"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer turn.Leave() // whatever happens
	fmt.Println("my turn:", turn.Wait(context.Background()))

	// Somebody else is next.
	next, err := line.Join(gate.Request{ID: "second"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer next.Leave()

	// A third has to wait, and may lose interest.
	ctx, cancel := context.WithCancelCause(context.Background())
	outcome := make(chan error)
	go func() {
		third, err := line.Join(gate.Request{ID: "third"})
		if err == nil {
			err = third.Wait(ctx)
			third.Leave()
		}
		outcome <- err
	}()
	cancel(errors.New("the client hung up"))
	fmt.Println(<-outcome)

	// Before the end, everybody in line is turned away.
	line.Close()
	fmt.Println(next.Wait(context.Background()))
	// Output:
	// my turn: <nil>
	// the client hung up
	// the gate is closed
}
