package gate_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// Others are overtaken until Affinity has passed since the first was.
func TestAffinity(t *testing.T) {
	inHall(t, 10, time.Minute, func(t *testing.T, h *hall) {
		h.arrive(t.Context(), "0a", "0a in")
		h.arrive(t.Context(), "1b 2c 3a 4a 5a", "")
		time.Sleep(time.Hour) // nobody has overtaken it yet
		h.wantLine("0a | 1b 2c 3a* 4a 5a")
		h.leave("0a", "3a in")
		time.Sleep(time.Minute - 1)
		h.wantLine("3a | 1b 2c 4a* 5a")
		h.leave("3a", "4a in")
		time.Sleep(time.Nanosecond)
		h.wantLine("4a | 1b* 2c 5a")
		h.leave("4a", "1b in")
		h.arrive(t.Context(), "6b", "")
		h.wantLine("1b | 2c 5a 6b*") // the kind has changed: nobody was overtaken yet
		h.leave("1b", "6b in")
		time.Sleep(time.Minute)
		h.arrive(t.Context(), "7b", "")
		h.wantLine("6b | 2c* 5a 7b")
		h.leave("6b", "2c in")
		h.leave("2c", "5a in") // no other c: the first in line is next
	})
}

// Affinity runs out whoever is overtaken: others of that kind leave and come, and each is
// the first to be overtaken by share. It begins anew when nobody waits who could be.
func TestAffinityHasOneClock(t *testing.T) {
	fairly(t, time.Minute, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 0"+nobody(0)+"b")
		for n := 1; n <= 7; n++ { // the end of the first turn is when somebody was overtaken first
			h.send(t.Context(), fmt.Sprintf("%dXa 0%sb", n, nobody(n)))
			h.turn("0" + nobody(n-1) + "b").Leave()
			h.wantServed(1, 10*time.Second, fmt.Sprint(n-1, "Xa"))
		}
		h.wantLine("0" + nobody(7) + "b | 7Xa*")
	})
	fairly(t, time.Minute, func(t *testing.T, h *hall) {
		h.send(t.Context(), "0Xa 1Xa 2Xa 3Xa 4Xa 5Yb")
		h.serve(1, 50*time.Second)
		time.Sleep(50 * time.Second)
		h.turn("5Yb").Leave()
		h.send(t.Context(), "6Zb")
		h.wantServed(2, 50*time.Second, "1Xa 2Xa")
		h.wantServed(3, 50*time.Second, "3Xa 6Zb 4Xa")
	})
}

// Who weighs more may be overtaken for as much shorter, but by its like for as long as any.
func TestAffinityByWeight(t *testing.T) {
	for _, tt := range []struct {
		names  string
		served string
		want   time.Duration
	}{
		{"0Xa 1Xa 2Xa 3Xa 4Xa 5Xa 6Yb", "1Xa 2Xa 3Xa 4Xa 6Yb 5Xa", time.Minute},
		{"0Xa 1Xa 2Xa 3Xa 4Xa 5Xa 6Y/3b", "1Xa 2Xa 6Y/3b 3Xa 4Xa 5Xa", 20 * time.Second},
		{"0X/3a 1X/3a 2X/3a 3X/3a 4X/3a 5X/3a 6Y/3b", "1X/3a 2X/3a 3X/3a 4X/3a 6Y/3b 5X/3a", time.Minute},
		{"0X/4a 1X/4a 2X/4a 3X/4a 4X/4a 5X/4a 6Y/2b", "1X/4a 2X/4a 3X/4a 4X/4a 6Y/2b 5X/4a", time.Minute},
	} {
		fairly(t, time.Minute, func(t *testing.T, h *hall) {
			h.send(t.Context(), tt.names)
			h.serve(1, 15*time.Second)
			if got := h.AffinityNow(); got != tt.want {
				t.Errorf("%s: got %v; want %v", tt.names, got, tt.want)
			}
			h.wantServed(6, 15*time.Second, tt.served)
		})
	}
	inHall(t, 10, time.Minute, func(t *testing.T, h *hall) { // in order of arrival nobody weighs anything
		h.send(t.Context(), "0Xa 1Y/3b 2Xa 3Xa")
		h.wantServed(4, 25*time.Second, "0Xa 2Xa 3Xa 1Y/3b")
	})
}

// keepComing has a visitor come again and again until ctx ends, stay for so long
// each time, and pause then. It returns its longest wait.
func keepComing(ctx context.Context, g *gate.Gate, kind string, stay, pause time.Duration) (longest time.Duration) {
	for ctx.Err() == nil {
		arrived := time.Now()
		turn, err := g.Join(gate.Request{Kind: gate.Kind{Model: kind}})
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

// A visitor of another kind than an endless stream waits for those who came before it,
// and then for Affinity and one stay at most.
func TestEndlessStream(t *testing.T) {
	for _, stay := range []time.Duration{time.Second, 7 * time.Second, 30 * time.Second, 100 * time.Second} {
		for _, visitors := range []int{2, 3, 20} { // one alone would leave the gate free
			for _, affinity := range []time.Duration{0, 30 * time.Second} {
				inHall(t, 100, affinity, func(t *testing.T, h *hall) {
					ctx, cancel := context.WithTimeout(t.Context(), 10*(time.Duration(visitors)*stay+affinity))
					defer cancel()
					var all sync.WaitGroup
					defer all.Wait()
					for range visitors {
						all.Go(func() { keepComing(ctx, h.Gate, "a", stay, 0) })
					}
					synctest.Wait()
					got := keepComing(ctx, h.Gate, "b", stay, 10*stay/3)
					if most := time.Duration(visitors)*stay + affinity + stay; got < affinity || got > most {
						t.Errorf("%d of %v at %v: waited for %v; want %v to %v", visitors, stay, affinity, got, affinity, most)
					}
				})
			}
		}
	}
}
