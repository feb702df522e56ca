package proxy

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/status"
)

// stop stops the chat with a key, as the page's button does.
func (f *front) stop(t *testing.T, key string, header ...string) answer {
	t.Helper()
	return f.do(t, "POST", "/status", "stop="+key, append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
}

// TestStop: a chat that is stopped leaves the line, or the target, and its client hears
// why, in its API's words: as the answer, in its stream, or in the middle of its stream,
// which is cut then. The next chat goes on.
func TestStop(t *testing.T) {
	const (
		text   = "this chat was stopped on foreman's status page"
		native = `{"error":"` + text + `"}` + "\n"
		inner  = `{"error":{"message":"` + text + `","type":"invalid_request_error","param":null,"code":null}}` + "\n"
		event  = "event: error\ndata: " + `{"type":"error","error":{"type":"permission_error","message":"` + text + `"}}` + "\n\n"
	)
	for _, test := range []struct {
		name, path string
		stream     bool
		said       string // by the target before; empty: nothing, or the header alone, if the status is 200
		status     int
		want       string // the answer, behind what the target said; empty: nothing
	}{
		{"running", "/api/chat", true, "", 403, native},
		{"running, OpenAI", "/v1/chat/completions", true, "", 403, inner},
		{"running, Anthropic, no stream", "/v1/messages", false, "", 403, `{"type":"error","error":{"type":"permission_error","message":"` + text + `"}}` + "\n"},
		{"in mid-stream", "/api/chat", true, "{}\n", 200, native},
		{"in mid-stream, OpenAI", "/v1/chat/completions", true, "data: {}\n\n", 200, "data: " + strings.TrimSuffix(inner, "\n") + "\n\n"},
		{"in mid-stream, Anthropic", "/v1/messages", true, "event: ping\ndata: {}\n\n", 200, event},
		{"before the first byte", "/api/chat", true, "", 200, native},
		{"before the first byte, OpenAI", "/v1/chat/completions", true, "", 200, "data: " + strings.TrimSuffix(inner, "\n") + "\n\n"},
		{"before the first byte, Anthropic", "/v1/messages", true, "", 200, event},
		{"before the first byte, no stream", "/api/chat", false, "", 200, ""},
		{"in the middle of a chunk", "/api/chat", true, `{"mess`, 200, ""},
		{"in the middle of an event", "/v1/messages", true, "event: ping\n", 200, ""},
		{"in the middle, no stream", "/api/chat", false, "{\n", 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, target := newHeldFront(t, nil)
			body := `{"model":"chat","stream":false,"messages":[{}]}`
			if test.stream {
				body = `{"model":"chat","stream":true,"messages":[{}]}`
			}
			victim, next := connect(t, f), connect(t, f)
			victim.send(t, postOf(test.path, body, "X-Request-Id: same\r\n"))
			running := target.any(t)
			if test.status == http.StatusOK {
				running.say(t, test.said)
				await(t, func() bool {
					r := f.page.read().Running
					return r.Answering && r.Bytes == int64(len(test.said))
				})
			}
			next.send(t, postOf("/api/chat", marked("next"), "X-Request-Id: same\r\n"))
			await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
			if a := f.stop(t, f.page.read().Running.Key); a.status != http.StatusSeeOther || a.header.Get("Location") != "status" {
				t.Errorf("stop: %d, Location %q; want 303 to the page", a.status, a.header.Get("Location"))
			}
			resp, got, err := victim.answer(t)
			if cut := test.status == 200; resp.StatusCode != test.status || got != test.said+test.want || (err != nil) != cut {
				t.Errorf("got %d %q, %v; want %d %q, cut: %t", resp.StatusCode, got, err, test.status, test.said+test.want, cut)
			}
			running.gone()
			target.next(t, "next").finish()
			next.expect(t, http.StatusOK, "the next chat")
			f.expectIdle(t)
			if !slices.ContainsFunc(latest(f), func(r status.Record) bool { return r.Revoked == revokedStopped }) {
				t.Errorf("on the page: %+v; want one that was stopped", latest(f))
			}
			wantSamples(t, f, map[string]string{`foreman_turns_revoked_total{reason="stopped"}`: "1"})
			f.log.await(t, `"level":"INFO","msg":"chat stopped","by":"127.0.0.1","addr":"127.0.0.1:`)
			f.log.await(t, `"id":"same","client":"127.0.0.1","model":"chat:latest"}`)
			f.log.await(t, `"err":"stopped by 127.0.0.1: `)
			if strings.Contains(f.log.String(), `"level":"WARN"`) {
				t.Error("a stop is a warning in the log; want it told as what somebody wanted")
			}
		})
	}
}

// TestStopInLine: a chat that waits is taken out alone, also where heartbeats have begun
// its answer. Who ran goes on.
func TestStopInLine(t *testing.T) {
	for _, beats := range []bool{false, true} {
		inBubble(t, map[bool]string{false: "silent", true: "after a heartbeat"}[beats], func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) {
				if beats {
					o.Heartbeat = 700 * time.Millisecond
				}
			})
			var line []*wire
			for _, body := range []string{marked("first"), marked("next"), `{"model":"chat","stream":true}`} {
				line = append(line, connect(t, f).send(t, postOf("/v1/chat/completions", body, "X-Request-Id: same\r\n")))
				synctest.Wait()
			}
			running := target.next(t, "first")
			var resp *http.Response
			var body string
			var err error
			victim := make(chan struct{})
			go func() { defer close(victim); resp, body, err = line[2].answer(t) }()
			time.Sleep(time.Second)
			page := f.page.read()
			if len(page.Waiting) != 2 || page.Waiting[1].ID != "same" {
				t.Fatalf("waiting: %+v; want two", page.Waiting)
			}
			if a := f.stop(t, page.Waiting[1].Key); a.status != http.StatusSeeOther {
				t.Errorf("stop: got %d; want 303", a.status)
			}
			<-victim
			want, prefix := http.StatusForbidden, `{"error":{"message":"this chat was stopped`
			if beats {
				want, prefix = http.StatusOK, `data: {"id":"","object":"chat.completion.chunk","created":946684800,"model":"chat:latest",`+
					`"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`+"\n\n"+`data: {"error":{"message":"this chat was stopped`
			}
			if resp.StatusCode != want || !strings.HasPrefix(body, prefix) || err != nil {
				t.Errorf("got %d %q, %v; want %d and %s", resp.StatusCode, body, err, want, prefix)
			}
			if waiting, busy := f.Gate.Len(); waiting != 1 || !busy {
				t.Errorf("%d wait, busy %t; want the next, behind the first", waiting, busy)
			}
			running.finish()
			target.next(t, "next").finish()
			for _, c := range []*wire{line[0], line[1]} {
				c.expect(t, http.StatusOK, "another's chat")
			}
			f.expectIdle(t)
		})
	}
}

// TestStopAll: of those in line a client's are stopped, up to the last whose key it was:
// not what came later, what runs, or what is another's.
func TestStopAll(t *testing.T) {
	f, target := newHeldFront(t, func(o *Options) { o.ClientHeader, o.Token = "X-User", secret })
	send := func(user, name string) *wire {
		t.Helper()
		c := connect(t, f)
		n, _ := f.Gate.Len()
		c.send(t, postOf("/api/chat", marked(name), "X-User: "+user+"\r\n", "Authorization: Bearer "+secret+"\r\n"))
		if name != "runs" {
			await(t, func() bool { now, _ := f.Gate.Len(); return now == n+1 })
		}
		return c
	}
	stopAll := func(key string) answer {
		t.Helper()
		return f.do(t, "POST", "/status", "stop-all="+key, "Authorization", "Bearer "+secret)
	}
	runs := send("ann", "runs")
	running := target.next(t, "runs")
	line := []*wire{send("ann", "a"), send("bob", "b"), send("ann", "c"), send("ann", "d")}
	page := f.page.read()
	if a := stopAll(page.Running.Key); a.status != http.StatusNotFound {
		t.Errorf("with the key of a chat that runs: got %d; want 404", a.status)
	}
	if a := stopAll("gone&stop-all=" + page.Waiting[2].Key); a.status != http.StatusSeeOther {
		t.Errorf("got %d %s; want 303", a.status, a.body)
	}
	for _, i := range []int{0, 2} {
		line[i].expect(t, http.StatusForbidden, "ann's chats in line")
	}
	running.finish()
	runs.expect(t, http.StatusOK, "ann's chat that ran")
	for range 2 {
		target.any(t).finish()
	}
	for _, i := range []int{1, 3} {
		line[i].expect(t, http.StatusOK, "bob's chat, and ann's that came later")
	}
	f.expectIdle(t)
}

// TestStopTwice: of many who stop a chat at once one has done it, and all have what they
// wanted. A chat that is gone is none, and neither is nonsense.
func TestStopTwice(t *testing.T) {
	f, target := newHeldFront(t, nil)
	victim := connect(t, f).chat(t, "victim")
	running := target.next(t, "victim")
	key := f.page.read().Running.Key
	var stopping sync.WaitGroup
	for range 8 {
		stopping.Go(func() {
			if a := f.stop(t, key); a.status != http.StatusSeeOther && a.status != http.StatusNotFound {
				t.Errorf("got %d %s; want 303, or 404 once it was gone", a.status, a.body)
			}
		})
	}
	stopping.Wait()
	running.gone()
	victim.expect(t, http.StatusForbidden, "the victim")
	f.expectIdle(t)
	if n := strings.Count(f.log.String(), `"msg":"chat stopped"`); n != 1 {
		t.Errorf("stopped %d times by the log; want once", n)
	}

	const asJSON = "application/json"
	for _, test := range []struct {
		body, accept string
		status       int
		want         string
	}{
		{"stop=" + key, asJSON, 404, `{"error":"no such chat waits or runs: it may have ended"}`},
		{"stop=" + key, "text/html", 404, "What you wanted to stop had ended."},
		{"stop=", asJSON, 404, "no such chat"},
		{"stop-all=" + key, asJSON, 404, "no such chat"},
		{"stop=%zz", asJSON, 400, "form field"},
		{"stop=1&stop-all=1", asJSON, 400, "form field"},
		{"key=" + key, asJSON, 400, "form field"},
		{`{"stop":"1"}`, asJSON, 400, "form field"},
		{"", asJSON, 400, "missing request body"},
		{"stop=" + strings.Repeat("x", 2<<20), asJSON, 413, "larger than"},
	} {
		if a := f.do(t, "POST", "/status", test.body, "Accept", test.accept); a.status != test.status || !strings.Contains(a.body, test.want) {
			t.Errorf("%.30s: got %d %s; want %d and %s", test.body, a.status, a.body, test.status, test.want)
		}
	}
	f.expectIdle(t)
}

// TestStopIsGuarded: only whoever has a token stops a chat, where there are tokens, and no
// page of another site, whatever it makes a browser send.
func TestStopIsGuarded(t *testing.T) {
	basic := basicAuth(secret + "-of-ann")
	for _, test := range []struct {
		name   string
		open   bool // no token is needed
		header []string
		status int
	}{
		{"no token", false, nil, 401},
		{"a wrong one", false, []string{"Authorization", "Bearer " + secret}, 401},
		{"a token", false, []string{"Authorization", "Bearer " + secret + "-of-ann"}, 303},
		{"as the password", false, []string{"Authorization", basic}, 303},
		{"from the page", false, []string{"Authorization", basic, "Sec-Fetch-Site", "same-origin", "Origin", "null"}, 303},
		{"from the page, by Origin", false, []string{"Authorization", basic, "Host", "127.0.0.1:1", "Origin", "http://127.0.0.1:1"}, 303},
		{"from the page, behind TLS", false, []string{"Authorization", basic, "Host", "127.0.0.1", "Origin", "https://127.0.0.1"}, 303},
		{"from another site", false, []string{"Authorization", basic, "Sec-Fetch-Site", "cross-site"}, 403},
		{"from a neighbour", false, []string{"Authorization", basic, "Sec-Fetch-Site", "same-site"}, 403},
		{"from another site, by Origin", false, []string{"Authorization", basic, "Origin", "http://evil.example"}, 403},
		{"from a page without a name", false, []string{"Authorization", basic, "Origin", "null"}, 403},
		{"open", true, nil, 303},
		{"open, from another site", true, []string{"Origin", "http://evil.example"}, 403},
		{"open, DNS rebinding", true, []string{"Host", "evil.example", "Origin", "http://evil.example"}, 403},
		{"open, by a local name", true, []string{"Host", "gpu.local", "Origin", "http://gpu.local"}, 303},
	} {
		t.Run(test.name, func(t *testing.T) {
			var ann []string
			f, target := newHeldFront(t, func(o *Options) {
				if test.open {
					return
				}
				o.Tokens = tokensOf(t, "ann "+secret+"-of-ann\n")
				ann = []string{"Authorization: Bearer " + secret + "-of-ann\r\n"}
			})
			victim := connect(t, f).send(t, postOf("/api/chat", marked("victim"), ann...))
			running := target.next(t, "victim")
			if a := f.stop(t, f.page.read().Running.Key, test.header...); a.status != test.status {
				t.Errorf("got %d %s; want %d", a.status, a.body, test.status)
			}
			if test.status != http.StatusSeeOther {
				running.finish()
				victim.expect(t, http.StatusOK, "the chat that was not stopped")
				return
			}
			running.gone()
			want := "this chat was stopped on foreman's status page"
			if !test.open {
				want += " by ann"
			}
			if resp, body, err := victim.answer(t); err != nil || resp.StatusCode != http.StatusForbidden || body != `{"error":"`+want+`"}`+"\n" {
				t.Errorf("got %v %s, %v; want 403 and %s", resp, body, err, want)
			}
			f.expectIdle(t)
		})
	}
}

// TestStopOfAnAnswerThatIsRead: the target has said all, and only the client has still to
// take it: that is no chat to stop any more.
func TestStopOfAnAnswerThatIsRead(t *testing.T) {
	f, target := newHeldFront(t, nil)
	c := connect(t, f).chat(t, "slow")
	running := target.next(t, "slow")
	key := f.page.read().Running.Key
	f.page.find(key)[0].upstream.leave() // as at the target's last byte
	if a := f.stop(t, key, "Accept", "application/json"); a.status != http.StatusNotFound {
		t.Errorf("got %d; want 404", a.status)
	}
	running.finish()
	c.expect(t, http.StatusOK, "the chat")
	f.expectIdle(t)
}
