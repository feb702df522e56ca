package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/config"
	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
	"foreman/warm"
)

// An owned target has a memory as Ollama has one: a chat or an embedding loads its model,
// which stays until it is unloaded. Chats, and embeddings so marked, are a holder's.
type owned struct {
	*holder

	mu       sync.Mutex // guards what follows
	resident []string
	stuck    bool     // models do not go
	unloads  []string // that were asked for
	warms    int
}

func newOwned(t testing.TB) *owned {
	o := &owned{holder: newHolder(t)}
	o.tags = func(w http.ResponseWriter, r *http.Request) {
		if o.waken(r.Context()) {
			io.WriteString(w, `{"models":[{"name":"chat:latest"},{"name":"embed:latest"},{"name":"far:cloud","remote_host":"https://ollama.com"}]}`)
		}
	}
	return o
}

func (o *owned) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	asked := struct {
		Model     string
		KeepAlive *int `json:"keep_alive"`
	}{}
	json.Unmarshal(body, &asked)
	name := strings.TrimSuffix(asked.Model, ":latest") + ":latest"
	switch {
	case r.URL.Path == "/api/ps":
		o.set(func() {
			models := []string{}
			for _, name := range o.resident {
				models = append(models, fmt.Sprintf(`{"name":%q,"expires_at":"2318-01-01T00:00:00Z"}`, name))
			}
			fmt.Fprintf(w, `{"models":[%s]}`, strings.Join(models, ","))
		})
		return
	case asked.KeepAlive != nil && *asked.KeepAlive == 0:
		o.set(func() {
			o.unloads = append(o.unloads, name)
			if !o.stuck {
				o.resident = slices.DeleteFunc(o.resident, func(r string) bool { return r == name })
			}
		})
	case asked.Model == "far:cloud":
	case asked.Model != "":
		o.set(func() {
			if asked.KeepAlive != nil {
				o.warms++
			}
			if !slices.Contains(o.resident, name) {
				o.resident = append(o.resident, name)
			}
		})
		if name == "embed:latest" && !strings.Contains(string(body), "mark") {
			break
		}
		fallthrough
	default:
		o.holder.ServeHTTP(w, r)
		return
	}
	io.WriteString(w, `{}`)
}

// set changes the target between two of its answers.
func (o *owned) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

// wantMemory checks what is resident, what was asked to go, which is forgotten, and how
// often the embedder was warmed.
func (o *owned) wantMemory(t *testing.T, when string, resident, unloads []string, warms int) {
	t.Helper()
	o.set(func() {
		slices.Sort(o.resident)
		asked := slices.Compact(slices.Sorted(slices.Values(o.unloads))) // twice, if what is read is a moment old
		if !slices.Equal(o.resident, resident) || !slices.Equal(asked, unloads) || o.warms != warms {
			t.Errorf("%s: resident %v, unloads %v, %d warms; want %v, %v, %d", when, o.resident, asked, o.warms, resident, unloads, warms)
		}
		o.unloads = nil
	})
}

// newOwnedFront starts an owned target and a foreman in front of it in a bubble, which
// keeps the embedder resident, and waits for that.
func newOwnedFront(t *testing.T, change func(*Options)) (*front, *owned) {
	o := newOwned(t)
	f := newFrontIn(t, o, func(opts *Options) {
		opts.EmbedModel, opts.Heartbeat = "embed", 20*time.Second
		if change != nil {
			change(opts)
		}
		opts.Warmer = warm.New(opts.Target, opts.Inventory, opts.Gate, "embed", opts.Log)
	})
	start(t, f.Warmer.Run)
	start(t, f.Run)
	time.Sleep(time.Second)
	return f, o
}

// form sends the page's form as a script does.
func (f *front) form(t *testing.T, form string, header ...string) answer {
	t.Helper()
	return f.do(t, "POST", "/status", form, append([]string{"Accept", "application/json"}, header...)...)
}

// paused returns who has paused, until when, and if the models are unloaded, as the page
// has it.
func (f *front) paused(t *testing.T) string {
	t.Helper()
	var page struct {
		Pause *struct {
			By       string
			Until    time.Time
			Unloaded bool
		}
	}
	if err := json.Unmarshal([]byte(f.do(t, "GET", "/status", "", "Accept", "application/json").body), &page); err != nil {
		t.Fatal(err)
	}
	if page.Pause == nil {
		return ""
	}
	said := []string{page.Pause.By}
	if page.Pause.By == "" {
		said[0] = "quiet"
	}
	if !page.Pause.Until.IsZero() {
		said = append(said, page.Pause.Until.UTC().Format("2 15:04"))
	}
	if page.Pause.Unloaded {
		said = append(said, "unloaded")
	}
	return strings.Join(said, ", ")
}

// TestPause: the running chat ends, then what is resident is unloaded; meanwhile chats wait
// and hear heartbeats, embeddings are refused, and what takes none of the host's memory
// passes. After it all goes on.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		first := connect(t, f).chat(t, "first")
		running := o.next(t, "first")
		second := connect(t, f).send(t, postOf("/v1/chat/completions", `{"model":"chat","stream":true}`))
		heard := make(chan string)
		go func() {
			resp, body, err := second.answer(t)
			heard <- fmt.Sprint(resp.StatusCode, " ", strings.Count(body, `{"content":""}`), " ", err)
		}()
		time.Sleep(3 * time.Second) // so that no heartbeat is due when the pause ends
		o.wantMemory(t, "before", []string{"chat:latest", "embed:latest"}, nil, 1)

		if a := f.form(t, "pause=1h"); a.status != http.StatusOK || f.paused(t) != "pipe, 1 01:00" {
			t.Errorf("pause: %d %s; paused: %q", a.status, a.body, f.paused(t))
		}
		text := "the Ollama host is paused until " + time.Now().Add(time.Hour).Format("2006-01-02 15:04 MST")
		for _, test := range []struct{ method, path, body, want string }{
			{"POST", "/api/embed", embedBody, `503 3600 {"error":"` + text + `"}`},
			{"POST", "/v1/embeddings", embedBody, `503 3600 {"error":{"message":"` + text + `",`},
			{"POST", "/api/embed", `{"model":"far:cloud"}`, `200  {}`},
			{"POST", "/api/chat", `{"model":"far:cloud","messages":[{}]}`, `200  {}`},
			{"POST", "/api/generate", `{"model":"embed","keep_alive":0}`, `200  {}`},
			{"GET", "/readyz", "", `503 3600 {"status":"paused","paused_until":"2000-01-01T01:00:04Z",`},
			{"GET", "/healthz", "", `200  {"status":"paused","paused_until":"2000-01-01T01:00:04Z",`},
		} {
			a := f.do(t, test.method, test.path, test.body)
			if got := fmt.Sprint(a.status, " ", a.header.Get("Retry-After"), " ", a.body); !strings.HasPrefix(got, test.want) {
				t.Errorf("%s %s: got %s; want %s", test.path, test.body, got, test.want)
			}
		}
		wantSamples(t, f, map[string]string{"foreman_paused": "1", "foreman_chats_in_flight": "1", `foreman_rejected_total{reason="paused"}`: "2"})

		time.Sleep(10 * time.Minute)
		o.wantMemory(t, "while the chat runs", []string{"chat:latest"}, []string{"embed:latest"}, 1)
		running.finish()
		first.expect(t, http.StatusOK, "the running chat")
		time.Sleep(2 * time.Second)
		o.wantMemory(t, "after it", nil, []string{"chat:latest"}, 1)
		if got := f.paused(t); got != "pipe, 1 01:00, unloaded" {
			t.Errorf("paused: %q", got)
		}
		f.log.await(t, `"level":"INFO","msg":"models unloaded","models":["chat:latest"],"took":"`)
		wantSamples(t, f, map[string]string{"foreman_paused": "1", "foreman_chats_in_flight": "0", "foreman_queue_depth": "1"})

		o.set(func() { o.resident = []string{"mine:latest"} })
		time.Sleep(40 * time.Minute)
		o.wantMemory(t, "what the owner loads", []string{"mine:latest"}, nil, 1)
		if e := f.page.read().Waiting[0].Estimate; e == nil || *e != status.Span(9*time.Minute+58*time.Second) {
			t.Errorf("who waits will for %v; want what is left of the pause", e)
		}
		o.none(t)

		time.Sleep(10 * time.Minute)
		o.any(t).finish()
		if got := <-heard; got != "200 179 <nil>" {
			t.Errorf("the chat that waited: %s; want 200, 180 heartbeats, of which the first differs, and its answer", got)
		}
		o.wantMemory(t, "after the pause", []string{"chat:latest", "embed:latest", "mine:latest"}, nil, 2)
		if a := f.do(t, "POST", "/api/embed", embedBody); a.status != http.StatusOK || f.paused(t) != "" {
			t.Errorf("after the pause: %d %s, paused: %q", a.status, a.body, f.paused(t))
		}
		wantSamples(t, f, map[string]string{"foreman_paused": "0"})
		f.log.await(t, `"msg":"pause over","by":"the clock","took":"1h0m0s"`)
		if past := f.page.read().PastPauses; len(past) != 1 || past[0].Until.Sub(past[0].Since) != time.Hour {
			t.Errorf("the page has the pauses %v; want one of an hour", past)
		}
		f.expectIdle(t)
		if strings.Contains(f.log.String(), `"msg":"embedder not warmed`) {
			t.Error("that the embedder rests is told as a failure")
		}
	})
}

// TestPauseNow: the running chat is stopped, and the next is not sent.
func TestPauseNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		first, second := connect(t, f).chat(t, "first"), connect(t, f)
		running := o.next(t, "first")
		second.send(t, postOf("/v1/chat/completions", marked("second")))
		synctest.Wait()
		f.form(t, "pause=on&now=1")
		running.gone()
		first.expect(t, http.StatusForbidden, "the running chat")
		time.Sleep(2 * time.Second)
		o.none(t)
		o.wantMemory(t, "paused", nil, []string{"chat:latest", "embed:latest"}, 1)
		if got := f.paused(t); got != "pipe, unloaded" {
			t.Errorf("paused: %q", got)
		}
		if a := f.do(t, "POST", "/api/embed", embedBody); a.header.Get("Retry-After") != "60" || a.body != `{"error":"the Ollama host is paused until its owner resumes it"}`+"\n" {
			t.Errorf("an embedding: Retry-After %q, %s", a.header.Get("Retry-After"), a.body)
		}
		f.form(t, "resume=1")
		o.next(t, "second").finish()
		second.expect(t, http.StatusOK, "the chat that waited")
		f.expectIdle(t)
		f.log.await(t, `"level":"INFO","msg":"paused","by":"pipe","addr":"pipe","now":true}`)
		f.log.await(t, `"msg":"chat stopped","by":"pipe"`)
	})
}

// TestPauseEnds: pauses end by the monotonic clock, quiet hours by the clock on the wall,
// and both when somebody resumes. The last word counts.
func TestPauseEnds(t *testing.T) {
	const h = time.Hour
	type step struct {
		at   time.Duration
		do   string // a form, or a time that the clock on the wall steps; empty: nothing
		want string // then
	}
	for _, test := range []struct {
		name, quiet string
		steps       []step
	}{
		{"a time", "", []step{{0, "pause=1h", "pipe, 1 01:00"}, {h - 1, "", "pipe, 1 01:00"}, {h + 1, "", ""}}},
		{"until resumed", "", []step{{0, "pause=on", "pipe"}, {10 * h, "", "pipe"}, {11 * h, "resume=1", ""}, {12 * h, "", ""}}},
		{"twice, sooner", "", []step{{0, "pause=1h", "pipe, 1 01:00"}, {h / 6, "pause=15m", "pipe, 1 00:25"}, {h/2 + 1, "", ""}, {2 * h, "", ""}}},
		{"twice, later", "", []step{{0, "pause=15m", "pipe, 1 00:15"}, {h / 6, "pause=2h", "pipe, 1 02:10"}, {2 * h, "", "pipe, 1 02:10"}, {3 * h, "", ""}}},
		{"twice, for good", "", []step{{0, "pause=15m", "pipe, 1 00:15"}, {h / 6, "pause=on", "pipe"}, {2 * h, "", "pipe"}}},
		{"resumed, and paused again", "", []step{{0, "pause=2h", "pipe, 1 02:00"}, {h, "resume=1", ""}, {h + 1, "pause=2h", "pipe, 1 03:00"}, {2*h + 1, "", "pipe, 1 03:00"}, {3*h + 2, "", ""}}},
		{"nothing to resume", "", []step{{0, "resume=1", ""}, {1, "resume=1", ""}}},
		{"the clock steps over the end", "", []step{{0, "pause=1h", "pipe, 1 01:00"}, {h / 2, "2h", "pipe, 1 03:00"}, {h - 1, "", "pipe, 1 03:00"}, {h + 1, "", ""}}},
		{"the clock steps back", "", []step{{0, "pause=1h", "pipe, 1 01:00"}, {h / 2, "-2h", "pipe, 31 23:00"}, {h + 1, "", ""}}},

		{"quiet hours", "22:00-07:00", []step{{0, "", "quiet, 1 07:00"}, {7*h - 1, "", "quiet, 1 07:00"}, {7*h + 1, "", ""}, {22*h - 1, "", ""}, {22*h + 1, "", "quiet, 2 07:00"}}},
		{"quiet hours resumed", "22:00-07:00", []step{{h, "resume=1", ""}, {6 * h, "", ""}, {21 * h, "", ""}, {23 * h, "", "quiet, 2 07:00"}}},
		{"quiet hours resumed, and paused in them", "22:00-07:00", []step{
			{h, "resume=1", ""}, {2 * h, "pause=1h", "pipe, 1 03:00"}, {2*h + 1, "resume=1", ""}, {4 * h, "pause=15m", "pipe, 1 04:15"}, {5 * h, "", ""}, {23 * h, "", "quiet, 2 07:00"},
		}},
		{"paused in quiet hours", "22:00-07:00", []step{{h, "pause=15m", "pipe, 1 07:00"}, {2 * h, "", "quiet, 1 07:00"}, {2*h + 1, "pause=on", "pipe"}, {8 * h, "", "pipe"}, {9 * h, "resume=1", ""}}},
		{"paused beyond them", "22:00-07:00", []step{{6 * h, "pause=2h", "pipe, 1 08:00"}, {7*h + 1, "", "pipe, 1 08:00"}, {8*h + 1, "", ""}}},
		{"paused into them", "22:00-07:00", []step{{21 * h, "pause=2h", "pipe, 1 23:00"}, {22*h + 1, "", "pipe, 2 07:00"}, {23*h + 1, "", "quiet, 2 07:00"}, {31*h + 1, "", ""}}},
		{"the clock steps over the end of quiet hours", "22:00-07:00", []step{{h, "7h", "quiet, 1 07:00"}, {h + clockTick, "", ""}}},
		{"the clock steps into quiet hours", "22:00-07:00", []step{{8 * h, "15h", ""}, {8*h + clockTick, "", "quiet, 2 07:00"}}},
		{"the clock steps back within quiet hours that were resumed", "22:00-07:00", []step{{2 * h, "resume=1", ""}, {3 * h, "-4h", ""}, {4 * h, "", ""}, {29 * h, "", "quiet, 2 07:00"}}},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			var step time.Duration
			began := time.Now()
			f := newFrontIn(t, newOwned(t), func(o *Options) {
				o.Inventory = inventory.New(o.Target, time.Hour, o.Log)
				if test.quiet == "" {
					return
				}
				cfg, err := config.Load(func(name string) string { return map[string]string{"FOREMAN_QUIET": test.quiet}[name] })
				if err != nil {
					t.Fatal(err)
				}
				o.Quiet = func(now time.Time) time.Time { return cfg.Quiet(now.UTC()) }
			})
			f.pauser.wall = func() time.Time { return time.Now().Add(step) }
			start(t, f.Run)
			for _, s := range test.steps {
				time.Sleep(s.at - time.Since(began))
				synctest.Wait()
				if d, err := time.ParseDuration(s.do); err == nil {
					step += d
				} else if s.do != "" {
					if a := f.form(t, s.do); a.status != http.StatusOK {
						t.Errorf("%v: %s: %d %s", s.at, s.do, a.status, a.body)
					}
				}
				got := strings.TrimSuffix(f.paused(t), ", unloaded")
				status, want := f.do(t, "POST", "/api/embed", embedBody).status, http.StatusOK
				if s.want != "" {
					want = http.StatusServiceUnavailable
				}
				if got != s.want || status != want {
					t.Errorf("%v: %s: paused: %q, an embedding: %d; want %q, %d", s.at, s.do, got, status, s.want, want)
				}
			}
		})
	}
}

// TestPauseIsGuarded: where there are tokens of clients, only the owner pauses and resumes,
// and no page of another site does.
func TestPauseIsGuarded(t *testing.T) {
	ann, bob, nobody := "Bearer "+secret+"-of-ann", "Bearer "+secret+"-of-bob", "Bearer "+clientToken
	for _, test := range []struct {
		name   string
		token  bool // FOREMAN_TOKEN is set
		file   bool // there is a file of tokens
		header []string
		status int
	}{
		{"no token, and none is needed", false, false, nil, 200},
		{"none is needed, from another site", false, false, []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"none is needed, DNS rebinding", false, false, []string{"Host", "evil.example", "Origin", "http://evil.example"}, 403},
		{"FOREMAN_TOKEN alone", true, false, []string{"Authorization", nobody}, 200},
		{"FOREMAN_TOKEN and a file", true, true, []string{"Authorization", nobody}, 200},
		{"the owner", false, true, []string{"Authorization", ann}, 200},
		{"another client", true, true, []string{"Authorization", bob}, 403},
		{"nobody", true, true, nil, 401},
	} {
		f := newFront(t, newStub(t).URL, func(o *Options) {
			if test.token {
				o.Token = clientToken
			}
			if test.file {
				o.Tokens = tokensOf(t, "ann "+secret+"-of-ann owner\nbob "+secret+"-of-bob\n")
			}
		})
		for _, form := range []string{"pause=1h", "resume=1"} {
			before := f.pauser.now() != nil
			if a := f.form(t, form, test.header...); a.status != test.status || (f.pauser.now() != nil) != (before != (test.status == 200)) {
				t.Errorf("%s: %s: %d %s, paused: %v; want %d", test.name, form, a.status, a.body, f.pauser.now(), test.status)
			}
			f.pauser.pause("somebody else", time.Hour)
		}
	}
}

// TestPauseForm: what is wrong with a form is told, and changes nothing.
func TestPauseForm(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	for form, want := range map[string]string{
		"pause=": "want pause with a time", "pause=off": "want pause with a time", "pause=60": "want pause with a time", "pause=-1h": "want pause with a time",
		"pause=999ms": "want pause with a time", "pause=1h&now=0": "want now=1", "pause=1h&now=": "want now=1", "now=1": "want one of the form fields",
		"resume=": "want resume=1 alone", "resume=1&now=1": "want resume=1 alone", "pause=1h&resume=1": "want one of the form fields",
	} {
		if a := f.form(t, form); a.status != http.StatusBadRequest || !strings.Contains(a.body, want) || f.pauser.now() != nil {
			t.Errorf("%s: %d %s, paused: %v; want 400 and %s", form, a.status, a.body, f.pauser.now(), want)
		}
	}
	if a := f.do(t, "POST", "/status", "pause=1h"); a.status != http.StatusSeeOther || a.header.Get("Location") != "status" {
		t.Errorf("from the page: %d, Location %q; want 303 to the page", a.status, a.header.Get("Location"))
	}
}

// TestPausedLine: who waits while it is paused may leave, be stopped, wait for too long, or
// be turned away when foreman ends.
func TestPausedLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o := newOwnedFront(t, func(o *Options) { o.QueueTimeout = time.Minute })
		f.form(t, "pause=1h")
		leaves, stopped, late := connect(t, f).chat(t, "leaves"), connect(t, f), connect(t, f)
		for _, c := range []*wire{stopped, late} {
			c.send(t, postOf("/v1/chat/completions", marked("waits")))
			synctest.Wait()
		}
		leaves.Close()
		time.Sleep(time.Second)
		waiting := f.page.read().Waiting
		if len(waiting) != 2 {
			t.Fatalf("waiting: %+v; want two: one has left", waiting)
		}
		f.stop(t, waiting[0].Key)
		stopped.expect(t, http.StatusForbidden, "the chat that was stopped")
		resp, body, _ := late.answer(t)
		want := "waited too long for a turn: the Ollama host is paused until " + time.Now().Add(59*time.Minute).Format("2006-01-02 15:04 MST")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "3541" || !strings.Contains(body, want) {
			t.Errorf("the chat that waited for too long: %d, Retry-After %q, %s; want 503, 3541 and %s", resp.StatusCode, resp.Header.Get("Retry-After"), body, want)
		}
		last := connect(t, f).send(t, postOf("/v1/chat/completions", marked("waits")))
		synctest.Wait()
		f.Close()
		last.expect(t, http.StatusServiceUnavailable, "the chat that waited when foreman ended")
		if a := f.do(t, "GET", "/readyz", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `"shutting down"`) {
			t.Errorf("/readyz: %d %s; want 503, shutting down", a.status, a.body)
		}
		for _, form := range []string{"resume=1", "pause=1h", "resume=1"} {
			f.form(t, form)
		}
		time.Sleep(time.Second)
		o.none(t)
		f.expectIdle(t)
	})
}

// TestPauseUnloads: models are unloaded also where the target is not ready for that.
func TestPauseUnloads(t *testing.T) {
	inBubble(t, "an embedding goes on", func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		embed := connect(t, f).send(t, postOf("/api/embed", `{"model":"embed","mark":"long"}`))
		running := o.any(t)
		f.form(t, "pause=1h")
		time.Sleep(time.Minute)
		o.set(func() { o.resident = []string{"embed:latest"} }) // as if it were the load that took so long
		running.finish()
		embed.expect(t, http.StatusOK, "the embedding")
		time.Sleep(10 * time.Second)
		o.set(func() { o.unloads = nil })
		o.wantMemory(t, "after the embedding", nil, nil, 1)
		if got := f.paused(t); got != "pipe, 1 01:00, unloaded" {
			t.Errorf("paused: %q", got)
		}
	})
	inBubble(t, "models do not go", func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		o.stuck = true
		f.form(t, "pause=on")
		time.Sleep(10 * time.Minute)
		if n := strings.Count(f.log.String(), `"level":"WARN","msg":"paused, and not all models are unloaded yet; will go on trying","models":["embed:latest"]`); n != 1 {
			t.Errorf("told %d times; want once", n)
		}
		if o.set(func() {}); len(o.unloads) < 140 || len(o.unloads) > 180 {
			t.Errorf("asked %d times in 10 minutes; want some 60 in the first half, and then one each 5 s", len(o.unloads))
		}
		o.set(func() { o.stuck, o.unloads = false, nil })
		time.Sleep(time.Minute)
		o.wantMemory(t, "when they go", nil, []string{"embed:latest"}, 1)
	})
	inBubble(t, "the target is away", func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		o.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(time.Minute)
		f.form(t, "pause=on")
		time.Sleep(10 * time.Minute)
		if n := strings.Count(f.log.String(), `"msg":"paused while the target is away`); n != 1 || strings.Contains(f.log.String(), "not all models") {
			t.Errorf("told %d times; want once, and no more", n)
		}
		o.sleep(false)
		time.Sleep(10 * time.Second)
		o.wantMemory(t, "when it is back", nil, []string{"embed:latest"}, 1)
	})
	inBubble(t, "resumed at once", func(t *testing.T) {
		f, o := newOwnedFront(t, nil)
		for range 5 {
			f.form(t, "pause=on")
			f.form(t, "resume=1")
		}
		time.Sleep(time.Minute)
		if got := f.paused(t); got != "" {
			t.Errorf("paused: %q", got)
		}
		o.set(func() {
			if !slices.Equal(o.resident, []string{"embed:latest"}) {
				t.Errorf("resident: %v; want the embedder", o.resident)
			}
		})
		f.expectIdle(t)
	})
}

// TestQuietFromTheStart: in quiet hours foreman is paused before it is asked for anything.
func TestQuietFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, o := newOwnedFront(t, func(o *Options) {
			o.Quiet = func(time.Time) time.Time { return time.Now().Add(time.Hour) }
			another := *o
			another.Gate = gate.New(1)
			if New(another).pauser.now() == nil {
				t.Error("not paused before it runs")
			}
		})
		o.wantMemory(t, "at the start", nil, nil, 0)
		if got := f.paused(t); got != "quiet, 1 01:00, unloaded" {
			t.Errorf("paused: %q", got)
		}
	})
}

// TestPausedWhileWaking: the chat for which the host is woken counts as running, and what
// it loads is unloaded. In the pause nobody has the host woken.
func TestPausedWhileWaking(t *testing.T) {
	for _, now := range []bool{false, true} {
		inBubble(t, fmt.Sprint("now: ", now), func(t *testing.T) {
			packets := new(sleeper) // that no packet wakes
			f, o := newOwnedFront(t, func(opts *Options) {
				opts.Inventory.Waker, opts.Inventory.WakeTimeout = packets, 3*time.Minute
			})
			o.sleep(true)
			f.Inventory.Refresh()
			time.Sleep(time.Minute)
			first, second := connect(t, f), connect(t, f)
			for _, c := range []*wire{first, second} {
				c.send(t, postOf("/v1/chat/completions", `{"model":"chat"}`))
				synctest.Wait()
			}
			time.Sleep(time.Second)
			if packets.sent() == 0 {
				t.Fatal("the host is not woken")
			}
			if now {
				f.form(t, "pause=1h&now=1")
				first.expect(t, http.StatusForbidden, "the chat for which the host was woken")
			} else {
				f.form(t, "pause=1h")
			}
			time.Sleep(time.Minute)
			o.sleep(false)
			if !now {
				o.any(t).finish()
				first.expect(t, http.StatusOK, "the chat for which the host was woken")
			}
			time.Sleep(time.Minute)
			o.none(t)
			if o.set(func() {}); len(o.resident) > 0 || f.paused(t) != "pipe, 1 01:01, unloaded" {
				t.Errorf("resident %v, paused: %q", o.resident, f.paused(t))
			}
			packets.sent()
			o.sleep(true)
			f.Inventory.Refresh()
			time.Sleep(30 * time.Minute)
			if n := packets.sent(); n != 0 {
				t.Errorf("%d packets in the pause; want none", n)
			}
			o.sleep(false)
			time.Sleep(30 * time.Minute)
			o.any(t).finish()
			second.expect(t, http.StatusOK, "the chat that waited")
		})
	}
}
