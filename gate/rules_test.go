package gate_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
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
// as each other, or by their weights. One client's own come in the order in which they came,
// but whoever is marked or marks its requests lets all others go first, and its own.
func TestShare(t *testing.T) {
	for arrive, want := range map[string]string{
		"0Xa 1Xa 2Xa":             "0Xa 1Xa 2Xa",
		"0Xa 1Xa 2Xa 3Xa 4Ya":     "0Xa 4Ya 1Xa 2Xa 3Xa",
		"0Xa 1Xa 2Xa 3Ya 4Ya 5Ya": "0Xa 3Ya 1Xa 4Ya 2Xa 5Ya",
		"0Xa 1Xa 2Ya 3Za 4Ya 5Xa": "0Xa 2Ya 3Za 1Xa 4Ya 5Xa",

		"0Xa 1Xa 2Xa 3Xa 4Y/3a 5Y/3a 6Y/3a 7Y/3a": "0Xa 4Y/3a 5Y/3a 6Y/3a 1Xa 7Y/3a 2Xa 3Xa",
		"0X~a 1X~a 2Y~a 3Za 4Xa":                  "0X~a 3Za 4Xa 2Y~a 1X~a",
		"0Xa 1Xa 2X~a 3Xa 4X~a 5Xa":               "0Xa 1Xa 3Xa 5Xa 2X~a 4X~a",
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

// What can wait makes room for what cannot, also for its own client's, and not the other
// way round.
func TestPlacesOfBackground(t *testing.T) {
	inHall(t, 4, 0, func(t *testing.T, h *hall) {
		h.arrive(t.Context(), "0Xa 1Xa 2Xa 3Y~a 4Z~a", "0Xa in")
		h.arrive(t.Context(), "5Xa", "4Z~a the line is full") // the last of two that have as many
		h.arrive(t.Context(), "6Z~a 7Y~a", "6Z~a the line is full,7Y~a the line is full")
		h.arrive(t.Context(), "8Ya", "3Y~a the line is full")
		h.arrive(t.Context(), "9Z~a", "9Z~a the line is full")
		h.arrive(t.Context(), "10Za", "5Xa the line is full")
	})
}

// A pause comes before all who wait, is charged to nobody, and nothing is loaded behind it.
func TestPause(t *testing.T) {
	fairly(t, time.Hour, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Yb 3Yb")
		pause, err := h.Pause()
		second, _ := h.Pause()
		third, _ := h.Pause()
		h.wantErrors(nil, err)
		h.wantNews("0Xa in")
		h.wantLine("0Xa | 1Xa 2Yb 3Yb")
		if x, y, z := h.turn("2Yb").Position(), h.turn("3Yb").Position(), h.turn("1Xa").Position(); x != 1 || y != 2 || z != 3 {
			t.Errorf("got places %d, %d, %d; want them to be reckoned from when nothing is loaded", x, y, z)
		}
		third.Leave()
		if err := third.Wait(t.Context()); err == nil {
			t.Error("got the turn; want none where that was given up")
		}
		time.Sleep(time.Minute)
		h.leave("0Xa", "")
		h.wantErrors(nil, pause.Wait(t.Context()))
		h.wantLine("nobody | 1Xa 2Yb 3Yb")
		time.Sleep(5 * time.Minute)
		h.arrive(t.Context(), "4Za", "")
		pause.Leave()
		pause.Leave()
		h.wantErrors(nil, second.Wait(t.Context()))
		h.wantLine("nobody | 1Xa 2Yb* 3Yb 4Za")
		second.Leave()
		h.wantNews("2Yb in") // though a was loaded: X has had a minute
		if h.MeanTurn() != time.Minute || pause.Held() != 5*time.Minute || pause.Position() != 0 {
			t.Errorf("got a mean turn of %v, a pause of %v in place %d; want 1m, 5m, 0", h.MeanTurn(), pause.Held(), pause.Position())
		}
		h.Unloaded()
		time.Sleep(2 * time.Minute)
		h.leave("2Yb", "4Za in") // though b was loaded
		waiting, _ := h.Pause()
		h.arrive(t.Context(), "5Xa", "")
		h.Close()
		h.wantNews("1Xa the gate is closed,3Yb the gate is closed,5Xa the gate is closed")
		_, err = h.Pause()
		h.wantErrors(gate.ErrClosed, err, waiting.Wait(t.Context()))
		h.leave("4Za", "")
	})
	inHall(t, 1, 0, func(t *testing.T, h *hall) { // it takes no place
		pause, _ := h.Pause()
		second, _ := h.Pause()
		h.wantErrors(nil, pause.Wait(t.Context()))
		h.arrive(t.Context(), "0Xa 1Ya", "1Ya the line is full")
		pause.Leave()
		h.wantErrors(nil, second.Wait(t.Context()))
		h.wantLine("nobody | 0Xa*")
		second.Leave()
		h.wantNews("0Xa in")
	})
}

// While a turn is suspended its time is charged to nobody, and nothing is loaded.
func TestSuspend(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Ya 3Ya 4Ya 5Ya")
		time.Sleep(time.Minute)
		h.turn("0Xa").Suspend()
		time.Sleep(time.Hour)
		h.turn("0Xa").Suspend()
		h.send(t.Context(), "6Za")
		h.turn("0Xa").Resume()
		time.Sleep(time.Minute)
		h.turn("0Xa").Leave()
		if got := [3]time.Duration{h.turn("0Xa").Waited(), h.turn("0Xa").Held(), h.MeanTurn()}; got != [3]time.Duration{61 * time.Minute, 2 * time.Minute, 2 * time.Minute} {
			t.Errorf("waited, held and a mean turn of %v; want 1h1m, 2m, 2m", got)
		}
		h.wantServed(6, 45*time.Second, "2Ya 6Za 3Ya 4Ya 1Xa 5Ya") // Z starts at 30 s, and X has had 2 minutes
	})
	for resumed, next := range map[bool]string{true: "1Xa in", false: "2Yb in"} {
		fairly(t, time.Hour, func(t *testing.T, h *hall) {
			h.send(t.Context(), "0Xa 1Xa 2Yb")
			h.wantNews("0Xa in")
			time.Sleep(time.Minute)
			h.turn("0Xa").Suspend()
			time.Sleep(time.Minute)
			if resumed {
				h.turn("0Xa").Resume()
			}
			h.leave("0Xa", next)
			if held, mean := h.turn("0Xa").Held(), h.MeanTurn(); held != time.Minute || (mean > 0) != resumed { // one that ends so tells nothing of others
				t.Errorf("resumed %t: held for %v, a mean turn of %v; want 1m, and that only of one that was resumed", resumed, held, mean)
			}
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

// A weight that changes counts from the next request on.
func TestWeights(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Xa 3Xa 4Ya 5Ya 6Ya 7Ya")
		h.wantServed(4, time.Second, "0Xa 4Ya 1Xa 5Ya")
		h.send(t.Context(), "8Y/2a 9Y/2a 10Y/2a")
		h.wantServed(9, time.Second, "2Xa 6Ya 7Ya 3Xa 8Y/2a 9Y/2a 10Y/2a")
	})
}

// What can wait does so also in order of arrival.
func TestBackgroundInOrderOfArrival(t *testing.T) {
	inHall(t, 10, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1X~a 2Ya 3Xa")
		h.wantServed(4, time.Second, "0Xa 2Ya 3Xa 1X~a")
	})
}

// What can wait does not wait for ever: of each client one goes every ten minutes.
func TestBackgroundIsServed(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1B~a 2B~a 3C~a 4C~a 5C~a")
		order := ""
		for n := range 30 {
			h.send(t.Context(), fmt.Sprint(6+n, "Xa"))
			order += request(h.serve(1, time.Minute)).Client
		}
		// When its time has come B is half a turn behind X, which others let go first.
		if want := strings.Repeat("X", 10) + "BC" + strings.Repeat("X", 10) + "BXC" + strings.Repeat("X", 5); order != want {
			t.Errorf("served were %s; want %s", order, want)
		}
	})
}

// Where the one leaves that was to go as any other, the next is to.
func TestBackgroundLosesInterest(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Y~a 2Y~a 3Y~a")
		time.Sleep(11 * time.Minute)
		h.send(t.Context(), "4Xa")
		h.wantLine("0Xa | 1Y~a* 2Y~a 3Y~a 4Xa")
		h.turn("1Y~a").Leave()
		h.wantLine("0Xa | 2Y~a* 3Y~a 4Xa")
		h.wantServed(4, time.Second, "0Xa 2Y~a 4Xa 3Y~a")
	})
}

// What had to let others go first has saved nothing up when more comes that cannot wait.
func TestBackgroundSavesNothing(t *testing.T) {
	fairly(t, 0, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Xa 3Xa 4Xa 5Y~a")
		h.serve(2, time.Minute)
		h.send(t.Context(), "6Ya 7Ya 8Ya")
		h.wantServed(4, time.Minute, "2Xa 6Ya 3Xa 7Ya")
	})
}

// Positions tell in which order those in line will go, if turns take as long as they did:
// whatever their weights, whoever can wait and waits too long, and whatever is loaded.
func TestPositions(t *testing.T) {
	for seed := range uint64(100) {
		random := rand.New(rand.NewPCG(seed, 3))
		affinity := []time.Duration{0, time.Minute, -1}[random.IntN(3)]
		inHall(t, 1000, affinity, func(t *testing.T, h *hall) {
			h.Fair = seed%5 > 0
			h.send(t.Context(), "0Xa 1Xa")
			h.serve(1, 10*time.Second)
			h.turn("0Xa").Loaded(time.Duration(random.IntN(10)) * time.Second)
			for n := range 1 + random.IntN(150) {
				who := random.IntN(5)
				h.send(t.Context(), fmt.Sprintf("%d%c/%d%s%c", n+2, 'A'+rune(who), 1+who, map[bool]string{true: "~"}[random.IntN(3) == 0], "abc"[random.IntN(3)]))
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
			if holder != nil {
				time.Sleep(10*time.Second - time.Since(holder.Since))
				h.turn(holder.ID).Leave()
			}
			if h.wantServed(300, 10*time.Second, strings.Join(want, " ")); t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// Some look at the line while others come, go and have their turns: for go test -race.
func TestLookBesideTurns(t *testing.T) {
	g := gate.New(1000)
	g.Fair, g.Affinity = true, -1
	var turns []*gate.Turn
	for n := range 200 {
		turn, err := g.Join(gate.Request{Client: fmt.Sprint(n % 7), Kind: gate.Kind{Model: fmt.Sprint(n % 3)}, Weight: n % 5, Background: n%4 == 0})
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, turn)
	}
	over := make(chan struct{})
	var looking sync.WaitGroup
	for range 2 {
		looking.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					g.Line()
				}
			}
		})
	}
	for _, turn := range turns { // each ends itself, whoever's turn comes before
		looking.Go(func() {
			defer turn.Leave()
			if err := turn.Wait(t.Context()); err != nil {
				t.Error(err)
			}
			turn.Suspend()
			turn.Resume()
			turn.Loaded(time.Second)
		})
	}
	for waiting, busy := g.Len(); waiting > 0 || busy; waiting, busy = g.Len() {
		runtime.Gosched()
	}
	close(over)
	looking.Wait()
}

// BenchmarkHandOff is one hand-off of the turn, and one request that joins, while so many
// wait for so many clients, of two kinds; all alike, or of many weights and half of them
// such as can wait. BenchmarkLine is one look at those who wait.
func BenchmarkHandOff(b *testing.B) {
	benchmark(b, func(g *gate.Gate, join func()) {
		g.HasTurn().Leave()
		join()
	})
}

func BenchmarkLine(b *testing.B) {
	benchmark(b, func(g *gate.Gate, _ func()) { g.Line() })
}

func benchmark(b *testing.B, step func(g *gate.Gate, join func())) {
	for _, n := range []struct{ clients, line int }{{1, 1}, {10, 10}, {10, 512}, {1000, 1000}, {1000, 10_000}, {10_000, 10_000}} {
		for _, mixed := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d clients/%d in line/mixed=%v", n.clients, n.line, mixed), func(b *testing.B) {
				b.ReportAllocs()
				g := gate.New(n.line)
				g.Fair, g.Affinity = true, time.Millisecond
				joined := 0
				join := func() {
					who := joined % n.clients
					joined++
					r := gate.Request{Client: strconv.Itoa(who), Kind: gate.Kind{Model: strconv.Itoa(joined % 2)}}
					if mixed {
						r.Weight, r.Background = 1+who%5, joined%4 < 2
					}
					if _, err := g.Join(r); err != nil {
						b.Fatal(err)
					}
				}
				for range n.line + 1 {
					join()
				}
				for b.Loop() {
					step(g, join)
				}
			})
		}
	}
}
