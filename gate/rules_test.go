package gate_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
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

// A client that has a question now and then waits for whoever has the turn, for one chat
// of each other client and, where chats of other kinds overtake it, for Affinity and
// one more chat.
func TestShareIsBounded(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 7))
		affinity := time.Duration(random.IntN(2)*random.IntN(60)) * time.Second
		const longest = 20 // seconds
		fairly(t, affinity, func(t *testing.T, h *hall) {
			others := 1 + random.IntN(4)
			n := 0
			for range 300 {
				if random.IntN(3) == 0 { // a batch
					client := "XYZW"[random.IntN(others):][:1]
					for range random.IntN(20) {
						n++
						h.send(t.Context(), fmt.Sprint(n, client, "a"))
					}
				}
				if random.IntN(5) == 0 {
					n++
					name := fmt.Sprint(n, "Q", "b")
					h.send(t.Context(), name)
					arrived := time.Now()
					for h.turn(name) == nil || !has(h, name) {
						h.serve(1, time.Duration(random.IntN(longest+1))*time.Second)
						synctest.Wait()
					}
					if got, most := time.Since(arrived), time.Duration(others+2)*longest*time.Second+affinity; got > most {
						t.Fatalf("seed %d: it waited for %v behind %d clients; want %v at most", seed, got, others, most)
					}
				}
				h.serve(1, time.Duration(random.IntN(longest+1))*time.Second)
			}
			h.serve(10_000, 0)
		})
	}
}

func has(h *hall, name string) bool {
	holder, _ := h.Line()
	return holder != nil && holder.ID == name
}

// Accounts of clients that are gone are forgotten.
func TestAccountsAreForgotten(t *testing.T) {
	g := gate.New(10)
	g.Fair = true
	visit := func(client string) *gate.Turn {
		turn, err := g.Join(gate.Request{Client: client})
		if err != nil {
			t.Fatal(err)
		}
		return turn
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	stays := visit("who stays")
	for i := range 200_000 {
		next := visit(fmt.Sprint("client ", i))
		stays.Leave()
		stays = visit("who stays")
		next.Leave()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 4<<20 {
		t.Errorf("%d KiB are held after 200,000 clients; want a few", got>>10)
	}
	stays.Leave()
}

// Positions tell in which order those in line will go, as far as that is known.
func TestPositions(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa")
		h.serve(1, 10*time.Second) // so long a turn takes
		h.send(t.Context(), "1Xa 2Xa 3Xa 4Ya 5Ya 6Za")
		time.Sleep(time.Second)
		want := map[string]int{"4Ya": 1, "6Za": 2, "2Xa": 3, "5Ya": 4, "3Xa": 5}
		_, waiting := h.Line()
		for _, p := range waiting {
			if p.Position != want[p.ID] {
				t.Errorf("%s is in place %d; want %d", p.ID, p.Position, want[p.ID])
			}
		}
		if got, want := h.serve(10, 10*time.Second), "1Xa 4Ya 6Za 5Ya 2Xa 3Xa"; !slices.Equal(strings.Fields(got), strings.Fields(want)) {
			t.Errorf("served were %s; want %s", got, want)
		}
	})
}

// BenchmarkShare is one hand-off while many wait, each for a client of its own.
func BenchmarkShare(b *testing.B) {
	for _, others := range []int{0, 100, 512, 10_000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			b.ReportAllocs()
			g := gate.New(others + 1)
			g.Fair, g.Affinity = true, 1000*time.Hour
			join := func(i int) *gate.Turn {
				turn, err := g.Join(gate.Request{Client: fmt.Sprint(i), Kind: gate.Kind{Model: fmt.Sprint(i % 2)}})
				if err != nil {
					b.Fatal(err)
				}
				return turn
			}
			turn := join(0)
			for i := range others {
				join(i + 1)
			}
			for b.Loop() {
				next := join(0)
				turn.Leave()
				next.Leave()
				turn = join(0)
			}
		})
	}
}
