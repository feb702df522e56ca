package gate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Visitors whose kind does not matter.
type anyone struct{}

func (anyone) Kind() string { return "" }

var errLeft = errors.New("the caller left")

// await enters, waits until the turn has come, and returns the function that ends it.
func await(ctx context.Context, g *Gate, v Visitor) (leave func(), err error) {
	turn, err := g.Enter(ctx, v)
	if err != nil {
		return nil, err
	}
	came := make(chan error, 1)
	turn.Start(func(err error) { came <- err })
	select {
	case err = <-came:
	case <-ctx.Done():
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		turn.Leave()
		return nil, err
	}
	return turn.Leave, nil
}

// enter takes a turn that is free.
func enter(t testing.TB, g *Gate) (leave func()) {
	t.Helper()
	leave, err := await(t.Context(), g, anyone{})
	if err != nil {
		t.Fatalf("Enter: %v; want a turn", err)
	}
	return leave
}

// wantLen checks what Len tells.
func wantLen(t testing.TB, g *Gate, wantWaiting int, wantBusy bool) {
	t.Helper()
	if waiting, busy := g.Len(); waiting != wantWaiting || busy != wantBusy {
		t.Fatalf("Len: got %d, %t; want %d, %t", waiting, busy, wantWaiting, wantBusy)
	}
}

// Who is next is told so once, and nobody else is.
func TestNextIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		g.Affinity = time.Minute
		turns := make(map[caller]*Turn)
		ctx, cancel := context.WithCancel(t.Context())
		var called []caller
		arrive := func(ctx context.Context, c caller) {
			go func() {
				if turn, err := g.Enter(ctx, c); err == nil {
					called, turns[c] = append(called, c), turn
				}
			}()
			synctest.Wait() // until it stands in line
		}
		wantCalled := func(want ...caller) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(called, want) {
				t.Errorf("called %v; want %v", called, want)
			}
			called = nil
		}
		arrive(t.Context(), "0a")
		wantCalled("0a") // let in at once
		arrive(t.Context(), "1b")
		wantCalled("1b")
		arrive(t.Context(), "2b")
		wantCalled()
		arrive(ctx, "3a") // a newcomer of the holder's kind goes first
		wantCalled("3a")
		arrive(t.Context(), "4a")
		wantCalled()
		cancel() // it was told already
		turns["3a"].Leave()
		wantCalled("4a")
		turns["0a"].Leave() // 4a is in
		wantCalled()        // 1b was told already
		turns["4a"].Leave()
		wantCalled("2b")
		turns["1b"].Leave()
		wantCalled()
		turns["2b"].Leave()
		wantLen(t, g, 0, false)
	})
}

// Whoever leaves starts the next one, on its own goroutine and before it does
// anything else.
func TestLeaverStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		var story []string
		say := func(s string) func(error) {
			return func(err error) { story = append(story, fmt.Sprint(s, " ", err)) }
		}
		first, _ := g.Enter(t.Context(), caller("0"))
		first.Start(say("first"))
		second, _ := g.Enter(t.Context(), caller("1"))
		second.Start(say("second"))
		go func() {
			third, _ := g.Enter(t.Context(), caller("2"))
			story = append(story, "third is next")
			third.Start(say("third"))
		}()
		synctest.Wait()
		first.Leave()
		first.Leave()
		synctest.Wait()
		g.Close()
		second.Leave()
		want := []string{"first <nil>", "second <nil>", "third is next", "third gate: closed"}
		if !slices.Equal(story, want) {
			t.Errorf("got %q; want %q", story, want)
		}
		wantLen(t, g, 0, false)
	})
}

// A turn that has come, or will not come, before it is known what to do then.
func TestStartTooLate(t *testing.T) {
	g := New(10)
	leave := enter(t, g)
	turn, err := g.Enter(t.Context(), anyone{})
	if err != nil {
		t.Fatal(err)
	}
	other := New(10)
	enter(t, other)
	away, err := other.Enter(t.Context(), anyone{})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	other.Close()
	var got []error
	turn.Start(func(err error) { got = append(got, err) })
	away.Start(func(err error) { got = append(got, err) })
	turn.Leave()
	away.Leave()
	if want := []error{nil, ErrClosed}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	wantLen(t, g, 0, false)
}

func TestOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 100
		g := New(waiters)
		leave := enter(t, g)
		var order []int // guarded by the turn
		for i := range waiters {
			go func() {
				leave, err := await(t.Context(), g, anyone{})
				if err != nil {
					t.Errorf("waiter %d: %v; want a turn", i, err)
					return
				}
				order = append(order, i)
				leave()
			}()
			synctest.Wait() // until it stands in line
			wantLen(t, g, i+1, true)
		}
		leave()
		synctest.Wait()
		wantLen(t, g, 0, false)
		if len(order) != waiters || !slices.IsSorted(order) {
			t.Errorf("got turns in the order %v; want 0 to %d", order, waiters-1)
		}
	})
}

// Whoever leaves and comes back at once, on a running thread, must not be in
// before one who has to be woken first.
func TestNobodyOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1)
		for range 1000 {
			leave := enter(t, g)
			var order []string // guarded by the turn
			go func() {
				leave, err := await(t.Context(), g, anyone{})
				if err != nil {
					t.Errorf("waiter: %v; want a turn", err)
					return
				}
				order = append(order, "waiter")
				leave()
			}()
			synctest.Wait()
			leave()
			leave = enter(t, g)
			order = append(order, "newcomer")
			leave()
			if want := []string{"waiter", "newcomer"}; !slices.Equal(order, want) {
				t.Fatalf("got turns of %v; want %v", order, want)
			}
		}
	})
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(2)
		leave := enter(t, g)
		ctx, cancel := context.WithCancel(t.Context())
		wait := func(ctx context.Context) {
			if leave, err := await(ctx, g, anyone{}); err == nil {
				leave()
			}
		}
		go wait(ctx)
		go wait(t.Context())
		synctest.Wait()
		wantFull := func() {
			t.Helper()
			if got, err := await(t.Context(), g, anyone{}); got != nil || err != ErrFull {
				t.Fatalf("Enter: got %p, %v; want nil, %v", got, err, ErrFull)
			}
		}
		wantFull()
		wantLen(t, g, 2, true)

		cancel()
		synctest.Wait()
		wantLen(t, g, 1, true)
		go wait(t.Context())
		synctest.Wait()
		wantLen(t, g, 2, true) // there was room again
		wantFull()

		leave()
		synctest.Wait()
		wantLen(t, g, 0, false)
	})
}

func TestNobodyMayWait(t *testing.T) {
	g := New(0)
	leave := enter(t, g)
	if _, err := await(t.Context(), g, anyone{}); err != ErrFull {
		t.Errorf("Enter: got %v; want %v", err, ErrFull)
	}
	leave()
	enter(t, g)()
	wantLen(t, g, 0, false)
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		leave := enter(t, g)
		errs := make(chan error, 10)
		for range cap(errs) {
			go func() {
				_, err := await(t.Context(), g, anyone{})
				errs <- err
			}()
		}
		synctest.Wait()
		g.Close()
		for range cap(errs) {
			if err := <-errs; err != ErrClosed {
				t.Errorf("in line: got %v; want %v", err, ErrClosed)
			}
		}
		wantLen(t, g, 0, true) // the holder keeps its turn
		refused := func() {
			t.Helper()
			if _, err := await(t.Context(), g, anyone{}); err != ErrClosed {
				t.Errorf("Enter: got %v; want %v", err, ErrClosed)
			}
		}
		refused()
		leave()
		wantLen(t, g, 0, false)
		refused()
		g.Close() // again
		leave()
		wantLen(t, g, 0, false)
	})
}

func TestContextDone(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errLeft)
	free, held, closed := New(1), New(1), New(1)
	defer enter(t, held)()
	closed.Close()
	for name, g := range map[string]*Gate{"free": free, "held": held, "closed": closed} {
		before, busy := g.Len()
		if leave, err := await(ctx, g, anyone{}); leave != nil || err != errLeft {
			t.Errorf("%s: got %p, %v; want nil, %v", name, leave, err, errLeft)
		}
		wantLen(t, g, before, busy)
	}
}

func TestContextEndsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(3)
		leave := enter(t, g)
		got := make([]error, 3)
		var cancels []context.CancelCauseFunc
		for i := range got {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancels = append(cancels, cancel)
			go func() {
				leave, err := await(ctx, g, anyone{})
				if got[i] = err; err == nil {
					leave()
				}
			}()
			synctest.Wait()
		}
		cancels[1](errLeft)
		synctest.Wait()
		wantLen(t, g, 2, true)
		leave()
		synctest.Wait()
		wantLen(t, g, 0, false)
		if want := []error{nil, errLeft, nil}; !slices.Equal(got, want) {
			t.Errorf("got %v; want %v", got, want)
		}
		cancels[0](nil)
		cancels[2](nil)
	})
}

// A waiter, who is ready or in line behind one who is, has decided to leave, and
// then is given the turn before it could say so.
func TestTurnComesToOneWhoLeaves(t *testing.T) {
	for place := range 2 {
		synctest.Test(t, func(t *testing.T) {
			g := New(3)
			enter(t, g)
			ctx, cancel := context.WithCancelCause(t.Context())
			var left error
			before, after := false, false
			if place > 0 {
				go func() { _, err := await(t.Context(), g, anyone{}); before = err == nil }()
				synctest.Wait()
			}
			go func() { _, left = await(ctx, g, anyone{}) }()
			synctest.Wait()
			go func() { _, err := await(t.Context(), g, anyone{}); after = err == nil }()
			synctest.Wait()

			g.mu.Lock() // so that the waiter, awake, cannot leave yet
			cancel(errLeft)
			for range place {
				defer g.holder.leaveLocked()(nil)
			}
			start := g.holder.leaveLocked()
			g.mu.Unlock()
			if start != nil {
				start(nil)
			}
			synctest.Wait()
			if left != errLeft || before {
				t.Errorf("place %d: got %v; want %v, and nobody before it let in", place, left, errLeft)
			}
			if !after {
				t.Errorf("place %d: the turn was not passed on", place)
			}
			wantLen(t, g, 0, true)
		})
	}
}

// The same, but closed in between instead.
func TestCloseComesToOneWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(2)
		leave := enter(t, g)
		ctx, cancel := context.WithCancelCause(t.Context())
		var left error
		go func() { _, left = await(ctx, g, anyone{}) }()
		synctest.Wait()

		g.mu.Lock()
		cancel(errLeft)
		turn := g.line.Remove(g.line.Front()).(*Turn) // as Close does
		turn.state = out
		g.mu.Unlock()
		turn.start(ErrClosed)
		synctest.Wait()
		if left != errLeft {
			t.Errorf("got %v; want %v", left, errLeft)
		}
		wantLen(t, g, 0, true) // the holder's turn was not taken
		leave()
		wantLen(t, g, 0, false)
	})
}

// endsLater is a context that has ended when it is asked for the second time.
type endsLater struct {
	context.Context
	asked int
}

func (c *endsLater) Err() error {
	if c.asked++; c.asked == 1 {
		return nil
	}
	return errLeft
}

// The waiter is given the turn and has left, both before it wakes.
func TestTurnComesToOneWhoHasLeft(t *testing.T) {
	g := New(1)
	if leave, err := await(&endsLater{Context: t.Context()}, g, anyone{}); leave != nil || err == nil {
		t.Errorf("Enter: got %p, %v; want an error", leave, err)
	}
	wantLen(t, g, 0, false)
	enter(t, g)()
}

// A cancellation races with the turn, and the turn is never lost: whatever
// becomes of the one, the next in line gets it.
func TestCancellationRacesWithGrant(t *testing.T) {
	granted := 0
	for range 5000 {
		g := New(2)
		leave := enter(t, g)
		ctx, cancel := context.WithCancelCause(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			leave, err := await(ctx, g, anyone{})
			switch {
			case err == nil:
				granted++ // guarded by all.Wait
				leave()
			case err != errLeft:
				t.Errorf("got %v; want a turn or %v", err, errLeft)
			}
		})
		awaitLine(g, 1)
		all.Go(func() {
			leave, err := await(t.Context(), g, anyone{})
			if err != nil {
				t.Errorf("next in line: got %v; want a turn", err)
				return
			}
			leave()
		})
		awaitLine(g, 2)
		all.Go(func() { cancel(errLeft) })
		all.Go(leave)
		all.Wait()
		wantLen(t, g, 0, false)
	}
	t.Logf("%d of 5000 got the turn", granted)
}

// awaitLine returns when so many wait at least.
func awaitLine(g *Gate, n int) {
	for waiting, _ := g.Len(); waiting < n; waiting, _ = g.Len() {
		runtime.Gosched()
	}
}

// Everything at once: callers that come, leave and are turned away at random.
func TestOneAtATimeUnderFire(t *testing.T) {
	const callers, rounds = 32, 500
	g := New(callers / 2)
	var inside, turns atomic.Int32
	var all sync.WaitGroup
	for i := range callers {
		random := rand.New(rand.NewPCG(uint64(i), 1))
		all.Go(func() {
			for range rounds {
				ctx, cancel := context.WithCancelCause(context.Background())
				if random.IntN(2) == 0 {
					all.Go(func() { cancel(errLeft) })
				}
				leave, err := await(ctx, g, anyone{})
				switch err {
				case nil:
					if n := inside.Add(1); n != 1 {
						t.Errorf("%d hold the turn at once; want 1", n)
					}
					turns.Add(1)
					inside.Add(-1)
					if random.IntN(2) == 0 {
						all.Go(leave) // twice, and at once
					}
					leave()
				case errLeft, ErrFull:
				default:
					t.Errorf("got %v; want a turn, %v or %v", err, errLeft, ErrFull)
				}
				cancel(nil)
			}
		})
	}
	all.Wait()
	wantLen(t, g, 0, false)
	t.Logf("%d turns in %d calls", turns.Load(), callers*rounds)
	if turns.Load() == 0 {
		t.Error("nobody ever had a turn")
	}
}

func TestLeaveTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(2)
		leave := enter(t, g)
		second := make(chan func(), 2)
		for range cap(second) {
			go func() {
				leave, err := await(t.Context(), g, anyone{})
				if err != nil {
					t.Errorf("Enter: %v", err)
				}
				second <- leave
			}()
			synctest.Wait()
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(leave)
		}
		all.Wait()
		synctest.Wait()
		wantLen(t, g, 1, true) // one turn was passed on, not two
		leave()                // the turn is another's now
		synctest.Wait()
		wantLen(t, g, 1, true)
		(<-second)()
		(<-second)()
		wantLen(t, g, 0, false)
		leave()
		wantLen(t, g, 0, false)
	})
}

func TestPanicWhileHolding(t *testing.T) {
	g := New(1)
	func() {
		defer func() { recover() }()
		defer enter(t, g)()
		panic("in mid-stream")
	}()
	wantLen(t, g, 0, false)
	enter(t, g)()
}

// A caller is a visitor with a number, whose kind is the last letter.
type caller string

func (c caller) Kind() string { return string(c[len(c)-1:]) }

// enterInTurn lets callers enter one after the other and leave at once, and
// returns the order of their turns as it will have been when all have had it.
func enterInTurn(t *testing.T, g *Gate, callers ...caller) (order *[]caller) {
	t.Helper()
	order = new([]caller) // guarded by the turn
	for _, c := range callers {
		go func() {
			leave, err := await(t.Context(), g, c)
			if err != nil {
				t.Errorf("%s: %v; want a turn", c, err)
				return
			}
			*order = append(*order, c)
			leave()
		}()
		synctest.Wait() // until it stands in line
	}
	return order
}

func TestAffinity(t *testing.T) {
	for _, tt := range []struct {
		affinity, runs time.Duration // how long the holder, 0a, has had its turn when it leaves
		line, want     []caller
	}{
		{0, time.Second, []caller{"1b", "2a", "3b", "4a"}, []caller{"1b", "2a", "3b", "4a"}},
		{time.Minute, time.Second, []caller{"1b", "2a", "3b", "4a"}, []caller{"2a", "4a", "1b", "3b"}},
		{time.Minute, time.Second, []caller{"1b", "2c", "3b", "4c"}, []caller{"1b", "3b", "2c", "4c"}},
		{time.Minute, time.Second, []caller{"1a", "2b", "3a"}, []caller{"1a", "3a", "2b"}},
		{time.Minute, time.Minute - 1, []caller{"1b", "2a"}, []caller{"2a", "1b"}},
		{time.Minute, time.Minute, []caller{"1b", "2a", "3b"}, []caller{"1b", "3b", "2a"}},
		{time.Minute, time.Minute, []caller{"1a", "2b", "3a"}, []caller{"1a", "2b", "3a"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := New(10)
			g.Affinity = tt.affinity
			leave, err := await(t.Context(), g, caller("0a"))
			if err != nil {
				t.Fatal(err)
			}
			order := enterInTurn(t, g, tt.line...)
			time.Sleep(tt.runs)
			leave()
			synctest.Wait()
			if !slices.Equal(*order, tt.want) {
				t.Errorf("%v after %v, line %v: got turns %v; want %v", tt.affinity, tt.runs, tt.line, *order, tt.want)
			}
		})
	}
}

// A kind that has long been alone owes nothing to one that has just come; from
// then on it has its time, and no more than that.
func TestAffinityCountsFromTheArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(100)
		g.Affinity = time.Minute
		for i, want := range map[int][]caller{59: {"1b"}, 60: nil} {
			leave, err := await(t.Context(), g, caller("0a"))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			other := enterInTurn(t, g, "1b")
			for range i { // a stream of the holder's kind, a second each
				next := make(chan func())
				go func() {
					leave, err := await(t.Context(), g, caller("2a"))
					if err != nil {
						t.Error(err)
					}
					next <- leave
				}()
				synctest.Wait()
				time.Sleep(time.Second)
				leave()
				leave = <-next
			}
			waiting := []caller(nil)
			_, line, _ := g.Line()
			for _, v := range line {
				waiting = append(waiting, v.(caller))
			}
			if !slices.Equal(waiting, want) {
				t.Errorf("after %d s: got %v waiting; want %v", i, waiting, want)
			}
			leave()
			synctest.Wait()
			if want := []caller{"1b"}; !slices.Equal(*other, want) {
				t.Errorf("got turns %v; want %v", *other, want)
			}
		}
	})
}

func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(10)
		g.Affinity = time.Minute
		wantLine := func(want string) {
			t.Helper()
			holder, waiting, next := g.Line()
			if got := fmt.Sprintf("%v %v %v", holder, waiting, next); got != want {
				t.Errorf("got %s; want %s", got, want)
			}
		}
		wantLine("<nil> [] <nil>")
		leave, err := await(t.Context(), g, caller("0a"))
		if err != nil {
			t.Fatal(err)
		}
		wantLine("0a [] <nil>")
		enterInTurn(t, g, "1b", "2a")
		wantLine("0a [1b 2a] 2a")
		time.Sleep(time.Minute)
		wantLine("0a [1b 2a] 1b")
		leave()
		synctest.Wait()
		wantLine("<nil> [] <nil>")
	})
}

// The reference: what a gate should be, in a handful of lines that know nothing
// of goroutines. Callers are numbers, and of three kinds.
type reference struct {
	limit, holder int // holder -1: nobody
	affinity      time.Duration
	kind          int
	since         time.Time
	arrived       map[int]time.Time
	line          []int
	closed        bool
	ready         map[int]bool   // those told that they are next
	fate          map[int]string // of callers that wait no more
}

func (r *reference) enter(caller int) {
	switch {
	case r.closed:
		r.fate[caller] = "closed"
	case r.holder < 0:
		r.grant(caller)
	case len(r.line) >= r.limit:
		r.fate[caller] = "full"
	default:
		r.line = append(r.line, caller)
		r.arrived[caller] = time.Now()
		r.call()
	}
}

// next returns the place in line of whose turn is next.
func (r *reference) next() int {
	first := r.arrived[r.line[0]]
	if time.Since(first) >= r.affinity && time.Since(r.since) >= r.affinity {
		return 0
	}
	return max(0, slices.IndexFunc(r.line, func(c int) bool { return c%3 == r.kind }))
}

func (r *reference) call() {
	if len(r.line) > 0 {
		r.ready[r.line[r.next()]] = true
	}
}

func (r *reference) grant(caller int) {
	r.holder, r.fate[caller], r.ready[caller] = caller, "turn", true
	if caller%3 != r.kind {
		r.kind, r.since = caller%3, time.Now()
	}
}

func (r *reference) cancel(caller int) {
	if i := slices.Index(r.line, caller); i >= 0 {
		r.line = slices.Delete(r.line, i, i+1)
		r.fate[caller] = "left"
		if r.ready[caller] {
			r.call()
		}
	}
}

func (r *reference) leave(caller int) {
	if caller != r.holder {
		return
	}
	r.holder = -1
	if len(r.line) > 0 {
		next := r.next()
		caller := r.line[next]
		r.line = slices.Delete(r.line, next, next+1)
		r.grant(caller)
		r.call()
	}
}

func (r *reference) close() {
	r.closed = true
	for _, caller := range r.line {
		r.fate[caller] = "closed"
	}
	r.line = nil
}

func TestAgainstReference(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) { againstReference(t, seed) })
		if t.Failed() {
			return
		}
	}
}

type kind int

func (k kind) Kind() string { return fmt.Sprint(int(k)) }

func againstReference(t *testing.T, seed uint64) {
	var (
		random  = rand.New(rand.NewPCG(seed, 0))
		limit   = random.IntN(6)
		g       = New(limit)
		want    = reference{limit: limit, holder: -1, kind: -1, arrived: make(map[int]time.Time), ready: make(map[int]bool), fate: make(map[int]string)}
		cancels []context.CancelFunc
		mu      sync.Mutex // guards what follows, until all callers rest
		ready   = make(map[int]bool)
		fate    = make(map[int]string)
		leaves  = make(map[int]func())
		story   strings.Builder
	)
	names := map[error]string{nil: "turn", ErrFull: "full", ErrClosed: "closed", context.Canceled: "left"}
	want.affinity = time.Duration(random.IntN(2)*random.IntN(10)) * time.Second
	g.Affinity = want.affinity
	for range 80 {
		time.Sleep(time.Duration(random.IntN(3)) * time.Second)
		caller, n := random.IntN(len(cancels)+1), random.IntN(100)
		switch {
		case n < 50:
			caller = len(cancels)
			fmt.Fprintf(&story, " enter %d", caller)
			ctx, cancel := context.WithCancel(t.Context())
			cancels = append(cancels, cancel)
			want.enter(caller)
			go func() {
				turn, err := g.Enter(ctx, kind(caller%3))
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					fate[caller] = names[err]
					return
				}
				mu.Lock()
				ready[caller] = true
				mu.Unlock()
				came := make(chan error, 1)
				turn.Start(func(err error) { came <- err })
				select {
				case err = <-came:
				case <-ctx.Done():
					turn.Leave()
					err = ctx.Err()
				}
				mu.Lock()
				defer mu.Unlock()
				fate[caller], leaves[caller] = names[err], turn.Leave
			}()
		case n < 65 && caller < len(cancels):
			fmt.Fprintf(&story, " cancel %d", caller)
			want.cancel(caller)
			cancels[caller]()
		case n < 75 && leaves[caller] != nil: // again, perhaps
			fmt.Fprintf(&story, " leave %d", caller)
			want.leave(caller)
			leaves[caller]()
		case n < 98 && leaves[want.holder] != nil:
			fmt.Fprintf(&story, " leave %d", want.holder)
			leave := leaves[want.holder]
			want.leave(want.holder)
			leave()
		case n == 99 && random.IntN(4) == 0:
			story.WriteString(" close")
			want.close()
			g.Close()
		default:
			continue
		}
		synctest.Wait()
		waiting, busy := g.Len()
		got := fmt.Sprint(fate, ready, waiting, busy)
		if want := fmt.Sprint(want.fate, want.ready, len(want.line), want.holder >= 0); got != want {
			t.Errorf("seed %d, limit %d, affinity %v, after%s:\ngot  %s\nwant %s", seed, limit, g.Affinity, &story, got, want)
			break
		}
	}
	g.Close()
	for _, cancel := range cancels {
		cancel()
	}
}

// BenchmarkGate is one hand-off while a hundred wait, beside a plain sync.Mutex,
// which promises no order and cannot be left.
func BenchmarkGate(b *testing.B) {
	const callers = 101
	b.Run("gate", func(b *testing.B) {
		g := New(callers)
		benchmarkTurns(b, callers, func() {
			leave, err := await(context.Background(), g, anyone{})
			if err != nil {
				b.Error(err)
				return
			}
			leave()
		})
	})
	b.Run("cancellable", func(b *testing.B) { // with a context as a server has it
		g := New(callers)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		benchmarkTurns(b, callers, func() {
			leave, err := await(ctx, g, anyone{})
			if err != nil {
				b.Error(err)
				return
			}
			leave()
		})
	})
	b.Run("mutex", func(b *testing.B) {
		var mu sync.Mutex
		benchmarkTurns(b, callers, func() {
			mu.Lock()
			defer mu.Unlock()
		})
	})
}

// benchmarkTurns lets so many callers take b.N turns together.
func benchmarkTurns(b *testing.B, callers int, turn func()) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				turn()
			}
		})
	}
	all.Wait()
}
