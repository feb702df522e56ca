package warm

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Two minutes of a target that goes away and comes back, with the inventory.
func TestTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", nil)
		sleep(40 * second) // restarted: gone for 18 s, and nothing is resident then
		b.set(func() { b.down = errRefused })
		sleep(38 * second)
		b.set(func() { b.down, b.resident = nil, nil })
		sleep(10 * second) // evicted
		b.set(func() { b.resident = []string{"chat:latest"} })
		sleep(32 * second)

		var want []time.Duration
		for _, s := range []time.Duration{0, 30, 60, 65, 70, 75, 80, 110} {
			want = append(want, s*second)
		}
		b.set(func() {
			if !slices.Equal(b.polls, want) {
				t.Errorf("got polls at %v; want %v", b.polls, want)
			}
			if want := []string{"chat:latest", "embed:latest"}; !slices.Equal(b.resident, want) {
				t.Errorf("got %v resident; want %v", b.resident, want)
			}
		})
		b.wantWarms(t, "0s embed", "1m20s embed", "1m50s embed")
		b.wantLog(t, warmed, warmed, warmed)
	})
}
