package gate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// fairly runs a test with a fair gate.
func fairly(t *testing.T, affinity time.Duration, test func(*testing.T, *hall)) {
	t.Helper()
	inHall(t, 1000, affinity, func(t *testing.T, h *hall) {
		h.Fair = true
		test(t, h)
	})
}

// serve has whoever has the turn leave after a stay, n times or until nobody is there,
// and returns who had it.
func (h *hall) serve(n int, stay time.Duration) string {
	var order []string
	for range n {
		synctest.Wait()
		holder, _ := h.Line()
		if holder == nil {
			break
		}
		order = append(order, holder.ID)
		time.Sleep(stay)
		h.turn(holder.ID).Leave()
	}
	return strings.Join(order, " ")
}

func (h *hall) wantServed(n int, stay time.Duration, want string) {
	h.t.Helper()
	if got := h.serve(n, stay); got != want {
		h.t.Errorf("served were %s; want %s", got, want)
	}
}

// Clients with a batch in line and clients with one question have the turn for as long
// as each other. One client's own come in the order in which they came.
func TestShare(t *testing.T) {
	for arrive, want := range map[string]string{
		"0Xa 1Xa 2Xa":             "0Xa 1Xa 2Xa",
		"0Xa 1Xa 2Xa 3Xa 4Ya":     "0Xa 4Ya 1Xa 2Xa 3Xa",
		"0Xa 1Xa 2Xa 3Ya 4Ya 5Ya": "0Xa 3Ya 1Xa 4Ya 2Xa 5Ya",
		"0Xa 1Xa 2Ya 3Za 4Ya 5Xa": "0Xa 2Ya 3Za 1Xa 4Ya 5Xa",
	} {
		fairly(t, 0, func(t *testing.T, h *hall) {
			h.send(t.Context(), arrive)
			h.wantServed(10, time.Second, want)
		})
	}
}

// It is the time that is shared, and not the number of turns.
func TestShareOfTime(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Ya 2Ya 3Ya 4Xa 5Ya")
		h.wantServed(1, 10*time.Second, "0Xa")
		h.wantServed(3, 3*time.Second, "1Ya 2Ya 3Ya")
		h.wantServed(1, time.Second, "5Ya") // 9 s are less than 10
		h.wantServed(1, time.Second, "4Xa")
	})
}

// A client that comes back starts at the smallest account of those who are here: it has
// saved nothing up. Nobody pays for what was before everybody had left.
func TestAccountsAfterAPause(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa")
		h.serve(1, time.Hour)
		h.send(t.Context(), "1Ya 2Ya 3Xa 4Xa")
		h.wantServed(4, time.Second, "1Ya 3Xa 2Ya 4Xa") // and X does not wait for an hour

		h.send(t.Context(), "5Xa 6Xa 7Xa 8Xa 9Xa")
		h.serve(2, time.Minute)
		h.send(t.Context(), "10Ya 11Ya 12Ya 13Ya") // while X had two minutes, Y was not here
		h.wantServed(5, time.Minute, "7Xa 10Ya 8Xa 11Ya 9Xa")
		h.serve(10, time.Minute)

		h.send(t.Context(), "14Xa 15Ya 16Ya")
		h.serve(1, time.Minute)
		h.send(t.Context(), "17Xa") // its minute counts: Y is here, and has had none
		h.wantServed(3, time.Second, "15Ya 16Ya 17Xa")
	})
}

// Affinity and its bound are for the one who goes first by share.
func TestShareWithAffinity(t *testing.T) {
	fairly(t, time.Minute, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Xa 3Xa 4Xa 5Yb 6Za")
		h.wantServed(2, 25*time.Second, "0Xa 6Za") // first by share is 5Yb, and of kind a first 6Za
		h.wantServed(2, 25*time.Second, "1Xa 2Xa")
		h.wantServed(3, 25*time.Second, "5Yb 3Xa 4Xa") // overtaken for 75 s, since 6Za went
	})
}

// A client that is ahead waits while those here get as much each, and no longer, though
// three who have had nothing stand in line at any time. Without end they come.
func TestNewcomersWithoutEnd(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Aa 2Ba 3Ca")
		h.serve(1, time.Minute)
		h.send(t.Context(), "0Xa")
		served := 0
		for n := range 1000 {
			h.send(t.Context(), nobody(n)+"a")
			served++
			if h.serve(1, time.Minute) == "0Xa" {
				break
			}
		}
		// It was 45 s ahead, and five were here: that makes four turns. Whoever came before
		// their end has one, too.
		if served != 8 {
			t.Errorf("it had the %dth turn; want the 8th", served)
		}
	})
}

// Where the line is full, whoever has most there makes room with its last, but not for
// one that would have as many.
func TestPlaces(t *testing.T) {
	for _, fair := range []bool{true, false} {
		inHall(t, 4, 0, func(t *testing.T, h *hall) {
			h.Fair = fair
			h.arrive(t.Context(), "0Xa 1Xa 2Xa 3Xa 4Xa 5Xa", "0Xa in,5Xa the line is full")
			h.arrive(t.Context(), "6Ya", "4Xa the line is full")
			h.arrive(t.Context(), "7Ya", "3Xa the line is full")
			h.arrive(t.Context(), "8Ya 8Xa", "8Ya the line is full,8Xa the line is full")
			h.arrive(t.Context(), "9Za", "7Ya the line is full") // the later of the two who have most
			h.arrive(t.Context(), "10Wa", "2Xa the line is full")
			h.arrive(t.Context(), "11Va", "11Va the line is full")
			h.turn("1Xa").Leave()
			h.arrive(t.Context(), "12Ya", "1Xa the place in line was given up")
			h.wantLine("0Xa | 6Ya* 9Za 10Wa 12Ya")
			h.leave("0Xa", "6Ya in") // what has its turn stands in line no more
			h.arrive(t.Context(), "13Ya 14Va", "13Ya the line is full")
		})
	}
}

// Accounts of clients that are gone are forgotten as soon as the others have had as
// much, though those wait for a kind that does not get its turn.
func TestAccountsAreForgotten(t *testing.T) {
	fairly(t, 1000*time.Hour, func(t *testing.T, h *hall) {
		h.send(t.Context(), "1Xa 2Yb 3Zb")
		for n := range 2000 {
			h.send(t.Context(), nobody(n)+"a")
			h.serve(1, time.Millisecond)
			if got := h.Accounts(); got > 200 {
				t.Fatalf("%d are remembered after %d clients; want a few", got, n)
			}
		}
		h.turn("2Yb").Leave()
		h.turn("3Zb").Leave()
		h.serve(1, time.Millisecond)
		if got := h.Accounts(); got != 0 {
			t.Errorf("%d are remembered when nobody is here; want none", got)
		}
	})
}

// Positions tell in which order those in line will go, if turns take as long as they did.
func TestPositions(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 3))
		inHall(t, 100, 0, func(t *testing.T, h *hall) {
			h.Fair = seed%5 > 0
			h.send(t.Context(), "0Xa")
			h.serve(1, 10*time.Second)
			h.send(t.Context(), "1Xa")
			for n := range 20 {
				h.send(t.Context(), fmt.Sprintf("%d%ca", n+2, "XYZ"[random.IntN(3)]))
			}
			h.serve(random.IntN(5), 10*time.Second)
			time.Sleep(time.Duration(random.IntN(10)) * time.Second)
			holder, waiting := h.Line()
			slices.SortFunc(waiting, func(a, b gate.Place) int { return a.Position - b.Position })
			var want []string
			for i, p := range waiting {
				want = append(want, p.ID)
				if p.Position != i+1 || h.turn(p.ID).Position() != p.Position {
					t.Errorf("%s is in place %d, and in %d; want both to be %d", p.ID, p.Position, h.turn(p.ID).Position(), i+1)
				}
			}
			time.Sleep(10*time.Second - time.Since(holder.Since))
			h.turn(holder.ID).Leave()
			if h.wantServed(30, 10*time.Second, strings.Join(want, " ")); t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// BenchmarkHandOff is one hand-off of the turn, and one request that joins, while so many
// wait for so many clients, of two kinds.
func BenchmarkHandOff(b *testing.B) {
	for _, n := range []struct{ clients, line int }{{1, 1}, {10, 10}, {1000, 1000}, {1000, 10_000}, {10_000, 10_000}} {
		b.Run(fmt.Sprintf("%d clients/%d in line", n.clients, n.line), func(b *testing.B) {
			b.ReportAllocs()
			g := gate.New(n.line)
			g.Fair, g.Affinity = true, time.Millisecond
			joined := 0
			join := func() {
				client := strconv.Itoa(joined % n.clients)
				joined++
				if _, err := g.Join(gate.Request{Client: client, Kind: gate.Kind{Model: strconv.Itoa(joined % 2)}}); err != nil {
					b.Fatal(err)
				}
			}
			for range n.line + 1 {
				join()
			}
			for b.Loop() {
				g.HasTurn().Leave()
				join()
			}
		})
	}
}
