package proxy

import (
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/usage"
)

// TestUsage: what the target says that a chat took is in the log, in the metrics and in
// the row for the page, for chats whose answer came to its end; and no byte of the answer
// differs.
func TestUsage(t *testing.T) {
	native := strings.Replace(string(fixture(t, "chat.ndjson")), `"prompt_eval_count":26`, `"prompt_eval_count":26,"prompt_eval_cached_count":20`, 1)
	openAI := "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":6}}\n\ndata: [DONE]\n\n"
	for _, test := range []struct {
		name, path, body, answer string
		size                     int // of the answer as it is announced; 0: in chunks
		want                     usage.Usage
	}{
		{"native", "/api/chat", chatBody, native, 0, usage.Usage{
			PromptTokens: 26, CachedTokens: 20, CompletionTokens: 4, Load: 1334875, Prompt: 342546000, Completion: 4535599000,
		}},
		{"of 10 MB", "/api/chat", chatBody, `{"message":{"content":"` + strings.Repeat("x", 10<<20) + `"},"done":true,"total_duration":9,"load_duration":8000,"eval_count":7,"eval_duration":6}`, 0, usage.Usage{CompletionTokens: 7, Load: 8000, Completion: 6}},
		{"no last chunk", "/api/chat", chatBody, strings.SplitAfter(native, "\n")[0], 0, usage.Usage{}},
		{"cut", "/api/chat", chatBody, native, len(native) + 1, usage.Usage{}},
		{"OpenAI", "/v1/chat/completions", `{"model":"chat","stream":true}`, openAI, 0, usage.Usage{PromptTokens: 7, CompletionTokens: 6}},
		{"an embedding", "/api/embed", embedBody, native, 0, usage.Usage{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stub := newStub(t)
			stub.chat = func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if test.size > 0 {
					w.Header().Set("Content-Length", strconv.Itoa(test.size))
				}
				io.WriteString(w, test.answer)
			}
			stub.embed = stub.chat
			f := newFront(t, stub.URL, nil)
			if a := f.do(t, "POST", test.path, test.body); a.body != test.answer || (a.err != nil) != (test.size > 0) {
				t.Errorf("%d bytes came, %v; want %d", len(a.body), a.err, len(test.answer))
			}
			f.expectIdle(t)
			record := f.log.access(t, 1)[0]
			got := latest(f)[0].Usage
			if test.name == "OpenAI" { // it does not say for how long: foreman measures it
				if got.Completion <= 0 || record["tokens_per_s"] == nil {
					t.Errorf("made in %v, %v tokens a second; want what foreman has measured", got.Completion, record["tokens_per_s"])
				}
				got.Completion = 0
			}
			if got != test.want {
				t.Errorf("got %+v; want %+v", got, test.want)
			}
			wantField(t, record, "prompt_tokens", float64(test.want.PromptTokens))
			wantField(t, record, "cached_tokens", float64(test.want.CachedTokens))
			wantField(t, record, "completion_tokens", float64(test.want.CompletionTokens))
			wantField(t, record, "load_ms", milliseconds(test.want.Load))
			loads := "0"
			if test.want.Load > 0 {
				loads = "1"
			}
			wantSamples(t, f, map[string]string{
				`foreman_tokens_total{kind="prompt"}`:     strconv.Itoa(int(test.want.PromptTokens)),
				`foreman_tokens_total{kind="completion"}`: strconv.Itoa(int(test.want.CompletionTokens)),
				`foreman_model_load_seconds_count`:        loads,
			})
		})
	}
}

// TestTokensOfClients: those with a token of their own have their tokens in the metrics, and
// nobody else, for clients without one are without number.
func TestTokensOfClients(t *testing.T) {
	stub := newStub(t)
	stub.chat = answerWith("application/json", `{"done":true,"prompt_eval_count":26,"prompt_eval_cached_count":20,"eval_count":4}`)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Tokens = clientToken, tokensOf(t, "ann "+secret+"-of-ann\n") })
	for _, token := range []string{secret + "-of-ann", secret + "-of-ann", clientToken} {
		f.do(t, "POST", "/api/chat", chatBody, "X-Api-Key", token)
	}
	got := map[string]string{}
	for line := range strings.Lines(f.do(t, "GET", "/metrics", "", "X-Api-Key", clientToken).body) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, "foreman_client_tokens_total") {
			got[name] = value
		}
	}
	want := map[string]string{
		`foreman_client_tokens_total{client="ann",kind="prompt"}`:     "52",
		`foreman_client_tokens_total{client="ann",kind="cached"}`:     "40",
		`foreman_client_tokens_total{client="ann",kind="completion"}`: "8",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

// wantField checks a number in a record; 0: it has none.
func wantField(t *testing.T, record map[string]any, name string, want float64) {
	t.Helper()
	got, ok := record[name].(float64)
	if got != want || ok != (want != 0) {
		t.Errorf("%s: got %v; want %v", name, record[name], want)
	}
}

// TestTargetIdle: the target has nothing to do while a chat that has its turn has no
// connection.
func TestTargetIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		var slow atomic.Bool
		f := newFrontIn(t, target, func(o *Options) {
			target.hangDials(o)
			dialBy(o, func(dial func() (net.Conn, error)) (net.Conn, error) {
				if slow.Load() {
					time.Sleep(3 * time.Second)
				}
				return dial()
			})
		})
		idle := func(want string) {
			t.Helper()
			synctest.Wait()
			wantSamples(t, f, map[string]string{"foreman_target_idle_seconds_total": want})
		}
		first, second := connect(t, f), connect(t, f)
		first.chat(t, "first")
		running := target.next(t, "first")
		second.chat(t, "second")
		time.Sleep(time.Second)
		running.finish()
		first.status(t)
		running = target.next(t, "second")
		running.finish()
		second.status(t)
		idle("0")

		target.sleep(true)
		f.Target.CloseIdleConnections()
		first.chat(t, "third").expect(t, http.StatusServiceUnavailable, "third")
		idle("4") // until no connection could be had

		target.sleep(false)
		time.Sleep(10 * time.Second) // polls find it awake
		f.Target.CloseIdleConnections()
		slow.Store(true)
		first.chat(t, "fourth")
		running = target.next(t, "fourth")
		time.Sleep(time.Second)
		running.finish()
		first.status(t)
		idle("7")
	})
}

// TestAffinityFollowsTheLoad: the host says how long a model took to load.
func TestAffinityFollowsTheLoad(t *testing.T) {
	f, target := newHeldFront(t, func(o *Options) { o.Gate.Affinity = -1 })
	for i, load := range []string{"7000000000", "30000000"} { // the second found the model loaded
		c := connect(t, f).chat(t, "loads")
		running := target.next(t, "loads")
		waiting := connect(t, f).chat(t, "waits")
		await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
		if got, want := f.Gate.AffinityNow(), []time.Duration{30 * time.Second, 21 * time.Second}[i]; got != want {
			t.Errorf("got %v; want %v", got, want)
		}
		running.say(t, `{"done":true,"load_duration":`+load+"}\n")
		running.finish()
		c.expect(t, 200, "the first chat")
		target.next(t, "waits").finish()
		waiting.expect(t, 200, "the second chat")
		f.expectIdle(t)
	}
}
