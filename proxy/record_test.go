package proxy

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/status"
)

// TestRecords: a chat waits 3 s behind another, its answer begins 2 s later and
// takes 4 s; one that leaves, one that is refused and an embedding are beside it.
func TestRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		began := time.Now()
		send := func(path, body, id string) *wire {
			c := connect(t, f).send(t, postOf(path, body, "X-Request-Id: "+id+"\r\n"))
			synctest.Wait()
			return c
		}
		answered := func(c *wire, want int) {
			t.Helper()
			c.expect(t, want, "a request")
			synctest.Wait()
		}
		first := send("/api/chat", marked("first"), "1")
		holding := target.next(t, "first")
		second := send("/v1/chat/completions", marked("second"), "2")
		leaver := send("/api/chat", marked("leaver"), "3")
		time.Sleep(time.Second)
		leaver.Close()
		synctest.Wait()
		answered(send("/api/chat", `{"model":"unknown"}`, "4"), http.StatusNotFound)
		embedding := send("/api/embed", marked("embed"), "5")
		target.next(t, "embed").finish()
		answered(embedding, http.StatusOK)
		time.Sleep(2 * time.Second)
		holding.finish()
		answered(first, http.StatusOK)
		running := target.next(t, "second")
		time.AfterFunc(2*time.Second, func() { running.say(t, "12345") })
		time.AfterFunc(6*time.Second, running.finish)
		answered(second, http.StatusOK) // reads all the while

		const s = time.Second
		want := []status.Record{ // latest first
			{Route: "/v1/chat/completions", IsChat: true, Status: 200, ID: "2", Model: "chat:latest", WasQueued: true, Queued: 3 * s, Held: 6 * s, FirstByte: 5 * s, Duration: 9 * s},
			{Route: "/api/chat", IsChat: true, Status: 200, ID: "1", Model: "chat:latest", WasQueued: true, Held: 3 * s, FirstByte: 3 * s, Duration: 3 * s},
			{Route: "/api/chat", IsChat: true, Status: 404, ID: "4", Model: "unknown", Began: began.Add(s), Reason: "unknown model"},
			{Route: "/api/chat", IsChat: true, Status: 499, ID: "3", Model: "chat:latest", WasQueued: true, Queued: s, Duration: s},
			{Route: "/api/embed", Status: 200, ID: "5", Began: began.Add(s)},
		}
		got := latest(f)
		if len(got) != len(want) {
			t.Fatalf("%d requests; want %d: %v", len(got), len(want), got)
		}
		for i := range want {
			want[i].Method, want[i].Client, want[i].Addr = "POST", "pipe", "pipe"
			if want[i].Began.IsZero() {
				want[i].Began = began
			}
			want[i].Ended = want[i].Began.Add(want[i].Duration)
			got[i].Bytes = 0 // see TestAccessRecords
			if got[i] != want[i] {
				t.Errorf("request %d:\n got %+v\nwant %+v", i, got[i], want[i])
			}
		}
		wantSamples(t, f, map[string]string{
			`foreman_queue_wait_seconds_count`:                                             "3",
			`foreman_queue_wait_seconds_sum`:                                               "4",
			`foreman_queue_wait_seconds_bucket{le="0.001"}`:                                "1",
			`foreman_queue_wait_seconds_bucket{le="2.5"}`:                                  "2",
			`foreman_first_byte_seconds_sum{route="/v1/chat/completions"}`:                 "5",
			`foreman_request_duration_seconds_sum{route="/v1/chat/completions"}`:           "9",
			`foreman_turns_revoked_total{reason="client left"}`:                            "0",
			`foreman_requests_total{route="/api/chat",code="499"}`:                         "1",
			`foreman_first_byte_seconds_bucket{route="/v1/chat/completions",le="5"}`:       "1",
			`foreman_request_duration_seconds_bucket{route="/v1/chat/completions",le="5"}`: "0",
		})
	})
}

// TestTurnsRevoked: each reason for which a turn is taken away is counted as
// itself and once.
func TestTurnsRevoked(t *testing.T) {
	for _, test := range []struct {
		reason string
		status int
		size   int // of the answer
		take   func(t *testing.T, target *holder, c *wire, running *held)
	}{
		{revokedLeft, 499, 0, func(_ *testing.T, _ *holder, c *wire, running *held) {
			c.Close()
			running.gone()
		}},
		{revokedStalled, 200, 1 << 20, func(*testing.T, *holder, *wire, *held) { time.Sleep(time.Minute) }},
		{revokedAsleep, 504, 0, func(t *testing.T, target *holder, c *wire, _ *held) {
			target.sleep(true)
			c.status(t)
		}},
		{revokedStall, 200, 0, func(t *testing.T, _ *holder, c *wire, running *held) {
			running.say(t, "{}\n")
			c.answer(t)
		}},
		{revokedMaxTurn, 504, 0, func(t *testing.T, _ *holder, c *wire, _ *held) { c.status(t) }},
	} {
		inBubble(t, test.reason, func(t *testing.T) {
			f, target := newHeldFrontIn(t, nil)
			target.size = test.size
			c := connect(t, f)
			var running *held
			if test.size > 0 {
				target.large(t, c)
			} else {
				c.chat(t, "any")
				running = target.next(t, "any")
			}
			test.take(t, target, c, running)
			synctest.Wait()
			got := latest(f)
			if len(got) != 1 || got[0].Revoked != test.reason || got[0].Status != test.status {
				t.Errorf("got %+v; want one record of a turn revoked for %q, status %d", got, test.reason, test.status)
			}
			for _, reason := range []string{revokedLeft, revokedStalled, revokedAsleep, revokedStall, revokedMaxTurn} {
				want := "0"
				if reason == test.reason {
					want = "1"
				}
				wantSamples(t, f, map[string]string{`foreman_turns_revoked_total{reason="` + reason + `"}`: want})
			}
		})
	}
}

// TestRecordInTheLog: what is told in the log is what the record has, and how severe it is.
func TestRecordInTheLog(t *testing.T) {
	whole := status.Record{
		Method: "POST", Route: "/api/chat", Status: 200, Client: "ann", Addr: "[fe80::1]:7", ID: "id", Model: "m",
		Queued: 1500 * time.Microsecond, FirstByte: 2 * time.Second, Duration: time.Minute, Bytes: 1 << 40,
	}
	for _, test := range []struct {
		class  class
		change func(*status.Record)
		want   string
	}{
		{worker, func(*status.Record) {}, "level=INFO msg=request method=POST route=/api/chat status=200 model=m queue_ms=1.5 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id"},
		{worker, func(r *status.Record) { r.Cut, r.Err = true, io.ErrUnexpectedEOF }, "level=WARN msg=request method=POST route=/api/chat status=200 model=m queue_ms=1.5 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id cut=true err=\"unexpected EOF\""},
		{worker, func(r *status.Record) { r.Status, r.Cut, r.Err = 499, true, context.Canceled }, "level=INFO msg=request method=POST route=/api/chat status=499 model=m queue_ms=1.5 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id cut=true err=\"context canceled\""},
		{refused, func(r *status.Record) { r.Route, r.Path, r.Status, r.Reason = "other", "/api/x", 404, "path" }, "level=INFO msg=request method=POST route=other path=/api/x status=404 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id"},
		{embed, func(r *status.Record) { r.Status, r.Reason = 503, "unreachable" }, "level=WARN msg=request method=POST route=/api/chat status=503 queue_ms=1.5 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id"},
		{own, func(*status.Record) {}, ""},
		{own, func(r *status.Record) { r.Status = 503 }, ""},
		{own, func(r *status.Record) { r.Status, r.Reason = 401, "token" }, "level=INFO msg=request method=POST route=/api/chat status=401 first_byte_ms=2000 ms=60000 bytes=1099511627776 client=ann addr=[fe80::1]:7 id=id"},
	} {
		rec := whole
		rec.IsChat = test.class == worker
		test.change(&rec)
		var b strings.Builder
		logRecord(slog.New(slog.NewTextHandler(&b, nil)), &rec, test.class)
		_, got, _ := strings.Cut(strings.TrimSpace(b.String()), " ") // without the time
		if got != test.want {
			t.Errorf("\n got %s\nwant %s", got, test.want)
		}
	}
}

// TestAccessRecords: one record for each request, of these fields and no more.
// That no log has a token or a prompt in it is seen to at the end of every test.
func TestAccessRecords(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Hosts = clientToken, []string{"foreman.example"} })
	token := []string{"Authorization", "Bearer " + clientToken}
	for i, test := range []struct {
		method, path, body string
		header             []string
		want               map[string]any
	}{
		{"POST", "/api/chat", chatBody, token, map[string]any{
			"route": "/api/chat", "status": 200., "model": "chat:latest",
			"load_ms": 1.334, "prompt_ms": 342.546, "prompt_tokens": 26., "completion_tokens": 4., "tokens_per_s": .9,
		}},
		{"POST", "/api/generate", `{"model":"unknown"}`, token, map[string]any{"route": "/api/generate", "status": 404., "model": "unknown", "err": "model 'unknown' not found"}},
		{"POST", "/api/embed", embedBody, token, map[string]any{"route": "/api/embed", "status": 200.}},
		{"GET", "/v1/models/" + secret, "", token, map[string]any{"route": "/v1/models/{model...}", "status": 200.}},
		{"GET", "/unknown?" + secret, "", token, map[string]any{"route": "other", "path": "/unknown", "status": 404., "err": `foreman has no such path: "/unknown"`}},
		{"PUT", "/api/chat", chatBody, token, map[string]any{"route": "/api/chat", "status": 405., "err": "method not allowed; allowed: POST, OPTIONS"}},
		{"POST", "/api/chat", `{"model":"` + strings.Repeat("x", 5000) + `"}`, token, map[string]any{"route": "/api/chat", "status": 404., "model": strings.Repeat("x", 200), "err": "model '" + strings.Repeat("x", 493)}},
		{"POST", "/api/chat", "", token, map[string]any{"route": "/api/chat", "status": 400., "model": "", "err": "missing request body"}},
		{"POST", "/api/chat", chatBody, nil, map[string]any{"route": "/api/chat", "status": 401., "model": "", "err": errToken.text}},
		{"POST", "/api/chat", chatBody, []string{"Authorization", secret}, map[string]any{"route": "/api/chat", "status": 401., "model": "", "err": errToken.text}},
		{"POST", "/api/chat", chatBody, []string{"Host", "evil.example"}, map[string]any{"route": "/api/chat", "status": 403., "model": "", "err": hostRefused("evil.example").text}},
		{"GET", "/healthz", "", nil, map[string]any{"route": "/healthz", "status": 200., "level": "DEBUG"}},
		{"GET", "/metrics", "", token, map[string]any{"route": "/metrics", "status": 200., "level": "DEBUG"}},
		{"GET", "/metrics", "", nil, map[string]any{"route": "/metrics", "status": 401., "err": errToken.text}},
		{"GET", "/status", "", nil, map[string]any{"route": "/status", "status": 401., "err": errToken.text}},
		{"POST", "/status", "stop=1", nil, map[string]any{"route": "/status", "status": 401., "err": errToken.text}},
		{"GET", "/healthz", "", []string{"Host", "evil.example"}, map[string]any{"route": "/healthz", "status": 403., "err": hostRefused("evil.example").text}},
	} {
		a := f.do(t, test.method, test.path, test.body, append([]string{"X-Request-Id", "id-7"}, test.header...)...)
		got := f.log.access(t, i+1)[i]
		want := map[string]any{"level": "INFO", "msg": "request", "method": test.method, "agent": "Go-http-client/1.1", "id": "id-7", "bytes": float64(len(a.body))}
		maps.Copy(want, test.want)
		for _, name := range []string{"time", "client", "addr", "ms", "first_byte_ms", "queue_ms"} {
			value, ok := got[name]
			if wants := name != "queue_ms" || want["model"] != nil; ok != wants {
				t.Errorf("%s %s: %s is there: %v; want %v", test.method, test.path, name, ok, wants)
			}
			if ms, isNumber := value.(float64); isNumber && ms < 0 {
				t.Errorf("%s %s: %s=%v", test.method, test.path, name, ms)
			}
			delete(got, name)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s %.50s:\n got %v\nwant %v", test.method, test.path, got, want)
		}
	}
	f.expectIdle(t)
}

// expectOne waits for the only record and checks some of its fields; nil means
// that a field is not there.
func (f *front) expectOne(t *testing.T, want map[string]any) {
	t.Helper()
	records := f.log.access(t, 1)
	if len(records) != 1 {
		t.Errorf("%d records; want 1", len(records))
	}
	for name, value := range want {
		if got := records[0][name]; got != value {
			t.Errorf("%s=%v; want %v (%v)", name, got, value, records[0])
		}
	}
}

func TestRecordOfAClientThatLeft(t *testing.T) {
	for _, path := range []string{"/api/chat", "/v1/chat/completions", "/api/embed", "/api/show"} {
		for _, when := range []string{"before the first byte", "in mid-stream"} {
			t.Run(when+path, func(t *testing.T) {
				f, target := newHeldFront(t, nil)
				c := connect(t, f).post(t, path, "leaver")
				running := target.next(t, "leaver")
				want := map[string]any{"status": 499., "cut": nil, "bytes": 0., "first_byte_ms": 0., "err": context.Canceled.Error()}
				if when == "in mid-stream" {
					running.say(t, "{}\n")
					if _, err := c.in.ReadString('}'); err != nil {
						t.Fatal(err)
					}
					want["cut"], want["bytes"] = true, 3.
					delete(want, "first_byte_ms")
				}
				c.Close()
				f.expectOne(t, want)
				f.expectIdle(t)
			})
		}
	}
	t.Run("in line", func(t *testing.T) {
		f, target := newHeldFront(t, nil)
		turn := f.enter(t)
		c := connect(t, f).chat(t, "leaver")
		await(t, func() bool { waiting, _ := f.Gate.Len(); return waiting == 1 })
		c.Close()
		f.expectOne(t, map[string]any{"status": 499., "cut": nil, "bytes": 0., "model": "chat:latest", "err": context.Canceled.Error()})
		target.none(t)
		turn.Leave()
		f.expectIdle(t)
	})
}

func TestRecordOfACutAnswer(t *testing.T) {
	for framing, begin := range map[string]string{
		"Content-Length": "Content-Length: 100\r\n\r\n{}\n",
		"within a chunk": "Transfer-Encoding: chunked\r\n\r\nff\r\n{}\n",
	} {
		for _, path := range []string{"/api/chat", "/v1/messages", "/api/embed"} {
			t.Run(framing+path, func(t *testing.T) {
				stub := newStub(t)
				stub.chat = hijacked("HTTP/1.1 200 OK\r\n" + begin)
				stub.embed = stub.chat
				f := newFront(t, stub.URL, nil)
				if a := f.do(t, "POST", path, chatBody); a.body != "{}\n" || a.err != io.ErrUnexpectedEOF {
					t.Errorf("got %q, %v; want a line and %v", a.body, a.err, io.ErrUnexpectedEOF)
				}
				f.expectOne(t, map[string]any{"status": 200., "cut": true, "bytes": 3.})
				if path != "/api/embed" { // nobody follows its body
					f.expectOne(t, map[string]any{"err": "target unreachable: unexpected EOF"})
				}
			})
		}
	}
}

// TestBooksTogether: what is read while requests end has each of them in all books, or in
// none. It needs the race detector.
func TestBooksTogether(t *testing.T) {
	b := newBooks()
	counted := regexp.MustCompile(`(?m)^foreman_(?:queue_wait_seconds_count|chat_seconds_total{client="other"}) (.*)$`)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				b.add(&status.Record{Route: "/api/chat", IsChat: true, Status: 200, Held: time.Second, Ended: time.Now(), WasQueued: true}, worker, true)
				b.add(&status.Record{Route: readyPath, Status: 200, Ended: time.Now()}, own, true)
				b.show(&status.Page{Now: time.Now()})
				b.lastProbe()
				if got := counted.FindAllSubmatch(b.allMetrics(), -1); len(got) != 2 || !bytes.Equal(got[0][1], got[1][1]) {
					t.Errorf("got %q; want two, that are the same", got)
				}
			}
		})
	}
	all.Wait()
	if got := counted.FindSubmatch(b.allMetrics()); string(got[1]) != "400" {
		t.Errorf("got %q; want 400", got)
	}
}
