package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Answers of a source.
const (
	none = `{"models":[]}`
	chat = `{"models":[{"name":"chat:latest"}]}`
	both = `{"models":[{"name":"chat:latest"},{"name":"embed:latest"}]}`
)

// Errors as the way to the target has them.
var (
	errRefused  = fmt.Errorf("GET /api/tags: %w: connection refused", ErrUnreachable)
	errToken    = fmt.Errorf("GET /api/tags: %w: 401 Unauthorized", ErrUnauthorized)
	errInternal = errors.New("GET /api/tags: answered 500 Internal Server Error")
	errRedirect = errors.New("GET /api/tags: answered 302 Found")
)

// A fakeSource answers what it is told to and notes when it is asked.
type fakeSource struct {
	mu     sync.Mutex // guards what follows
	answer func(context.Context) ([]byte, error)
	polls  []time.Time
	other  map[string]string // answers on other paths than that of the models
}

func (s *fakeSource) Tags(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	s.polls = append(s.polls, time.Now())
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx)
}

// say makes the source answer with tags, or err.
func (s *fakeSource) say(tags string, err error) {
	s.do(func(context.Context) ([]byte, error) { return []byte(tags), err })
}

func (s *fakeSource) do(answer func(context.Context) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// since returns the times of the polls, and forgets them.
func (s *fakeSource) since(began time.Time) (times []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.polls {
		times = append(times, at.Sub(began))
	}
	s.polls = nil
	return times
}

func (s *fakeSource) Read(_ context.Context, path string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if body, ok := s.other[path]; ok {
		return []byte(body), nil
	}
	return nil, errors.New("an old version")
}

// hang is a host that is asleep: nothing comes.
func hang(ctx context.Context) ([]byte, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
}

// A bed is an inventory that runs in a bubble.
type bed struct {
	*Inventory
	*fakeSource
	began time.Time
	log   *bytes.Buffer
}

// newBed runs an inventory of a source that says tags or err at first, and
// returns when the first poll has ended.
func newBed(t *testing.T, interval time.Duration, tags string, err error) *bed {
	t.Helper()
	b := &bed{fakeSource: new(fakeSource), began: time.Now(), log: new(bytes.Buffer)}
	b.say(tags, err)
	b.Inventory = New(b.fakeSource, interval, logger(b.log))
	var running sync.WaitGroup
	running.Go(func() { b.Run(t.Context()) })
	t.Cleanup(running.Wait) // t.Context ends before
	synctest.Wait()
	return b
}

// logger logs to w, without the time.
func logger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// sleep lets virtual time pass, and what is due at its end happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bed) wantPolls(t *testing.T, want ...time.Duration) {
	t.Helper()
	if got := b.since(b.began); !slices.Equal(got, want) {
		t.Errorf("got polls at %v; want %v", got, want)
	}
}

func (b *bed) wantLog(t *testing.T, want ...string) {
	t.Helper()
	if got := strings.Split(strings.TrimSuffix(b.log.String(), "\n"), "\n"); !slices.Equal(got, want) {
		t.Errorf("got log\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (b *bed) wantCheck(t *testing.T, model string, want error) {
	t.Helper()
	if _, got := b.Check(t.Context(), model); got != want && (want == nil || !errors.Is(got, want)) {
		t.Errorf("Check(%q): got %v; want %v", model, got, want)
	}
}

const second = time.Second

func TestBeforeTheFirstPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv := New(new(fakeSource), 30*second, slog.New(slog.DiscardHandler))
		state := inv.State()
		if state.Reason != Starting || !state.Degraded() || state.Tags != nil || !state.LastPoll.IsZero() || state.Len() != 0 || !state.Since.Equal(time.Now()) {
			t.Errorf("got %+v; want nothing known", state)
		}
	})
}

func TestPollsEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		sleep(60 * second)
		b.wantPolls(t, 0, 30*second, 60*second)
		b.wantLog(t, `level=INFO msg="target ready" models=1`)
		state := b.State()
		if state.Degraded() || string(state.Tags) != chat || state.LastPoll.Sub(b.began) != 60*second || !state.Since.Equal(b.began) || state.Unanswered != 0 {
			t.Errorf("got %+v; want it good, of %s and as polled last", state, chat)
		}

		// The inventory is what the target holds now.
		b.say(both, nil)
		sleep(30 * second)
		if state := b.State(); state.Len() != 2 || !state.Holds("embed") {
			t.Errorf("got %d models; want 2", state.Len())
		}
		b.say(none, nil)
		sleep(30 * second)
		if state := b.State(); state.Len() != 0 || state.Holds("embed") || state.Degraded() {
			t.Errorf("got %d models; want none", state.Len())
		}
	})
}

func TestAPollsTimeIsPartOfTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 10*second, chat, nil)
		b.do(func(context.Context) ([]byte, error) { time.Sleep(3 * second); return []byte(chat), nil })
		sleep(35 * second)
		b.wantPolls(t, 0, 10*second, 20*second, 30*second)
	})
}

func TestPollsSoonerWhileDegraded(t *testing.T) {
	for interval, want := range map[time.Duration][]time.Duration{
		30 * second: {0, 5 * second, 10 * second},
		2 * second:  {0, 2 * second, 4 * second, 6 * second, 8 * second, 10 * second},
	} {
		for _, err := range []error{errRefused, errToken, errInternal} {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, interval, "", err)
				sleep(10 * second)
				b.wantPolls(t, want...)
				b.say(chat, nil)
				sleep(interval + 5*second)
				if b.State().Degraded() {
					t.Error("still degraded")
				}
				b.since(b.began)
				sleep(interval)
				if got := b.since(b.began); len(got) != 1 {
					t.Errorf("got polls at %v in an interval of %v after the outage; want one", got, interval)
				}
			})
		}
	}
}

func TestAPollThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.do(hang)
		sleep(33 * second)
		if b.State().Degraded() {
			t.Error("degraded before the poll was given up")
		}
		sleep(1 * second)
		if got := b.State().Reason; got != Unreachable {
			t.Errorf("got reason %q; want %q", got, Unreachable)
		}
		sleep(9 * second)
		b.wantPolls(t, 0, 30*second, 35*second, 40*second)
		if got, want := b.State().Unanswered, 2; got != want {
			t.Errorf("got %d unanswered; want %d", got, want)
		}
	})
}

func TestOutages(t *testing.T) {
	for _, tt := range []struct {
		tags   string
		err    error
		reason string
		logged string
	}{
		{"", errRefused, Unreachable, errRefused.Error()},
		{"", errToken, Unauthorized, errToken.Error()},
		{"", errInternal, BadAnswer, errInternal.Error()},
		{"", errRedirect, BadAnswer, errRedirect.Error()},
		{"<html>", nil, BadAnswer, "models: invalid character '<' looking for beginning of value"},
		{"{}", nil, BadAnswer, "models: the answer has no 'models'"},
		{none, errInternal, BadAnswer, errInternal.Error()}, // an error counts, whatever came with it
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, 30*second, both, nil)
			sleep(10 * second)
			b.say(tt.tags, tt.err)
			sleep(32 * second) // polls at 30, 35 and 40 s
			state := b.State()
			if state.Reason != tt.reason || !state.Degraded() {
				t.Errorf("%v: got reason %q; want %q", tt.err, state.Reason, tt.reason)
			}
			if string(state.Tags) != both || !state.Holds("embed") || state.Len() != 2 || !state.LastPoll.Equal(b.began) {
				t.Errorf("%v: got %+v; want the last-known models and their time kept", tt.err, state)
			}
			if got := state.Since.Sub(b.began); got != 30*second {
				t.Errorf("%v: got degraded since %v; want 30s", tt.err, got)
			}
			want := 0
			if tt.reason == Unreachable {
				want = 3
			}
			if state.Unanswered != want {
				t.Errorf("%v: got %d unanswered; want %d", tt.err, state.Unanswered, want)
			}

			b.say(chat, nil)
			sleep(3 * second)
			state = b.State()
			if state.Degraded() || string(state.Tags) != chat || state.Holds("embed") || state.Unanswered != 0 ||
				state.Since.Sub(b.began) != 45*second || state.LastPoll.Sub(b.began) != 45*second {
				t.Errorf("%v: got %+v; want it recovered after 45s", tt.err, state)
			}
			sleep(60 * second)
			b.wantLog(t,
				`level=INFO msg="target ready" models=2`,
				fmt.Sprintf(`level=WARN msg="target degraded" reason=%s err=%s models_kept=2`, quoted(tt.reason), quoted(strings.ReplaceAll(tt.logged, "'models'", `"models"`))),
				`level=INFO msg="target recovered" models=1 outage=15s`)
		})
	}
}

// quoted is how a text handler writes a string.
func quoted(s string) string {
	if strings.ContainsAny(s, ` "`) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func TestDegradedFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, "", errRefused)
		state := b.State()
		if state.Reason != Unreachable || state.Tags != nil || !state.LastPoll.IsZero() || state.Unanswered != 1 {
			t.Errorf("got %+v; want it unreachable and empty", state)
		}
		b.say(chat, nil)
		sleep(5 * second)
		b.wantLog(t,
			`level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: target unreachable: connection refused" models_kept=0`,
			`level=INFO msg="target recovered" models=1 outage=5s`)
	})
}

// An outage that changes its nature is one outage, with a record for each.
func TestReasonsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 5*second, chat, nil)
		for _, step := range []struct {
			err            error
			wantUnanswered int
		}{{errRefused, 1}, {errRefused, 2}, {errInternal, 0}, {errRefused, 1}, {errToken, 0}} {
			b.say("", step.err)
			sleep(5 * second)
			state := b.State()
			if state.Unanswered != step.wantUnanswered {
				t.Errorf("%v: got %d unanswered; want %d", step.err, state.Unanswered, step.wantUnanswered)
			}
			if got := state.Since.Sub(b.began); got != 5*second {
				t.Errorf("%v: got degraded since %v; want 5s", step.err, got)
			}
		}
		b.say(chat, nil)
		sleep(5 * second)
		b.wantLog(t,
			`level=INFO msg="target ready" models=1`,
			`level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: target unreachable: connection refused" models_kept=1`,
			`level=WARN msg="target degraded" reason="bad answer" err="GET /api/tags: answered 500 Internal Server Error" models_kept=1`,
			`level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: target unreachable: connection refused" models_kept=1`,
			`level=WARN msg="target degraded" reason=unauthorized err="GET /api/tags: target refused foreman: 401 Unauthorized" models_kept=1`,
			`level=INFO msg="target recovered" models=1 outage=25s`)
	})
}

func TestPolledIsToldOfEveryPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := new(fakeSource)
		source.say(chat, nil)
		var told []State
		inv := New(source, 5*second, slog.New(slog.DiscardHandler))
		inv.Polled = func(state State) {
			if now := inv.State(); now.Reason != state.Reason || now.LastPoll != state.LastPoll {
				t.Errorf("told %+v while the state is %+v", state, now)
			}
			told = append(told, state)
		}
		go inv.Run(t.Context())
		sleep(5 * second)
		source.say("", errRefused)
		sleep(5 * second)
		source.say(both, nil)
		sleep(5 * second)
		var got []string
		for _, state := range told {
			got = append(got, fmt.Sprintf("%q %d", state.Reason, state.Len()))
		}
		if want := []string{`"" 1`, `"" 1`, `"unreachable" 1`, `"" 2`}; !slices.Equal(got, want) {
			t.Errorf("got %v; want %v", got, want)
		}
	})
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := new(fakeSource)
		source.say(chat, nil)
		inv := New(source, 5*second, slog.New(slog.DiscardHandler))
		inv.Keep = []string{"/v1/models", "/api/version", "/new"}
		go inv.Run(t.Context())
		for i, step := range []struct {
			other map[string]string
			err   error // of the poll itself
			want  string
		}{
			{nil, nil, "map[]"},
			{map[string]string{"/v1/models": "m1", "/api/version": "v1", "/not/kept": "x"}, nil, "map[/api/version:v1 0s /v1/models:m1 0s]"},
			{map[string]string{"/v1/models": "m2", "/api/version": "v2"}, nil, "map[/api/version:v2 0s /v1/models:m2 0s]"},
			{map[string]string{"/v1/models": "m3"}, errRefused, "map[/api/version:v2 5s /v1/models:m2 5s]"}, // not asked for
			{map[string]string{"/v1/models": "m4"}, nil, "map[/api/version:v2 10s /v1/models:m4 0s]"},       // the last good one of each
		} {
			source.mu.Lock()
			source.other = step.other
			source.mu.Unlock()
			source.say(chat, step.err)
			sleep(5 * second)
			got := make(map[string]string)
			for path, answer := range inv.State().Kept {
				got[path] = fmt.Sprintf("%s %v", answer.Body, time.Since(answer.Read))
			}
			if got := fmt.Sprint(got); got != step.want {
				t.Errorf("step %d: got %s; want %s", i, got, step.want)
			}
		}
	})
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		sleep(10 * second)
		b.Refresh()
		sleep(35 * second)
		b.wantPolls(t, 0, 10*second, 40*second) // the interval began anew

		// What is asked for during a poll is not known to that poll. Ten wishes
		// are one more.
		b.do(func(context.Context) ([]byte, error) { time.Sleep(2 * second); return []byte(chat), nil })
		b.Refresh() // at 45 s
		sleep(1 * second)
		for range 10 {
			b.Refresh()
		}
		sleep(20 * second)
		b.wantPolls(t, 45*second, 47*second)
	})
}

func TestRefreshWhileUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, "", errRefused)
		sleep(1 * second)
		b.Refresh()
		sleep(3 * second)
		b.wantPolls(t, 0)
		b.say("", errInternal)
		sleep(2 * second)
		b.Refresh() // it answers, so it may
		synctest.Wait()
		b.wantPolls(t, 5*second, 6*second)
	})
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.wantCheck(t, "CHAT:latest", nil)
		b.wantPolls(t, 0) // no more than the first

		const soon = second / 4 // after the poll before, however much is asked
		b.wantCheck(t, "embed", ErrNotFound)
		synctest.Wait()
		b.wantPolls(t, soon)

		b.say(both, nil) // pulled meanwhile
		b.wantCheck(t, "embed", nil)
		b.wantPolls(t, 2*soon)

		b.say("", errInternal)
		sleep(30 * second)
		b.wantPolls(t, 30*second+2*soon)
		b.wantCheck(t, "embed", nil) // known, and the target answers
		b.wantPolls(t)
		b.wantCheck(t, "new", ErrDegraded)
		b.wantCheck(t, "new", errInternal)

		b.say("", errToken)
		b.wantCheck(t, "new", ErrDegraded)
		b.wantCheck(t, "new", ErrUnauthorized)
		b.wantCheck(t, "embed", nil)

		b.say("", errRefused)
		b.wantCheck(t, "new", ErrUnreachable)
		b.since(b.began)
		b.wantCheck(t, "embed", ErrUnreachable) // known, but of no use
		synctest.Wait()
		b.wantPolls(t, 30*second+8*soon) // not without having asked again

		b.say(both, nil)
		b.wantCheck(t, "embed", nil) // back, and found out at once
		b.wantLog(t,
			`level=INFO msg="target ready" models=1`,
			`level=WARN msg="target degraded" reason="bad answer" err="GET /api/tags: answered 500 Internal Server Error" models_kept=2`,
			`level=WARN msg="target degraded" reason=unauthorized err="GET /api/tags: target refused foreman: 401 Unauthorized" models_kept=2`,
			`level=WARN msg="target degraded" reason=unreachable err="GET /api/tags: target unreachable: connection refused" models_kept=2`,
			`level=INFO msg="target recovered" models=2 outage=1.75s`)
	})
}

// One client that asks for an unknown model again and again does not make foreman
// poll as fast as the target answers.
func TestManyChecksOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.Keep = []string{"/kept"}
		b.since(b.began)
		for range 40 {
			b.wantCheck(t, "unknown", ErrNotFound)
		}
		if got := time.Since(b.began); got != 10*second {
			t.Errorf("40 polls took %v; want 10 s", got)
		}
		if got := b.State().Kept; got != nil {
			t.Errorf("kept: %v; want nothing read but what was asked for", got)
		}
	})
}

// Polls that fail all at once are one sign that the target is away, not three.
func TestPollsAtOneMomentCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.say("", errRefused)
		for want := 1; want <= 3; want++ {
			for range 3 {
				b.wantCheck(t, "unknown", ErrUnreachable)
			}
			if got := b.State().Unanswered; got != want {
				t.Errorf("after %v: %d unanswered; want %d", time.Since(b.began), got, want)
			}
			sleep(4 * second)
		}
	})
}

// The errors are told apart by errors.Is, so none may be another as well.
func TestCheckErrorsAreApart(t *testing.T) {
	all := []error{ErrNotFound, ErrDegraded, ErrUnreachable}
	for err, want := range map[error]error{nil: ErrNotFound, errInternal: ErrDegraded, errToken: ErrDegraded, errRefused: ErrUnreachable} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, 30*second, chat, err)
			_, got := b.Check(t.Context(), "new")
			for _, e := range all {
				if errors.Is(got, e) != (e == want) {
					t.Errorf("%v: is it %q? %t", got, e, errors.Is(got, e))
				}
			}
		})
	}
}

func TestCheckOfWhatIsNoNameCostsNoPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		for _, model := range []string{"", "not a name", "chat:", strings.Repeat("x", 5000)} {
			b.wantCheck(t, model, ErrNotFound)
		}
		synctest.Wait()
		b.wantPolls(t, 0)
	})
}

func TestSixtyChecksCostOneOrTwoPolls(t *testing.T) {
	for name, tt := range map[string]struct {
		after error // what the target does when they come
		want  error
	}{"missing": {nil, ErrNotFound}, "unreachable": {errRefused, ErrUnreachable}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, 30*second, chat, nil)
				b.do(func(context.Context) ([]byte, error) { time.Sleep(second); return []byte(chat), tt.after })
				sleep(10 * second)
				b.since(b.began)
				var all sync.WaitGroup
				for i := range 60 {
					all.Go(func() { b.wantCheck(t, fmt.Sprint("unknown", i), tt.want) })
				}
				all.Wait()
				synctest.Wait()
				if took := time.Since(b.began) - 10*second; took > 2*second {
					t.Errorf("answered after %v; want two polls at most", took)
				}
				sleep(2 * second)
				if got := b.since(b.began); len(got) < 1 || len(got) > 2 {
					t.Errorf("got polls at %v; want one or two", got)
				}
			})
		})
	}
}

// A poll that began before the question may have missed what it asks about.
func TestCheckDuringAPollWaitsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.do(func(context.Context) ([]byte, error) { time.Sleep(2 * second); return []byte(chat), nil })
		sleep(31 * second) // in the middle of a poll
		b.do(func(context.Context) ([]byte, error) { time.Sleep(2 * second); return []byte(both), nil })
		var all sync.WaitGroup
		for range 60 {
			all.Go(func() { b.wantCheck(t, "embed", nil) })
		}
		all.Wait()
		if got := time.Since(b.began); got != 34*second {
			t.Errorf("answered after %v; want 34s, the end of the next poll", got)
		}
		sleep(second)
		b.wantPolls(t, 0, 30*second, 32*second)
	})
}

// Whether the target is back is asked after the question, too.
func TestCheckWhileUnreachableAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.do(hang)
		sleep(36 * second) // in the second poll that hangs
		b.say(chat, nil)
		b.wantCheck(t, "chat", nil)
		if got := time.Since(b.began); got != 39*second {
			t.Errorf("answered after %v; want 39s, when the poll was given up", got)
		}
		b.wantPolls(t, 0, 30*second, 35*second, 39*second)
	})
}

func TestCheckIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 30*second, chat, nil)
		b.do(hang)
		errLeft := errors.New("the client left")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error)
		go func() {
			_, err := b.Check(ctx, "new")
			got <- err
		}()
		go b.wantCheck(t, "newer", ErrUnreachable) // others wait on
		sleep(1 * second)
		cancel(errLeft)
		if err := <-got; err != errLeft {
			t.Errorf("got %v; want %v", err, errLeft)
		}
		if took := time.Since(b.began); took != 1*second {
			t.Errorf("answered after %v; want 1s", took)
		}
		sleep(10 * second)
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	for name, answer := range map[string]func(context.Context) ([]byte, error){
		"between polls": func(context.Context) ([]byte, error) { return []byte(chat), nil },
		"in a poll":     hang,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, log := new(fakeSource), new(bytes.Buffer)
				source.say(chat, nil)
				polled := 0
				inv := New(source, 10*second, logger(log))
				inv.Polled = func(State) { polled++ }
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); inv.Run(ctx) }()
				synctest.Wait()
				source.do(answer)
				sleep(11 * second)
				before, wasPolled := inv.State(), polled
				cancel()
				<-done
				if took := time.Since(before.Since); took != 11*second {
					t.Errorf("Run ended after %v; want 11s", took)
				}
				// Stopping says nothing of the target.
				if after := inv.State(); after.Reason != "" || after.LastPoll != before.LastPoll || polled != wasPolled {
					t.Errorf("got %+v after the end; want %+v", after, before)
				}
				if got, want := log.String(), "level=INFO msg=\"target ready\" models=1\n"; got != want {
					t.Errorf("got log\n%s\nwant\n%s", got, want)
				}
			})
		})
	}
}

// A check that waits when foreman ends is ended by its own context, which ends
// too, and not by a guess that the model does not exist.
func TestCheckWhenRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := new(fakeSource)
		source.say(chat, nil)
		inv := New(source, 30*second, slog.New(slog.DiscardHandler))
		running, stop := context.WithCancel(t.Context())
		go inv.Run(running)
		synctest.Wait()
		source.do(hang)
		errStopping := errors.New("stopping")
		request, cancel := context.WithCancelCause(t.Context())
		var got error
		go func() { _, got = inv.Check(request, "new") }()
		sleep(1 * second)
		stop()
		synctest.Wait()
		cancel(errStopping)
		synctest.Wait()
		if got != errStopping {
			t.Errorf("got %v; want %v", got, errStopping)
		}
	})
}
