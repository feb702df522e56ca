package inventory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/target"
)

var (
	errTimeout = fmt.Errorf("GET /api/tags: %w: %w", target.ErrUnreachable, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded})
	errLocal   = fmt.Errorf("GET /api/tags: %w: %w", target.ErrLocal, &net.OpError{Op: "dial", Err: errors.New("too many open files")})
	errNoRoute = errors.New("sendto: network is unreachable")
)

// A fakeWaker notes when it is to send a packet.
type fakeWaker struct {
	began time.Time
	err   error // what comes of it

	mu   sync.Mutex // guards sent
	sent []time.Duration
}

func (w *fakeWaker) Wake(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, time.Since(w.began))
	return w.err
}

// inSleepyBed runs a test with a target that has given the models of the answer tags, if
// that is not empty, and fell asleep.
func inSleepyBed(t *testing.T, tags string, test func(t *testing.T, b *bed, w *fakeWaker)) {
	t.Helper()
	first := errTimeout
	if tags != "" {
		first = nil
	}
	inBed(t, 4*second, tags, first, func(t *testing.T, b *bed) {
		w := &fakeWaker{}
		b.Waker, b.WakeTimeout = w, 3*time.Minute
		b.asleep()
		if err := b.Repoll(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.began = time.Now()
		test(t, b, w)
	})
}

// asleep has nobody answer connections.
func (b *bed) asleep() { b.answer("/api/tags", 3*second, "", errTimeout) }

// wantSent checks when packets were sent since the last call.
func (b *bed) wantSent(w *fakeWaker, want ...time.Duration) {
	b.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.sent, want) {
		b.t.Errorf("packets sent at %v; want %v", w.sent, want)
	}
	w.sent = nil
}

// every returns the times every 5 s from first to last.
func every(first, last time.Duration) (times []time.Duration) {
	for at := first; at <= last; at += 5 * second {
		times = append(times, at)
	}
	return times
}

// awake has n requests for a model that come now wait until the target is awake. The
// result is theirs, all alike.
func (b *bed) awake(n int, model string) (took time.Duration, err error) {
	b.t.Helper()
	type result struct {
		err  string
		took time.Duration
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	results := map[result]int{}
	came := time.Now()
	for range n {
		all.Go(func() {
			e := b.Awake(b.t.Context(), model, came, nil)
			mu.Lock()
			defer mu.Unlock()
			took, err = time.Since(came), e
			results[result{fmt.Sprint(e), took}]++
		})
	}
	all.Wait()
	synctest.Wait()
	if len(results) != 1 {
		b.t.Errorf("got %v; want one result for all", results)
	}
	return took, err
}

func TestWake(t *testing.T) {
	inSleepyBed(t, both, func(t *testing.T, b *bed, w *fakeWaker) {
		time.AfterFunc(11*second, func() {
			b.tags(both, nil)
			if state := b.State(); !state.Waking.Equal(w.began) || state.Wakes != (Wakes{}) {
				t.Errorf("waking since %v, %+v; want since the first request", state.Waking, state.Wakes)
			}
		})
		time.AfterFunc(6*second, func() { b.Awake(t.Context(), "chat", time.Now(), nil) }) // shares the wake
		// There is a poll at once, and then every 4 s.
		if took, err := b.awake(100, "CHAT"); err != nil || took != 12*second {
			t.Errorf("got %v after %v; want it woken after 12s", err, took)
		}
		sleep(time.Minute)
		b.wantSent(w, 0, 5*second, 10*second)
		if state := b.State(); !state.Waking.IsZero() || state.Wakes != (Wakes{OK: 1}) {
			t.Errorf("waking since %v, %+v; want one wake that ended well", state.Waking, state.Wakes)
		}
		if took, err := b.awake(1, "chat"); err != nil || took != 0 {
			t.Errorf("got %v after %v; want it awake", err, took)
		}
		for _, want := range []string{`level=INFO msg="waking the target" timeout=3m0s`, `level=INFO msg="target woken" took=12s`} {
			if strings.Count(b.log.String(), want) != 1 {
				t.Errorf("want %q once in\n%s", want, &b.log)
			}
		}

		// It falls asleep again.
		w.began = time.Now()
		b.asleep()
		b.Repoll(t.Context())
		b.wantSent(w)
		time.AfterFunc(second, func() { b.tags(both, nil) })
		w.began = time.Now()
		if _, err := b.awake(2, "embed"); err != nil {
			t.Errorf("got %v; want it woken again", err)
		}
		b.wantSent(w, 0)
	})
}

func TestWakeInVain(t *testing.T) {
	inSleepyBed(t, both, func(t *testing.T, b *bed, w *fakeWaker) {
		w.err = errNoRoute
		came := time.Now()
		var left error
		go func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), second, errToken)
			defer cancel()
			left = b.Awake(ctx, "chat", came, nil)
		}()
		time.AfterFunc(time.Minute, func() { // whoever comes later waits for the same
			began := time.Now()
			if err := b.Awake(t.Context(), "chat", began, nil); !errors.Is(err, target.ErrUnreachable) || time.Since(began) != 2*time.Minute {
				t.Errorf("got %v after %v; want %v after 2m", err, time.Since(began), target.ErrUnreachable)
			}
		})
		if took, err := b.awake(100, "chat"); !errors.Is(err, target.ErrUnreachable) || took != 3*time.Minute {
			t.Errorf("got %v after %v; want %v after 3m", err, took, target.ErrUnreachable)
		}
		if left != errToken {
			t.Errorf("who left got %v; want the cause", left)
		}
		sleep(time.Minute)
		b.wantSent(w, every(0, 175*second)...)
		for warning, want := range map[string]int{`msg="no packet sent that would wake the target; will go on trying" err="` + errNoRoute.Error(): 1, `msg="target not woken`: 1} {
			if got := strings.Count(b.log.String(), "level=WARN "+warning); got != want {
				t.Errorf("%d times %s; want %d", got, warning, want)
			}
		}

		// Whoever came before the end is not waited for again, without a poll each; the next is.
		before := time.Now()
		for range 100 {
			if err := b.Awake(t.Context(), "chat", came, nil); !errors.Is(err, target.ErrUnreachable) {
				t.Errorf("got %v; want %v", err, target.ErrUnreachable)
			}
		}
		if took := time.Since(before); took != 0 {
			t.Errorf("100 that came before were told after %v; want at once", took)
		}
		b.wantSent(w)
		w.began = time.Now()
		if took, _ := b.awake(1, "chat"); took != 3*time.Minute {
			t.Errorf("told after %v; want it tried anew", took)
		}
		b.wantSent(w, every(0, 175*second)...)
		if state := b.State(); state.Wakes != (Wakes{Failed: 2}) {
			t.Errorf("got %+v; want two that failed", state.Wakes)
		}
	})
}

// A machine that refuses connections is up: while it is being woken that is waited for.
func TestWakeUntilOllamaIsUp(t *testing.T) {
	inSleepyBed(t, both, func(t *testing.T, b *bed, w *fakeWaker) {
		time.AfterFunc(7*second, func() { b.tags("", errRefused) })
		time.AfterFunc(23*second, func() { b.tags(both, nil) })
		if took, err := b.awake(100, "chat"); err != nil || took != 24*second {
			t.Errorf("got %v after %v; want it woken after 24s", err, took)
		}
		b.wantSent(w, 0, 5*second)
	})
}

func TestWhatWakesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		tags    string // of before
		model   string
		err     error // of polls
		without bool  // no Waker
	}{
		"a model that is not in the list": {both, "absent", errTimeout, false},
		"Ollama is not up":                {both, "chat", errRefused, false},
		"Ollama was never up":             {"", "chat", errRefused, false},
		"not to be woken":                 {both, "chat", errTimeout, true},
	} {
		t.Run(name, func(t *testing.T) {
			inSleepyBed(t, test.tags, func(t *testing.T, b *bed, w *fakeWaker) {
				if test.without {
					b.Waker = nil
				}
				b.tags("", test.err)
				b.Repoll(t.Context())
				w.sent = nil
				took, err := b.awake(10, test.model)
				if err == nil || took > second {
					t.Errorf("got %v after %v; want it not woken, at once", err, took)
				}
				if got := b.Awake(t.Context(), test.model, time.Now(), errToken); got == nil {
					t.Errorf("lost: got %v; want an error", got)
				}
				b.wantSent(w)
			})
		})
	}
}

// A target that rests is not woken. Behind that, what was in vain before counts no more.
func TestRest(t *testing.T) {
	inSleepyBed(t, both, func(t *testing.T, b *bed, w *fakeWaker) {
		came := time.Now()
		b.awake(1, "chat")
		b.wantSent(w, every(0, 3*time.Minute-5*second)...)
		b.Rest(true)
		if err := b.Awake(t.Context(), "chat", time.Now(), nil); !errors.Is(err, target.ErrUnreachable) {
			t.Errorf("got %v; want it away", err)
		}
		b.wantSent(w)
		b.Rest(false)
		w.began = time.Now()
		b.Awake(t.Context(), "chat", came, nil)
		b.wantSent(w, every(0, 3*time.Minute-5*second)...)
	})
}

// A model that a target is woken for can be asked for while that is asleep.
func TestCheckOfATargetAsleep(t *testing.T) {
	for _, test := range []struct {
		tags, asked string
		only        Patterns
		want        Model
		err         error
	}{
		{both, "CHAT", nil, Model{Name: "chat:latest"}, nil},
		{both, "absent", nil, Model{}, target.ErrUnreachable},
		{both, "absent:cloud", nil, Model{}, target.ErrUnreachable},
		{"", "any", nil, Model{Name: "any:latest"}, nil},
		{"", "no/such/na/me", nil, Model{}, ErrNotFound},
		{both, "CHAT", Patterns{"c*"}, Model{Name: "chat:latest"}, nil},
		{both, "CHAT", Patterns{"embed"}, Model{}, target.ErrUnreachable},
		{"", "Library/Any", Patterns{"any"}, Model{Name: "any:latest"}, nil},
		{"", "hf.co/library/any", Patterns{"any"}, Model{}, target.ErrUnreachable},
		{"", "registry.ollama.ai/library/secret", Patterns{"reg*", "lib*"}, Model{}, target.ErrUnreachable},
	} {
		inSleepyBed(t, test.tags, func(t *testing.T, b *bed, w *fakeWaker) {
			if got, err := b.Check(limited(t), test.asked, test.only); got != test.want || !errors.Is(err, test.err) {
				t.Errorf("%q: got %+v, %v; want %+v, %v", test.asked, got, err, test.want, test.err)
			}
			b.wantSent(w)
		})
	}
}

// A request that is lost has the target polled, and woken if that is asleep.
func TestLostAndWoken(t *testing.T) {
	inBed(t, 4*second, both, nil, func(t *testing.T, b *bed) {
		w := &fakeWaker{began: b.began}
		b.Waker, b.WakeTimeout = w, 3*time.Minute
		came := time.Now()
		if got := b.Awake(t.Context(), "chat", came, errToken); got != errToken {
			t.Errorf("awake: got %v; want why the request was lost", got)
		}
		b.tags("", errLocal)
		if got := b.Awake(t.Context(), "chat", came, errToken); got != errLocal {
			t.Errorf("no descriptors: got %v; want %v", got, errLocal)
		}
		b.wantSent(w)
		b.asleep()
		w.began = time.Now()
		time.AfterFunc(10*second, func() { b.tags(both, nil) })
		if got := b.Awake(t.Context(), "chat", came, errToken); got != nil {
			t.Errorf("asleep: got %v; want it woken", got)
		}
		b.wantSent(w, 3*second+minInterval, 8*second+minInterval)
	})
}

// Run ends while the target is being woken.
func TestRunEndsWhileWaking(t *testing.T) {
	inSleepyBed(t, both, func(t *testing.T, b *bed, w *fakeWaker) {
		go b.Awake(t.Context(), "chat", time.Now(), nil)
		sleep(second)
		b.stop()
		<-b.done
		b.wantSent(w, 0)
	})
}
