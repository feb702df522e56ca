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
	turn, err := line.Enter(context.Background(), guest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer turn.Leave() // whatever happens
	turn.Start(func(error) { fmt.Println("my turn") })

	// Somebody else is next, and gets ready.
	next, err := line.Enter(context.Background(), guest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer next.Leave()
	next.Start(func(err error) { fmt.Println("next:", err) })

	// A third has to wait, and may lose interest.
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
	// next: gate: closed
	// gate: closed
}
