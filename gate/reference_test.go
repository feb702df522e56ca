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
	affinity time.Duration // negative: it follows the loads
	fair     bool
	closed   bool
	holder   string   // "": nobody
	line     []string // in order of arrival
	kind     string   // of who had the turn last
	changed  bool     // that was another than the one before
	news     []string

	now       time.Time // until when time has been shared out
	virtual   float64   // what a client of weight 1 has been due that was always here, in nanoseconds
	account   map[string]float64
	weight    map[string]int
	promoted  map[string]bool      // who could wait, and has waited long enough
	asked     map[string]time.Time // since when a client's background waits, or when it had the turn last
	overtaken time.Time            // when the first was overtaken by that kind; zero: nobody was
	loads     map[string]time.Duration

	// The bounds; see claim.
	t       *testing.T
	events  int
	came    map[string]int       // at which event a client came that has something here that cannot wait
	claims  map[string]*claim    // of clients that have something in line that cannot wait
	rested  map[string]time.Time // when a client's background had the turn last
	began   time.Time            // of the turn
	longest time.Duration        // turn so far
	changes int                  // of the kind, so far
}

// A claim is a client in line that is not ahead any more: those here have got as much
// each, by weight and on average, as it was ahead. From now on nobody goes before it who
// comes later, and of those here each until it is ahead itself. Where others overtake it by
// affinity, that takes Affinity and one turn at most each time that the kind changes.
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

// all returns who has the turn and who waits.
func (r *reference) all() []string {
	if r.holder == "" {
		return r.line
	}
	return append([]string{r.holder}, r.line...)
}

// has reports whether a client has somebody among names of whom is says yes.
func has(names []string, who string, is func(name string) bool) bool {
	return slices.ContainsFunc(names, func(name string) bool { return client(name) == who && is(name) })
}

// waits reports whether somebody goes after all who press.
func (r *reference) waits(name string) bool      { return request(name).Background && !r.promoted[name] }
func (r *reference) presses(name string) bool    { return !r.waits(name) }
func (r *reference) isPromoted(name string) bool { return r.promoted[name] }
func isBackground(name string) bool              { return request(name).Background }

// weights returns the sum of the weights of those who share the time, and who they are.
func (r *reference) sharing() (weights int, sharing map[string]bool) {
	sharing = map[string]bool{}
	all := !slices.ContainsFunc(r.all(), r.presses)
	for _, name := range r.all() {
		if who := client(name); !sharing[who] && (all || name == r.holder || r.presses(name)) {
			sharing[who] = true
			weights += r.weight[who]
		}
	}
	return weights, sharing
}

// move shares out the time until now.
func (r *reference) move(now time.Time) {
	took := float64(now.Sub(r.now))
	r.now = now
	if r.holder != "" && r.fair {
		weights, _ := r.sharing()
		r.virtual += took / float64(weights)
		r.account[client(r.holder)] += took / float64(r.weight[client(r.holder)])
	}
}

// share shares out the time since it was last called.
func (r *reference) share() {
	for {
		due, impatient := time.Now(), ""
		for _, name := range r.line {
			who := client(name)
			at := r.asked[who].Add(10 * time.Minute)
			if r.waits(name) && !has(r.all(), who, r.isPromoted) && (r.holder == "" || client(r.holder) != who || !isBackground(r.holder)) &&
				(at.Before(due) || impatient == "" && !at.After(due)) {
				due, impatient = at, name
			}
		}
		if due.After(r.now) {
			r.move(due)
		}
		if impatient == "" {
			break
		}
		r.press(client(impatient))
		r.promoted[impatient] = true
	}
	r.events++
	if r.holder == "" || !r.fair {
		return
	}
	_, sharing := r.sharing()
	for _, name := range r.line {
		who := client(name)
		if r.waits(name) || r.claims[who] != nil || who == client(r.holder) || r.account[who] > r.virtual {
			continue
		}
		c := &claim{event: r.events, at: r.now, changes: r.changes}
		for other := range sharing {
			if other != who {
				c.others++
				c.behind += max(0, r.account[who]-r.account[other]) * float64(r.weight[other])
			}
		}
		r.claims[who] = c
	}
}

// press has a client start as one that comes anew if it has nobody yet who presses.
func (r *reference) press(who string) {
	if !has(r.all(), who, r.presses) {
		r.came[who] = r.events
		r.account[who] = max(r.account[who], r.virtual)
	}
}

// mostAffinity is what auto comes to at most.
const mostAffinity = 2 * time.Minute

// check holds a turn that somebody is about to get against the claims of all others.
func (r *reference) check(next string) {
	if who := client(next); isBackground(next) {
		if r.waits(next) && slices.ContainsFunc(r.line, r.presses) {
			r.t.Errorf("%s goes before one that cannot wait", next)
		}
		if rested, ok := r.rested[who]; ok && r.promoted[next] && time.Since(rested) < 10*time.Minute {
			r.t.Errorf("%s goes %v after the last background of its client; want 10m at least", next, time.Since(rested))
		}
	}
	affinity := r.affinity
	if affinity < 0 {
		affinity = mostAffinity
	}
	for who, c := range r.claims {
		if who != client(next) {
			if affinity == 0 && r.came[client(next)] >= c.event {
				r.t.Errorf("%s goes before %s, which is not ahead any more, and came later", next, who)
			}
			continue
		}
		if r.waits(next) {
			continue
		}
		most := time.Duration(c.behind) + time.Duration(c.others+1)*r.longest
		if affinity > 0 {
			most += time.Duration(r.changes-c.changes+1) * (affinity + r.longest)
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
		if behind := r.virtual - r.account[client(name)]; affinity == 0 && r.presses(name) && behind > most {
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
		victim := r.crowding(name)
		if victim == "" {
			r.tell(name, "the line is full")
			return
		}
		r.drop(gate.ErrFull, victim)
	}
	who := client(name)
	if r.waits(name) {
		if !has(r.all(), who, func(string) bool { return true }) {
			r.account[who] = max(r.account[who], r.virtual)
		}
		if !has(r.line, who, r.waits) && !has(r.all(), who, r.isPromoted) {
			r.asked[who] = r.now
		}
	} else {
		r.press(who)
	}
	r.weight[who] = max(request(name).Weight, 1)
	r.line = append(r.line, name)
	if r.holder == "" {
		r.pass()
	}
}

// crowding returns the last of those who can wait, and else of those who cannot, of the
// client that has most of them in line, if that is more than another of the newcomer's
// kind would have with one more.
func (r *reference) crowding(newcomer string) (victim string) {
	for _, of := range []func(string) bool{r.waits, r.presses} {
		inLine, most := map[string]int{}, 0
		if of(newcomer) {
			inLine[client(newcomer)]++
		}
		for _, name := range r.line {
			if of(name) {
				inLine[client(name)]++
				most = max(most, inLine[client(name)])
			}
		}
		for _, name := range r.line {
			if of(name) && inLine[client(name)] == most && (!of(newcomer) || most > inLine[client(newcomer)]) {
				victim = name
			}
		}
		if victim != "" || of(newcomer) {
			return victim
		}
	}
	return ""
}

// first returns the place in line of who goes first by share, of all or of those of a
// kind; -1: there is none. Who can wait is not looked at while anybody presses.
func (r *reference) first(of string) int {
	first, pressing := -1, slices.ContainsFunc(r.line, r.presses)
	for i, name := range r.line {
		if of != "" && kind(name) != of || pressing && r.waits(name) {
			continue
		}
		if first < 0 || r.account[client(name)] < r.account[client(r.line[first])] {
			first = i
		}
	}
	return first
}

// affinityNow returns how long who goes first may be overtaken.
func (r *reference) affinityNow() time.Duration {
	first, same := r.first(""), r.first(r.kind)
	if !r.fair || first < 0 || same < 0 {
		return r.worth()
	}
	over, under := r.weight[client(r.line[same])], r.weight[client(r.line[first])]
	if over >= under {
		return r.worth()
	}
	return r.worth() / time.Duration(under) * time.Duration(over)
}

// worth returns how long others of the same weight may be overtaken.
func (r *reference) worth() time.Duration {
	if r.affinity >= 0 {
		return r.affinity
	}
	var longest time.Duration
	pressing := slices.ContainsFunc(r.line, r.presses)
	for _, name := range r.line {
		if r.presses(name) == pressing {
			longest = max(longest, r.loads[kind(name)])
		}
	}
	if longest == 0 {
		return 30 * time.Second
	}
	return min(max(3*longest, 20*time.Second), mostAffinity)
}

// next returns the place in line of whose turn is next.
func (r *reference) next() int {
	same := r.first(r.kind)
	if same < 0 || r.affinityNow() == 0 || !r.overtaken.IsZero() && time.Since(r.overtaken) >= r.affinityNow() {
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
	r.changed = kind(name) != r.kind
	switch {
	case r.changed:
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

// leave ends a turn, of which the target says how long the load took.
func (r *reference) leave(name string, load time.Duration) {
	if name != r.holder {
		return
	}
	r.share()
	if r.changed && load >= time.Second/10 {
		r.loads[kind(name)] = load
	}
	r.longest = max(r.longest, time.Since(r.began))
	if isBackground(name) {
		r.asked[client(name)], r.rested[client(name)] = r.now, r.now
	}
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
	if !has(r.line, who, r.presses) {
		delete(r.claims, who)
	}
	if len(r.all()) == 0 {
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
// hundreds stand in; of one kind, or of three; with seconds between the events, or minutes;
// all alike, or of weights of their own and with some that can wait.
func TestAgainstReference(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		limit, events := random.IntN(8), 80
		if seed%40 == 0 {
			limit, events = 200, 1000
		}
		affinity := time.Duration(random.IntN(2)*random.IntN(10)-1+int(seed%2)) * time.Second
		inHall(t, limit, affinity, func(t *testing.T, h *hall) {
			h.Fair = random.IntN(4) > 0
			againstReference(t, h, random, events, &reference{
				t: t, limit: limit, affinity: affinity, fair: h.Fair, now: time.Now(),
				account: map[string]float64{}, weight: map[string]int{}, promoted: map[string]bool{}, asked: map[string]time.Time{},
				loads: map[string]time.Duration{}, came: map[string]int{}, claims: map[string]*claim{}, rested: map[string]time.Time{},
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
	unit := []time.Duration{time.Second, time.Minute}[random.IntN(2)]
	alike := random.IntN(3) == 0
	var names []string
	cancels := make(map[string]context.CancelCauseFunc)
	for i := 0; i < events && !t.Failed(); i++ {
		time.Sleep(time.Duration(random.IntN(3)) * unit)
		name, n := "", random.IntN(1000)
		if len(names) > 0 {
			name = names[random.IntN(len(names))]
		}
		switch {
		case n < 500 || name == "":
			who := random.IntN(clients)
			name = client(nobody(who) + "a")
			if !alike {
				name += fmt.Sprintf("/%d", 1+who%4) + map[bool]string{true: "~"}[random.IntN(3) == 0]
			}
			name = fmt.Sprintf("%d%s%c", i, name, kinds[random.IntN(len(kinds))])
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
				load := time.Duration(random.IntN(500)) * time.Duration(random.IntN(500)) * time.Millisecond
				t.Log(name, "leaves; its load took", load)
				if name == want.holder {
					h.turn(name).Loaded(load)
				}
				want.leave(name, load)
				h.turn(name).Leave()
			}
		}
		h.wantNews(want.lastNews())
		h.wantLine(want.String())
		if got, want := h.AffinityNow(), want.affinityNow(); got != want {
			t.Errorf("got an affinity of %v; want %v", got, want)
		}
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
