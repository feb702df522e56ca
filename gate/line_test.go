package gate_test

import (
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// TestJoin: who joins can do something else while it waits for its place.
func TestJoin(t *testing.T) {
	synctest.Test(t, testJoin)
}

func testJoin(t *testing.T) {
	g := gate.New(2)
	var turns []*gate.Turn
	for range 3 {
		turn, err := g.Join(gate.Request{})
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, turn)
	}
	if turn, err := g.Join(gate.Request{}); turn != nil || err != gate.ErrFull {
		t.Errorf("got %v, %v; want %v", turn, err, gate.ErrFull)
	}
	want := func(when string, positions []int) {
		t.Helper()
		time.Sleep(time.Second) // so old may a position be
		for i, turn := range turns {
			if got := turn.Position(); got != positions[i] {
				t.Errorf("%s: %d is in place %d; want %d", when, i, got, positions[i])
			}
		}
	}
	want("at first", []int{0, 1, 2})
	turns[1].Leave()
	turns = append(turns[:1], turns[2])
	want("when one has left", []int{0, 1})
	turns[0].Leave()
	want("at the end of the turn", []int{0, 0})

	waiting, err := g.Join(gate.Request{})
	if err != nil {
		t.Fatal(err)
	}
	g.Close()
	if err := waiting.Wait(t.Context()); err != gate.ErrClosed || waiting.Position() != 0 {
		t.Errorf("got %v, place %d; want it turned away", err, waiting.Position())
	}
	if turn, err := g.Join(gate.Request{}); turn != nil || err != gate.ErrClosed {
		t.Errorf("got %v, %v; want %v", turn, err, gate.ErrClosed)
	}
}

// TestMeanTurn: the last turns count most, and waits do not.
func TestMeanTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(10)
		if got := g.MeanTurn(); got != 0 {
			t.Errorf("got %v before the first turn; want 0", got)
		}
		for _, turn := range []struct{ took, want time.Duration }{
			{8 * time.Second, 8 * time.Second}, {4 * time.Second, 7 * time.Second}, {7 * time.Second, 7 * time.Second}, {11 * time.Second, 8 * time.Second},
		} {
			holder, err := g.Join(gate.Request{})
			if err != nil {
				t.Fatal(err)
			}
			waiting, err := g.Join(gate.Request{})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(turn.took)
			waiting.Leave()
			holder.Leave()
			holder.Leave() // counts once
			if got := g.MeanTurn(); got != turn.want {
				t.Errorf("after a turn of %v: got %v; want %v", turn.took, got, turn.want)
			}
		}
	})
}
