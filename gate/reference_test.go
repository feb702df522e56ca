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
// of goroutines, and look at everybody each time. Callers are names as in a hall.
type reference struct {
	limit    int
	affinity time.Duration
	fair     bool
	closed   bool
	holder   string   // "": nobody
	line     []string // in order of arrival
	kind     string   // of who had the turn last
	news     []string

	now       time.Time // until when time has been shared out
	virtual   float64   // what each of those here has been due, in nanoseconds
	account   map[string]float64
	overtaken time.Time // when the first was overtaken by that kind; zero: nobody was

	// The bound; see claim.
	t       *testing.T
	events  int
	came    map[string]int    // at which event a client came that is here
	claims  map[string]*claim // of clients in line
	began   time.Time         // of the turn
	longest time.Duration     // turn so far
	changes int               // of the kind, so far
}

// A claim is a client in line that is not ahead any more: those here have got as much
// each, on average, as it was ahead. From now on nobody goes before it who comes later,
// and of those here each until it is ahead itself. Where others overtake it by affinity,
// that takes Affinity and one turn at most each time that the kind changes.
type claim struct {
	event   int
	at      time.Time
	behind  float64 // how far those here are behind it, in all
	others  int     // clients here
	changes int     // of the kind by then
}

func (r *reference) tell(name, what string) { r.news = append(r.news, name+" "+what) }

// lastNews returns what happened since it was last called.
func (r *reference) lastNews() string {
	news := strings.Join(r.news, ",")
	r.news = nil
	return news
}

func client(name string) string { return request(name).Client }
func kind(name string) string   { return request(name).Kind.Model }

// here returns the clients that have somebody in line or with the turn.
func (r *reference) here() map[string]bool {
	here := map[string]bool{}
	for _, name := range append([]string{r.holder}, r.line...) {
		if name != "" {
			here[client(name)] = true
		}
	}
	return here
}

// share shares out the time since it was last called.
func (r *reference) share() {
	took := float64(time.Since(r.now))
	r.now = time.Now()
	r.events++
	if r.holder == "" || !r.fair {
		return
	}
	here := r.here()
	r.virtual += took / float64(len(here))
	r.account[client(r.holder)] += took

	for _, name := range r.line {
		who := client(name)
		if r.claims[who] != nil || who == client(r.holder) || r.account[who] > r.virtual {
			continue
		}
		c := &claim{event: r.events, at: r.now, changes: r.changes}
		for other := range here {
			if other != who {
				c.others++
				c.behind += max(0, r.account[who]-r.account[other])
			}
		}
		r.claims[who] = c
	}
}

// check holds a turn that somebody is about to get against the claims of all others.
func (r *reference) check(next string) {
	for who, c := range r.claims {
		if who != client(next) {
			if r.affinity == 0 && r.came[client(next)] >= c.event {
				r.t.Errorf("%s goes before %s, which is not ahead any more, and came later", next, who)
			}
			continue
		}
		most := time.Duration(c.behind) + time.Duration(c.others+1)*r.longest
		if r.affinity > 0 {
			most += time.Duration(r.changes-c.changes+1) * (r.affinity + r.longest)
		}
		if waited := time.Since(c.at); waited > most {
			r.t.Errorf("%s waited for %v when it was not ahead any more; want %v at most", next, waited, most)
		}
		delete(r.claims, who)
	}
	// Nobody in line is further behind than in the game of cups (the fullest of n is
	// emptied, while as much water goes into all): the longest turn times 1/2 + … + 1/n.
	most := float64(r.longest)
	for n := range r.limit {
		most += float64(r.longest) / float64(n+2)
	}
	for _, name := range r.line {
		if behind := r.virtual - r.account[client(name)]; r.affinity == 0 && behind > most {
			r.t.Errorf("%s is %v behind; want %v at most", name, time.Duration(behind), time.Duration(most))
		}
	}
}

func (r *reference) enter(name string) {
	r.share()
	if r.closed {
		r.tell(name, "the gate is closed")
		return
	}
	if r.holder != "" && len(r.line) >= r.limit {
		victim := r.crowding(client(name))
		if victim == "" {
			r.tell(name, "the line is full")
			return
		}
		r.drop(gate.ErrFull, victim)
	}
	if who := client(name); !r.here()[who] {
		r.came[who] = r.events
		r.account[who] = max(r.account[who], r.virtual)
	}
	r.line = append(r.line, name)
	if r.holder == "" {
		r.pass()
	}
}

// crowding returns the last in line of the client that has most there, if that is more
// than another would have with one more.
func (r *reference) crowding(newcomer string) (victim string) {
	inLine := map[string]int{newcomer: 1}
	for _, name := range r.line {
		inLine[client(name)]++
	}
	most := inLine[newcomer]
	for _, n := range inLine {
		most = max(most, n)
	}
	if most > inLine[newcomer] {
		for _, name := range r.line {
			if inLine[client(name)] == most {
				victim = name
			}
		}
	}
	return victim
}

// first returns the place in line of who goes first by share, of all or of those of a
// kind; -1: there is none.
func (r *reference) first(of string) int {
	first := -1
	for i, name := range r.line {
		if of != "" && kind(name) != of {
			continue
		}
		if first < 0 || r.account[client(name)] < r.account[client(r.line[first])] {
			first = i
		}
	}
	return first
}

// next returns the place in line of whose turn is next.
func (r *reference) next() int {
	same := r.first(r.kind)
	if same < 0 || r.affinity == 0 || !r.overtaken.IsZero() && time.Since(r.overtaken) >= r.affinity {
		return r.first("")
	}
	return same
}

// pass gives the turn to the next in line.
func (r *reference) pass() {
	i, first := r.next(), r.first("")
	if i < 0 {
		return
	}
	name := r.line[i]
	r.check(name)
	switch {
	case kind(name) != r.kind:
		r.overtaken, r.kind = time.Time{}, kind(name)
		r.changes++
	case i != first && r.overtaken.IsZero():
		r.overtaken = time.Now()
	}
	r.line = slices.Delete(r.line, i, i+1)
	r.holder, r.began = name, time.Now()
	r.tell(name, "in")
	r.departed(client(name))
}

func (r *reference) leave(name string) {
	if name != r.holder {
		return
	}
	r.share()
	r.longest = max(r.longest, time.Since(r.began))
	r.holder = ""
	r.departed(client(name))
	r.pass()
}

// drop takes some from the line.
func (r *reference) drop(why error, names ...string) {
	for _, name := range names {
		if i := slices.Index(r.line, name); i >= 0 {
			r.share()
			r.line = slices.Delete(r.line, i, i+1)
			r.tell(name, why.Error())
			r.departed(client(name))
		}
	}
}

// departed looks at what is left when somebody has gone from the line or the turn.
func (r *reference) departed(who string) {
	if !slices.ContainsFunc(r.line, func(name string) bool { return client(name) == who }) {
		delete(r.claims, who)
	}
	if len(r.here()) == 0 {
		clear(r.account)
	}
	if !slices.ContainsFunc(r.line, func(name string) bool { return kind(name) != r.kind }) {
		r.overtaken = time.Time{}
	}
}

// String shows the line as wantLine does.
func (r *reference) String() string {
	r.share()
	next := r.next()
	all := []string{r.holder, "|"}
	if r.holder == "" {
		all[0] = "nobody"
	}
	for i, name := range r.line {
		all = append(all, name+map[bool]string{true: "*"}[i == next])
	}
	return strings.Join(all, " ")
}

// A few clients, or ten thousand of whom nearly each is new; a short line, or one that
// hundreds stand in; of one kind, or of three.
func TestAgainstReference(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		limit, events := random.IntN(8), 80
		if seed%40 == 0 {
			limit, events = 200, 1000
		}
		affinity := time.Duration(random.IntN(2)*random.IntN(10)) * time.Second
		inHall(t, limit, affinity, func(t *testing.T, h *hall) {
			h.Fair = random.IntN(4) > 0
			againstReference(t, h, random, events, &reference{
				t: t, limit: limit, affinity: affinity, fair: h.Fair,
				now: time.Now(), account: map[string]float64{}, came: map[string]int{}, claims: map[string]*claim{},
			})
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func againstReference(t *testing.T, h *hall, random *rand.Rand, events int, want *reference) {
	clients := []int{3, 10, 10_000}[random.IntN(3)]
	kinds := "abc"[:1+2*random.IntN(2)]
	var names []string
	cancels := make(map[string]context.CancelCauseFunc)
	for i := 0; i < events && !t.Failed(); i++ {
		time.Sleep(time.Duration(random.IntN(3)) * time.Second)
		name, n := "", random.IntN(1000)
		if len(names) > 0 {
			name = names[random.IntN(len(names))]
		}
		switch {
		case n < 500 || name == "":
			name = fmt.Sprintf("%d%s%c", i, client(nobody(random.IntN(clients))+"a"), kinds[random.IntN(len(kinds))])
			t.Log(name, "enters")
			ctx, cancel := context.WithCancelCause(t.Context())
			names, cancels[name] = append(names, name), cancel
			want.enter(name)
			h.arrive(ctx, name, want.lastNews())
		case n < 650: // in line, perhaps
			t.Log(name, "loses interest")
			want.drop(errLeft, name)
			cancels[name](errLeft)
		case n == 999:
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
		h.Fair = true
		inside, turns := 0, 0 // guarded by the turn
		var all sync.WaitGroup
		visit := func(client string, loses bool) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if loses {
				go cancel(errLeft)
			}
			turn, err := h.Join(gate.Request{Client: client})
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
					visit(fmt.Sprint(random.IntN(3)), random.IntN(2) == 0)
				}
			})
		}
		all.Wait()
		h.wantLine("nobody |")
		t.Logf("%d turns in %d calls", turns, callers*rounds)
	})
}
