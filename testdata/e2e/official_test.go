package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// officialCalls are the calls of Ollama's own Go client that every user of it
// may make. Each returns all that the client was told.
var officialCalls = []struct {
	name string
	call func(context.Context, *api.Client) (any, error)
}{
	{"heartbeat", func(ctx context.Context, c *api.Client) (any, error) { return nil, c.Heartbeat(ctx) }},
	{"version", func(ctx context.Context, c *api.Client) (any, error) { return c.Version(ctx) }},
	{"list", func(ctx context.Context, c *api.Client) (any, error) { return c.List(ctx) }},
	{"chat", func(ctx context.Context, c *api.Client) (any, error) { return chat(ctx, c, lab.ChatModel, false) }},
	{"chat streaming", func(ctx context.Context, c *api.Client) (any, error) { return chat(ctx, c, lab.ChatModel, true) }},
	{"chat with an unknown model", func(ctx context.Context, c *api.Client) (any, error) { return chat(ctx, c, "absent", true) }},
	{"generate", func(ctx context.Context, c *api.Client) (any, error) { return generate(ctx, c, false) }},
	{"generate streaming", func(ctx context.Context, c *api.Client) (any, error) { return generate(ctx, c, true) }},
	{"embed", func(ctx context.Context, c *api.Client) (any, error) {
		return c.Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: []string{"one", "two"}})
	}},
	{"embed with an unknown model", func(ctx context.Context, c *api.Client) (any, error) {
		return c.Embed(ctx, &api.EmbedRequest{Model: "absent", Input: "one"})
	}},
	{"embeddings", func(ctx context.Context, c *api.Client) (any, error) {
		return c.Embeddings(ctx, &api.EmbeddingRequest{Model: lab.EmbedModel, Prompt: "one"})
	}},
	{"list running", func(ctx context.Context, c *api.Client) (any, error) {
		running, err := c.ListRunning(ctx)
		if running != nil { // Ollama knows no order among those that end in the same second
			slices.SortFunc(running.Models, func(a, b api.ProcessModelResponse) int { return cmp.Compare(a.Name, b.Name) })
		}
		return running, err
	}},
	{"show", func(ctx context.Context, c *api.Client) (any, error) {
		shown, err := c.Show(ctx, &api.ShowRequest{Model: lab.ChatModel})
		if shown != nil {
			shown.Parameters, shown.Modelfile = "", "" // Ollama tells the parameters in no order
		}
		return shown, err
	}},
	{"show an unknown model", func(ctx context.Context, c *api.Client) (any, error) {
		return c.Show(ctx, &api.ShowRequest{Model: "absent"})
	}},
}

func chat(ctx context.Context, c *api.Client, model string, stream bool) (responses []api.ChatResponse, err error) {
	err = c.Chat(ctx, &api.ChatRequest{
		Model:    model,
		Messages: []api.Message{{Role: "user", Content: "Who are you?"}},
		Stream:   &stream,
	}, func(r api.ChatResponse) error {
		responses = append(responses, r)
		return nil
	})
	return responses, err
}

func generate(ctx context.Context, c *api.Client, stream bool) (responses []api.GenerateResponse, err error) {
	err = c.Generate(ctx, &api.GenerateRequest{Model: lab.ChatModel, Prompt: "Once upon", Stream: &stream},
		func(r api.GenerateResponse) error {
			responses = append(responses, r)
			return nil
		})
	return responses, err
}

// TestOfficialGoClient makes each call to Ollama and through a foreman that
// wants a token: the client must see the same.
func TestOfficialGoClient(t *testing.T) {
	foreman := startForeman(t, ollama.URL, "FOREMAN_TOKEN=sesame")
	through := newClient(t, foreman.URL, "sesame")
	for _, tt := range officialCalls {
		t.Run(tt.name, func(t *testing.T) {
			want, wantErr := tt.call(t.Context(), ollama.Client)
			got, err := tt.call(t.Context(), through)
			if got, want := statusOf(err), statusOf(wantErr); got != want {
				t.Errorf("got %v; want %v", err, wantErr)
			}
			if got, want := withoutTimes(t, got), withoutTimes(t, want); got != want {
				t.Errorf("got %s; want %s", got, want)
			}
			t.Logf("%.120s, %v", withoutTimes(t, got), err)
		})
	}

	if _, err := newClient(t, foreman.URL, "simsim").List(t.Context()); statusOf(err) != http.StatusUnauthorized {
		t.Errorf("with a wrong token: got %v; want 401", err)
	}
}

// statusOf returns the status of an answer that the client took for an error; 0
// if err is nil.
func statusOf(err error) int {
	var status api.StatusError
	var unauthorized api.AuthorizationError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &unauthorized):
		return unauthorized.StatusCode
	case errors.As(err, &status):
		return status.StatusCode
	default:
		return -1
	}
}

// withoutTimes returns v as JSON, with what differs from one answer to the next
// left out.
func withoutTimes(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return varies.ReplaceAllString(string(b), "$1*")
}
