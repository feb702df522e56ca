package proxy

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
	"foreman/proxy/target"
)

// TestHealthTells follows /healthz, /readyz and /status through an outage.
func TestHealthTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, nil)
		clock := func(d time.Duration) string { // in a bubble time begins here
			return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(time.RFC3339)
		}
		expect := func(readyStatus int, want string) {
			t.Helper()
			for path, status := range map[string]int{"/healthz": 200, "/readyz": readyStatus} {
				a := f.do(t, "GET", path, "")
				if a.status != status || a.body != want+"\n" {
					t.Errorf("%s: %d %s; want %d %s", path, a.status, a.body, status, want)
				}
				if got := a.header.Get("Retry-After"); (got != "") != (status == 503) {
					t.Errorf("%s: Retry-After %q", path, got)
				}
				if got, want := a.header.Get("Cache-Control"), "no-store"; got != want {
					t.Errorf("%s: Cache-Control %q; want %q", path, got, want)
				}
				if a := f.do(t, "HEAD", path, ""); a.status != status || a.body != "" {
					t.Errorf("HEAD %s: %d %q; want %d", path, a.status, a.body, status)
				}
			}
		}
		expect(200, `{"status":"ok","since":"`+clock(0)+`","last_poll":"`+clock(0)+`","models":2,"running":0,"waiting":0,"version":"v1.2.3"}`)

		turn := f.enter(t)
		waits := make(chan answer)
		go func() { waits <- f.do(t, "POST", "/api/chat", chatBody) }()
		synctest.Wait()
		expect(200, `{"status":"ok","since":"`+clock(0)+`","last_poll":"`+clock(0)+`","models":2,"running":1,"waiting":1,"version":"v1.2.3"}`)
		wantSamples(t, f, map[string]string{"foreman_queue_depth": "1", "foreman_chats_in_flight": "1"})
		turn.Leave()
		<-waits

		stub.net.reset(true)
		time.Sleep(42 * time.Second) // the poll at 30 s fails; from now on one each 5 s
		expect(503, `{"status":"degraded","reason":"unreachable","since":"`+clock(30*time.Second)+`","last_poll":"`+clock(0)+`","models":2,"running":0,"waiting":0,"version":"v1.2.3"}`)
		if page := f.do(t, "GET", "/status", "").body; !strings.Contains(page, "degraded: unreachable") || !strings.Contains(page, "chat:latest") {
			t.Errorf("/status tells nothing of the outage, or of the models from before:\n%s", page)
		}

		stub.net.reset(false)
		stub.answerPolls(answerWith("application/json", `{"models":[]}`))
		time.Sleep(5 * time.Second) // at 47 s, after the poll at 45 s
		expect(200, `{"status":"ok","since":"`+clock(45*time.Second)+`","last_poll":"`+clock(45*time.Second)+`","models":0,"running":0,"waiting":0,"version":"v1.2.3"}`)
	})
}

// TestRoot: / is answered from the last poll, whoever asks, and nothing of it reaches the
// target. The command line may go on to ask for the models while that is away.
func TestRoot(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Hosts = clientToken, []string{"foreman.example"} })
	expect := func(when string, get, head int, fields ...string) {
		t.Helper()
		polls := stub.polled()
		want := map[int]string{200: "Ollama is running", 503: `{"error":"the Ollama host is unreachable"}` + "\n"}[get]
		if a := f.do(t, "GET", "/", "", fields...); a.status != get || want != "" && a.body != want || (a.header.Get("Retry-After") == "") != (get != 503) {
			t.Errorf("%s: GET /: %d %v %q; want %d %q", when, a.status, a.header, a.body, get, want)
		}
		if a := f.do(t, "HEAD", "/", "", fields...); a.status != head || a.body != "" || head == 200 && a.header.Get("Content-Length") != "17" {
			t.Errorf("%s: HEAD /: %d %v; want %d", when, a.status, a.header, head)
		}
		if got := stub.polled() - polls; got > 0 {
			t.Errorf("%s: %d polls; want none", when, got)
		}
	}
	expect("up", 200, 200)
	expect("up, a wrong token", 200, 200, "X-Api-Key", "sk-ant-1")
	expect("another site's name", 403, 403, "Host", "evil.example")

	poll := func(answer http.HandlerFunc, reason string) {
		stub.answerPolls(answer)
		f.Inventory.Refresh()
		await(t, func() bool { return f.Inventory.State().Reason == reason })
	}
	poll(refuseWith(500), inventory.BadAnswer)
	expect("a bad answer", 200, 200)
	poll(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, inventory.Unreachable)
	expect("away", 503, 200)
	f.Close()
	if a := f.do(t, "GET", "/", ""); a.status != 503 || !strings.Contains(a.body, "shutting down") {
		t.Errorf("shutting down: GET /: %d %s", a.status, a.body)
	}
	if got := stub.seen(); len(got) > 0 {
		t.Errorf("at the target: %q; want nothing but polls", got)
	}
}

// TestTagsAge: tags are the target's bytes, as old as Age says, also while the
// target is away.
func TestTagsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, nil)
		expect := func(age string) {
			t.Helper()
			want := string(fixture(t, "tags.json"))
			a := f.do(t, "GET", "/api/tags", "")
			if a.status != 200 || a.body != want || a.header.Get("Age") != age || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("GET: %d %v, %q; want 200, Age %q and the target's bytes as JSON", a.status, a.header, a.body, age)
			}
			h := f.do(t, "HEAD", "/api/tags", "")
			if h.status != 200 || h.body != "" || h.header.Get("Age") != age || h.header.Get("Content-Length") != a.header.Get("Content-Length") {
				t.Errorf("HEAD: %d %v; want the same fields and no body", h.status, h.header)
			}
		}
		expect("0")
		time.Sleep(29*time.Second + 900*time.Millisecond)
		expect("29")
		time.Sleep(time.Second)
		expect("0") // polled at 30 s
		stub.net.reset(true)
		time.Sleep(99 * time.Second)
		expect("99")
		if got := stub.seen(); len(got) > 0 {
			t.Errorf("at the target: %q; want nothing but polls", got)
		}
	})
}

// TestBeforeTheFirstPoll: nothing is known yet, and everything says so.
func TestBeforeTheFirstPoll(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
	target := target.New(u, "")
	p := New(Options{
		Target:    target,
		Inventory: inventory.New(target, time.Minute, slog.New(slog.DiscardHandler)),
		Gate:      gate.New(1),
		Log:       slog.New(slog.DiscardHandler),
		MaxBody:   1 << 20,
	})
	for path, want := range map[string]int{"/": 503, "/healthz": 200, "/readyz": 503, "/api/tags": 503} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost"+path, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s; want %d", path, w.Code, w.Body, want)
		}
		if got := w.Header().Get("Retry-After"); (got != "") != (want == 503) {
			t.Errorf("%s: Retry-After %q", path, got)
		}
		got, begin := w.Body.String(), `{"status":"degraded","reason":"starting",`
		if strings.HasSuffix(path, "z") && (!strings.HasPrefix(got, begin) || !strings.Contains(got, `,"last_poll":null,`)) {
			t.Errorf("%s: %s; want degraded, starting and no last poll", path, got)
		}
	}
}

func TestStatusShowsWhoHoldsTheTurnAndWhoWaits(t *testing.T) {
	stub := newStub(t)
	chats := newBarrier()
	stub.chat = chats.then(stub.chat)
	f := newFront(t, stub.URL, func(o *Options) { o.EmbedModel = "embed" })
	var clients []*wire
	for i := range 3 {
		clients = append(clients, connect(t, f).chat(t, "any"))
		if i == 0 {
			<-chats.arrived
		}
	}
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 2 })
	f.do(t, "POST", "/api/chat", `{"model":"<script>alert(1)</script>"}`)

	page := f.do(t, "GET", "/status", "")
	for _, want := range []string{
		"up</p>", "2 waiting", "<strong>chat:latest</strong>", "no byte yet", "embed:latest</code>",
		"<span class=\"tag on\">resident</span> <span class=\"tag\">embedder", "404 unknown model",
	} {
		if !strings.Contains(page.body, want) {
			t.Errorf("no %q in:\n%s", want, page.body)
		}
	}
	if strings.Contains(page.body, "<script>alert(1)") {
		t.Error("a client's model name is on the page as it is")
	}
	if got := page.header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; style-src 'sha256-") || strings.Contains(got, "unsafe") {
		t.Errorf("Content-Security-Policy %q", got)
	}
	close(chats.release)
	for _, c := range clients {
		c.expect(t, http.StatusOK, "a chat")
	}
}

// TestStatusTellsTheWaitInLine: who took long to send a chat has not waited for
// the host meanwhile.
func TestStatusTellsTheWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		holder, slow := connect(t, f), connect(t, f)
		holder.send(t, postOf("/api/chat", marked("first")))
		first := target.next(t, "first")
		request := postOf("/api/chat", marked("slow"))
		slow.send(t, request[:len(request)-1])
		time.Sleep(20 * time.Second)
		slow.send(t, request[len(request)-1:])
		synctest.Wait()
		time.Sleep(1500 * time.Millisecond)
		if got := f.page.read().Waiting; len(got) != 1 || time.Since(got[0].Since) != 1500*time.Millisecond || !got[0].Next {
			t.Errorf("waiting: %+v; want one for 1.5 s, the next", got)
		}
		first.finish()
		holder.status(t)
		running := target.next(t, "slow")
		if got := f.page.read().Running; got.Since.Sub(got.Joined) != 1500*time.Millisecond {
			t.Errorf("running: %+v; want it to have waited for 1.5 s", got)
		}
		running.finish()
		slow.status(t)
		synctest.Wait()
		if !slices.ContainsFunc(latest(f), func(r status.Record) bool {
			return r.Arriving == 20*time.Second && r.Queued == 1500*time.Millisecond
		}) {
			t.Errorf("last requests: %+v; want one that arrived for 20 s and waited for 1.5 s", latest(f))
		}
	})
}

// TestStatusTellsWhoIsNext: the first in line is not, while it is overtaken.
func TestStatusTellsWhoIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, func(o *Options) { o.Gate.Affinity = time.Minute })
		var clients []*wire
		for _, body := range []string{marked("first"), `{"model":"embed"}`, marked("third")} {
			clients = append(clients, connect(t, f).send(t, postOf("/api/chat", body)))
			synctest.Wait()
		}
		page := f.page.read()
		var next []string
		for _, chat := range page.Waiting {
			if chat.Next {
				next = append(next, chat.Model)
			}
		}
		if !slices.Equal(next, []string{"chat:latest"}) || page.Affinity != status.Span(time.Minute) {
			t.Errorf("next: %q, affinity %v; want chat:latest, and a minute", next, page.Affinity)
		}
		for _, i := range []int{0, 2, 1} {
			target.any(t).finish()
			clients[i].status(t)
		}
	})
}

// How long a chat will still wait follows from how long turns took lately, and from how
// long the one that runs has taken already.
func TestStatusEstimates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		send := func() *wire {
			c := connect(t, f).send(t, postOf("/api/chat", chatBody))
			synctest.Wait()
			return c
		}
		want := func(want string) {
			t.Helper()
			var got []string
			for _, chat := range f.page.read().Waiting {
				if chat.Estimate != nil {
					got = append(got, time.Duration(*chat.Estimate).String())
				}
			}
			if got := strings.Join(got, " "); got != want {
				t.Errorf("got %q; want %q", got, want)
			}
		}
		clients := []*wire{send(), send(), send()}
		want("") // nothing is known yet
		time.Sleep(time.Minute)
		target.any(t).finish()
		clients[0].status(t)
		synctest.Wait()
		want("1m0s")
		clients = append(clients[1:], send())
		time.Sleep(45 * time.Second)
		want("15s 1m15s")
		time.Sleep(45 * time.Second)
		want("0s 1m0s") // the one that runs may end at any time
		for _, c := range clients {
			target.any(t).finish()
			c.status(t)
		}
	})
}

// A program gets the page as JSON; a browser, which takes anything, gets a page.
func TestStatusAsJSON(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	for accept, want := range map[string]string{
		"application/json":                        "application/json; charset=utf-8",
		"application/json, text/plain;q=0.5, */*": "application/json; charset=utf-8",
		"": "text/html; charset=utf-8", "*/*": "text/html; charset=utf-8",
		"text/html,application/xhtml+xml,application/json;q=0.9,*/*;q=0.8": "text/html; charset=utf-8",
	} {
		a := f.do(t, "GET", "/status", "", "Accept", accept)
		if got := a.header.Get("Content-Type"); a.status != 200 || got != want || a.header.Get("Vary") != "Accept" {
			t.Errorf("%q: %d %s, Vary %q; want %s", accept, a.status, got, a.header.Get("Vary"), want)
		}
		if strings.Contains(want, "json") && !strings.Contains(a.body, `"url": "`+f.Target.String()) {
			t.Errorf("%q: got %s", accept, a.body)
		}
	}
}

func TestStatusNeedsTheTokenAsPassword(t *testing.T) {
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Token = "sesame" })
	basic := func(password string) []string { return []string{"Authorization", basicAuth(password)} }
	for _, test := range []struct {
		name, path string
		header     []string
		want       int
	}{
		{"nothing", "/status", nil, 401},
		{"wrong password", "/status", basic("open"), 401},
		{"password", "/status", basic("sesame"), 200},
		{"password elsewhere", "/metrics", basic("sesame"), 401},
		{"password at the target's", "/api/ps", basic("sesame"), 401},
	} {
		a := f.do(t, "GET", test.path, "", test.header...)
		if a.status != test.want {
			t.Errorf("%s: status %d; want %d", test.name, a.status, test.want)
		}
		if challenge := a.header.Get("WWW-Authenticate"); test.path == "/status" && test.want == 401 && !strings.HasPrefix(challenge, "Basic ") {
			t.Errorf("%s: WWW-Authenticate %q; want Basic", test.name, challenge)
		}
	}
}

// Nobody without access writes on the page, nor washes others' requests off it.
func TestStatusShowsAdmittedRequestsOnly(t *testing.T) {
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Token, o.Hosts = clientToken, []string{"foreman.example"} })
	token := []string{"Authorization", "Bearer " + clientToken}
	f.do(t, "POST", "/api/chat", chatBody, append(token, "X-Request-Id", "mine")...)
	f.do(t, "GET", "/nowhere/at/all", "", token...)
	for range 20 {
		f.do(t, "POST", "/api/chat", chatBody)
		f.do(t, "GET", "/nowhere", "")
		f.do(t, "GET", "/status", "")
		f.do(t, "POST", "/api/chat", chatBody, append(token, "Host", "evil.example")...)
		f.do(t, "OPTIONS", "/api/chat", "", "Origin", "http://page.example", "Access-Control-Request-Method", "POST")
	}
	f.expectIdle(t)
	got := latest(f)
	if len(got) != 2 || got[1].ID != "mine" || got[0].Route != "/nowhere/at/all" {
		t.Errorf("on the page: %+v; want the chat and the unknown path", got)
	}
}
