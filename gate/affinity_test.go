package gate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// alternate has so many visitors arrive before the first leaves, of a and of b by
// turns.
func alternate(t *testing.T, affinity time.Duration, visitors int, length time.Duration) *house {
	h := newHouse(affinity)
	for i := range visitors {
		h.visitors.Go(func() { h.visit(t.Context(), &stay{kind: []string{"a", "b"}[i%2], length: length}) })
		synctest.Wait() // until it stands in line
	}
	h.visitors.Wait()
	return h
}

func TestAlternatingKinds(t *testing.T) {
	const strict = "a1 b1 a1 b1 a1 b1 a1 b1 a1 b1 a1 b1 a1 b1 a1 b1 a1 b1 a1 b1" // 19 swaps
	for _, tt := range []struct {
		affinity time.Duration
		visitors int
		length   time.Duration
		want     string
	}{
		{30 * time.Second, 20, time.Second, "a10 b10"},
		{30 * time.Second, 20, 3 * time.Second, "a10 b10"},
		{0, 20, time.Second, strict},
		{time.Second, 20, time.Second, strict},
		{1, 20, time.Second, strict},

		// Where lines are longer than a kind's time, kinds alternate by their time
		// and not by the visitor.
		{30 * time.Second, 80, 3 * time.Second, "a10 b10 a10 b10 a10 b10 a10 b10"},
		{29 * time.Second, 80, 3 * time.Second, "a10 b10 a10 b10 a10 b10 a10 b10"},
		{31 * time.Second, 80, 3 * time.Second, "a11 b11 a11 b11 a11 b11 a7 b7"},
		{30 * time.Second, 40, 7 * time.Second, "a5 b5 a5 b5 a5 b5 a5 b5"},
		{30 * time.Second, 8, time.Minute, "a1 b1 a1 b1 a1 b1 a1 b1"},
	} {
		t.Run(fmt.Sprint(tt.visitors, " of ", tt.length, " at ", tt.affinity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := alternate(t, tt.affinity, tt.visitors, tt.length).runs(); got != tt.want {
					t.Errorf("got %v; want %v", got, tt.want)
				}
			})
		})
	}
}

// A visitor of another kind than an endless stream is let in one stay after
// Affinity at the latest. Only if those who came before it take longer than that,
// it waits for them, as it would without Affinity.
func TestEndlessStream(t *testing.T) {
	for _, length := range []time.Duration{time.Second, 7 * time.Second, 29 * time.Second, 30 * time.Second, 31 * time.Second, 100 * time.Second} {
		for _, visitors := range []int{2, 3, 10, 50} { // one alone would leave the gate free
			for _, affinity := range []time.Duration{0, 30 * time.Second} {
				t.Run(fmt.Sprint(visitors, " of ", length, " at ", affinity), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := newHouse(affinity)
						defer h.visitors.Wait()
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						h.stream(ctx, "a", visitors, length)
						for _, after := range []time.Duration{0, length / 3, 10*length + 1} {
							time.Sleep(after)
							synctest.Wait()
							// In line before it are at most all of the stream.
							most := max(time.Duration(visitors)*length, affinity+length)
							patience, cancel := context.WithTimeout(ctx, 2*most)
							defer cancel()
							other := &stay{kind: "b", length: length}
							h.visit(patience, other)
							if got := other.left().Sub(other.arrived); got > most {
								t.Errorf("waited for %v; want %v at most", got, most)
							} else if got < affinity {
								t.Errorf("waited for %v; want %v at least: the stream's time", got, affinity)
							}
						}
					})
				})
			}
		}
	}
}

// Three kinds, each of which would never end, have their time in turn.
func TestNobodyStarves(t *testing.T) {
	for _, length := range []time.Duration{time.Second, 4 * time.Second, 6 * time.Second} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(30 * time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
				defer cancel()
				for i, kind := range []string{"a", "b", "c"} {
					h.stream(ctx, kind, 2+i, length)
				}
				h.visitors.Wait() // who still waits in the end gives up
				longest := time.Duration(0)
				for _, s := range slices.Concat(h.stays, h.gaveUp) {
					longest = max(longest, s.left().Sub(s.arrived))
				}
				if most := 3 * (h.Affinity + length); longest > most {
					t.Errorf("the longest wait was %v; want %v at most", longest, most)
				}
				t.Logf("%d stays, the longest wait %v: %.60s …", len(h.stays), longest, h.runs())
			})
		})
	}
}

// Visitors of several kinds come at random, stay for long or short, and may lose
// patience.
func TestOrderAtRandom(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			seconds := func(n int) time.Duration { return time.Duration(random.Int64N(int64(n) * int64(time.Second))) }
			h := newHouse([]time.Duration{0, 5 * time.Second, 30 * time.Second}[seed%3])
			for range 200 {
				s := &stay{kind: string(rune('a' + random.IntN(4))), length: seconds(8)}
				when, patience := seconds(600), seconds(600)
				h.visitors.Go(func() {
					time.Sleep(when)
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					h.visit(ctx, s)
				})
			}
			h.visitors.Wait()
			wantLen(t, h.Gate, 0, false)
			wantOrder(t, h)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// wantOrder checks a house's rules against its history.
func wantOrder(t *testing.T, h *house) {
	t.Helper()
	var since time.Time // when the time of the kind began that has the gate
	for i, s := range h.stays {
		if i == 0 || s.kind != h.stays[i-1].kind {
			since = s.began
		}
		if i > 0 && s.began.Before(h.stays[i-1].ended) {
			t.Errorf("%v began before %v had ended", s, h.stays[i-1])
		}
		for _, other := range slices.Concat(h.stays, h.gaveUp) {
			if !other.arrived.Before(s.arrived) || !other.left().After(s.began) {
				continue
			}
			// The other came earlier and is still in line: it is overtaken.
			switch waited, had := s.began.Sub(other.arrived), s.began.Sub(since); {
			case other.kind == s.kind:
				t.Errorf("%v was overtaken by one of its kind, %v", other, s)
			case since == s.began:
				t.Errorf("%v was overtaken by the first of another kind, %v", other, s)
			case waited >= h.Affinity && had >= h.Affinity:
				t.Errorf("%v was overtaken by %v after %v, in the %v of that kind's time; want less than %v",
					other, s, waited, had, h.Affinity)
			}
		}
	}
	if len(h.stays) == 0 || len(h.gaveUp) == 0 {
		t.Errorf("%d had a turn and %d gave up; want both", len(h.stays), len(h.gaveUp))
	}
}

// BenchmarkOthersInFront is one hand-off to a visitor of the kind that has the
// gate, past others in line. It holds the gate's lock all the time.
func BenchmarkOthersInFront(b *testing.B) {
	for _, others := range []int{0, 100, 512, 10_000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			b.ReportAllocs()
			g := New(others + 1)
			g.Affinity = 1000 * time.Hour
			same, other := &stay{kind: "llama3.2:latest"}, &stay{kind: "qwen3:8b"}
			turn, _ := g.join(same)
			for range others {
				g.join(other)
			}
			for b.Loop() {
				next, _ := g.join(same)
				turn.Leave()
				turn = next
			}
			if holder, waiting, _ := g.Line(); holder != same || len(waiting) != others {
				b.Errorf("got %v before %d others; want %v before %d", holder, len(waiting), same, others)
			}
		})
	}
}
