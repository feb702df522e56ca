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
	fair     bool
	line     []string
	spent    map[string]time.Duration // by client
	began    time.Time                // of the turn
	overtake map[string]time.Time     // when somebody was first overtaken
	closed   bool
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
		r.join(name)
		r.line = []string{name}
		r.leave("")
	case len(r.line) >= r.limit:
		r.tell(name, "the line is full")
	default:
		r.join(name)
		r.line = append(r.line, name)
	}
}

// client is whose account a caller is charged to.
func (r *reference) client(name string) string {
	if !r.fair {
		return ""
	}
	return request(name).Client
}

// account returns what a client has had.
func (r *reference) account(client string) time.Duration {
	if r.holder != "" && r.client(r.holder) == client {
		return r.spent[client] + time.Since(r.began)
	}
	return r.spent[client]
}

// join has a client that is not here yet start at the smallest account.
func (r *reference) join(name string) {
	here := map[string]bool{}
	for _, other := range append(r.line, r.holder) {
		if other != "" {
			here[r.client(other)] = true
		}
	}
	if len(here) == 0 {
		r.spent = map[string]time.Duration{}
	} else if client := r.client(name); !here[client] {
		var all []time.Duration
		for other := range here {
			all = append(all, r.account(other))
		}
		r.spent[client] = max(r.spent[client], slices.Min(all))
	}
}

// first returns the place in line of who goes first by share, of all or of those of a kind.
func (r *reference) first(kind string) int {
	first := -1
	for i, name := range r.line {
		if kind != "" && request(name).Kind.Model != kind {
			continue
		}
		if first < 0 || r.account(r.client(name)) < r.account(r.client(r.line[first])) {
			first = i
		}
	}
	return first
}

// next returns the place in line of whose turn is next.
func (r *reference) next() int {
	first := r.first("")
	since, overtaken := r.overtake[r.line[first]]
	if r.affinity == 0 || overtaken && time.Since(since) >= r.affinity {
		return first
	}
	if same := r.first(r.kind); same >= 0 {
		return same
	}
	return first
}

func (r *reference) leave(name string) {
	if name != r.holder {
		return
	}
	if r.holder != "" {
		r.spent[r.client(r.holder)] += time.Since(r.began)
	}
	r.holder = ""
	if len(r.line) > 0 {
		i := r.next()
		if first := r.line[r.first("")]; r.line[i] != first && r.overtake[first].IsZero() {
			r.overtake[first] = time.Now()
		}
		r.holder, r.began = r.line[i], time.Now()
		r.line = slices.Delete(r.line, i, i+1)
		r.tell(r.holder, "in")
		r.kind = request(r.holder).Kind.Model
	}
}

// drop takes some from the line.
func (r *reference) drop(why error, names ...string) {
	for _, name := range names {
		if i := slices.Index(r.line, name); i >= 0 {
			r.line = slices.Delete(r.line, i, i+1)
			r.tell(name, why.Error())
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
			h.Fair = random.IntN(3) > 0
			againstReference(t, h, random, &reference{
				limit: limit, affinity: affinity, fair: h.Fair, spent: map[string]time.Duration{}, overtake: map[string]time.Time{},
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
			name = fmt.Sprint(i) + "XYZ"[random.IntN(3):][:1] + "abc"[random.IntN(3):][:1]
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
			turn, err := h.Join(gate.Request{})
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
