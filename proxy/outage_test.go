package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
	"foreman/warm"
)

// TestTwoMinutesOfAnOutage: an Ollama goes away in the middle of a chat and
// comes back empty, with a foreman wired as main does it, by the clock of the
// bubble: polls at 0, 30 and 60 s; away from 65 s to 98 s.
func TestTwoMinutesOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			began    = time.Now()
			host     = newMemory(11434)
			stub     = newStubOn(t, host)
			resident = answerWith("application/json", string(fixture(t, "ps.json")))
			empty    = answerWith("application/json", `{"models":[]}`)
			states   []string // as they change, with the second
			warms    []int    // seconds
			streams  = make(chan struct{})
		)
		second := func() int { return int(time.Since(began) / time.Second) }
		until := func(s int) { time.Sleep(time.Duration(s)*time.Second - time.Since(began)) }
		ps := empty // since it has just been started
		stub.ps = func(w http.ResponseWriter, r *http.Request) { ps(w, r) }
		next := stub.embed
		stub.embed = func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if strings.Contains(string(b), `"keep_alive":-1`) {
				warms = append(warms, second())
				ps = resident
			}
			next(w, r)
		}
		whole := stub.chat
		stub.chat = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Long") == "" {
				whole(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			time.Sleep(time.Second / 2)
			for r.Context().Err() == nil { // a token a second
				if _, err := io.WriteString(w, "{}\n"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
				}
			}
			close(streams)
		}

		var warmer *warm.Warmer
		f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) {
			host.through(o.Target)
			warmer = warm.New(o.Target, "embed", slog.New(slog.DiscardHandler))
			before := "starting"
			o.Inventory.Polled = func(s inventory.State) {
				warmer.Polled(s)
				if s.Reason != before {
					before = s.Reason
					states = append(states, strings.TrimSpace(time.Since(began).Truncate(time.Second).String()+" "+s.Reason))
				}
			}
		})
		warmer.Chat = f.Answering
		start(t, warmer.Run)
		chat := func() answer { return f.do(t, "POST", "/api/chat", chatBody) }
		expect := func(what string, status int, a answer) {
			t.Helper()
			if a.status != status || a.err != nil || (a.header.Get("Retry-After") != "") != (status == 503) {
				t.Errorf("%ds: %s: %d %s, %v; want %d", second(), what, a.status, a.body, a.err, status)
			}
		}

		until(10)
		expect("chat", 200, chat())
		expect("ready", 200, f.do(t, "GET", "/readyz", ""))

		until(50)
		long, queued := make(chan answer), make(chan answer)
		go func() { long <- f.do(t, "POST", "/api/chat", chatBody, "X-Long", "1") }()
		synctest.Wait()
		go func() { queued <- chat() }()
		until(64)
		if model, d := f.Answering(); model != "chat:latest" || d != 13500*time.Millisecond {
			t.Errorf("answering %q for %v; want chat:latest for 13.5s", model, d)
		}
		until(65)
		host.reset(true)
		if a := <-long; a.status != 200 || a.err != io.ErrUnexpectedEOF || len(a.body) != 3*15 {
			t.Errorf("chat under way: %d, %d bytes, %v; want it cut after 15 lines", a.status, len(a.body), a.err)
		}
		<-streams
		if model, d := f.Answering(); model != "" {
			t.Errorf("answering %q for %v after the cut; want nothing", model, d)
		}
		expect("chat in line", 503, <-queued)
		if got := second(); got != 65 {
			t.Errorf("both were told at %d s; want 65: at once", got)
		}

		until(70)
		expect("chat", 503, chat())
		expect("embed", 503, f.do(t, "POST", "/api/embed", embedBody))
		expect("ready", 503, f.do(t, "GET", "/readyz", ""))
		expect("health", 200, f.do(t, "GET", "/healthz", ""))
		tags := f.do(t, "GET", "/api/tags", "")
		expect("tags", 200, tags)
		if tags.body != string(fixture(t, "tags.json")) || tags.header.Get("Age") != "10" {
			t.Errorf("tags of age %s: %q; want the last known, 10 s old", tags.header.Get("Age"), tags.body)
		}

		until(98)
		ps = empty
		host.reset(false)
		expect("first chat after the return", 200, chat()) // its check polls at once
		synctest.Wait()
		expect("ready", 200, f.do(t, "GET", "/readyz", ""))
		until(120)
		expect("embed", 200, f.do(t, "POST", "/api/embed", embedBody))

		if want := []string{"0s", "1m5s unreachable", "1m38s"}; !slices.Equal(states, want) {
			t.Errorf("states %q; want %q", states, want)
		}
		if want := []int{0, 98}; !slices.Equal(warms, want) {
			t.Errorf("warmed at %v s; want %v", warms, want)
		}
		if got := stub.mostOpen(); got != 1 {
			t.Errorf("%d chats open at once; want 1", got)
		}
		f.expectIdle(t)
	})
}

// TestPollerFlipsAndRecovers: without any request, the poller alone finds that
// the target is away, and that it is back.
func TestPollerFlipsAndRecovers(t *testing.T) {
	for name, fails := range map[string]http.HandlerFunc{
		inventory.Unauthorized: refuseWith(401),
		inventory.BadAnswer:    refuseWith(500),
		inventory.Unreachable:  hijacked(""),
	} {
		synctest.Test(t, func(t *testing.T) {
			host := newMemory(11434)
			stub := newStubOn(t, host)
			works := stub.tags
			var warmer *warm.Warmer
			f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) {
				host.through(o.Target)
				warmer = warm.New(o.Target, "embed", o.Log)
				o.Inventory.Polled = warmer.Polled
			})
			start(t, warmer.Run)
			synctest.Wait()
			expect := func(reason string, requests ...string) {
				t.Helper()
				if state := f.Inventory.State(); state.Reason != reason || state.Len() != 2 {
					t.Errorf("%s: reason %q, %d models; want %q and still 2", name, state.Reason, state.Len(), reason)
				}
				if got := stub.seen(); !slices.Equal(got, requests) {
					t.Errorf("%s: at the target %q; want %q", name, got, requests)
				}
			}
			warmed := []string{"GET /api/ps", "POST /api/embed"}
			expect("", warmed...)
			stub.answerPolls(fails)
			time.Sleep(31 * time.Second)
			expect(name, warmed...)
			time.Sleep(20 * time.Second)
			expect(name, warmed...)
			stub.answerPolls(works)
			time.Sleep(5 * time.Second) // while degraded it polls that often
			expect("", append(warmed, warmed...)...)
		})
	}
}

// TestConnectionFailureAsksForAPoll: the first request that finds the target
// gone tells the poller, which tells everybody.
func TestConnectionFailureAsksForAPoll(t *testing.T) {
	for _, path := range []string{"/api/chat", "/api/embed", "/api/show"} {
		synctest.Test(t, func(t *testing.T) {
			host := newMemory(11434)
			f := newFrontOn(t, newMemory(8080), newStubOn(t, host).URL, func(o *Options) { host.through(o.Target) })
			time.Sleep(10 * time.Second)
			host.reset(true)
			if a := f.do(t, "POST", path, chatBody); a.status != 503 {
				t.Errorf("%s: %d; want 503", path, a.status)
			}
			synctest.Wait()
			if got := f.Inventory.State().Reason; got != inventory.Unreachable {
				t.Errorf("%s: reason %q at once; want %q", path, got, inventory.Unreachable)
			}
		})
	}
}

// TestSlowPollDoesNotHoldUpTags: what is known is served while a poll hangs.
func TestSlowPollDoesNotHoldUpTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, nil)
		stub.answerPolls(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		time.Sleep(31 * time.Second) // a poll has begun
		began := time.Now()
		if a := f.do(t, "GET", "/api/tags", ""); a.status != 200 || time.Since(began) > 0 {
			t.Errorf("tags: %d after %v; want 200 at once", a.status, time.Since(began))
		}
		if a := f.do(t, "POST", "/api/chat", chatBody); a.status != 200 || time.Since(began) > 0 {
			t.Errorf("chat: %d after %v; want 200 at once", a.status, time.Since(began))
		}
		// A model that nobody knows has to wait for the poll, and for no longer.
		if a := f.do(t, "POST", "/api/chat", `{"model":"unknown"}`); a.status != 503 || time.Since(began) > 8*time.Second {
			t.Errorf("unknown: %d after %v; want 503 when the next poll has failed", a.status, time.Since(began))
		}
		ctx, leave := context.WithTimeoutCause(t.Context(), time.Second, errors.New("left"))
		defer leave()
		began = time.Now()
		if err := f.send(ctx, "/api/chat"); err == nil || time.Since(began) != time.Second {
			t.Errorf("a client left after 1s; it came back after %v with %v", time.Since(began), err)
		}
	})
}
