package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// midStreams are, of each dialect, a chunk of the target's in two parts, the beat behind it
// 20 s after midnight, and what no beat comes behind.
var midStreams = []struct {
	path, body, agent string
	chunk             [2]string
	beat              string
	last              []string
}{
	{
		"/api/chat", `{"model":"Chat","messages":[{}]}`, "",
		[2]string{`{"model":"Chat","created_at":"2000-01-01T00:00:00Z","message":{"role":"assistant","content":"la \n`, ` done"},"done":false}` + "\n"},
		`{"model":"Chat","created_at":"2000-01-01T00:00:20Z","message":{"role":"assistant","content":""},"done":false}` + "\n",
		[]string{
			`{"model":"Chat","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}` + "\n", `{"error":"out of memory"}` + "\n", "no JSON\n",
			`{"model":"Chat","message":{"content":"` + strings.Repeat("la ", 30_000) + `"},"done":true}` + "\n",
		},
	}, {
		"/api/generate", `{"model":"Chat","prompt":"x"}`, "",
		[2]string{`{"model":"Chat","response":"la`, `","done":false}` + "\n"},
		`{"model":"Chat","created_at":"2000-01-01T00:00:20Z","response":"","done":false}` + "\n",
		[]string{`{"model":"Chat","response":"","done":true,"context":[1` + strings.Repeat(",1", 30_000) + "]}\n"},
	}, {
		"/v1/chat/completions", `{"model":"Chat","stream":true}`, "",
		[2]string{`data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":5,"model":"Chat","choices":[{"index":0,"delta":`, `{"content":"la"},"finish_reason":null}]}` + "\n\n"},
		`data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":5,"model":"Chat","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}` + "\n\n",
		[]string{
			`data: {"id":"chatcmpl-7","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}` + "\n\n",
			`data: {"id":"chatcmpl-7","choices":[],"usage":{"prompt_tokens":26,"completion_tokens":50}}` + "\n\n",
			"data: [DONE]\n\n", `data: {"error":{"message":"out of memory"}}` + "\n\n", "data: {\n\n",
		},
	}, {
		"/v1/completions", `{"model":"Chat","stream":true}`, "",
		[2]string{`data: {"id":"cmpl-7","object":"text_completion","created":5,"model":"Chat","choices":[{"text":"la"`, `,"index":0,"finish_reason":null}]}` + "\n\n"},
		`data: {"id":"cmpl-7","object":"text_completion","created":5,"model":"Chat","choices":[{"text":"","index":0,"logprobs":null,"finish_reason":null}]}` + "\n\n",
		[]string{`data: {"id":"cmpl-7","choices":[{"index":0,"text":"","finish_reason":"stop"}]}` + "\n\n"},
	}, {
		"/v1/responses", `{"model":"Chat","stream":true}`, "",
		[2]string{"event: response.output_text.delta\n", `data: {"type":"response.output_text.delta","sequence_number":4,"delta":"la"}` + "\n\n"},
		`: {"queue":{"position":0,"waited_ms":20000}}` + "\n",
		[]string{
			"event: response.completed\n" + `data: {"type":"response.completed","sequence_number":5,"response":{}}` + "\n\n",
			"event: response.failed\n" + `data: {"type":"response.failed","response":{"error":{}}}` + "\n\n",
			"event: error\n" + `data: {"type":"error","message":"out of memory"}` + "\n\n",
		},
	}, {
		"/v1/responses", `{"model":"Chat","stream":true}`, "codex_exec/0.171.0",
		[2]string{"event: response.output_text.delta\ndata: {", `"type":"response.output_text.delta","sequence_number":4,"delta":"la"}` + "\n\n"},
		"event: keepalive\n" + `data: {"type":"keepalive","sequence_number":4}` + "\n\n",
		[]string{"event: response.completed\n" + `data: {"type":"response.completed","sequence_number":5}` + "\n\n"},
	}, {
		"/v1/messages", `{"model":"Chat","stream":true}`, "claude-cli/2.1.197 (external, cli)",
		[2]string{"event: content_block_start\n", `data: {"type":"content_block_start","index":0}` + "\n\n"},
		"event: message\n" + `data: {"type":"keepalive"}` + "\n\n",
		[]string{"event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n"},
	}, {
		"/v1/messages", `{"model":"Chat","stream":true}`, "",
		[2]string{"event: content_block_delta\n", `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"la"}}` + "\n\n"},
		"event: ping\n" + `data: {"type":"ping"}` + "\n\n",
		[]string{
			"event: message_stop\n" + `data: {"type":"message_stop"}` + "\n\n",
			"event: error\n" + `data: {"type":"error","error":{"type":"api_error","message":"out of memory"}}` + "\n\n",
		},
	},
}

// beatAt returns a beat as it is so many seconds later.
func beatAt(beat string, seconds int) string {
	beat = strings.ReplaceAll(beat, "00:00:20Z", time.Unix(int64(seconds), 0).UTC().Format("15:04:05Z"))
	return strings.ReplaceAll(beat, `"waited_ms":20000`, fmt.Sprintf(`"waited_ms":%d`, 1000*seconds))
}

// Between two chunks a client hears that its request is alive, as it does before the first,
// but neither within one nor behind the last.
func TestHeartbeatsInMidStream(t *testing.T) {
	for _, test := range midStreams {
		for _, last := range test.last {
			inBubble(t, test.path+" "+test.agent, func(t *testing.T) {
				f, target := newHeldFrontIn(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
				h := f.hear(t.Context(), t, test.path, test.body, "User-Agent", test.agent)
				chat := target.any(t)
				want := ""
				wait := func(d time.Duration) {
					t.Helper()
					time.Sleep(d)
					synctest.Wait()
					h.mu.Lock()
					defer h.mu.Unlock()
					lines := want[:strings.LastIndexByte(want, '\n')+1] // that is how the client reads
					if h.text != lines || h.ended {
						t.Errorf("got\n%s(ended: %t); want\n%s", h.text, h.ended, lines)
					}
				}
				say := func(text string) {
					t.Helper()
					want += text
					chat.say(t, text)
				}
				chunk := strings.Join(test.chunk[:], "")
				say(chunk)
				wait(20*time.Second - 1)
				want += test.beat
				wait(1)
				want += beatAt(test.beat, 40)
				wait(20 * time.Second)
				wait(5 * time.Second)
				say(test.chunk[0])
				wait(time.Minute) // none within a chunk
				say(test.chunk[1])
				wait(20*time.Second - 1)
				want += beatAt(test.beat, 125)
				wait(1)
				say(chunk + last)
				wait(time.Minute) // none behind the last
				chat.finish()
				synctest.Wait()
				if h.text != want || !h.ended || h.err != nil || h.header.Get("X-Accel-Buffering") != "" {
					t.Errorf("got %v\n%s(ended: %t, %v); want\n%s", h.header, h.text, h.ended, h.err, want)
				}
				if log := f.log.access(t, 1)[0]; log["early"] != nil || log["status"] != 200.0 || log["bytes"] != float64(len(chunk)*3+len(last)) {
					t.Errorf("logged as %v; want the target's bytes, and not early", log)
				}
				f.expectIdle(t)
			})
		}
	}
}

// What is no stream, as its header says, has nothing put into it.
func TestNoHeartbeatsInWhatIsNoStream(t *testing.T) {
	const chunk = `{"model":"Chat","message":{"role":"assistant","content":"la"},"done":false}` + "\n"
	for name, test := range map[string]struct {
		status int
		header []string
		beats  int
	}{
		"a stream":          {200, []string{"Content-Type", "application/x-ndjson; charset=utf-8"}, 2},
		"of another kind":   {200, []string{"Content-Type", "text/event-stream"}, 0},
		"JSON":              {200, []string{"Content-Type", "application/json"}, 0},
		"of no type":        {200, []string{"Content-Type", ""}, 0},
		"an error":          {500, []string{"Content-Type", "application/x-ndjson"}, 0},
		"another success":   {201, []string{"Content-Type", "application/x-ndjson"}, 0},
		"of a known length": {200, []string{"Content-Type", "application/x-ndjson", "Content-Length", fmt.Sprint(2 * len(chunk))}, 0},
		"compressed":        {200, []string{"Content-Type", "application/x-ndjson", "Content-Encoding", "gzip"}, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			stub, f := timedFront(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
			stub.chat = func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				for i := 0; i < len(test.header); i += 2 {
					w.Header().Set(test.header[i], test.header[i+1])
				}
				w.WriteHeader(test.status)
				for range 2 {
					io.WriteString(w, chunk)
					http.NewResponseController(w).Flush()
					time.Sleep(25 * time.Second)
				}
			}
			a := f.do(t, "POST", "/api/chat", chatBody)
			if got := strings.Count(a.body, "\n") - 2; a.status != test.status || a.err != nil || got != test.beats {
				t.Errorf("got %d %s, %v; want %d and %d beats", a.status, a.body, a.err, test.status, test.beats)
			}
		})
	}
}

// A beat behind the header alone is one before the answer: it belongs to no chunk.
func TestHeartbeatBehindTheHeader(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		f, target := newHeldFrontIn(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
		h := f.hear(t.Context(), t, "/v1/chat/completions", `{"model":"Chat","stream":true}`)
		chat := target.any(t)
		chat.say(t, "")
		time.Sleep(40 * time.Second)
		synctest.Wait()
		chat.say(t, `data: {"id":"chatcmpl-7","choices":[{"delta":{}}]}`+"\n\n")
		time.Sleep(20 * time.Second)
		const begin = `data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":"%s","choices":[{"index":0,"delta":{%s"content":""},"finish_reason":null}]}` + "\n"
		h.want(t, false,
			fmt.Sprintf(begin, "", 946684820, "chat:latest", `"role":"assistant",`),
			fmt.Sprintf(begin, "", 946684840, "chat:latest", ""),
			`data: {"id":"chatcmpl-7","choices":[{"delta":{}}]}`+"\n",
			fmt.Sprintf(begin, "chatcmpl-7", 946684860, "chat:latest", ""))
		chat.finish()
		f.expectIdle(t)
	})
}

// What goes wrong behind a beat in mid-stream ends the stream as it does without one.
func TestEndsBehindABeatInMidStream(t *testing.T) {
	const chunk = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n"
	const ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n"
	for name, test := range map[string]struct {
		happens func(*testing.T, *front, *holder)
		want    string
	}{
		"stopped": {func(t *testing.T, f *front, _ *holder) { f.stop(t, f.page.read().Running.Key) },
			"event: error\ndata: " + `{"type":"error","error":{"type":"permission_error","message":"this chat was stopped on foreman's status page"}}` + "\n\n"},
		"the host falls asleep": {func(_ *testing.T, _ *front, target *holder) { target.sleep(true); time.Sleep(time.Minute) }, ""},
	} {
		inBubble(t, name, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
			h := f.hear(t.Context(), t, "/v1/messages", `{"model":"Chat","stream":true}`)
			chat := target.any(t)
			chat.say(t, chunk)
			time.Sleep(20 * time.Second)
			test.happens(t, f, target)
			synctest.Wait()
			chat.gone()
			h.mu.Lock()
			defer h.mu.Unlock()
			if got := strings.ReplaceAll(h.text, ping, ""); got != chunk+test.want || got == h.text || h.err == nil {
				t.Errorf("got %s(%v); want %s, beats and a cut", h.text, h.err, chunk+test.want)
			}
		})
	}
}

// A client that is there and takes no beat in mid-stream loses its turn.
func TestHeartbeatInMidStreamThatIsNotTaken(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		f, target := newHeldFrontIn(t, func(o *Options) { o.Heartbeat = 20 * time.Second })
		c := connect(t, f).send(t, postOf("/v1/messages", `{"model":"chat","stream":true}`))
		chat := target.any(t)
		chat.say(t, "data: {\"type\":\"message_start\"}\n\n")
		if _, err := http.ReadResponse(c.in, nil); err != nil {
			t.Fatal(err)
		}
		c.in.ReadString('}') // of the chunk
		c.in.Discard(c.in.Buffered())
		time.Sleep(20*time.Second + clientStall - 1)
		synctest.Wait()
		if chat.ctx.Err() != nil {
			t.Error("the chat ended too soon")
		}
		time.Sleep(time.Nanosecond)
		chat.gone()
		f.expectIdle(t)
		if row := latest(f)[0]; row.Revoked != revokedStalled || !row.Cut {
			t.Errorf("recorded as %+v; want its turn taken away", row)
		}
	})
}

// Beats as often as can be disturb neither a chunk nor the header, nor those a beat.
func TestHeartbeatsBesideChunks(t *testing.T) {
	const chunk = `{"message":{"content":"la"},"done":false}` + "\n"
	stub := newStub(t)
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-ndjson")
		http.NewResponseController(w).Flush()
		for i := range len(chunk) {
			io.WriteString(w, chunk[:i])
			http.NewResponseController(w).Flush()
			io.WriteString(w, chunk[i:])
			http.NewResponseController(w).Flush()
		}
	}
	f := newFront(t, stub.URL, func(o *Options) { o.Heartbeat = 10 * time.Microsecond })
	beats := 0
	for range 100 {
		a := f.do(t, "POST", "/api/chat", chatBody)
		var said strings.Builder
		for line := range strings.Lines(a.body) {
			if strings.Contains(line, `"content":""`) {
				beats++
			} else {
				said.WriteString(line)
			}
		}
		if a.err != nil || said.String() != strings.Repeat(chunk, len(chunk)) {
			t.Fatalf("got %v, and that is no beats:\n%s", a.err, said.String())
		}
	}
	if beats == 0 {
		t.Error("no beat came")
	}
	f.expectIdle(t)
}
