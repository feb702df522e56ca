package gate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

var errLeft = errors.New("the caller left")

// A hall is a gate and those who come to it, each with a goroutine of its own, all
// of them in a bubble of synctest. Their names end in their kind, as 1b does; 1Xb is of the
// client X, 1X/3b of one that weighs 3, and 1X~b can wait.
type hall struct {
	*gate.Gate
	t *testing.T

	turns map[string]*gate.Turn

	mu   sync.Mutex // guards news
	news []string   // what happened to them since the last wantNews
}

// inHall runs a test with a hall.
func inHall(t *testing.T, limit int, affinity time.Duration, test func(*testing.T, *hall)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(limit)
		g.Affinity = affinity
		test(t, &hall{Gate: g, t: t, turns: make(map[string]*gate.Turn)})
	})
}

func request(name string) gate.Request {
	kind := len(name) - 1
	client, background := strings.CutSuffix(strings.TrimLeft(name[:kind], "0123456789"), "~")
	client, weight, _ := strings.Cut(client, "/")
	n, _ := strconv.Atoi(weight)
	return gate.Request{ID: name, Client: client, Weight: n, Background: background, Kind: gate.Kind{Model: name[kind:]}}
}

// nobody returns the name, without its kind, of a client that nobody knows.
func nobody(n int) string {
	return fmt.Sprint(n) + strings.Map(func(digit rune) rune { return digit - '0' + 'K' }, fmt.Sprint(n))
}

// arrive has callers come one after the other, who wait for their turn and keep it,
// and checks the news.
func (h *hall) arrive(ctx context.Context, names, news string) {
	h.t.Helper()
	h.send(ctx, names)
	h.wantNews(news)
}

func (h *hall) send(ctx context.Context, names string) {
	for name := range strings.FieldsSeq(names) {
		tell := func(what string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.news = append(h.news, name+" "+what)
		}
		turn, err := h.Join(request(name))
		if err != nil {
			tell(err.Error())
			continue
		}
		h.turns[name] = turn
		go func() {
			if err := turn.Wait(ctx); err != nil {
				turn.Leave()
				tell(err.Error())
				return
			}
			tell("in")
		}()
	}
}

// join joins at once, and does not wait for the turn.
func (h *hall) join(name string) *gate.Turn {
	h.t.Helper()
	turn, err := h.Join(request(name))
	if err != nil {
		h.t.Fatalf("Join of %s: %v", name, err)
	}
	return turn
}

func (h *hall) turn(name string) *gate.Turn { return h.turns[name] }

// leave has a caller leave, and checks the news.
func (h *hall) leave(name, news string) {
	h.t.Helper()
	h.turn(name).Leave()
	h.wantNews(news)
}

// wantNews checks what happened until nothing happens any more, in no order.
func (h *hall) wantNews(news string) {
	h.t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	want := strings.FieldsFunc(news, func(r rune) bool { return r == ',' })
	slices.Sort(want)
	slices.Sort(h.news)
	if !slices.Equal(h.news, want) {
		h.t.Errorf("got %q; want %q", h.news, want)
	}
	h.news = nil
}

// wantLine checks Line, and that Len and Holder tell the same. In 0a | 1b 2a* the
// turn is 0a's, and 2a is next.
func (h *hall) wantLine(want string) {
	h.t.Helper()
	holder, line := h.Line()
	all, model := []string{"nobody", "|"}, ""
	if holder != nil {
		all[0], model = holder.ID, holder.Kind.Model
	}
	for _, p := range line {
		all = append(all, p.ID+map[bool]string{true: "*"}[p.Next])
	}
	if got := strings.Join(all, " "); got != want {
		h.t.Errorf("got line %s; want %s", got, want)
	}
	waiting, busy := h.Len()
	if m, _ := h.Holder(); m != model || waiting != len(line) || busy != (holder != nil) {
		h.t.Errorf("got Len %d, %t and a Holder with model %q; want those of %s", waiting, busy, m, want)
	}
}

func (h *hall) wantErrors(want error, got ...error) {
	h.t.Helper()
	if slices.ContainsFunc(got, func(err error) bool { return err != want }) {
		h.t.Errorf("got %v; want %v", got, want)
	}
}

func TestLine(t *testing.T) {
	inHall(t, 1, 0, func(t *testing.T, h *hall) {
		start, a, b := time.Now(), gate.Request{Kind: gate.Kind{Model: "a"}, Client: "Ann", ID: "1"}, gate.Request{Kind: gate.Kind{Model: "b"}, Client: "Bob", ID: "2"}
		want := func(wantHolder gate.Place, want ...gate.Place) {
			t.Helper()
			holder, waiting := h.Line()
			kind, since := h.Holder()
			if *holder != wantHolder || !slices.Equal(waiting, want) || kind != holder.Kind.Model || since != holder.Since {
				t.Errorf("got %+v before %+v, Holder %q, %v; want %+v before %+v", holder, waiting, kind, since, wantHolder, want)
			}
		}
		turn, _ := h.Join(a)
		time.Sleep(time.Nanosecond)
		second, _ := h.Join(b)
		if second.Waited() != 0 {
			t.Errorf("got a wait of %v at once; want 0", second.Waited())
		}
		want(gate.Place{Request: a, Since: start}, gate.Place{Request: b, Since: start.Add(1), Position: 1, Next: true})
		time.Sleep(time.Nanosecond)
		turn.Leave()
		want(gate.Place{Request: b, Since: start.Add(2)}) // since it has the turn
		time.Sleep(time.Nanosecond)
		third, _ := h.Join(a)
		time.Sleep(time.Second)
		second.Leave()
		if turn.Waited() != 0 || turn.Held() != 2 || second.Waited() != 1 || second.Held() != time.Second+1 || third.Waited() != time.Second {
			t.Errorf("waited %v, %v, %v; held %v, %v; want 0s, 1ns, 1s; 2ns, 1.000000001s", turn.Waited(), second.Waited(), third.Waited(), turn.Held(), second.Held())
		}
	})
}

// The last turns count most in the mean, and waits do not.
func TestMeanTurn(t *testing.T) {
	inHall(t, 10, 0, func(t *testing.T, h *hall) {
		if got := h.MeanTurn(); got != 0 {
			t.Errorf("got %v before the first turn; want 0", got)
		}
		for _, turn := range []struct{ took, want time.Duration }{
			{8 * time.Second, 8 * time.Second}, {4 * time.Second, 7 * time.Second}, {7 * time.Second, 7 * time.Second}, {11 * time.Second, 8 * time.Second},
		} {
			holder, waiting := h.join("0a"), h.join("1a")
			time.Sleep(turn.took)
			waiting.Leave()
			holder.Leave()
			holder.Leave() // counts once
			if got := h.MeanTurn(); got != turn.want {
				t.Errorf("after a turn of %v: got %v; want %v", turn.took, got, turn.want)
			}
		}
	})
}

func TestWaitTwice(t *testing.T) {
	inHall(t, 1, 0, func(t *testing.T, h *hall) {
		first, second := h.join("0a"), h.join("1a")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errLeft)
		defer cancel()
		h.wantErrors(errLeft, second.Wait(ctx), second.Wait(ctx))
		h.wantLine("0a | 1a*") // it keeps its place until it leaves
		first.Leave()
		h.wantErrors(nil, second.Wait(t.Context()), second.Wait(t.Context()))
		for range 20 { // never by chance
			h.wantErrors(errLeft, second.Wait(ctx))
		}
	})
}

// One leaves before it waits, in line or when it has the turn without knowing.
func TestLeaveBetweenJoinAndWait(t *testing.T) {
	inHall(t, 10, 0, func(t *testing.T, h *hall) {
		h.arrive(t.Context(), "0a", "0a in")
		next := h.join("1a")
		h.arrive(t.Context(), "2a 3a", "")
		next.Leave()
		h.wantNews("")
		h.leave("0a", "2a in")
		h.leave("3a", "3a the place in line was given up") // its Wait ends
		next = h.join("4a")
		h.arrive(t.Context(), "5a 6a", "")
		h.leave("2a", "")
		h.wantLine("4a | 5a* 6a")
		next.Leave()
		h.wantNews("5a in")
	})
}

func TestLeaveTwice(t *testing.T) {
	inHall(t, 10, 0, func(t *testing.T, h *hall) {
		turn := h.join("0a")
		h.arrive(t.Context(), "1a 2a", "")
		if got := h.turn("2a").Position(); got != 2 {
			t.Errorf("got place %d; want 2", got)
		}
		for range 10 {
			go turn.Leave()
		}
		h.wantNews("1a in")     // one turn was passed on, not two
		time.Sleep(time.Second) // so old may a position be
		if got := h.turn("2a").Position(); got != 1 {
			t.Errorf("got place %d when one turn was passed on; want 1", got)
		}
		turn.Leave()
		h.wantLine("1a | 2a*")
	})
}

// Close meets one who has the turn, one who is next and does not yet wait for the
// turn, one in line, and those who come later.
func TestClose(t *testing.T) {
	inHall(t, 10, 0, func(t *testing.T, h *hall) {
		holder, next := h.join("0a"), h.join("1a")
		h.arrive(t.Context(), "2a", "")
		h.Close()
		h.Close()
		h.arrive(t.Context(), "3a", "2a the gate is closed,3a the gate is closed")
		h.wantErrors(gate.ErrClosed, next.Wait(t.Context()), next.Wait(t.Context()))
		next.Leave()
		h.wantLine("0a |") // the holder keeps its turn
		h.wantErrors(nil, holder.Wait(t.Context()))
		holder.Leave()
		h.arrive(t.Context(), "4a", "4a the gate is closed")
		h.wantLine("nobody |")
	})
}

// Whoever has lost interest before it waits keeps nothing, not even a free turn.
func TestContextDone(t *testing.T) {
	inHall(t, 0, 0, func(t *testing.T, h *hall) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errLeft)
		h.arrive(ctx, "0a", "0a the caller left")
		h.wantLine("nobody |")
		h.join("1a")
		h.Close()
		h.arrive(ctx, "2a", "2a the gate is closed")
	})
}

// A lateContext has something done when its user sees that it has ended.
type lateContext struct {
	context.Context
	do func()
}

func (c lateContext) Err() error {
	if c.Context.Err() != nil {
		c.do()
	}
	return c.Context.Err()
}

// A caller loses interest, and what it waits for, or the end of the gate, comes at
// the same time, or surely before it can leave. No turn is lost.
func TestCancellationRaces(t *testing.T) {
	for _, tt := range []struct {
		name, before, first, who, behind string // first: the news of those before
		event                            func(*hall)
		news, line                       string
	}{
		{"grant", "0a", "0a in", "1a", "2a 3a", func(h *hall) { h.turn("0a").Leave() }, "2a in", "2a | 3a*"},
		{"leave", "0a 1a", "0a in", "2a", "3a", func(h *hall) { h.turn("1a").Leave() }, "1a the place in line was given up", "0a | 3a*"},
		{"leave and grant", "0a 1a", "0a in", "2a", "3a", func(h *hall) { h.turn("1a").Leave(); h.turn("0a").Leave() }, "1a the place in line was given up,3a in", "3a |"},
		{"close", "0a", "0a in", "1a", "", func(h *hall) { h.Close() }, "", "0a |"},
	} {
		run := func(t *testing.T, h *hall, surely bool) {
			h.arrive(t.Context(), tt.before, tt.first)
			base, cancel := context.WithCancelCause(t.Context())
			ctx, event := context.Context(base), sync.OnceFunc(func() { tt.event(h) })
			if surely {
				ctx = lateContext{base, event}
			}
			go func() {
				turn, err := h.Join(request(tt.who))
				if err == nil {
					err = turn.Wait(ctx)
					turn.Leave()
				}
				if err != errLeft && (surely || err != nil && err != gate.ErrClosed) {
					t.Errorf("got %v; want %v", err, errLeft)
				}
			}()
			synctest.Wait()
			h.arrive(t.Context(), tt.behind, "")
			go cancel(errLeft)
			if !surely {
				go event()
			}
			h.wantNews(tt.news)
			h.wantLine(tt.line)
		}
		t.Run(tt.name, func(t *testing.T) {
			for i := range 200 {
				inHall(t, 10, 0, func(t *testing.T, h *hall) { run(t, h, i == 0) })
			}
		})
	}
}
