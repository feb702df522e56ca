package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/target"
)

const second = time.Second

// What the target answers to GET /api/tags.
const (
	none = `{"models":[]}`
	chat = `{"models":[{"name":"chat:latest"}]}`
	both = `{"models":[{"name":"chat:latest"},{"name":"embed:latest"}]}`
)

// Errors as the package target returns them.
var (
	errRefused  = fmt.Errorf("GET /api/tags: %w: %w", target.ErrUnreachable, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED})
	errToken    = fmt.Errorf("GET /api/tags: %w: 401 Unauthorized", target.ErrUnauthorized)
	errInternal = errors.New("GET /api/tags: answered 500 Internal Server Error")
)

// What is logged of these, up to the number of models that are kept.
const (
	loggedRefused  = `level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: target unreachable: dial tcp: connection refused" models_kept=`
	loggedToken    = `level=WARN msg="target degraded" reason=unauthorized err="GET /api/tags: target refused foreman: 401 Unauthorized" models_kept=`
	loggedInternal = `level=WARN msg="target degraded" reason="bad answer" err="GET /api/tags: answered 500 Internal Server Error" models_kept=`
	loggedShape    = `level=WARN msg="target degraded" reason="bad answer" err="models: the answer has no \"models\"" models_kept=`
)

// A fakeSource answers as it is told to, by path, and notes when it is asked.
type fakeSource struct {
	began time.Time

	mu      sync.Mutex // guards what follows
	answers map[string]func(context.Context) ([]byte, error)
	asked   map[string][]time.Duration // since began
}

func (s *fakeSource) Read(ctx context.Context, path string) ([]byte, error) {
	s.mu.Lock()
	s.asked[path] = append(s.asked[path], time.Since(s.began))
	answer := s.answers[path]
	s.mu.Unlock()
	if answer == nil {
		return nil, fmt.Errorf("GET %s: answered 404 Not Found", path)
	}
	return answer(ctx)
}

// Alive answers as it is told for "/"; without that, nothing.
func (s *fakeSource) Alive(ctx context.Context) error {
	s.mu.Lock()
	answer := s.answers["/"]
	s.mu.Unlock()
	if answer == nil {
		pause(ctx, time.Hour)
		return fmt.Errorf("HEAD /: %w: %w", target.ErrUnreachable, ctx.Err())
	}
	_, err := answer(ctx)
	return err
}

func (s *fakeSource) set(path string, answer func(context.Context) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = answer
}

// answer sets the answer to GET path, and how long it takes.
func (s *fakeSource) answer(path string, takes time.Duration, body string, err error) {
	s.set(path, func(ctx context.Context) ([]byte, error) {
		if !pause(ctx, takes) {
			return nil, fmt.Errorf("GET %s: %w", path, target.Classify(ctx, ctx.Err()))
		}
		return []byte(body), err
	})
}

// tags sets the answer to GET /api/tags.
func (s *fakeSource) tags(body string, err error) { s.answer("/api/tags", 0, body, err) }

// hang makes the source answer nothing on path.
func (s *fakeSource) hang(path string) { s.answer(path, time.Hour, "", nil) }

// A bed is an inventory that runs in a bubble, and keeps the paths in kept.
type bed struct {
	*Inventory
	*fakeSource
	t    *testing.T
	log  bytes.Buffer
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned
}

var kept = []string{"/kept", "/more", "/lacking"}

// inBed runs a test once the first poll has ended, which got this answer.
func inBed(t *testing.T, interval time.Duration, tags string, err error, test func(t *testing.T, b *bed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, done: make(chan struct{}), fakeSource: &fakeSource{
			began:   time.Now(),
			answers: make(map[string]func(context.Context) ([]byte, error)),
			asked:   make(map[string][]time.Duration),
		}}
		b.tags(tags, err)
		b.answer("/api/ps", 0, none, nil)
		log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		b.Inventory = New(b.fakeSource, interval, log, kept...)
		ctx, stop := context.WithCancel(t.Context())
		b.stop = stop
		go func() { defer close(b.done); b.Run(ctx) }()
		t.Cleanup(func() { stop(); <-b.done })
		synctest.Wait()
		test(t, b)
	})
}

// sleep lets virtual time pass, and what is due at its end happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// limited returns the context of a call that must return within a minute.
func limited(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// wantAsked checks when path was asked for since the last call.
func (b *bed) wantAsked(path string, want ...time.Duration) {
	b.t.Helper()
	b.fakeSource.mu.Lock()
	defer b.fakeSource.mu.Unlock()
	if got := b.asked[path]; !slices.Equal(got, want) {
		b.t.Errorf("%s: asked for at %v; want %v", path, got, want)
	}
	b.asked[path] = nil
}

func (b *bed) wantPolls(want ...time.Duration) {
	b.t.Helper()
	b.wantAsked("/api/tags", want...)
}

func (b *bed) wantLog(want ...string) {
	b.t.Helper()
	got := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(b.log.String(), "")
	if want := strings.Join(want, "\n") + "\n"; got != want {
		b.t.Errorf("got log\n%s\nwant\n%s", got, want)
	}
}

// wantCheck checks what Check says of a model.
func (b *bed) wantCheck(model string, want error) {
	b.t.Helper()
	if _, got := b.Check(limited(b.t), model, nil); got != want && (want == nil || !errors.Is(got, want)) {
		b.t.Errorf("Check(%q): got %v; want %v", model, got, want)
	}
}

// wantTime checks how much time has passed.
func (b *bed) wantTime(want time.Duration) {
	b.t.Helper()
	if got := time.Since(b.began); got != want {
		b.t.Errorf("got to here after %v; want %v", got, want)
	}
}

func TestBeforeTheFirstPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := New(nil, 30*second, slog.New(slog.DiscardHandler)).State()
		if state.Seq != 0 || state.Reason != Starting || !state.Degraded() || state.Tags != nil || !state.LastPoll.IsZero() ||
			state.Len() != 0 || !state.Since.Equal(time.Now()) || !state.ResidentRead.IsZero() || state.Polls != (Polls{}) {
			t.Errorf("got %+v; want nothing known", state)
		}
	})
}

func TestPollsEveryInterval(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		sleep(60 * second)
		b.wantPolls(0, 30*second, 60*second)
		b.wantAsked("/api/ps", 0, 30*second, 60*second)
		b.wantLog(`level=INFO msg="target ready" models=1`)
		state := b.State()
		if state.Degraded() || string(state.Tags) != chat || state.LastPoll.Sub(b.began) != 60*second || !state.Since.Equal(b.began) || state.Polls != (Polls{OK: 3}) {
			t.Errorf("got %+v; want it good, of %s and as polled last", state, chat)
		}

		// The inventory is what the target holds now. A poll's time is part of the interval.
		b.answer("/api/tags", 3*second, both, nil)
		sleep(33 * second)
		if state := b.State(); state.Len() != 2 || !state.Holds("embed") {
			t.Errorf("got %d models; want 2", state.Len())
		}
		b.tags(none, nil)
		sleep(27 * second)
		b.wantPolls(90*second, 120*second)
		if state := b.State(); state.Len() != 0 || state.Holds("embed") || state.Degraded() {
			t.Errorf("got %d models; want none", state.Len())
		}
	})
}

func TestPollsSoonerWhileDegraded(t *testing.T) {
	for interval, want := range map[time.Duration][]time.Duration{
		30 * second: {0, 5 * second, 10 * second, 40 * second},
		4 * second:  {0, 4 * second, 8 * second, 12 * second, 16 * second, 20 * second, 24 * second, 28 * second, 32 * second, 36 * second, 40 * second},
	} {
		for _, err := range []error{errRefused, errToken, errInternal} {
			inBed(t, interval, "", err, func(t *testing.T, b *bed) {
				sleep(9 * second)
				b.tags(chat, nil)
				sleep(31 * second)
				b.wantPolls(want...)
			})
		}
	}
}

// A target that takes connections and says nothing is asked for its models and, after
// 4 s, for HEAD /, which has as long. While it is unreachable that comes sooner.
func TestAPollThatHangsIsGivenUp(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.hang("/api/tags")
		sleep(37 * second)
		if b.State().Degraded() {
			t.Error("degraded before the poll was given up")
		}
		sleep(1 * second)
		if got := b.State().Reason; got != Unreachable {
			t.Errorf("got reason %q; want %q", got, Unreachable)
		}
		sleep(31 * second)
		b.wantPolls(0, 30*second, 38*second, 43*second, 48*second, 53*second, 58*second, 63*second, 68*second)
		if b.State().Asleep() {
			t.Error("asleep when it was asked in vain for 39 s")
		}
		sleep(1 * second)
		if !b.State().Asleep() {
			t.Error("not asleep when it was asked in vain for 40 s")
		}
		b.wantLog(`level=INFO msg="target ready" models=1`,
			`level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: no answer, nor to HEAD /: target unreachable: no answer within 4s" models_kept=1`)
	})
}

// A target that answers HEAD / is alive, however long its models take.
func TestSlow(t *testing.T) {
	for _, takes := range []time.Duration{4500 * time.Millisecond, 6 * second, 40 * second} {
		inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
			b.answer("/api/tags", takes, both, nil)
			b.answer("/", 0, "", nil)
			sleep(34*second + 1)
			want := func(slow bool, models int) {
				t.Helper()
				if state := b.State(); state.Slow != slow || state.Degraded() || state.Asleep() || state.Len() != models {
					t.Errorf("%v, at %v: slow %t, reason %q, asleep %t, %d models; want slow %t alone and %d models",
						takes, time.Since(b.began), state.Slow, state.Reason, state.Asleep(), state.Len(), slow, models)
				}
			}
			want(true, 1)
			b.wantCheck("chat", nil)
			if err := b.Reachable(limited(t)); err != nil {
				t.Error(err)
			}
			b.wantTime(34*second + 1) // at once
			b.wantCheck("embed", nil) // who asks for more waits for it
			b.wantTime(30*second + takes)
			synctest.Wait()
			b.wantPolls(0, 30*second, 30*second+takes) // the second one for that
			want(true, 2)
			sleep(60*second + 2*takes - time.Since(b.began))
			b.wantPolls(60*second + 2*takes) // an interval after the end
			want(true, 2)
			b.tags(both, nil)
			sleep(takes + 31*second)
			want(false, 2)
			b.wantLog(`level=INFO msg="target ready" models=1`, `level=WARN msg="target slow to tell its models" models_kept=1`, `level=INFO msg="target slow no more"`)
		})
	}
}

// A target that does not tell its models at all but answers HEAD / is degraded, and not
// asleep.
func TestModelsAreNeverTold(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.hang("/api/tags")
		b.answer("/", 0, "", nil)
		sleep(5 * time.Minute)
		if state := b.State(); state.Reason != BadAnswer || state.Asleep() || !state.Since.Equal(b.began.Add(78*second)) {
			t.Errorf("got reason %q since %v, asleep %t; want %q since 78s", state.Reason, state.Since.Sub(b.began), state.Asleep(), BadAnswer)
		}
		b.wantCheck("chat", nil)
		b.wantLog(`level=INFO msg="target ready" models=1`, `level=WARN msg="target slow to tell its models" models_kept=1`,
			`level=WARN msg="target degraded" reason="bad answer" err="GET /api/tags: GET /api/tags: no answer, though HEAD / is answered" models_kept=1`)
	})
}

// Requests that wait to hear if the target is back do not wait for its models.
func TestBackAndSlow(t *testing.T) {
	for _, err := range []error{nil, errRefused} { // with models and without
		inBed(t, 30*second, chat, err, func(t *testing.T, b *bed) {
			b.tags("", errRefused)
			b.wantCheck("new", target.ErrUnreachable)
			b.answer("/api/tags", 40*second, chat, nil)
			b.answer("/", 0, "", nil)
			if err := b.Reachable(limited(t)); err != nil || b.State().Reason == Unreachable {
				t.Errorf("got %v, reason %q; want it reachable", err, b.State().Reason)
			}
			b.wantTime(2*minInterval + second)
		})
	}
}

// An answer to HEAD / that comes after 4 s is no reason to send requests, but a sign of
// life.
func TestLateAnswersAreSignsOfLife(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.hang("/api/tags")
		b.answer("/", 30*second, "", nil)
		for range 300 {
			sleep(second)
			if b.State().Asleep() {
				t.Fatalf("asleep at %v", time.Since(b.began))
			}
		}
		if got := b.State().Reason; got != Unreachable {
			t.Errorf("got reason %q; want %q", got, Unreachable)
		}
	})
}

// A target that falls asleep while it is slow was heard until then.
func TestSlowAndThenSilent(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.hang("/api/tags")
		b.answer("/", 0, "", nil)
		sleep(60 * second)
		b.hang("/")
		sleep(37 * second)
		if state := b.State(); state.Reason != Unreachable || state.Asleep() {
			t.Errorf("reason %q, asleep %t after 37 s; want %q and not asleep yet", state.Reason, state.Asleep(), Unreachable)
		}
		sleep(10 * second)
		if !b.State().Asleep() {
			t.Error("not asleep after 47 s")
		}
	})
}

// What foreman itself has not got says nothing of the target, and is no answer to who asks
// for another model.
func TestPollsThatForemanCannotMake(t *testing.T) {
	errLocal := fmt.Errorf("GET /api/tags: %w: too many open files", target.ErrLocal)
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.tags("", errLocal)
		sleep(2 * time.Minute)
		if state := b.State(); state.Degraded() || state.Asleep() || state.Polls != (Polls{OK: 1}) {
			t.Errorf("got %+v; want it as it was", state)
		}
		b.wantCheck("chat", nil)
		b.wantCheck("embed", target.ErrLocal)
		b.tags(both, nil)
		b.wantCheck("embed", nil)
		b.wantLog(`level=INFO msg="target ready" models=1`, `level=WARN msg="not polled" err="GET /api/tags: out of file descriptors or ports: too many open files"`)
	})
}

func TestOutages(t *testing.T) {
	for _, tt := range []struct {
		tags        string
		err         error
		reason      string
		unconnected int
		polls       Polls
		logged      string
	}{
		{"", errRefused, Unreachable, 3, Polls{1, 3, 0, 0}, loggedRefused},
		{"", errToken, Unauthorized, 0, Polls{1, 0, 3, 0}, loggedToken},
		{"", errInternal, BadAnswer, 0, Polls{1, 0, 0, 3}, loggedInternal},
		{"{}", nil, BadAnswer, 0, Polls{1, 0, 0, 3}, loggedShape},
		{none, errInternal, BadAnswer, 0, Polls{1, 0, 0, 3}, loggedInternal}, // an error counts, whatever came with it
	} {
		inBed(t, 30*second, both, nil, func(t *testing.T, b *bed) {
			sleep(10 * second)
			b.tags(tt.tags, tt.err)
			sleep(32 * second) // polls at 30, 35 and 40 s
			state := b.State()
			if state.Reason != tt.reason || !state.Degraded() || state.Since.Sub(b.began) != 30*second || state.unconnected != tt.unconnected || state.Polls != tt.polls {
				t.Errorf("%v: got %+v; want %q since 30s, %d unconnected, polls %v", tt.err, state, tt.reason, tt.unconnected, tt.polls)
			}
			if string(state.Tags) != both || !state.Holds("embed") || state.Len() != 2 || !state.LastPoll.Equal(b.began) {
				t.Errorf("%v: got %+v; want the last-known models and their time kept", tt.err, state)
			}

			b.tags(chat, nil)
			sleep(3 * second)
			state = b.State()
			if state.Degraded() || string(state.Tags) != chat || state.Holds("embed") || state.unconnected != 0 ||
				state.Since.Sub(b.began) != 45*second || state.LastPoll.Sub(b.began) != 45*second {
				t.Errorf("%v: got %+v; want it recovered after 45s", tt.err, state)
			}
			sleep(60 * second)
			b.wantLog(`level=INFO msg="target ready" models=2`, tt.logged+"2", `level=INFO msg="target recovered" models=1 outage=15s`)
		})
	}
}

// An outage that changes its nature is one outage, with a record for each.
func TestReasonsChange(t *testing.T) {
	inBed(t, 5*second, "", errRefused, func(t *testing.T, b *bed) {
		for _, step := range []struct {
			err            error
			wantUnanswered int
		}{{errRefused, 2}, {errInternal, 0}, {errRefused, 1}, {errToken, 0}} {
			b.tags("", step.err)
			sleep(5 * second)
			if state := b.State(); state.unconnected != step.wantUnanswered || !state.Since.Equal(b.began) {
				t.Errorf("%v: got %d unconnected, since %v; want %d and the start", step.err, state.unconnected, state.Since, step.wantUnanswered)
			}
		}
		b.tags(chat, nil)
		sleep(5 * second)
		b.wantLog(loggedRefused+"0", loggedInternal+"0", loggedRefused+"0", loggedToken+"0", `level=INFO msg="target recovered" models=1 outage=25s`)
		wantChanges := func(want string) {
			t.Helper()
			var got []string
			for _, c := range b.State().Changes {
				got = append(got, fmt.Sprintf("%v %s", c.At.Sub(b.began), c.Reason))
			}
			if got := strings.Join(got, ", "); !strings.HasSuffix(got, want) || len(b.State().Changes) > changesLimit {
				t.Errorf("%d changes: %s; want no more than %d, the last %s", len(b.State().Changes), got, changesLimit, want)
			}
		}
		wantChanges("0s unreachable, 10s bad answer, 15s unreachable, 20s unauthorized, 25s ")
		for range changesLimit {
			b.tags("", errRefused)
			sleep(5 * second)
			b.tags(chat, nil)
			sleep(5 * second)
		}
		wantChanges("17m0s unreachable, 17m5s ")
	})
}

// Next tells of each failed poll at its end, and of each good one when the
// resident models have been read.
func TestNext(t *testing.T) {
	inBed(t, 5*second, chat, nil, func(t *testing.T, b *bed) {
		var told []string
		go func() {
			for seen := uint64(0); ; {
				state, err := b.Next(t.Context(), seen)
				if err != nil {
					return
				}
				seen = state.Seq
				told = append(told, fmt.Sprintf("%v: %d %q %t", time.Since(b.began), state.Len(), state.Reason, state.ResidentRead.IsZero()))
			}
		}()
		b.answer("/api/ps", second, none, nil)
		sleep(8 * second)
		b.tags("", errRefused)
		sleep(5 * second)
		b.tags(both, nil)
		b.answer("/api/ps", second, "", errInternal)
		sleep(5 * second)
		if want := []string{`0s: 1 "" false`, `6s: 1 "" false`, `10s: 1 "unreachable" true`, `16s: 2 "" true`}; !slices.Equal(told, want) {
			t.Errorf("told of %q; want %q", told, want)
		}

		// Whoever was busy meanwhile is told of the latest state at once.
		if state, err := b.Next(limited(t), 1); err != nil || state.Seq != 4 || state.Len() != 2 {
			t.Errorf("got %+v, %v; want the latest state", state, err)
		}
		b.wantTime(18 * second)
	})
}

func TestResident(t *testing.T) {
	const ps = `{"models":[{"name":"Chat:latest"}]}`
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.answer("/api/ps", 0, ps, nil)
		b.wantCheck("new", ErrNotFound) // a poll before its time
		synctest.Wait()
		state := b.State()
		if want := []Resident{{Name: "Chat:latest"}}; !slices.Equal(state.Resident, want) || !state.ResidentRead.Equal(time.Now()) {
			t.Errorf("got %v of %v; want %v of now", state.Resident, state.ResidentRead, want)
		}
		for model, want := range map[string]bool{"chat": true, "library/CHAT:latest": true, "chat:7b": false, "": false} {
			if got := state.IsResident(model); got != want {
				t.Errorf("IsResident(%q): got %t; want %t", model, got, want)
			}
		}

		for why, fail := range map[string]func(){
			"an error":             func() { b.answer("/api/ps", 0, ps, errInternal) },
			"not an Ollama":        func() { b.answer("/api/ps", 0, "<html>", nil) },
			"no answer within 4 s": func() { b.hang("/api/ps") },
			"degraded":             func() { b.tags("", errInternal) },
		} {
			fail()
			sleep(34 * second)
			if state := b.State(); !state.ResidentRead.IsZero() || state.IsResident("chat") {
				t.Errorf("%s: got %v of %v; want nothing known", why, state.Resident, state.ResidentRead)
			}
			b.answer("/api/ps", 0, ps, nil)
			b.tags(chat, nil)
			sleep(36 * second)
			if state := b.State(); state.ResidentRead.IsZero() || !state.IsResident("chat") {
				t.Errorf("after %s: got %v of %v; want it known again", why, state.Resident, state.ResidentRead)
			}
		}
	})
}

// What was resident before an outage is not told after it.
func TestResidentDuringAnOutage(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.answer("/api/ps", 3*second, chat, nil) // until 33 s
		sleep(31 * second)
		b.wantCheck("new", ErrNotFound) // a good poll, and then a bad one
		b.tags("", errRefused)
		b.wantCheck("new", target.ErrUnreachable)
		seq := b.State().Seq
		sleep(3 * second)
		if state := b.State(); state.Seq != seq || state.IsResident("chat") {
			t.Errorf("got %+v; want nothing of the answer that came after the outage began", state)
		}
		sleep(30 * second)
		b.wantAsked("/api/ps", 0, 30*second) // none while degraded
	})
}

// A poll that ends while /api/ps is being read is followed by another reading.
func TestResidentIsReadAfterThePoll(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.answer("/api/ps", 3*second, none, nil)
		sleep(31 * second)
		b.answer("/api/ps", 0, chat, nil)
		for range 3 {
			b.wantCheck("new", ErrNotFound)
		}
		sleep(5 * second)
		b.wantAsked("/api/ps", 0, 30*second, 33*second)
		if state := b.State(); !state.IsResident("chat") {
			t.Errorf("got %v; want what was resident at the last poll", state.Resident)
		}
	})
}

// Nothing that is read beside the models delays a poll or those who wait for one.
func TestPollsDoNotWaitForOtherReadings(t *testing.T) {
	for _, path := range []string{"/kept", "/api/ps"} {
		inBed(t, 2*second, chat, nil, func(t *testing.T, b *bed) {
			b.hang(path)
			sleep(2 * second) // the reading hangs until 6 s
			b.tags(both, nil)
			b.wantCheck("embed", nil)
			b.wantTime(2*second + minInterval)
			b.Refresh()
			sleep(minInterval)
			b.tags(chat, nil)
			sleep(2 * second)
			b.wantPolls(0, 2*second, 2*second+minInterval, 2*second+2*minInterval, 4*second+2*minInterval)
			if b.State().Holds("embed") {
				t.Errorf("%s: the last poll was not told", path)
			}
			sleep(2 * second)
			b.wantAsked(path, 0, 2*second, 6*second) // given up, and read anew
		})
	}
}

func TestKeep(t *testing.T) {
	inBed(t, 5*second, chat, nil, func(t *testing.T, b *bed) {
		sleep(second)
		for i, step := range []struct {
			kept, more string // "": 404
			err        error  // of the poll itself
			want       string
		}{
			{"", "", nil, "map[]"},
			{"m1", "v1", nil, "map[/kept:m1 1s /more:v1 1s]"},
			{"m2", "v2", nil, "map[/kept:m2 1s /more:v2 1s]"},
			{"m3", "v3", errRefused, "map[/kept:m2 6s /more:v2 6s]"}, // not asked for
			{"m4", "", nil, "map[/kept:m4 1s /more:v2 11s]"},         // the last good one of each
		} {
			for path, body := range map[string]string{"/kept": step.kept, "/more": step.more} {
				var err error
				if body == "" {
					err = errInternal
				}
				b.answer(path, 0, body, err)
			}
			b.tags(chat, step.err)
			sleep(5 * second)
			got := make(map[string]string)
			for path, answer := range b.State().Kept {
				got[path] = fmt.Sprintf("%s %v", answer.Body, time.Since(answer.Read))
			}
			if got := fmt.Sprint(got); got != step.want {
				t.Errorf("step %d: got %s; want %s", i, got, step.want)
			}
		}
	})
}

// An ordinary poll has the kept paths read, even if one before its time ends
// before their turn comes.
func TestKeptPathsAfterTwoPolls(t *testing.T) {
	inBed(t, 2*second, chat, nil, func(t *testing.T, b *bed) {
		b.answer("/api/ps", 3*second, none, nil)
		sleep(4*second + second/2) // the reading after the poll at 2 s ends at 5 s
		b.wantCheck("new", ErrNotFound)
		sleep(4 * second)
		b.wantAsked("/kept", 0, 5*second, 8*second)
	})
}

func TestRefresh(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		sleep(10 * second)
		b.Refresh()
		sleep(35 * second)
		b.wantPolls(0, 10*second, 40*second) // the interval began anew

		// What is requested during a poll is not known to that poll. Ten requests
		// are one more poll.
		b.answer("/api/tags", 2*second, chat, nil)
		b.Refresh() // at 45 s
		sleep(1 * second)
		for range 10 {
			b.Refresh()
		}
		sleep(20 * second)
		b.wantPolls(45*second, 47*second)
	})
}

func TestRefreshWhileUnreachable(t *testing.T) {
	inBed(t, 30*second, "", errRefused, func(t *testing.T, b *bed) {
		sleep(1 * second)
		b.Refresh()
		sleep(3 * second)
		b.wantPolls(0)
		b.tags("", errInternal)
		sleep(2 * second)
		b.Refresh() // it answers, so it may
		synctest.Wait()
		b.wantPolls(5*second, 6*second)
	})
}

func TestReachable(t *testing.T) {
	inBed(t, 30*second, "", errInternal, func(t *testing.T, b *bed) {
		if err := b.Reachable(limited(t)); err != nil {
			t.Errorf("got %v; want nil of a target that answers", err)
		}
		b.wantPolls(0)
		b.tags("", errRefused)
		sleep(5 * second)
		if err := b.Reachable(limited(t)); !errors.Is(err, target.ErrUnreachable) {
			t.Errorf("got %v; want %v", err, target.ErrUnreachable)
		}
		b.tags("", errInternal)
		if err := b.Reachable(limited(t)); err != nil {
			t.Errorf("got %v; want nil as soon as it answers", err)
		}
		b.wantPolls(5*second, 5*second+minInterval, 5*second+2*minInterval)
	})
}

func TestCheck(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		if model, err := b.Check(limited(t), "CHAT", nil); model.Name != "chat:latest" || err != nil {
			t.Errorf("got %v, %v; want the target's spelling", model, err)
		}
		for _, model := range []string{"", "not a name", "chat:", strings.Repeat("x", 5000)} {
			b.wantCheck(model, ErrNotFound)
		}
		b.wantPolls(0) // no more than the first

		b.wantCheck("embed", ErrNotFound)
		b.wantPolls(minInterval)
		b.tags(both, nil) // pulled meanwhile
		b.wantCheck("embed", nil)
		b.wantPolls(2 * minInterval)

		b.tags("", errInternal)
		sleep(30 * second)
		b.wantPolls(30*second + 2*minInterval)
		b.wantCheck("embed", nil) // known, and the target answers
		b.wantPolls()

		b.tags("", errRefused)
		sleep(5 * second)
		b.wantPolls(35*second + 2*minInterval)
		b.wantCheck("embed", target.ErrUnreachable) // known, but of no use
		b.wantPolls(35*second + 3*minInterval)      // not without having asked again
		b.tags(both, nil)
		b.wantCheck("embed", nil) // back, and found out at once
	})
}

// A cloud model may have been pulled since the last poll.
func TestCheckCloud(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.wantCheck("a:b:c:cloud", ErrCloud) // no name
		b.wantPolls(0)
		b.wantCheck("chat:cloud", ErrCloud)
		b.wantPolls(minInterval)
		b.tags(`{"models":[{"name":"chat:cloud","remote_host":"https://ollama.com:443"}]}`, nil)
		if model, err := b.Check(limited(t), " chat:Cloud", nil); model != (Model{Name: "chat:cloud", Remote: true}) || err != nil {
			t.Errorf("got %v, %v; want the model that was pulled", model, err)
		}
		b.wantPolls(2 * minInterval)
	})
}

// The errors are told apart by errors.Is, so none may be another as well.
func TestCheckErrorsAreApart(t *testing.T) {
	all := []error{ErrNotFound, ErrCloud, ErrDegraded, target.ErrUnreachable, target.ErrUnauthorized}
	for err, want := range map[error][]error{nil: {ErrNotFound}, errInternal: {ErrDegraded}, errToken: {ErrDegraded, target.ErrUnauthorized}, errRefused: {target.ErrUnreachable}} {
		inBed(t, 30*second, chat, err, func(t *testing.T, b *bed) {
			_, got := b.Check(limited(t), "new", nil)
			for _, e := range all {
				if errors.Is(got, e) != slices.Contains(want, e) {
					t.Errorf("%v: is it %q? %t", got, e, errors.Is(got, e))
				}
			}
		})
	}
}

// A client that asks for an unknown model again and again does not make foreman
// poll as fast as the target answers, nor read the kept paths.
func TestManyChecksOneAfterTheOther(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		for range 40 {
			b.wantCheck("unknown", ErrNotFound)
		}
		b.wantTime(40 * minInterval)
		b.wantAsked("/kept", 0)
	})
}

// Polls that fail all at once are one sign that the target is away, not three.
func TestPollsAtOneMomentCountOnce(t *testing.T) {
	inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
		b.tags("", errRefused)
		for want := 1; want <= 3; want++ {
			for range 3 {
				b.wantCheck("unknown", target.ErrUnreachable)
			}
			if got := b.State().unconnected; got != want {
				t.Errorf("after %v: %d unconnected; want %d", time.Since(b.began), got, want)
			}
			sleep(4 * second)
		}
	})
}

// A poll that began before the question may have missed what it asks about. All
// who ask share the next one.
func TestChecksDuringAPollShareTheNext(t *testing.T) {
	for _, tt := range []struct {
		err, want error
	}{{nil, nil}, {errRefused, target.ErrUnreachable}} {
		inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
			b.answer("/api/tags", 2*second, chat, nil)
			sleep(31 * second) // in the middle of a poll
			b.answer("/api/tags", 2*second, both, tt.err)
			var all sync.WaitGroup
			for range 60 {
				all.Go(func() { b.wantCheck("embed", tt.want) })
			}
			all.Wait()
			b.wantTime(34 * second) // the end of the next poll
			b.wantPolls(0, 30*second, 32*second)
		})
	}
}

func TestWhoWaitsCanLeave(t *testing.T) {
	for name, wait := range map[string]func(context.Context, *bed) error{
		"Next":      func(ctx context.Context, b *bed) error { _, err := b.Next(ctx, b.State().Seq); return err },
		"Check":     func(ctx context.Context, b *bed) error { _, err := b.Check(ctx, "new", nil); return err },
		"Reachable": func(ctx context.Context, b *bed) error { return b.Reachable(ctx) },
	} {
		inBed(t, 30*second, "", errRefused, func(t *testing.T, b *bed) {
			b.hang("/api/tags")
			var other sync.WaitGroup
			other.Go(func() { b.wantCheck("newer", target.ErrUnreachable) }) // waits on
			errLeft := errors.New("the client left")
			ctx, cancel := context.WithTimeoutCause(t.Context(), second, errLeft)
			defer cancel()
			if err := wait(ctx, b); err != errLeft {
				t.Errorf("%s: got %v; want %v", name, err, errLeft)
			}
			b.wantTime(second)
			other.Wait()
		})
	}
}

// Run ends with its context, whatever it does, and waits for all that it began.
// That says nothing of the target, and nothing to those who wait for a poll.
func TestRunEnds(t *testing.T) {
	for _, path := range []string{"", "/api/tags", "/api/ps", "/kept"} {
		inBed(t, 30*second, chat, nil, func(t *testing.T, b *bed) {
			end := 31 * second
			if path != "" {
				end += second
				b.set(path, func(ctx context.Context) ([]byte, error) {
					defer time.Sleep(second) // it takes its time to end
					<-ctx.Done()
					return nil, ctx.Err()
				})
			}
			sleep(31 * second)
			before := b.State()
			b.stop()
			select {
			case <-b.done:
			case <-time.After(time.Minute):
				t.Fatalf("during GET %q: Run does not end with its context", path)
			}
			b.wantTime(end)
			if after := b.State(); after.Seq != before.Seq || after.Reason != "" || !after.ResidentRead.Equal(before.ResidentRead) {
				t.Errorf("during GET %q: got %+v after the end; want %+v", path, after, before)
			}
			b.wantCheck("new", context.DeadlineExceeded)
			b.wantLog(`level=INFO msg="target ready" models=1`)
		})
	}
}

// TestNextPoll: the state says when the next poll is due.
func TestNextPoll(t *testing.T) {
	inBed(t, time.Minute, none, nil, func(t *testing.T, b *bed) {
		want := func(in time.Duration) {
			t.Helper()
			if got := time.Until(b.State().NextPoll); got != in {
				t.Errorf("next poll in %v; want %v", got, in)
			}
		}
		want(time.Minute)
		sleep(10 * time.Second)
		want(50 * time.Second)
		b.tags("", target.ErrUnreachable)
		sleep(51 * time.Second)
		want(4 * time.Second)
	})
}
