package gate_test

import (
	"context"
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

	// Before the end, everybody in line is turned away.
	line.Close()
	fmt.Println(next.Wait(context.Background()))
	// Output:
	// my turn: <nil>
	// the gate is closed
}
