package gate

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// A stay is a visitor and what became of it.
type stay struct {
	kind         string
	length       time.Duration
	arrived      time.Time
	began, ended time.Time // of its turn
	gaveUp       time.Time // without a turn
}

func (s *stay) Kind() string { return s.kind }

// left returns when a visitor left the line.
func (s *stay) left() time.Time {
	if s.began.IsZero() {
		return s.gaveUp
	}
	return s.began
}

// A house is a gate and all who came to it.
type house struct {
	*Gate
	visitors sync.WaitGroup

	mu     sync.Mutex // guards what follows
	stays  []*stay    // in the order of their turns
	gaveUp []*stay
}

// newHouse returns one with room for all.
func newHouse(affinity time.Duration) *house {
	h := &house{Gate: New(1 << 20)}
	h.Affinity = affinity
	return h
}

// visit waits for the turn, keeps it for as long as the stay is to be, and leaves.
func (h *house) visit(ctx context.Context, s *stay) {
	s.arrived = time.Now()
	leave, err := await(ctx, h.Gate, s)
	h.mu.Lock()
	if err != nil {
		s.gaveUp = time.Now()
		h.gaveUp = append(h.gaveUp, s)
		h.mu.Unlock()
		return
	}
	s.began = time.Now()
	h.stays = append(h.stays, s)
	h.mu.Unlock()
	time.Sleep(s.length)
	s.ended = time.Now()
	leave()
}

// runs returns the kinds in the order of their turns: a3 b1 is three of a and
// then one of b.
func (h *house) runs() string {
	var runs []string
	for i := 0; i < len(h.stays); {
		n := 1
		for i+n < len(h.stays) && h.stays[i+n].kind == h.stays[i].kind {
			n++
		}
		runs = append(runs, fmt.Sprint(h.stays[i].kind, n))
		i += n
	}
	return strings.Join(runs, " ")
}

// stream has so many visitors of a kind who come back as soon as they have left,
// until ctx ends. It returns when they stand in line.
func (h *house) stream(ctx context.Context, kind string, visitors int, length time.Duration) {
	for range visitors {
		h.visitors.Go(func() {
			for ctx.Err() == nil {
				h.visit(ctx, &stay{kind: kind, length: length})
			}
		})
	}
	synctest.Wait()
}
