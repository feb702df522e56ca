package gate_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// One that was told that it is next is overtaken by one of the kind that has the
// turn. It does not hold that up, though it does not wait yet, and gets its turn
// later. Nobody else is told meanwhile.
func TestNextIsOvertaken(t *testing.T) {
	inHall(t, 10, time.Minute, func(t *testing.T, h *hall) {
		ctx, cancel := context.WithCancelCause(t.Context())
		h.arrive(t.Context(), "0a", "0a next,0a in")
		overtaken := h.enter("1b")
		h.arrive(t.Context(), "2b", "")
		h.arrive(ctx, "3a", "")
		h.arrive(t.Context(), "4a", "")
		h.wantLine("0a | 1b 2b 3a* 4a")
		cancel(errLeft)
		h.wantNews("3a the caller left")
		h.leave("0a", "4a next,4a in")
		h.wantLine("4a | 1b* 2b")
		h.leave("4a", "")
		h.wantLine("1b | 2b*")
		h.wantErrors(nil, overtaken.Wait(t.Context()))
		h.wantNews("2b next")
	})
}

// The first in line is overtaken until it has waited for Affinity and the other
// kind has had the gate for as long, counted from when that took over.
func TestAffinity(t *testing.T) {
	inHall(t, 10, time.Minute, func(t *testing.T, h *hall) {
		h.arrive(t.Context(), "0a", "0a next,0a in")
		time.Sleep(time.Hour) // nobody else was there
		h.arrive(t.Context(), "1b 2c 3a", "1b next")
		time.Sleep(time.Minute - 1)
		h.wantLine("0a | 1b 2c 3a*")
		time.Sleep(time.Nanosecond)
		h.wantLine("0a | 1b* 2c 3a")
		h.leave("0a", "1b in,2c next")
		time.Sleep(time.Minute / 2)
		h.arrive(t.Context(), "4b 5d 6b", "")
		h.leave("1b", "4b next,4b in") // 2c has waited for long, but b has just come
		time.Sleep(time.Minute/2 - 1)
		h.wantLine("4b | 2c 3a 5d 6b*")
		time.Sleep(time.Nanosecond)
		h.wantLine("4b | 2c* 3a 5d 6b")
		h.leave("4b", "2c in,3a next")
		h.leave("2c", "3a in,5d next") // no other c: the first in line is next
		h.arrive(t.Context(), "7b 8a", "")
		time.Sleep(time.Minute)
		h.leave("3a", "5d in,6b next")
		h.arrive(t.Context(), "9d", "")
		time.Sleep(time.Minute) // time alone calls nobody, and costs nobody the turn
		h.wantLine("5d | 6b* 7b 8a 9d")
		h.leave("5d", "6b in,7b next")
	})
}

// keepComing has a visitor come again and again until ctx ends, stay for so long
// each time, and pause then. It returns its longest wait.
func keepComing(ctx context.Context, g *gate.Gate, kind string, stay, pause time.Duration) (longest time.Duration) {
	for ctx.Err() == nil {
		arrived := time.Now()
		turn, err := g.Enter(ctx, gate.Request{Kind: kind})
		if err == nil {
			turn.Wait(ctx)
		}
		longest = max(longest, time.Since(arrived))
		if err == nil {
			time.Sleep(stay)
			turn.Leave()
		}
		time.Sleep(pause)
	}
	return longest
}

// A visitor of another kind than an endless stream is let in one stay after
// Affinity at the latest. Only if those who came before it take longer than that,
// it waits for them, as it would without Affinity.
func TestEndlessStream(t *testing.T) {
	for _, stay := range []time.Duration{time.Second, 7 * time.Second, 30 * time.Second, 100 * time.Second} {
		for _, visitors := range []int{2, 3, 10, 50} { // one alone would leave the gate free
			for _, affinity := range []time.Duration{0, 30 * time.Second} {
				inHall(t, 100, affinity, func(t *testing.T, h *hall) {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
					defer cancel()
					var all sync.WaitGroup
					defer all.Wait()
					for range visitors {
						all.Go(func() { keepComing(ctx, h.Gate, "a", stay, 0) })
					}
					synctest.Wait()
					got := keepComing(ctx, h.Gate, "b", stay, 10*stay/3)
					if most := max(time.Duration(visitors)*stay, affinity+stay); got < affinity || got > most {
						t.Errorf("%d of %v at %v: waited for %v; want %v to %v", visitors, stay, affinity, got, affinity, most)
					}
				})
			}
		}
	}
}

// Three kinds, each of which would never end, have their time in turn.
func TestNobodyStarves(t *testing.T) {
	for _, stay := range []time.Duration{time.Second, 4 * time.Second, 6 * time.Second} {
		inHall(t, 100, 30*time.Second, func(t *testing.T, h *hall) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
			defer cancel()
			var all sync.WaitGroup
			for _, kind := range "aabbbcccc" {
				all.Go(func() {
					if got, most := keepComing(ctx, h.Gate, string(kind), stay, 0), 3*(h.Affinity+stay); got > most {
						t.Errorf("stays of %v: %c waited for %v; want %v at most", stay, kind, got, most)
					}
				})
			}
			all.Wait()
		})
	}
}
