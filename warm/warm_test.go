package warm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
	ollama "foreman/proxy/target"
)

const (
	second   = time.Second
	interval = 30 * second

	// What the target may have installed.
	noEmbedder = `{"models":[{"name":"chat:latest"}]}`
	embedder   = `{"models":[{"name":"embed:latest"},{"name":"chat:latest"}]}`
	notOllama  = `<html>`

	// What is logged.
	warmed    = `level=INFO msg="embedder warmed" model=embed took=0s`
	missing   = `level=WARN msg="embedder not installed on the target: nothing to warm" model=embed`
	notWarmed = `level=WARN msg="embedder not warmed; will go on trying" model=embed err="answered 500 Internal Server Error"`
	evicted   = `level=WARN msg="an embedding with another model evicted the embedder: OLLAMA_MAX_LOADED_MODELS=3 on the target has a place for each, if there is memory for three" model=other embedder=embed`
	oneSlot   = `level=WARN msg="only one model resident while a chat runs: is OLLAMA_MAX_LOADED_MODELS=2 set on the target, and is there memory for both?" resident=1 chat_model=chat embedder=embed`
)

// never is what Ollama says of a model with a keep_alive of -1.
var never = time.Date(2318, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	errRefused  = fmt.Errorf("GET /api/tags: %w: connection refused", ollama.ErrUnreachable)
	errToken    = fmt.Errorf("GET /api/tags: %w: 401", ollama.ErrUnauthorized)
	errInternal = errors.New("answered 500 Internal Server Error")
)

// A host is a target that keeps models resident as Ollama does, and the line of
// the chats for it.
type host struct {
	embedder string // the model to warm, as it was configured

	mu        sync.Mutex // guards what follows
	down      error      // why it does not answer; nil: it does
	psDown    error      // the same of /api/ps alone
	installed string     // what it answers to GET /api/tags
	resident  []string
	expires   time.Time // when embed:latest is unloaded; zero: the target does not say
	polls     int
	embedErr  error                       // what Embed fails with
	embedding func(context.Context) error // what Embed does instead
	chat      string                      // the model of the chat that has the turn
	chatSince time.Time

	began  time.Time
	warms  []time.Duration // when an embedding was asked for
	model  string          // of the last one
	asked  string          // options of the last one
	gaveUp time.Time       // when hang was left
}

func (h *host) Read(_ context.Context, path string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if path == "/api/tags" {
		h.polls++
		return []byte(h.installed), h.down
	}
	var models []string
	for _, name := range h.resident {
		expires := ""
		if name == "embed:latest" && !h.expires.IsZero() {
			expires = h.expires.Format(time.RFC3339)
		}
		models = append(models, fmt.Sprintf(`{"name":%q,"expires_at":%q}`, name, expires))
	}
	return fmt.Appendf(nil, `{"models":[%s]}`, strings.Join(models, ",")), cmp.Or(h.down, h.psDown)
}

func (h *host) Alive(context.Context) error { return errors.New("not asked") }

func (h *host) Embed(ctx context.Context, model string, options []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.warms, h.model, h.asked = append(h.warms, time.Since(h.began)), model, string(options)
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
	if !h.expires.IsZero() {
		h.expires = never
	}
	return nil
}

func (h *host) Holder() (string, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.chat, h.chatSince
}

// hang is an embedding that ends only when it is given up.
func (h *host) hang(ctx context.Context) error {
	<-ctx.Done()
	h.set(func() { h.gaveUp = time.Now() })
	return context.Cause(ctx)
}

// set changes the host between two of its answers.
func (h *host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// A bed is a warmer that runs in a bubble, beside the inventory that it follows.
type bed struct {
	*host
	*Warmer
	t    *testing.T
	log  bytes.Buffer
	stop context.CancelFunc
	done chan struct{} // closed when the warmer's Run has returned
}

// inBed runs a test with a warmer of embed at a host that has embedder installed and
// nothing resident, unless change, if not nil, changes the host. The test begins when
// the warmer has dealt with the first poll.
func inBed(t *testing.T, change func(*host), test func(t *testing.T, b *bed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bed{t: t, host: &host{embedder: "embed", began: time.Now(), installed: embedder}, done: make(chan struct{})}
		if change != nil {
			change(b.host)
		}
		inv := inventory.New(b.host, interval, slog.New(slog.DiscardHandler))
		b.Warmer = New(b.host, inv, b.host, b.embedder, slog.New(slog.NewTextHandler(&b.log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		b.stop = stop
		var polls sync.WaitGroup
		polls.Go(func() { inv.Run(t.Context()) })
		go func() { defer close(b.done); b.Run(ctx) }()
		t.Cleanup(func() { stop(); <-b.done; polls.Wait() }) // t.Context ends before
		synctest.Wait()
		test(t, b)
	})
}

// sleep lets virtual time pass, and what is due at its end happen.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// setFor changes the host, and then lets virtual time pass.
func (b *bed) setFor(d time.Duration, change func()) {
	b.set(change)
	sleep(d)
}

// wantWarms checks when the model was warmed, and forgets it.
func (b *bed) wantWarms(want ...time.Duration) {
	b.t.Helper()
	b.set(func() {
		if !slices.Equal(b.warms, want) {
			b.t.Errorf("got embeddings asked for at %v; want %v", b.warms, want)
		}
		b.warms = nil
	})
}

// wantLog checks what was logged, and forgets it.
func (b *bed) wantLog(want ...string) {
	b.t.Helper()
	got := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(b.log.String(), "")
	if want := strings.Join(append(want, ""), "\n"); got != want {
		b.t.Errorf("got log\n%s\nwant\n%s", got, want)
	}
	b.log.Reset()
}

func (b *bed) wantCounts(wantOK, wantFailed uint64) {
	b.t.Helper()
	if ok, failed := b.Counts(); ok != wantOK || failed != wantFailed {
		b.t.Errorf("got %d attempts that went well and %d that failed; want %d and %d", ok, failed, wantOK, wantFailed)
	}
}

func (b *bed) wantGivenUp(want time.Duration) {
	b.t.Helper()
	b.set(func() {
		if got := b.gaveUp.Sub(b.began); got != want {
			b.t.Errorf("given up after %v; want %v", got, want)
		}
	})
}

// What would be unloaded is pinned again, and what is pinned is left alone.
func TestPinsWhatExpires(t *testing.T) {
	inBed(t, func(h *host) {
		h.resident, h.expires = []string{"embed:latest"}, time.Now().Add(5*time.Minute)
	}, func(t *testing.T, b *bed) {
		b.wantWarms(0)
		for range 3 {
			sleep(10 * interval)
			b.wantWarms()
			b.setFor(2*interval, func() { b.down = errRefused })
			b.setFor(interval, func() { b.down = nil })
			b.wantWarms()                                                             // after an outage it is still pinned
			b.setFor(interval, func() { b.expires = time.Now().Add(24 * time.Hour) }) // a client did that
			b.set(func() {
				if len(b.warms) != 1 || b.expires != never {
					t.Errorf("pinned %d times, until %v; want once, for good", len(b.warms), b.expires)
				}
				b.warms = nil
			})
		}
		b.wantLog() // no record for each client's keep_alive
	})
}

// The embedder is asked for as its clients ask for it: with other options the target would
// load it again, twice for each client's keep_alive.
func TestPinsWithOptionsOfClients(t *testing.T) {
	inBed(t, func(h *host) { h.expires = never }, func(t *testing.T, b *bed) {
		want := ""
		for _, options := range []string{"", `{"num_ctx":512}`, `{"num_ctx":1024}`, ""} {
			for _, model := range []string{"library/Embed", "other"} { // the latter says nothing of the embedder
				b.Embedded(model, []byte(options))
				sleep(second)
				b.setFor(interval, func() { b.expires = time.Now().Add(5 * time.Minute) })
				if model != "other" {
					want = options
				}
				b.set(func() {
					if b.asked != want || b.expires != never {
						t.Errorf("%s with %q: pinned with %q until %v; want %q, for good", model, options, b.asked, b.expires, want)
					}
				})
				options = `{"num_ctx":7}`
			}
		}
	})
}

// An embedding with another model may evict the embedder. That is seen and undone
// at once, and warned of once.
func TestAnotherEmbedder(t *testing.T) {
	inBed(t, func(h *host) { h.expires = never }, func(t *testing.T, b *bed) {
		b.wantWarms(0)
		b.wantLog(warmed)
		polls := b.polls
		for _, model := range []string{"embed", "Embed:latest", " library/embed "} {
			b.Embedded(model, nil)
		}
		sleep(second)
		if b.polls != polls {
			t.Errorf("polled %d times after embeddings with the embedder itself; want none", b.polls-polls)
		}

		b.Embedded("other", nil) // there was a place for it
		sleep(second)
		b.setFor(interval, func() { b.resident = nil })
		b.wantLog(warmed) // it went for another reason

		for _, want := range [][]string{{evicted, warmed}, {warmed}} {
			b.set(func() { b.resident, b.warms, b.began = []string{"chat:latest", "other:latest"}, nil, time.Now() })
			b.Embedded("other", []byte(`{"num_ctx":1}`))
			sleep(second)
			b.wantWarms(0)
			b.wantLog(want...)
		}
	})
}

// What is resident at the start may have been loaded by somebody else, for a
// while. Names are compared as Ollama does.
func TestWarmsAtTheStart(t *testing.T) {
	for model, resident := range map[string][]string{"embed": nil, "library/EMBED": nil, "Embed:latest": {"embed:latest"}} {
		inBed(t, func(h *host) { h.embedder, h.resident = model, resident }, func(t *testing.T, b *bed) {
			sleep(10 * interval)
			b.wantWarms(0)
			b.wantCounts(1, 0)
			if b.host.model != model {
				t.Errorf("warmed %q; want %q", b.host.model, model)
			}
		})
	}
}

// The target may be another process after an outage. Nothing is done while it lasts.
func TestWarmsAfterEveryOutage(t *testing.T) {
	for _, reason := range []error{errRefused, errInternal, errToken} {
		inBed(t, nil, func(t *testing.T, b *bed) {
			b.wantWarms(0)
			for range 3 {
				b.setFor(interval, func() { b.down, b.began = reason, time.Now() })
				b.wantWarms()
				b.setFor(interval, func() { b.down = nil }) // and embed:latest is still resident
				b.wantWarms(35 * second)
				sleep(5 * second)
			}
			b.wantLog(warmed, warmed, warmed, warmed)
			b.wantCounts(4, 0)
		})
	}
}

// An outage during an attempt, which goes on, is followed by another attempt: the
// target answers polls, if not as it should, and may still be loading the model.
func TestWarmsAfterAnOutageDuringAnAttempt(t *testing.T) {
	inBed(t, func(h *host) {
		h.resident = []string{"embed:latest"}
		h.embedding = func(context.Context) error { time.Sleep(2 * time.Minute); return nil }
	}, func(t *testing.T, b *bed) {
		b.setFor(interval, func() { b.installed = notOllama })
		b.setFor(10*interval, func() { b.installed, b.embedding = embedder, nil })
		b.wantWarms(0, 125*second) // polls are at 35 s, 65 s and so on
		b.wantCounts(2, 0)
	})
}

func TestNotInstalled(t *testing.T) {
	inBed(t, func(h *host) { h.installed = noEmbedder }, func(t *testing.T, b *bed) {
		sleep(10 * interval)
		b.wantLog(missing) // once
		others := []string{`{"models":[{"name":"x:1"},{"name":"y:1"}]}`, `{"models":[{"name":"y:1"},{"name":"x:1"}]}`}
		for i := range 10 { // Ollama lists models of the same age in any order
			b.setFor(interval, func() { b.installed = others[i%2] })
		}
		b.wantLog(missing)

		b.setFor(2*interval, func() { b.down = errRefused })
		b.setFor(2*interval, func() { b.down = nil })
		b.wantLog() // nothing has changed

		b.setFor(2*interval, func() { b.installed = `{"models":[]}` })
		b.wantLog(missing)
		b.wantWarms()

		b.setFor(2*interval, func() { b.installed, b.began = embedder, time.Now() })
		b.wantWarms(5 * second) // since the outage, polls are 5 s later
		b.wantLog(warmed)

		b.setFor(2*interval, func() { b.installed = `{"models":[]}` }) // deleted
		b.wantLog(missing)
		b.wantWarms()
	})
}

func TestEmbedFails(t *testing.T) {
	for _, resident := range [][]string{nil, {"embed:latest"}} { // it may be resident for a while only
		inBed(t, func(h *host) { h.resident, h.embedErr = resident, errInternal }, func(t *testing.T, b *bed) {
			sleep(3*interval + second)
			b.wantWarms(0, 30*second, 60*second, 90*second)
			b.wantLog(notWarmed)
			b.wantCounts(0, 4)
			b.setFor(2*interval, func() { b.embedErr = nil })
			b.wantWarms(120 * second)
			b.wantLog(warmed)
			b.wantCounts(1, 4)

			b.setFor(2*interval, func() { b.embedErr, b.resident = errInternal, nil }) // another episode
			b.wantLog(notWarmed)
		})
	}
}

// Resident models that cannot be read are no reason to do or say anything more.
func TestResidentModelsAreNotKnown(t *testing.T) {
	inBed(t, func(h *host) {
		h.psDown, h.chat, h.chatSince = errInternal, "chat", time.Now().Add(-time.Hour)
	}, func(t *testing.T, b *bed) {
		b.setFor(10*interval, func() { b.resident = []string{"chat:latest"} })
		b.wantWarms(0)
		b.wantLog(warmed)
	})
}

func TestAttemptIsGivenUpWhenTheTargetIsUnreachable(t *testing.T) {
	inBed(t, func(h *host) { h.embedding = h.hang }, func(t *testing.T, b *bed) {
		sleep(2*interval + second)
		b.wantWarms(0) // it goes on, poll after poll
		b.setFor(interval, func() { b.down = errRefused })
		b.wantGivenUp(90 * second) // when the target was found unreachable
		b.wantCounts(0, 1)
		b.setFor(interval, func() { b.down, b.embedding = nil, nil })
		b.wantWarms(95 * second)
	})
}

// While the target's memory is for somebody else nothing is warmed, and that the embedder
// is not resident then is nobody's fault. After it the embedder is warmed at once.
func TestRests(t *testing.T) {
	inBed(t, func(h *host) { h.embedding = h.hang }, func(t *testing.T, b *bed) {
		b.wantWarms(0)
		sleep(second)
		b.Rest(true)
		synctest.Wait()
		b.wantGivenUp(second)
		b.setFor(interval, func() { b.embedding = nil })
		b.wantWarms()
		b.Rest(false)
		sleep(second)
		b.wantWarms(interval + second)
		b.Embedded("other", nil)
		b.Rest(true)
		b.setFor(second, func() { b.resident = nil })
		b.Embedded("other", nil) // which began before
		sleep(interval + second)
		b.wantWarms()
		b.Rest(false)
		sleep(second)
		b.wantWarms(2*interval + 4*second)
		b.wantCounts(2, 0)
		b.wantLog(warmed, warmed)
	})
}

func TestAttemptIsGivenUpAfterFiveMinutes(t *testing.T) {
	inBed(t, func(h *host) { h.embedding = h.hang }, func(t *testing.T, b *bed) {
		sleep(5*time.Minute + second)
		b.wantGivenUp(5 * time.Minute)
	})
}

func TestOneSlot(t *testing.T) {
	inBed(t, nil, func(t *testing.T, b *bed) {
		b.wantLog(warmed)
		sleep(second) // polls are a second before the half minute from here

		// chats lets a chat have had the turn for a while when the next poll finds
		// models resident, and then checks what was logged.
		chats := func(model string, hadTurn time.Duration, resident []string, want ...string) {
			t.Helper()
			b.setFor(interval, func() { b.resident, b.chat, b.chatSince = resident, model, time.Now().Add(29*second-hadTurn) })
			b.wantLog(want...)
		}
		one := []string{"chat:latest"}                      // each time the embedder is gone as well, and warmed again
		chats("chat", 10*second-1, one, warmed)             // for a moment too short a time
		chats("", time.Hour, one, warmed)                   // no chat
		chats("other", time.Hour, one, warmed)              // its model is being loaded
		chats("chat", time.Hour, nil, warmed)               // the same
		chats("Embed", time.Hour, []string{"embed:latest"}) // needs no second place
		chats("chat", 10*second, one, oneSlot, warmed)
		chats("chat", time.Hour, one, warmed) // once per episode
		chats("chat", time.Hour, nil, warmed)
		chats("chat", time.Hour, one, warmed)
		chats("chat", time.Hour, []string{"chat:latest", "embed:latest"}) // the episode is over
		chats("chat", 10*second, one, oneSlot, warmed)
	})
}

// With one place only, Ollama lets the embedder wait until the chat is over. The
// warning must not wait as well: it is about this very case.
func TestOneSlotIsSeenWhileTheEmbedderWaits(t *testing.T) {
	inBed(t, func(h *host) {
		h.resident, h.chat, h.chatSince, h.embedding = []string{"chat:latest"}, "chat", time.Now(), h.hang
	}, func(t *testing.T, b *bed) {
		sleep(interval)
		b.wantWarms(0)
		b.wantLog(oneSlot)
	})
}

// Run ends with its context. An attempt under way is ended too, and waited for;
// nothing is said of it.
func TestRunEnds(t *testing.T) {
	inBed(t, func(h *host) {
		h.embedding = func(ctx context.Context) error {
			defer time.Sleep(second) // it takes its time to end
			return h.hang(ctx)
		}
	}, func(t *testing.T, b *bed) {
		sleep(second)
		b.stop()
		select {
		case <-b.done:
		case <-time.After(time.Minute):
			t.Fatal("Run does not end with its context")
		}
		if took := time.Since(b.began); took != 2*second {
			t.Errorf("Run ended after %v; want it to wait for the attempt, until 2s", took)
		}
		b.wantGivenUp(second)
		b.wantCounts(0, 0)
		b.wantLog()
	})
}
