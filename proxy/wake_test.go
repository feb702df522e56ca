package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/warm"
)

// A sleeper is a target that wakes some time after a packet.
type sleeper struct {
	*holder
	after time.Duration // 0: it never does

	mu      sync.Mutex // guards what follows
	waking  bool
	packets int
}

func (s *sleeper) Wake(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets++
	if s.after > 0 && !s.waking && s.sleeps() {
		s.waking = true
		time.AfterFunc(s.after, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.waking = false
			s.sleep(false)
		})
	}
	return nil
}

// sent returns how many packets were sent since the last call.
func (s *sleeper) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := s.packets
	s.packets = 0
	return sent
}

// newSleeper starts a foreman that can wake its target.
func newSleeper(t *testing.T, asleep bool, change func(*Options)) (*front, *sleeper) {
	t.Helper()
	t.Cleanup(func() { time.Sleep(5 * time.Second) }) // of the last that dials
	s := &sleeper{holder: newHolder(t)}
	s.sleep(asleep)
	f := newFrontIn(t, s.holder, func(o *Options) {
		s.hangDials(o)
		if change != nil {
			change(o)
		}
		o.Inventory.Waker, o.Inventory.WakeTimeout = s, 3*time.Minute
	})
	return f, s
}

// asleep has the target fall asleep, and foreman know it.
func (s *sleeper) asleep(t *testing.T, f *front) {
	t.Helper()
	s.sleep(true)
	if err := f.Inventory.Repoll(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newSleeper(t, false, func(o *Options) {
			o.Heartbeat, o.EmbedModel, o.StallTimeout = 20*time.Second, "embed", 10*time.Second
			o.Warmer = warm.New(o.Target, o.Inventory, o.Gate, "embed", o.Log)
		})
		const stream = `{"model":"chat","messages":[{}]}`
		start(t, f.Warmer.Run)
		target.any(t).finish()          // the embedder is warmed
		target.after = 32 * time.Second // between two polls and what each waits for
		target.asleep(t, f)

		first := f.hear(t.Context(), t, "/api/chat", stream)
		synctest.Wait()
		second, third := connect(t, f).chat(t, "second"), connect(t, f)
		synctest.Wait()
		third.chat(t, "third")
		var embeds []*wire
		for range 3 {
			embeds = append(embeds, connect(t, f).send(t, postOf("/api/embed", `{"model":"embed"}`)))
		}
		time.Sleep(22 * time.Second) // one goes by with the question what a page may read
		for path, want := range map[string]string{"/healthz": `{"status":"waking","reason":"unreachable","since":`, "/readyz": `{"status":"waking"`, "/status": "waking for 22 s", "/metrics": "foreman_target_waking 1\n"} {
			if a := f.do(t, "GET", path, ""); !strings.Contains(a.body, want) {
				t.Errorf("%s: %s; want %s in it", path, a.body, want)
			}
		}
		if f.page.read().Running.Silent {
			t.Error("the page has it that the chat has heard nothing for too long")
		}
		first.mu.Lock()
		if first.status != http.StatusOK || !strings.HasPrefix(first.text, `{"model":"chat:latest",`) {
			t.Errorf("the stream heard %d %s; want a heartbeat", first.status, first.text)
		}
		first.mu.Unlock()
		if waiting, busy := f.Gate.Len(); waiting != 2 || !busy {
			t.Errorf("%d waiting, busy %t; want two behind the first", waiting, busy)
		}
		target.none(t)

		time.Sleep(19 * time.Second)
		came, all := map[string]int{}, []*held{}
		for range 5 {
			c := target.any(t)
			came[c.body]++
			all = append(all, c)
		}
		target.none(t)
		for _, c := range all {
			c.finish()
		}
		if came[stream] != 1 || came[`{"model":"embed"}`] != 3 || came[`{"model":"embed","input":"warm","keep_alive":-1}`] != 1 {
			t.Errorf("at the target: %v; want one chat, all embeddings, and the embedder warmed", came)
		}
		for _, c := range embeds {
			c.expect(t, http.StatusOK, "an embedding")
		}
		target.next(t, "second").finish()
		second.expect(t, http.StatusOK, "second")
		target.next(t, "third").finish()
		third.expect(t, http.StatusOK, "third")
		if got := target.sent(); got != 7 && got != 8 { // at 35 s comes the answer of a poll, too
			t.Errorf("%d packets in all; want one every 5 s until a poll was answered", got)
		}
		wantSamples(t, f, map[string]string{"foreman_target_waking": "0", `foreman_wakes_total{result="ok"}`: "1", `foreman_wakes_total{result="failed"}`: "0"})
		for _, rec := range latest(f) {
			if rec.IsChat && (rec.Queued < 30*time.Second || rec.Idle > time.Second || rec.Held > 10*time.Second) {
				t.Errorf("%s: %v in line, held for %v, the target idle for %v; want the wake counted as time in line", rec.Model, rec.Queued, rec.Held, rec.Idle)
			}
		}
		f.expectIdle(t)
	})
}

// What only looks wakes nobody, nor does what is for a model that the target does not have
// or comes from nobody that foreman knows.
func TestWhatWakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newSleeper(t, false, func(o *Options) { o.Token, o.Manage = clientToken, true })
		target.after = time.Second
		for _, test := range []struct {
			method, path, body string
			without            bool // a token
			want               int
		}{
			{"GET", "/", "", true, 503},
			{"HEAD", "/", "", true, 200},
			{"GET", "/healthz", "", true, 200},
			{"GET", "/readyz", "", true, 503},
			{"GET", "/metrics", "", false, 200},
			{"GET", "/status", "", false, 200},
			{"GET", "/api/tags", "", false, 200},
			{"GET", "/api/ps", "", false, 503},
			{"GET", "/api/version", "", false, 503},
			{"GET", "/v1/models", "", false, 503},
			{"GET", "/v1/models/chat", "", false, 503},
			{"POST", "/api/show", `{"model":"chat"}`, false, 503},
			{"POST", "/api/pull", `{"model":"chat"}`, false, 503},
			{"OPTIONS", "/api/chat", "", false, 503},
			{"POST", "/api/chat", chatBody, true, 401},
			{"POST", "/api/embed", embedBody, true, 401},
			{"POST", "/api/chat", `{"model":"absent"}`, false, 503},
			{"POST", "/api/embed", `{"model":"absent"}`, false, 503},
			{"POST", "/api/embed", `{"input":"of no model"}`, false, 503},
			{"POST", "/api/chat", `{"model":"chat","keep_alive":0,"messages":[]}`, false, 503}, // an unload
		} {
			header := []string{"Authorization", "Bearer " + clientToken}
			if test.without {
				header = nil
			}
			for _, known := range []bool{false, true} { // to be asleep
				target.sleep(known)
				f.Inventory.Repoll(t.Context())
				target.sleep(true)
				if a := f.do(t, test.method, test.path, test.body, header...); known && a.status != test.want {
					t.Errorf("%s %s %s: %d %s; want %d", test.method, test.path, test.body, a.status, a.body, test.want)
				}
				time.Sleep(time.Minute) // of polls
				if got := target.sent(); got != 0 {
					t.Fatalf("%s %s %s, known to be asleep %t: %d packets sent; want none", test.method, test.path, test.body, known, got)
				}
			}
		}
		f.expectIdle(t)
	})
}

// The wait for a target that is being woken ends in each way that the wait for a turn does.
func TestWakeIsOver(t *testing.T) {
	const shut, away = "foreman is shutting down", "the Ollama host is unreachable"
	for _, test := range []struct {
		name        string
		change      func(*Options)
		then        func(f *front)
		after       time.Duration
		chat, embed string // what they are told; empty: they wait on
		status      int
	}{
		{"the host never wakes", nil, nil, 3 * time.Minute, away, away, 503},
		{"FOREMAN_QUEUE_TIMEOUT", func(o *Options) { o.QueueTimeout = time.Minute }, nil, time.Minute, "waited too long for a turn", "", 503},
		{"FOREMAN_MAX_TURN", func(o *Options) { o.MaxTurn = time.Minute }, nil, time.Minute, "this chat's turn took longer than FOREMAN_MAX_TURN", "", 504},
		{"SIGTERM", nil, func(f *front) { f.Close() }, 7 * time.Second, shut, shut, 503},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			f, target := newSleeper(t, false, test.change)
			target.asleep(t, f)
			began := time.Now()
			chat, embed := connect(t, f).chat(t, "first"), connect(t, f)
			embed.send(t, postOf("/v1/embeddings", embedBody))
			synctest.Wait()
			next := connect(t, f).chat(t, "next")
			if test.then != nil {
				time.Sleep(test.after)
				test.then(f)
			}
			told := func(c *wire, want string) {
				t.Helper()
				if want == "" {
					return
				}
				if resp, body, err := c.answer(t); resp.StatusCode != test.status || !strings.Contains(body, want) || err != nil {
					t.Errorf("%d %s, %v; want %d, %s", resp.StatusCode, body, err, test.status, want)
				}
				if took := time.Since(began); took != test.after {
					t.Errorf("told after %v; want %v", took, test.after)
				}
			}
			told(chat, test.chat)
			told(embed, test.embed)
			if test.embed != "" { // the wake is over, and with it everybody's wait
				told(next, test.chat)
			}
			if test.name == "the host never wakes" {
				if got := target.sent(); got != 36 {
					t.Errorf("%d packets sent; want 36, one every 5 s", got)
				}
				target.after = time.Second
				time.Sleep(time.Second)
				target.serves(t, f, "again")
			}
			target.none(t)
			for _, c := range []*wire{chat, embed, next} {
				c.Close()
			}
			f.expectIdle(t)
		})
	}
}

// Whoever has the turn and leaves while the target is being woken passes it on, and the wake
// goes on for who is next.
func TestClientLeavesWhileWaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newSleeper(t, false, nil)
		target.after = time.Minute
		target.asleep(t, f)
		leaver := connect(t, f).chat(t, "leaver")
		synctest.Wait()
		next := connect(t, f).chat(t, "next")
		time.Sleep(12 * time.Second)
		leaver.Close()
		synctest.Wait()
		if waiting, busy := f.Gate.Len(); waiting != 0 || !busy {
			t.Errorf("%d waiting, busy %t; want the turn passed on", waiting, busy)
		}
		time.Sleep(time.Minute)
		target.next(t, "next").finish()
		next.expect(t, http.StatusOK, "who was next")
		target.none(t)
		if got := strings.Count(f.log.String(), `"waking the target"`); got != 1 {
			t.Errorf("%d wakes in the log; want one", got)
		}
		f.expectIdle(t)
	})
}

// A host that has fallen asleep since the last poll is woken for what finds nobody there,
// or nobody at the other end of a connection that was kept. That is sent again.
func TestHostFellAsleepSinceThePoll(t *testing.T) {
	for _, path := range []string{"/api/chat", "/api/embed"} {
		for _, kept := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f, target := newSleeper(t, false, func(o *Options) { o.Heartbeat = 6 * time.Second })
				target.after = 10 * time.Second
				answers := make(chan answer, 1)
				ask := func(body string) { answers <- f.do(t, "POST", path, body) }
				if kept {
					go ask(marked("before"))
					target.next(t, "before").finish()
					<-answers
				}
				target.sleep(true)
				go ask(chatBody)
				var got *held
				select {
				case got = <-target.arrived:
				case <-time.After(2 * time.Minute):
					t.Fatal("not woken")
				}
				if _, busy := f.Gate.Len(); busy != (path == "/api/chat") {
					t.Errorf("%s: somebody has the turn: %t", path, busy)
				}
				got.finish()
				if got.body != chatBody {
					t.Errorf("sent again: %s; want all of it", got.body)
				}
				if a := <-answers; a.status != http.StatusOK || a.err != nil {
					t.Errorf("%s: %d %s, %v; want it answered", path, a.status, a.body, a.err)
				}
				target.none(t)
				if target.sent() == 0 {
					t.Error("woken without a packet")
				}
				f.expectIdle(t)
				if early := latest(f)[0].Early; early != (path == "/api/chat") {
					t.Errorf("%s: heard heartbeats: %t", path, early)
				}
			})
		}
	}
}

// A host that wakes and falls asleep again before it has said anything is woken again.
func TestHostFallsAsleepAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newSleeper(t, false, nil)
		target.after = 10 * time.Second
		target.asleep(t, f)
		tags, naps := target.tags, 0
		target.tags = func(w http.ResponseWriter, r *http.Request) {
			tags(w, r)
			if r.Context().Err() == nil && naps < 2 {
				naps++
				target.sleep(true)
			}
		}
		c := connect(t, f).chat(t, "chat")
		time.Sleep(2 * time.Minute)
		got := target.any(t)
		for got.ctx.Err() != nil { // it had come when the target fell asleep
			got = target.any(t)
		}
		got.finish()
		c.expect(t, http.StatusOK, "chat")
		if got := strings.Count(f.log.String(), `"target woken"`); got < 2 {
			t.Errorf("woken %d times; want it woken again", got)
		}
		f.expectIdle(t)
	})
}

// A host whose models were never read is woken for any, and then said to lack those that it
// does not have.
func TestWakingAHostThatWasNeverSeen(t *testing.T) {
	for body, want := range map[string]int{`{"model":"absent"}`: 404, `{"model":"absent:cloud"}`: 404, `{"model":"CHAT"}`: 200} {
		synctest.Test(t, func(t *testing.T) {
			f, s := newSleeper(t, true, nil)
			s.after = 10 * time.Second
			c := connect(t, f).send(t, postOf("/api/chat", body))
			if want == 200 {
				s.any(t).finish()
			}
			c.expect(t, want, body)
			s.none(t)
			if s.sent() == 0 {
				t.Errorf("%s: woken without a packet", body)
			}
			f.expectIdle(t)
		})
	}
}
