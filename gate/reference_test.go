package gate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/gate"
)

// The reference: what a gate should be, in a handful of lines that know nothing
// of goroutines. Callers are names as in a hall.
type reference struct {
	limit    int
	affinity time.Duration
	holder   string // "": nobody
	kind     string
	since    time.Time
	arrived  map[string]time.Time
	line     []string
	closed   bool
	called   map[string]bool // those told that they are next
	news     []string
}

func (r *reference) tell(name, what string) { r.news = append(r.news, name+" "+what) }

// lastNews returns what happened since it was last called.
func (r *reference) lastNews() string {
	news := strings.Join(r.news, ",")
	r.news = nil
	return news
}

func (r *reference) enter(name string) {
	switch {
	case r.closed:
		r.tell(name, "the gate is closed")
	case r.holder == "":
		r.line = []string{name}
		r.leave("")
	case len(r.line) >= r.limit:
		r.tell(name, "the line is full")
	default:
		r.line, r.arrived[name] = append(r.line, name), time.Now()
		r.call()
	}
}

// next returns the place in line of whose turn is next.
func (r *reference) next() int {
	if time.Since(r.arrived[r.line[0]]) >= r.affinity && time.Since(r.since) >= r.affinity {
		return 0
	}
	return max(0, slices.IndexFunc(r.line, func(name string) bool { return request(name).Kind == r.kind }))
}

// call tells whoever is next that it is, if nobody in line has been told so.
func (r *reference) call() {
	if len(r.line) > 0 && !r.closed && !slices.ContainsFunc(r.line, func(name string) bool { return r.called[name] }) {
		r.tellNext(r.line[r.next()])
	}
}

func (r *reference) tellNext(name string) {
	r.called[name] = true
	r.tell(name, "next")
}

func (r *reference) leave(name string) {
	if name != r.holder {
		return
	}
	r.holder = ""
	if len(r.line) > 0 {
		i := r.next()
		r.holder = r.line[i]
		if !r.called[r.holder] {
			r.tellNext(r.holder)
		}
		r.line = slices.Delete(r.line, i, i+1)
		r.tell(r.holder, "in")
		if kind := request(r.holder).Kind; kind != r.kind {
			r.kind, r.since = kind, time.Now()
		}
		r.call()
	}
}

// drop takes some from the line.
func (r *reference) drop(why error, names ...string) {
	for _, name := range names {
		if i := slices.Index(r.line, name); i >= 0 {
			r.line = slices.Delete(r.line, i, i+1)
			r.tell(name, why.Error())
			r.call()
		}
	}
}

// String shows the line as wantLine does.
func (r *reference) String() string {
	s := map[bool]string{true: "nobody"}[r.holder == ""] + r.holder + " |"
	for i, name := range r.line {
		s += " " + name + map[bool]string{true: "*"}[i == r.next()]
	}
	return s
}

func TestAgainstReference(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		limit, affinity := random.IntN(6), time.Duration(random.IntN(2)*random.IntN(10))*time.Second
		inHall(t, limit, affinity, func(t *testing.T, h *hall) {
			againstReference(t, h, random, &reference{
				limit: limit, affinity: affinity, arrived: make(map[string]time.Time), called: make(map[string]bool),
			})
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func againstReference(t *testing.T, h *hall, random *rand.Rand, want *reference) {
	var names []string
	cancels := make(map[string]context.CancelCauseFunc)
	for i := 0; i < 80 && !t.Failed(); i++ {
		time.Sleep(time.Duration(random.IntN(3)) * time.Second)
		name, n := "", random.IntN(1000)
		if len(names) > 0 {
			name = names[random.IntN(len(names))]
		}
		switch {
		case n < 500 || name == "":
			name = fmt.Sprint(i) + "abc"[random.IntN(3):][:1]
			t.Log(name, "enters")
			ctx, cancel := context.WithCancelCause(t.Context())
			names, cancels[name] = append(names, name), cancel
			want.enter(name)
			h.arrive(ctx, name, want.lastNews())
		case n < 650: // in line, perhaps
			t.Log(name, "loses interest")
			want.drop(errLeft, name)
			cancels[name](errLeft)
		case n > 997:
			t.Log("Close")
			want.closed = true
			want.drop(gate.ErrClosed, slices.Clone(want.line)...)
			h.Close()
		default:
			if n > 750 || h.turn(name) == nil || slices.Contains(want.line, name) {
				name = want.holder // else one that left already, perhaps
			}
			if name != "" {
				t.Log(name, "leaves")
				want.leave(name)
				h.turn(name).Leave()
			}
		}
		h.wantNews(want.lastNews())
		h.wantLine(want.String())
	}
}

// Everything at once: callers come, leave and lose interest as it happens.
func TestOneAtATimeUnderFire(t *testing.T) {
	const callers, rounds = 16, 200
	inHall(t, callers/2, 0, func(t *testing.T, h *hall) {
		inside, turns := 0, 0 // guarded by the turn
		var all sync.WaitGroup
		visit := func(loses bool) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if loses {
				go cancel(errLeft)
			}
			turn, err := h.Enter(ctx, gate.Request{})
			if err == nil {
				defer turn.Leave()
				err = turn.Wait(ctx)
			}
			if err == nil {
				if inside++; inside != 1 {
					t.Errorf("%d have the turn at once; want 1", inside)
				}
				turns++
				inside--
			} else if err != errLeft && err != gate.ErrFull {
				t.Errorf("got %v; want a turn, %v or %v", err, errLeft, gate.ErrFull)
			}
		}
		for i := range uint64(callers) {
			random := rand.New(rand.NewPCG(i, 1))
			all.Go(func() {
				for range rounds {
					visit(random.IntN(2) == 0)
				}
			})
		}
		all.Wait()
		h.wantLine("nobody |")
		t.Logf("%d turns in %d calls", turns, callers*rounds)
	})
}
