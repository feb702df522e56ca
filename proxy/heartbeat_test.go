package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"foreman/gate"
)

// streams are a request for a stream in each dialect, the first beat of it after 20 s in
// second place, and the error "bad" of status 503 that ends it.
var streams = []struct{ path, body, contentType, beat, failure string }{
	{
		"/api/chat", `{"model":"` + strings.Repeat(" ", 1<<19) + `Chat","messages":[{}]}`, "application/x-ndjson",
		`{"model":"chat:latest","created_at":"2000-01-01T00:00:20Z","message":{"role":"assistant","content":""},"done":false}`,
		`{"error":"bad"}`,
	}, {
		"/api/generate", `{"model":"Chat","prompt":"x"}`, "application/x-ndjson",
		`{"model":"chat:latest","created_at":"2000-01-01T00:00:20Z","response":"","done":false}`,
		`{"error":"bad"}`,
	}, {
		"/v1/chat/completions", `{"model":"Chat","stream":true}`, "text/event-stream",
		`data: {"id":"","object":"chat.completion.chunk","created":946684820,"model":"chat:latest","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}` + "\n",
		`data: {"error":{"message":"bad","type":"server_error","param":null,"code":null}}` + "\n",
	}, {
		"/v1/responses", `{"model":"Chat","stream":true}`, "text/event-stream",
		`: {"queue":{"position":2,"waited_ms":20000}}`,
		"event: error\n" + `data: {"type":"error","code":null,"message":"bad","param":null,"sequence_number":0,"error":{"message":"bad","type":"server_error","param":null,"code":null}}` + "\n",
	}, {
		"/v1/messages", `{"model":"Chat","stream":true}`, "text/event-stream",
		"event: ping\n" + `data: {"type":"ping"}` + "\n",
		"event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"bad"}}` + "\n",
	},
}

// A heard answer is one that is read as it comes.
type heard struct {
	mu     sync.Mutex // guards what follows
	status int
	header http.Header
	text   string
	at     []time.Duration // when each line came
	err    error           // how it ended
	ended  bool
}

// hear sends a request and reads its answer on a goroutine of its own.
func (f *front) hear(ctx context.Context, t *testing.T, path, body string, header ...string) *heard {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "http://page.example")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	h, began := new(heard), time.Now()
	go func() {
		resp, err := f.client.Do(r)
		if err == nil {
			defer resp.Body.Close()
			h.mu.Lock()
			h.status, h.header = resp.StatusCode, resp.Header
			h.mu.Unlock()
			lines := bufio.NewReader(resp.Body)
			for err == nil {
				var line string
				line, err = lines.ReadString('\n')
				h.mu.Lock()
				if h.text += line; line != "" {
					h.at = append(h.at, time.Since(began))
				}
				h.mu.Unlock()
			}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ended = true
		if err != io.EOF {
			h.err = err
		}
	}()
	return h
}

// want compares what came with lines.
func (h *heard) want(t *testing.T, ended bool, lines ...string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if want := strings.Join(append(lines, ""), "\n"); h.text != want || h.err != nil || h.ended != ended {
		t.Errorf("got %d\n%s(ended: %v, %v); want\n%s(ended: %v)", h.status, h.text, h.ended, h.err, want, ended)
	}
}

// newBeatFront starts a foreman with beats of 20 s whose turn somebody has, with one
// more in line, so that the next chat comes second.
func newBeatFront(t *testing.T, target http.Handler, change func(*Options)) (f *front, leave func()) {
	t.Helper()
	f = newFrontIn(t, target, func(o *Options) {
		o.Heartbeat = 20 * time.Second
		if change != nil {
			change(o)
		}
	})
	first, second := f.enter(t), f.enter(t)
	return f, func() {
		first.Leave()
		second.Leave()
	}
}

// In line and at the target, the client of a stream hears every 20 s that its request is
// alive, and then the answer as it is.
func TestHeartbeats(t *testing.T) {
	for _, test := range streams {
		synctest.Test(t, func(t *testing.T) {
			target := newHolder(t)
			f, leave := newBeatFront(t, target, nil)
			f.cors.Note("http://page.example", http.Header{"Access-Control-Allow-Origin": {"*"}}, false)
			h := f.hear(t.Context(), t, test.path, test.body)
			time.Sleep(20*time.Second - 1)
			h.want(t, false)
			time.Sleep(time.Nanosecond)
			h.want(t, false, test.beat)
			for name, want := range map[string]string{
				"Content-Type": test.contentType, "Cache-Control": "no-transform", "X-Accel-Buffering": "no",
				"Access-Control-Allow-Origin": "*", "Content-Length": "",
			} {
				if got := h.header.Get(name); got != want {
					t.Errorf("%s: %s %q; want %q", test.path, name, got, want)
				}
			}
			if h.status != http.StatusOK || h.header.Get("X-Request-Id") == "" {
				t.Errorf("%s: %d %v; want 200 and a request id", test.path, h.status, h.header)
			}
			leave()
			chat := target.any(t)
			time.Sleep(40 * time.Second)
			later := func(seconds int) string {
				s := strings.ReplaceAll(beatAt(test.beat, seconds), `"position":2`, `"position":0`)
				s = strings.ReplaceAll(s, `"role":"assistant","content":""},"finish`, `"content":""},"finish`)
				return strings.ReplaceAll(s, "946684820", fmt.Sprint(946684800+seconds))
			}
			lines := []string{test.beat, later(40), later(60)}
			h.want(t, false, lines...)
			chat.say(t, "first\n")
			time.Sleep(100 * time.Second) // no beat in the answer
			chat.say(t, "last\n")
			chat.finish()
			h.want(t, true, append(lines, "first", "last")...)
			f.log.await(t, `"early":true`)
			wantSamples(t, f, map[string]string{"foreman_early_answers_total": "1"})
			f.expectIdle(t)
		})
	}
}

// Before the first beat nothing is different, and without a stream there is none.
func TestNoHeartbeats(t *testing.T) {
	for name, test := range map[string]struct {
		path, body string
		every      time.Duration
		wait       time.Duration
	}{
		"in time":          {"/api/chat", `{"model":"chat","messages":[{}]}`, 20 * time.Second, 19 * time.Second},
		"never":            {"/api/chat", `{"model":"chat","messages":[{}]}`, 0, time.Hour},
		"no stream":        {"/api/chat", `{"model":"chat","messages":[{}],"stream":false}`, 20 * time.Second, time.Hour},
		"no OpenAI stream": {"/v1/chat/completions", `{"model":"chat"}`, 20 * time.Second, time.Hour},
		"only loads":       {"/api/generate", `{"model":"chat"}`, 20 * time.Second, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			target := newHolder(t)
			f, leave := newBeatFront(t, target, func(o *Options) { o.Heartbeat, o.StallTimeout = test.every, 2*time.Hour })
			h := f.hear(t.Context(), t, test.path, test.body)
			time.Sleep(test.wait / 2)
			leave()
			chat := target.any(t)
			time.Sleep(test.wait / 2)
			h.want(t, false)
			chat.say(t, "answer\n")
			chat.finish()
			h.want(t, true, "answer")
			if got := h.header.Get("X-Accel-Buffering") + h.header.Get("Cache-Control"); got != "" || h.header.Get("Server-Timing") == "" {
				t.Errorf("%s: got header %v; want the target's", name, h.header)
			}
			if strings.Contains(f.log.String(), "early") {
				t.Errorf("%s: logged as early", name)
			}
			wantSamples(t, f, map[string]string{"foreman_early_answers_total": "0"})
		})
	}
}

// Where a beat may send the header of the answer, the host is not asked for a coding that
// it could not tell any more. Where none can, the client is asked.
func TestNoCodingAfterABeat(t *testing.T) {
	stub := newStub(t)
	asked := make(chan string, 1)
	stub.chat = func(_ http.ResponseWriter, r *http.Request) { asked <- r.Header.Get("Accept-Encoding") }
	for _, every := range []time.Duration{0, 20 * time.Second} {
		f := newFront(t, stub.URL, func(o *Options) { o.Heartbeat = every })
		for _, stream := range streams {
			want := "gzip"
			if every > 0 {
				want = ""
			}
			f.do(t, "POST", stream.path, stream.body, "Accept-Encoding", "gzip")
			if got := <-asked; got != want {
				t.Errorf("beats every %v, %s: the target was asked for %q; want %q", every, stream.path, got, want)
			}
			f.do(t, "POST", stream.path, `{"model":"chat","stream":false,"messages":[{}],"prompt":"x"}`, "Accept-Encoding", "gzip")
			if got := <-asked; got != "gzip" {
				t.Errorf("beats every %v, %s without stream: the target was asked for %q; want gzip", every, stream.path, got)
			}
		}
	}
}

// What goes wrong after a beat is told in the stream, and ends it.
func TestErrorsAfterABeat(t *testing.T) {
	answers := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(30 * time.Second)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	compressed := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			answers(status, "\x1f\x8b\x08")(w, r)
		}
	}
	never := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, test := range []struct {
		name    string
		change  func(*Options)
		target  http.HandlerFunc                             // of chats, if the chat gets there
		happens func(t *testing.T, f *front, target *holder) // nil: time passes
		status  int                                          // in the log
		code    string
		text    string
	}{
		{name: "queue timeout", change: func(o *Options) { o.QueueTimeout = time.Minute }, status: 503, text: "waited too long for a turn"},
		{name: "shutting down", happens: func(_ *testing.T, f *front, _ *holder) { f.Gate.Close() }, status: 503, text: "foreman is shutting down"},
		{name: "host away", target: never, happens: func(_ *testing.T, _ *front, target *holder) { target.sleep(true); time.Sleep(2 * time.Minute) },
			status: 504, text: "the Ollama host has gone silent"},
		{name: "max turn", target: never, change: func(o *Options) { o.MaxTurn = 30 * time.Second },
			status: 504, text: "this chat's turn took longer than FOREMAN_MAX_TURN"},
		{name: "unknown by then", target: answers(404, `{"error":"model 'Chat' not found"}`), status: 404, text: "model 'Chat' not found"},
		{name: "OpenAI's own", target: answers(400, `{"error":{"message":"too long","type":"x","code":"context_length_exceeded"}}`),
			status: 400, code: "context_length_exceeded", text: "too long"},
		{name: "no words", target: answers(500, `<html>`), status: 500, text: "the Ollama host answered 500 Internal Server Error"},
		{name: "a redirect", target: answers(302, ``), status: 302, text: "the Ollama host answered 302 Found"},
		{name: "no status that has a name", target: answers(524, ``), status: 524, text: "the Ollama host answered 524"},
		{name: "an empty error", target: answers(500, `{"error":""}`), status: 500, text: "the Ollama host answered 500 Internal Server Error"},
		{name: "an empty message", target: answers(520, `{"error":{"message":" ","code":null}}`), status: 520, text: "the Ollama host answered 520"},
		{name: "a code that is a number", target: answers(500, `{"error":{"code":500,"message":"out of memory","type":"server_error"}}`),
			status: 500, text: "out of memory"},
		{name: "an error of no shape", target: answers(530, `{"error":[{"message":{}}]}`), status: 530, text: "the Ollama host answered 530"},
		{name: "compressed", target: compressed(200), status: 502, text: "the Ollama host answered nonsense"},
		{name: "a compressed error", target: compressed(503), status: 503, text: "the Ollama host answered 503 Service Unavailable"},
		{name: "nonsense", target: hijacked("SSH-2.0\r\n"), status: 502, text: "the Ollama host answered nonsense"},
	} {
		for _, stream := range streams {
			inBubble(t, test.name+stream.path, func(t *testing.T) {
				held := newHolder(t)
				f, leave := newBeatFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if test.target != nil && r.Method == http.MethodPost {
						test.target(w, r)
						return
					}
					held.ServeHTTP(w, r)
				}), test.change)
				h := f.hear(t.Context(), t, stream.path, stream.body)
				time.Sleep(20 * time.Second)
				h.want(t, false, stream.beat)
				if test.target != nil {
					leave()
					synctest.Wait()
				}
				if test.happens != nil {
					test.happens(t, f, held)
				} else {
					time.Sleep(time.Minute)
				}
				synctest.Wait()
				failure := strings.ReplaceAll(stream.failure, "bad", test.text)
				if test.status < 500 {
					failure = strings.Replace(failure, "server_error", "invalid_request_error", 1)
				}
				if test.code != "" {
					failure = strings.ReplaceAll(failure, `"code":null`, `"code":"`+test.code+`"`)
				}
				failure = strings.Replace(failure, "overloaded_error", map[int]string{
					503: "overloaded_error", 504: "timeout_error", 404: "not_found_error",
					500: "api_error", 502: "api_error", 520: "api_error", 524: "api_error", 530: "api_error",
				}[test.status], 1)
				failure = strings.Replace(failure, `"type":""`, `"type":"invalid_request_error"`, 1)
				h.mu.Lock()
				defer h.mu.Unlock()
				if !strings.HasSuffix(h.text, "\n"+failure+"\n") || !h.ended || h.err != nil || h.status != http.StatusOK {
					t.Errorf("got %d %s(ended: %v, %v); want %s at its end", h.status, h.text, h.ended, h.err, failure)
				}
				f.log.await(t, fmt.Sprintf(`"status":%d`, test.status))
				if log := f.log.String(); !strings.Contains(log, `"early":true,"err"`) {
					t.Error("not logged as early")
				}
				if waiting, _ := f.Gate.Len(); test.target != nil && waiting != 0 {
					t.Errorf("%d wait; want none", waiting)
				}
			})
		}
	}
}

// A client that is gone without a word is found out by a beat, and loses its place.
func TestHeartbeatFindsTheDead(t *testing.T) {
	for _, inLine := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
			if inLine {
				f.enter(t)
			}
			c := connect(t, f)
			// One byte more, and net/http does not look for the client's end any more.
			c.send(t, postOf("/api/chat", `{"model":"chat","messages":[{}]}`))
			synctest.Wait()
			c.send(t, "x")
			synctest.Wait()
			c.Close()
			time.Sleep(19 * time.Second)
			wait, busy := f.Gate.Len()
			if inLine && wait != 1 || !busy {
				t.Errorf("in line: %v: %d wait, busy %v before the first beat; want it not found out", inLine, wait, busy)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if wait, busy := f.Gate.Len(); wait != 0 || busy != inLine {
				t.Errorf("in line: %v: %d wait, busy %v after the first beat; want it gone", inLine, wait, busy)
			}
			f.log.await(t, `"status":499`)
			if row := latest(f)[0]; !row.Early || !row.Cut {
				t.Errorf("in line: %v: recorded as %+v; want it early, and cut", inLine, row)
			}
			if !inLine {
				<-target.any(t).ctx.Done()
			}
		})
	}
}

// A panicky ResponseWriter panics at the first byte.
type panicky struct{ httptest.ResponseRecorder }

func (*panicky) Write([]byte) (int, error) { panic("of the test") }

// What panics in a beat ends its chat and nothing else.
func TestPanicInABeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, leave := newBeatFront(t, newHolder(t), nil)
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/api/chat", strings.NewReader(chatBody))
		func() {
			defer func() { recover() }() // of the one that cuts the answer
			f.ServeHTTP(new(panicky), r)
		}()
		f.log.await(t, `"stack":`)
		if waiting, _ := f.Gate.Len(); waiting != 1 {
			t.Errorf("%d wait; want the other one alone", waiting)
		}
		leave()
	})
}

// When to come again is told from the line.
func TestRetryAfterOfTheLine(t *testing.T) {
	for _, test := range []struct {
		pace time.Duration
		want string
	}{{0, "5"}, {100 * time.Millisecond, "1"}, {90 * time.Second, "180"}, {time.Hour, "600"}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFrontIn(t, newHolder(t), func(o *Options) { o.Gate = gate.New(2) })
			join := func(client string) *gate.Turn { // of none has more in line than the next to come
				turn, err := f.Gate.Join(gate.Request{Client: client})
				if err != nil {
					t.Fatal(err)
				}
				return turn
			}
			if test.pace > 0 {
				turn := join("a")
				time.Sleep(test.pace)
				turn.Leave()
			}
			for _, client := range []string{"a", "b", "c"} {
				join(client)
			}
			a := f.do(t, "POST", "/api/chat", chatBody)
			if got := a.header.Get("Retry-After"); a.status != 503 || got != test.want {
				t.Errorf("turns of %v: %d, Retry-After %q; want 503 and %q", test.pace, a.status, got, test.want)
			}
		})
	}
}
