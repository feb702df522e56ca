package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"foreman/e2e/lab"
)

// TestStopTold: clients whose stream is stopped in the middle get an error that says so,
// and no end that could be taken for one. Each has an Ollama of its own: see
// mayLeaveStreams.
func TestStopTold(t *testing.T) {
	t.Parallel()
	const want = "this chat was stopped on foreman's status page"
	for name, chat := range map[string]func(ctx context.Context, base string, heard func()) error{
		"github.com/ollama/ollama/api": func(ctx context.Context, base string, heard func()) error {
			return newClient(t, base, "").Chat(ctx, &api.ChatRequest{
				Model:    lab.ChatModel,
				Messages: []api.Message{{Role: "user", Content: "Go on for ever."}},
				Options:  map[string]any{"num_predict": 100_000},
			}, func(r api.ChatResponse) error {
				if r.Done {
					t.Errorf("got an end: %+v", r)
				}
				heard()
				return nil
			})
		},
		"github.com/openai/openai-go/v3": func(ctx context.Context, base string, heard func()) error {
			client := openai.NewClient(option.WithBaseURL(base+"/v1"), option.WithAPIKey("none"))
			stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
				Model:     lab.ChatModel,
				Messages:  []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Go on for ever.")},
				MaxTokens: openai.Int(100_000),
			})
			for stream.Next() {
				heard()
			}
			return stream.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			own := startOllama(t, lab.Pace{Rate: 50}.Env()...)
			foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=")
			begun := make(chan struct{}, 1)
			done := make(chan error, 1)
			go func() {
				done <- chat(t.Context(), foreman.URL, func() {
					select {
					case begun <- struct{}{}:
					default:
					}
				})
			}()
			<-begun
			var status struct {
				Running struct{ Stop string }
			}
			if err := json.Unmarshal([]byte(askStatus(t, foreman.URL, http.MethodGet, nil)), &status); err != nil {
				t.Fatal(err)
			}
			askStatus(t, foreman.URL, http.MethodPost, url.Values{"stop": {status.Running.Stop}})
			if err := <-done; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v; want %s", err, want)
			}
		})
	}
}

// askStatus asks for the status page, or sends its form, as a script would.
func askStatus(t *testing.T, base, method string, form url.Values) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, base+"/status", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(r)
	a := read(t, resp, err)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%s /status: got %d %s; want 200", method, a.StatusCode, a.body)
	}
	return a.body
}
