package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"foreman/e2e/lab"
)

// TestShare has three clients with tokens of their own at one Ollama: one sends a hundred
// chats at once, one streams chat after chat, and one has a question now and then. It
// counts how many chats of the others Ollama gets between a question and its turn.
func TestShare(t *testing.T) {
	const batch, questions = 100, 8
	own := startOllama(t, lab.Pace{Rate: 1000}.Env()...)
	var (
		mu    sync.Mutex
		began []string // who had the chats at Ollama, in order
	)
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if who, _, ok := strings.Cut(r.Header.Get("X-Request-Id"), "-"); ok && r.Method == http.MethodPost {
			mu.Lock()
			began = append(began, who)
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	seen := func() int { mu.Lock(); defer mu.Unlock(); return len(began) }
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("# name token\nbatch sesame-batch\nstream sesame-stream\nquestion sesame-question\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, meter.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_EMBED_MODEL=")

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ask := func(who string, n int, stream bool) error {
		client := newClientAs(t, foreman.URL, who, n)
		return client.Chat(ctx, &api.ChatRequest{
			Model: lab.ChatModel, Messages: []api.Message{{Role: "user", Content: fmt.Sprint(who, n)}}, Stream: &stream,
		}, func(api.ChatResponse) error { return nil })
	}
	var all sync.WaitGroup
	for i := range batch {
		all.Go(func() {
			if err := ask("batch", i, false); err != nil {
				t.Errorf("batch: %v", err)
			}
		})
	}
	answered := make(chan struct{})
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-answered:
				return
			default:
			}
			if err := ask("stream", i, true); err != nil {
				t.Errorf("stream: %v", err)
				return
			}
		}
	})
	eventually(t, func() error { return waiting(foreman.URL, batch/2) })

	official := openai.NewClient(option.WithBaseURL(foreman.URL+"/v1"), option.WithAPIKey("sesame-question"), option.WithMaxRetries(0))
	longest, wait := 0, time.Duration(0)
	for i := range questions {
		before, asked := seen(), time.Now()
		_, err := official.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
			Model: lab.ChatModel, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("now and then")},
		}, option.WithHeader("X-Request-Id", fmt.Sprint("question-", i)))
		if err != nil {
			t.Fatalf("question: %v", err)
		}
		mu.Lock()
		since := slices.Clone(began[before:])
		mu.Unlock()
		if at := slices.Index(since, "question"); at > longest {
			longest, wait = at, time.Since(asked)
		}
	}
	close(answered)
	left := get(t, foreman.URL+"/healthz").body
	all.Wait()
	if longest > 2 {
		t.Errorf("a question waited for %d chats of others; want 2 at most", longest)
	}
	if !strings.Contains(left, `"waiting":`) || strings.Contains(left, `"waiting":0`) {
		t.Errorf("%s: the batch was over before the last question", left)
	}
	log := foreman.Log()
	for _, who := range []string{"batch", "stream", "question"} {
		if !strings.Contains(log, " client="+who+" addr=127.0.0.1:") {
			t.Errorf("no record of %s in the log", who)
		}
	}
	metrics := answerAs(t, foreman.URL+"/metrics", "sesame-question").body
	for _, who := range []string{"batch", "stream", "question"} {
		if !strings.Contains(metrics, `foreman_chat_seconds_total{client="`+who+`"} `) {
			t.Errorf("no seconds of %s in the metrics", who)
		}
	}
	t.Logf("the longest wait of %d questions behind a batch of %d and a stream: %d chats of others, answered %v after it was asked", questions, batch, longest, wait.Round(time.Millisecond))
}

// newClientAs is Ollama's own client with the token of a name, and with request ids that
// begin with the name.
func newClientAs(t *testing.T, base, who string, n int) *api.Client {
	t.Helper()
	return newClientWith(t, base, http.Header{
		"Authorization": {"Bearer sesame-" + who}, "X-Request-Id": {fmt.Sprint(who, "-", n)},
	})
}

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
	foreman := startForeman(t, meter.URL, "FOREMAN_EMBED_MODEL=")
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
