package proxy

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
	"foreman/inventory"
)

// TestHealthTells follows /healthz and /readyz through an outage.
func TestHealthTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newMemory(11434)
		stub := newStubOn(t, host)
		f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) { host.through(o.Target) })
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

		turn, err := f.Gate.Enter(t.Context(), &exchange{request: new(http.Request)})
		if err != nil {
			t.Fatal(err)
		}
		waits := make(chan answer)
		go func() { waits <- f.do(t, "POST", "/api/chat", chatBody) }()
		synctest.Wait()
		expect(200, `{"status":"ok","since":"`+clock(0)+`","last_poll":"`+clock(0)+`","models":2,"running":1,"waiting":1,"version":"v1.2.3"}`)
		turn.Leave()
		<-waits

		host.reset(true)
		time.Sleep(42 * time.Second) // the poll at 30 s fails; from now on one each 5 s
		expect(503, `{"status":"degraded","reason":"unreachable","since":"`+clock(30*time.Second)+`","last_poll":"`+clock(0)+`","models":2,"running":0,"waiting":0,"version":"v1.2.3"}`)

		host.reset(false)
		stub.answerPolls(refuseWith(401))
		time.Sleep(10 * time.Second)
		expect(503, `{"status":"degraded","reason":"unauthorized","since":"`+clock(30*time.Second)+`","last_poll":"`+clock(0)+`","models":2,"running":0,"waiting":0,"version":"v1.2.3"}`)

		stub.answerPolls(answerWith("text/html", "<html>"))
		time.Sleep(10 * time.Second)
		expect(503, `{"status":"degraded","reason":"bad answer","since":"`+clock(30*time.Second)+`","last_poll":"`+clock(0)+`","models":2,"running":0,"waiting":0,"version":"v1.2.3"}`)

		stub.answerPolls(answerWith("application/json", `{"models":[]}`))
		time.Sleep(5 * time.Second) // at 67 s, after the poll at 65 s
		expect(200, `{"status":"ok","since":"`+clock(65*time.Second)+`","last_poll":"`+clock(65*time.Second)+`","models":0,"running":0,"waiting":0,"version":"v1.2.3"}`)
	})
}

// TestTagsAge: tags are the target's bytes, as old as Age says, also while the
// target is away.
func TestTagsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := newMemory(11434)
		stub := newStubOn(t, host)
		f := newFrontOn(t, newMemory(8080), stub.URL, func(o *Options) { host.through(o.Target) })
		expect := func(age string) {
			t.Helper()
			want := string(fixture(t, "tags.json"))
			a := f.do(t, "GET", "/api/tags", "")
			if a.status != 200 || a.body != want || a.header.Get("Age") != age {
				t.Errorf("GET: %d, Age %q, %q; want 200, %q and the target's bytes", a.status, a.header.Get("Age"), a.body, age)
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
		host.reset(true)
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
	target := NewTarget(u, "")
	p := New(Options{
		Target:    target,
		Inventory: inventory.New(target, time.Minute, slog.New(slog.DiscardHandler)),
		Gate:      gate.New(1),
		Log:       slog.New(slog.DiscardHandler),
		MaxBody:   1 << 20,
	})
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/api/tags": 503} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("%s: %d %s; want %d", path, w.Code, w.Body, want)
		}
		if got := w.Header().Get("Retry-After"); (got != "") != (want == 503) {
			t.Errorf("%s: Retry-After %q", path, got)
		}
		if path == "/api/tags" {
			continue
		}
		var h struct {
			Status, Reason string
			LastPoll       any `json:"last_poll"`
		}
		h.LastPoll = "not null"
		if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil || h.Status != "degraded" || h.Reason != "starting" || h.LastPoll != nil {
			t.Errorf("%s: %+v, %v; want degraded, starting and no last poll", path, h, err)
		}
	}
}

// TestTagsBeforeTheFirstGoodPoll: the host answers, but never with its models.
func TestTagsBeforeTheFirstGoodPoll(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"unauthorized": refuseWith(401), "failing": refuseWith(500), "not an Ollama": answerWith("text/html", "<html>"),
	} {
		stub := newStub(t)
		stub.tags = handler
		f := newFront(t, stub.URL, nil)
		a := f.do(t, "GET", "/api/tags", "")
		if a.status != 503 || a.header.Get("Retry-After") != "5" {
			t.Errorf("%s: %d, Retry-After %q; want 503 and 5", name, a.status, a.header.Get("Retry-After"))
		}
	}
}
