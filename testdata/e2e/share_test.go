package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"foreman/e2e/lab"
)

// TestShare has three clients at one Ollama: one sends a hundred chats at once, one streams
// chat after chat in four windows, and a person has a question now and then. It counts how
// many chats of the others Ollama gets between a question and its turn, and what the others
// have of the time.
func TestShare(t *testing.T) {
	const alike, marked = "batch sesame-batch\nstream sesame-stream\nquestion sesame-question\n",
		"batch sesame-batch background\nstream sesame-stream weight=2\nquestion sesame-question weight=3\n"
	weighed := strings.Replace(marked, " background", " weight=1", 1)
	hints := []http.Header{{"Priority": {"u=6"}}, {"X-Openwebui-Task": {"tags_generation"}}, nil}
	for _, test := range []struct {
		name, tokens string
		hints        []http.Header // of the batch, in turn; nil: its service tier is one
		model        string        // that is asked; others ask lab.ChatModel
		questions    int
		ofStream     float64 // how much more of the time it has than the batch; 0: all
	}{
		{"alike", alike, nil, lab.ChatModel, 8, 1},
		{"weights", weighed, nil, lab.ChatModel, 8, 2},
		{"background", marked, nil, lab.ChatModel, 8, 0},
		{"hints", alike, hints, lab.ChatModel, 8, 0},
		{"two models", weighed, nil, lab.EmbedModel, 3, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			own := startOllama(t, append(lab.Pace{Load: 300 * time.Millisecond, Rate: 1000}.Env(), "OLLAMA_MAX_LOADED_MODELS=1")...)
			h := &sharers{own: own, hints: test.hints, answered: make(chan struct{})}
			meter, err := lab.NewMeter(own.URL, h.note)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(meter.Close)
			file := filepath.Join(t.TempDir(), "tokens")
			if err := os.WriteFile(file, []byte(test.tokens), 0o600); err != nil {
				t.Fatal(err)
			}
			h.url = startForeman(t, meter.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_EMBED_MODEL=", "FOREMAN_AFFINITY=9s").URL
			h.ask(t, test.model, test.questions)

			batch, stream := h.seconds["batch"], h.seconds["stream"]
			share, want := stream/(stream+batch), test.ofStream/(1+test.ofStream)
			switch {
			case test.ofStream > 0 && math.Abs(share/want-1) > .1:
				t.Errorf("the stream had %.1f s, the batch %.1f s; want a share of %.2f of both, within 10 %%", stream, batch, want)
			case test.ofStream == 0 && share < .9:
				t.Errorf("the stream had %.1f s, the batch %.1f s; want the batch to wait", stream, batch)
			}
			// Some chats may begin before a question has come to foreman. Where it needs another
			// model, what is loaded goes first for nine seconds, of which a weight of 3 leaves a third
			// to those of weight 1, and two thirds to those of weight 2.
			if test.model == lab.ChatModel && h.others > 8 || h.wait > 25*time.Second {
				t.Errorf("a question waited for %d chats of others, %v; want 8 and 25s at most", h.others, h.wait)
			}
			if most := 1 + 2*test.questions; h.loads > most || test.model == lab.ChatModel && h.loads > 1 {
				t.Errorf("Ollama loaded a model %d times; want once, and twice for each question that needs another", h.loads)
			}
			t.Logf("%d questions waited for at most %d chats of others, %v to the answer; the stream had %.1f s, the batch %.1f s; %d loads",
				test.questions, h.others, h.wait.Round(time.Millisecond), stream, batch, h.loads)
		})
	}
}

// sharers are the clients of TestShare, and what became of them.
type sharers struct {
	url      string
	own      *lab.Ollama
	hints    []http.Header
	answered chan struct{} // closed when all questions are

	others  int                // chats of others that a question waited for, at most
	wait    time.Duration      // the longest, to the end of the answer
	seconds map[string]float64 // that clients had their turns, meanwhile
	loads   int

	mu    sync.Mutex // guards began
	began []string   // who had the chats at Ollama, in order
}

func (h *sharers) note(r *http.Request) {
	if who, _, ok := strings.Cut(r.Header.Get("X-Request-Id"), "-"); ok && r.Method == http.MethodPost {
		h.mu.Lock()
		h.began = append(h.began, who)
		h.mu.Unlock()
	}
}

func (h *sharers) seen() []string { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.began) }

// chat has Ollama's own client chat, or for a service tier OpenAI's.
func (h *sharers) chat(ctx context.Context, t *testing.T, who string, n int, stream bool) error {
	header := http.Header{"Authorization": {"Bearer sesame-" + who}, "X-Request-Id": {fmt.Sprint(who, "-", n)}}
	if who == "batch" && h.hints != nil {
		hint := h.hints[n%len(h.hints)]
		if hint == nil {
			return h.openai(ctx, who, n, lab.ChatModel, openai.ChatCompletionNewParamsServiceTierFlex)
		}
		maps.Copy(header, hint)
	}
	return newClientWith(t, h.url, header).Chat(ctx, &api.ChatRequest{
		Model: lab.ChatModel, Messages: []api.Message{{Role: "user", Content: fmt.Sprint(who, n)}}, Stream: &stream,
	}, func(api.ChatResponse) error { return nil })
}

func (h *sharers) openai(ctx context.Context, who string, n int, model string, tier openai.ChatCompletionNewParamsServiceTier) error {
	official := openai.NewClient(option.WithBaseURL(h.url+"/v1"), option.WithAPIKey("sesame-"+who), option.WithMaxRetries(0))
	_, err := official.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
		Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("now and then")}, ServiceTier: tier,
	}, option.WithHeader("X-Request-Id", fmt.Sprint(who, "-", n)))
	return err
}

// ask asks the questions while a batch and a stream are under way.
func (h *sharers) ask(t *testing.T, model string, questions int) {
	const batch, windows = 100, 4
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range batch {
		all.Go(func() {
			if err := h.chat(ctx, t, "batch", i, false); err != nil {
				t.Errorf("batch: %v", err)
			}
		})
	}
	eventually(t, func() error { return waiting(h.url, batch/2) })
	for window := range windows {
		all.Go(func() {
			for i := window; ; i += windows {
				select {
				case <-h.answered:
					return
				default:
				}
				if err := h.chat(ctx, t, "stream", i, true); err != nil {
					t.Errorf("stream: %v", err)
					return
				}
			}
		})
	}
	passed := func(n int) { // so many chats at Ollama
		before := len(h.seen())
		eventually(t, func() error {
			if got := len(h.seen()); got < before+n {
				return fmt.Errorf("%d chats at Ollama; want %d", got, before+n)
			}
			return nil
		})
	}
	passed(2 * windows)
	since := h.turns(t)
	for i := range questions {
		passed(10)
		before, asked := len(h.seen()), time.Now()
		if err := h.openai(ctx, "question", i, model, ""); err != nil {
			t.Fatalf("question: %v", err)
		}
		h.wait = max(h.wait, time.Since(asked))
		h.others = max(h.others, slices.Index(h.seen()[before:], "question"))
	}
	h.seconds = h.turns(t)
	for who, before := range since {
		h.seconds[who] -= before
	}
	h.loads = loads(h.own)
	if err := waiting(h.url, 1); err != nil {
		t.Errorf("the batch was over before the last question: %v", err)
	}
	close(h.answered)
	all.Wait()
}

// turns returns for how long clients had their turns so far.
func (h *sharers) turns(t *testing.T) map[string]float64 {
	t.Helper()
	seconds := map[string]float64{}
	for line := range strings.Lines(answerAs(t, h.url+"/metrics", "sesame-question").body) {
		if rest, ok := strings.CutPrefix(line, `foreman_chat_seconds_total{client="`); ok {
			who, value, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			seconds[who] = n
		}
	}
	return seconds
}

// newClientWith is Ollama's own client, with header fields of one's own.
func newClientWith(t *testing.T, base string, header http.Header) *api.Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewClient(u, &http.Client{Transport: headers(header)})
}

// headers is a transport that sets fields.
type headers http.Header

func (h headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range h {
		r.Header[name] = values
	}
	return http.DefaultTransport.RoundTrip(r)
}

// waiting returns an error unless so many chats wait at least.
func waiting(base string, least int) error {
	resp, err := http.Get(base + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var health struct{ Waiting int }
	if err := json.NewDecoder(resp.Body).Decode(&health); err != nil {
		return err
	}
	if health.Waiting < least {
		return fmt.Errorf("%d chats wait; want %d", health.Waiting, least)
	}
	return nil
}

// answerAs asks for url with a token.
func answerAs(t *testing.T, url, token string) answer {
	t.Helper()
	resp, err := withToken(token).Get(url)
	return read(t, resp, err)
}

// TestLoadOptionsAreAKind counts how often Ollama loads a model for which ten chats in
// line ask with two num_ctx in turn.
func TestLoadOptionsAreAKind(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	ready := make(chan struct{})
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if r.URL.Path == "/api/chat" {
			select {
			case <-ready:
			case <-r.Context().Done():
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	foreman := startForeman(t, meter.URL, "FOREMAN_EMBED_MODEL=", "FOREMAN_AFFINITY=1m")
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			answer := post(t, foreman.URL+"/api/chat", fmt.Sprintf(
				`{"model":"tiny-chat","stream":false,"options":{"num_ctx":%d},"messages":[{"role":"user","content":"hello"}]}`, 512*(1+i%2)))
			if answer.StatusCode != http.StatusOK {
				t.Errorf("chat %d: %d %s", i, answer.StatusCode, answer.body)
			}
		})
		eventually(t, func() error { return waiting(foreman.URL, i) }) // the first waits at Ollama's door
	}
	close(ready)
	all.Wait()
	if got := loads(own); got != 2 {
		t.Errorf("Ollama loaded the model %d times; want twice, once for each num_ctx", got)
	}
}
