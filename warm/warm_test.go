package warm

import (
	"bytes"
	"cmp"
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

	"foreman/inventory"
)

const (
	second   = time.Second
	interval = 30 * second

	// What the target may have installed.
	noEmbedder = `{"models":[{"name":"chat:latest"}]}`
	embedder   = `{"models":[{"name":"embed:latest"},{"name":"chat:latest"}]}`
)

var (
	errRefused  = fmt.Errorf("GET /api/tags: %w: connection refused", inventory.ErrUnreachable)
	errInternal = errors.New("answered 500 Internal Server Error")
)

// A host is a target that keeps models resident as Ollama does.
type host struct {
	mu        sync.Mutex // guards what follows
	down      error      // why it does not answer; nil: it does
	installed string     // what it answers to GET /api/tags
	resident  []string
	embedErr  error                       // what Embed fails with
	embedding func(context.Context) error // what Embed does instead
	gaveUp    time.Time                   // when hang was left
	began     time.Time
	polls     []time.Duration // when it was asked for its models
	warms     []string        // when an embedding was asked for, and of which model
}

func (h *host) Tags(context.Context) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.polls = append(h.polls, time.Since(h.began))
	return []byte(h.installed), h.down
}

func (h *host) Read(context.Context, string) ([]byte, error) {
	return nil, errors.New("an old version")
}

func (h *host) PS(context.Context) ([]string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.resident), h.down
}

func (h *host) Embed(ctx context.Context, model string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warms = append(h.warms, fmt.Sprint(time.Since(h.began), " ", model))
	if embedding := h.embedding; embedding != nil {
		h.mu.Unlock()
		defer h.mu.Lock()
		return embedding(ctx)
	}
	if err := cmp.Or(h.down, h.embedErr); err != nil {
		return err
	}
	if !slices.Contains(h.resident, "embed:latest") {
		h.resident = append(h.resident, "embed:latest")
	}
	return nil
}

// hang is an embedding that never ends.
func (h *host) hang(ctx context.Context) error {
	<-ctx.Done()
	h.set(func() { h.gaveUp = time.Now() })
	return ctx.Err()
}

// set changes the host between two of its answers.
func (h *host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// A bed is a warmer that runs in a bubble, together with the inventory that
// tells it of polls.
type bed struct {
	*host
	warmer *Warmer
	log    bytes.Buffer
}

// newBed runs a warmer of a model at a host that has embedder installed and
// nothing resident, and waits until it has dealt with the first poll. Before
// that, change may have its way.
func newBed(t *testing.T, model string, change func(*bed)) *bed {
	t.Helper()
	b := &bed{host: &host{began: time.Now(), installed: embedder}}
	log := logger(&b.log)
	b.warmer = New(b.host, model, log)
	if change != nil {
		change(b)
	}
	inv := inventory.New(b.host, interval, slog.New(slog.DiscardHandler))
	inv.Polled = b.warmer.Polled
	var running sync.WaitGroup
	running.Go(func() { inv.Run(t.Context()) })
	running.Go(func() { b.warmer.Run(t.Context()) })
	t.Cleanup(running.Wait) // t.Context ends before
	synctest.Wait()
	return b
}

// logger logs to w, without the time.
func logger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
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

// wantWarms checks when the model was warmed, and forgets it.
func (b *bed) wantWarms(t *testing.T, want ...string) {
	t.Helper()
	b.set(func() {
		if !slices.Equal(b.warms, want) {
			t.Errorf("got embeddings asked for at %v; want %v", b.warms, want)
		}
		b.warms = nil
	})
}

// wantLog checks what was logged, and forgets it.
func (b *bed) wantLog(t *testing.T, want ...string) {
	t.Helper()
	var lines strings.Builder
	for _, line := range want {
		fmt.Fprintln(&lines, line)
	}
	if got, want := b.log.String(), lines.String(); got != want {
		t.Errorf("got log\n%s\nwant\n%s", got, want)
	}
	b.log.Reset()
}

func (b *bed) wantGivenUp(t *testing.T, want time.Duration) {
	t.Helper()
	b.set(func() {
		if got := b.gaveUp.Sub(b.began); got != want {
			t.Errorf("given up after %v; want %v", got, want)
		}
	})
}

const (
	warmed     = `level=INFO msg="embedder warmed" model=embed took=0s`
	missing    = `level=WARN msg="embedder not installed on the target: nothing to warm" model=embed`
	notWarmed  = `level=WARN msg="embedder not warmed; will go on trying" model=embed err="answered 500 Internal Server Error"`
	tooFewHere = `level=WARN msg="only one model resident while a chat runs: is OLLAMA_MAX_LOADED_MODELS=2 set on the target, and is there memory for both?" resident=1 chat_model=chat embedder=embed`
)

func TestWarmsAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", nil)
		b.wantWarms(t, "0s embed")
		b.wantLog(t, warmed)
		sleep(10 * interval)
		b.wantWarms(t) // it is resident
		b.wantLog(t)
	})
}

// Another may have loaded it with a keep_alive of its own.
func TestWarmsAtTheStartWhatIsResident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.resident = []string{"embed:latest"} })
		b.wantWarms(t, "0s embed")
		sleep(10 * interval)
		b.wantWarms(t)
	})
}

func TestWarmsWhatIsNoLongerResident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", nil)
		b.wantWarms(t, "0s embed")
		sleep(10 * second)
		b.set(func() { b.resident = []string{"chat:latest", "embed:v2", "x/embed:latest"} })
		sleep(60 * second)
		b.wantWarms(t, "30s embed")
		b.wantLog(t, warmed, warmed)
	})
}

func TestWarmsAfterEveryReconnect(t *testing.T) {
	for _, reason := range []error{errRefused, errInternal, fmt.Errorf("%w: 401", inventory.ErrUnauthorized)} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, "embed", nil)
			b.wantWarms(t, "0s embed")
			for range 3 {
				b.set(func() { b.down, b.began = reason, time.Now() })
				sleep(interval)
				b.wantWarms(t)
				b.set(func() { b.down = nil }) // and embed:latest is still resident
				sleep(interval)
				b.wantWarms(t, "35s embed")
				sleep(5 * second)
			}
			b.wantLog(t, warmed, warmed, warmed, warmed)
		})
	}
}

// An outage that begins and ends while the warmer waits for an answer is not
// missed, although it sees the latest state only.
func TestWarmsAfterAnOutageThatItDidNotSee(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, away := stateOf(t, embedder, nil), stateOf(t, "", errRefused)
		h := &slowHost{host: host{began: time.Now(), installed: embedder}}
		w := New(h, "embed", slog.New(slog.DiscardHandler))
		go w.Run(t.Context())
		w.Polled(good)
		sleep(second)

		w.Polled(good)
		time.Sleep(second / 2)
		w.Polled(away)
		w.Polled(good)
		sleep(second / 2)
		w.Polled(good)
		synctest.Wait()
		sleep(10 * second)
		if len(h.warms) != 2 {
			t.Errorf("got embeddings asked for at %v; want one at the start and one after the outage", h.warms)
		}
	})
}

// A slowHost takes a second to tell what is resident.
type slowHost struct{ host }

func (h *slowHost) PS(ctx context.Context) ([]string, error) {
	time.Sleep(second)
	return h.host.PS(ctx)
}

func TestNamesAsOllamaMatchesThem(t *testing.T) {
	for _, name := range []string{"embed", "EMBED:latest", "library/embed", "registry.ollama.ai/library/Embed:Latest"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, name, nil)
			sleep(3 * interval)
			b.wantWarms(t, "0s "+name)
		})
	}
}

func TestNotInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.installed = noEmbedder })
		sleep(10 * interval)
		b.wantLog(t, missing) // once
		others := []string{`{"models":[{"name":"x:1"},{"name":"y:1"}]}`, `{"models":[{"name":"y:1"},{"name":"x:1"}]}`}
		for i := range 10 { // Ollama lists models of the same age in any order
			b.set(func() { b.installed = others[i%2] })
			sleep(interval)
		}
		b.wantLog(t, missing)
		b.set(func() { b.installed = noEmbedder })
		sleep(interval)
		b.wantLog(t, missing)

		b.set(func() { b.down = errRefused })
		sleep(2 * interval)
		b.set(func() { b.down = nil })
		sleep(2 * interval)
		b.wantLog(t) // nothing has changed

		b.set(func() { b.installed = `{"models":[]}` })
		sleep(2 * interval)
		b.wantLog(t, missing)
		b.wantWarms(t)

		b.set(func() { b.installed, b.began = embedder, time.Now() })
		sleep(2 * interval)
		b.wantWarms(t, "5s embed") // since the outage, polls are 5 s later
		b.wantLog(t, warmed)

		b.set(func() { b.installed = `{"models":[]}` }) // deleted
		sleep(2 * interval)
		b.wantLog(t, missing)
		b.wantWarms(t)
	})
}

func TestEmbedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.embedErr = errInternal })
		sleep(3*interval + second)
		b.wantWarms(t, "0s embed", "30s embed", "1m0s embed", "1m30s embed")
		b.wantLog(t, notWarmed)
		b.set(func() { b.embedErr = nil })
		sleep(2 * interval)
		b.wantWarms(t, "2m0s embed")
		b.wantLog(t, warmed)

		b.set(func() { b.embedErr, b.resident = errInternal, nil }) // another episode
		sleep(2 * interval)
		b.wantLog(t, notWarmed)
	})
}

// Others can see what the warmer knows.
func TestResidentAndWarmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var outcomes []error
		b := newBed(t, "embed", func(b *bed) {
			b.embedErr = errInternal
			b.warmer.Warmed = func(err error) { outcomes = append(outcomes, err) }
		})
		wantResident := func(want bool) {
			t.Helper()
			if got := b.warmer.Resident(); got != want {
				t.Errorf("resident after %v: got %t; want %t", time.Since(b.began), got, want)
			}
		}
		wantResident(false)
		b.set(func() { b.embedErr = nil })
		sleep(interval)
		wantResident(true) // as the attempt went well
		sleep(interval)
		wantResident(true)
		b.set(func() { b.resident, b.embedding = nil, b.hang })
		sleep(interval)
		wantResident(false)
		b.set(func() { b.resident, b.down = []string{"embed:latest"}, errRefused })
		sleep(interval)
		wantResident(false) // nobody knows
		b.set(func() { b.down = nil })
		sleep(interval)
		wantResident(true)
		if want := []error{errInternal, nil, context.Canceled}; !slices.Equal(outcomes, want) {
			t.Errorf("got outcomes %v; want %v", outcomes, want)
		}
		sleep(interval)
		b.set(func() { b.down = errRefused }) // while the attempt goes on
		sleep(interval)
		wantResident(false)
	})
}

// What is resident may have been loaded by somebody else, for a while.
func TestEmbedFailsOfWhatIsResident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.resident, b.embedErr = []string{"embed:latest"}, errInternal })
		sleep(interval)
		b.set(func() { b.embedErr = nil })
		sleep(3 * interval)
		b.wantWarms(t, "0s embed", "30s embed", "1m0s embed")
	})
}

// A target whose models cannot be read is left alone, as long as it lasts.
func TestDoesNothingWhileDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.installed = "<html>" })
		sleep(interval)
		b.wantWarms(t)
		b.wantLog(t)
		b.set(func() { b.installed = embedder })
		sleep(interval)
		b.wantWarms(t, "35s embed")
		b.set(func() { b.installed, b.resident = "<html>", nil })
		sleep(2 * interval)
		b.wantWarms(t)
		b.wantLog(t, warmed)
	})
}

// Resident models that cannot be read are no reason to do or say anything.
func TestPSFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(psFails{t}, "embed", slog.New(slog.NewTextHandler(t.Output(), nil)))
		w.Chat = func() (string, time.Duration) { t.Error("asked for the chat"); return "chat", time.Hour }
		go w.Run(t.Context())
		w.Polled(stateOf(t, embedder, nil))
		synctest.Wait()
	})
}

type psFails struct{ t *testing.T }

func (psFails) PS(context.Context) ([]string, error)           { return nil, errInternal }
func (f psFails) Embed(ctx context.Context, name string) error { f.t.Error("warmed"); return nil }

// stateOf returns the state of an inventory whose only poll got tags or err.
func stateOf(t *testing.T, tags string, err error) inventory.State {
	t.Helper()
	inv := inventory.New(&host{installed: tags, down: err}, interval, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	inv.Polled = func(inventory.State) { cancel() }
	inv.Run(ctx)
	return inv.State()
}

// The resident models are asked for with a time limit.
func TestPSHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &psHangs{began: time.Now()}
		w := New(target, "embed", slog.New(slog.DiscardHandler))
		go w.Run(t.Context())
		w.Polled(stateOf(t, embedder, nil))
		sleep(4 * second)
		w.Polled(stateOf(t, embedder, nil))
		sleep(4 * second)
		if want := []time.Duration{4 * second, 8 * second}; !slices.Equal(target.ended, want) {
			t.Errorf("given up at %v; want %v", target.ended, want)
		}
	})
}

type psHangs struct {
	began time.Time
	ended []time.Duration
}

func (h *psHangs) PS(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	h.ended = append(h.ended, time.Since(h.began))
	return nil, ctx.Err()
}

func (*psHangs) Embed(context.Context, string) error { return nil }

func TestAttemptIsGivenUpWhenTheTargetIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.embedding = b.hang })
		sleep(2*interval + second)
		b.wantWarms(t, "0s embed") // it goes on, poll after poll
		b.set(func() { b.down = errRefused })
		sleep(interval)
		b.wantGivenUp(t, 90*second) // when the target was found unreachable
		b.set(func() { b.down, b.embedding = nil, nil })
		sleep(interval)
		b.wantWarms(t, "1m35s embed")
	})
}

// A target that answers polls, if not as it should, may still be loading.
func TestAttemptGoesOnWhenTheAnswerIsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) { b.embedding = b.hang })
		b.set(func() { b.down = errInternal })
		sleep(5*time.Minute + second)
		b.wantGivenUp(t, 5*time.Minute)
	})
}

func TestOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var model string
		var since time.Time // model's chat is answered
		b := newBed(t, "embed", func(b *bed) {
			b.warmer.Chat = func() (string, time.Duration) {
				if model == "" {
					return "", 0
				}
				return model, time.Since(since)
			}
		})
		b.wantLog(t, warmed)

		sleep(second) // polls are a second before the half minute from here
		chats := func(name string, answering time.Duration) {
			b.set(func() {
				b.resident = []string{"chat:latest"}
				model, since = name, time.Now().Add(29*second-answering)
			})
			sleep(interval)
		}
		chats("chat", 10*second-1) // for a moment too short a time
		b.wantLog(t, warmed)
		chats("", 0) // no chat
		b.wantLog(t, warmed)
		chats("Embed:latest", time.Hour) // needs no second place
		b.wantLog(t, warmed)
		chats("chat", 10*second)
		b.wantLog(t, tooFewHere, warmed)
		chats("chat", time.Hour) // once per episode
		b.wantLog(t, warmed)

		sleep(interval) // both are resident: the episode is over
		b.wantLog(t)
		chats("chat", 10*second)
		b.wantLog(t, tooFewHere, warmed)
	})
}

func TestNoModelResidentWhileAChatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", func(b *bed) {
			b.warmer.Chat = func() (string, time.Duration) { return "chat", 10 * second }
		})
		b.wantLog(t, strings.Replace(tooFewHere, "resident=1", "resident=0", 1), warmed)
	})
}

// With one place only, Ollama lets the embedder wait until the chat is over. The
// warning must not wait as well: it is about this very case.
func TestOneSlotIsSeenWhileTheEmbedderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answering time.Time
		b := newBed(t, "embed", func(b *bed) {
			b.warmer.Chat = func() (string, time.Duration) { return "chat", time.Since(answering) }
			b.resident = []string{"chat:latest"}
			answering = time.Now()
			b.embedding = b.hang
		})
		b.wantWarms(t, "0s embed")
		sleep(interval)
		b.wantLog(t, tooFewHere)
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, "embed", nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(second); cancel() }()
		b.warmer.Run(ctx)
		if got := time.Since(b.began); got != second {
			t.Errorf("Run ended after %v; want 1s", got)
		}
		b.warmer.Polled(inventory.State{}) // does not block
		b.warmer.Polled(inventory.State{})
	})
}

// An attempt under way is ended too, and waited for; nothing is said of it.
func TestRunEndsInAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := &host{began: time.Now(), installed: embedder}
		h.embedding = func(ctx context.Context) error {
			defer time.Sleep(second) // it takes its time to end
			return h.hang(ctx)
		}
		w := New(h, "embed", logger(&log))
		w.Warmed = func(err error) { t.Errorf("told of %v; want nothing", err) }
		ctx, cancel := context.WithCancel(t.Context())
		w.Polled(stateOf(t, embedder, nil))
		go func() { time.Sleep(second); cancel() }()
		w.Run(ctx)
		if got := h.gaveUp.Sub(h.began); got != second {
			t.Errorf("given up after %v; want 1s", got)
		}
		if got := time.Since(h.began); got != 2*second {
			t.Errorf("Run ended after %v; want 2s", got)
		}
		if log.Len() > 0 {
			t.Errorf("got log\n%s; want nothing of the end", &log)
		}
	})
}
