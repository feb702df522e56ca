package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/tmc/langchaingo/llms"
	langchain "github.com/tmc/langchaingo/llms/ollama"

	"foreman/e2e/lab"
)

// TestLangchain chats through a client library that knows nothing of foreman.
func TestLangchain(t *testing.T) {
	ollama := startLeavable(t)
	open := startForeman(t, ollama.URL)
	locked := startForeman(t, ollama.URL, "FOREMAN_TOKEN=sesame")
	tests := []struct {
		name, url, token string
		want             string // part of the error, or empty for a chat
	}{
		{"no token needed", open.URL, "", ""},
		{"token not needed", open.URL, "sesame", ""},
		{"token", locked.URL, "sesame", ""},
		{"no token", locked.URL, "", "token"},
		{"wrong token", locked.URL, "simsim", "token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			model, err := langchain.New(
				langchain.WithServerURL(tt.url),
				langchain.WithModel(lab.ChatModel),
				langchain.WithHTTPClient(withToken(tt.token)))
			if err != nil {
				t.Fatal(err)
			}
			chunks := 0
			answer, err := model.Call(t.Context(), "Who are you?", llms.WithMaxTokens(12),
				llms.WithStreamingFunc(func(context.Context, []byte) error {
					chunks++
					return nil
				}))
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %q, %v; want an error with %q", answer, err, tt.want)
				}
				return
			}
			if err != nil || answer == "" || chunks < 12 {
				t.Errorf("got %q in %d chunks, %v; want twelve chunks or more", answer, chunks, err)
			}
			t.Logf("%q in %d chunks", answer, chunks)
		})
	}

	connect := func(model string) *langchain.LLM {
		t.Helper()
		llm, err := langchain.New(langchain.WithServerURL(locked.URL), langchain.WithModel(model), langchain.WithHTTPClient(withToken("sesame")))
		if err != nil {
			t.Fatal(err)
		}
		return llm
	}
	if mayLeaveStreams() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		words := 0
		_, err := connect(lab.ChatModel).Call(ctx, "Tell me all.", llms.WithMaxTokens(80000),
			llms.WithStreamingFunc(func(context.Context, []byte) error {
				words++
				cancel()
				return nil
			}))
		// This library takes a stream that is cut for one that has ended.
		if words == 0 || (err != nil && !errors.Is(err, context.Canceled)) {
			t.Errorf("abort: got %d words, %v; want some, and no error or %v", words, err, context.Canceled)
		}
		wantServedNext(t, func(ctx context.Context) error {
			_, err := connect(lab.ChatModel).Call(ctx, "Who are you?", llms.WithMaxTokens(12))
			return err
		})
	}
	if _, err := connect("absent").Call(t.Context(), "Who are you?"); err == nil || !strings.Contains(err.Error(), "model 'absent' not found") {
		t.Errorf("unknown model: got %v; want an error that names it", err)
	}

	refused := post(t, locked.URL+"/api/chat", `{"model":"tiny-chat","messages":[]}`)
	if got := refused.Header.Get("WWW-Authenticate"); refused.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(got, "Bearer") {
		t.Errorf("no token: got %d, WWW-Authenticate %q; want 401, Bearer", refused.StatusCode, got)
	}
	// What a load balancer asks needs no token.
	for _, path := range []string{"/healthz", "/readyz"} {
		if err := wantStatus(locked.URL+path, http.StatusOK); err != nil {
			t.Error(err)
		}
	}
}

// TestOfficialClient makes the calls of Ollama's own Go client that are meant
// for everybody, with the token that this foreman wants.
func TestOfficialClient(t *testing.T) {
	ollama := startLeavable(t)
	foreman := startForeman(t, ollama.URL, "FOREMAN_TOKEN=sesame")
	client := newClient(t, foreman.URL, "sesame")
	ctx := t.Context()
	said := ""
	calls := []struct {
		name string
		call func() error
	}{
		{"heartbeat", func() error { return client.Heartbeat(ctx) }},
		{"version", func() error { _, err := client.Version(ctx); return err }},
		{"list", func() error { _, err := client.List(ctx); return err }},
		{"ps", func() error { _, err := client.ListRunning(ctx); return err }},
		{"show", func() error { _, err := client.Show(ctx, &api.ShowRequest{Model: lab.ChatModel}); return err }},
		{"embed", func() error {
			_, err := client.Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: "hello"})
			return err
		}},
		{"embeddings", func() error {
			_, err := client.Embeddings(ctx, &api.EmbeddingRequest{Model: lab.EmbedModel, Prompt: "hello"})
			return err
		}},
		{"chat", func() error {
			return client.Chat(ctx, &api.ChatRequest{
				Model:    lab.ChatModel,
				Messages: []api.Message{{Role: "user", Content: "hello"}},
			}, func(r api.ChatResponse) error {
				said += r.Message.Content
				return nil
			})
		}},
	}
	for _, c := range calls {
		if err := c.call(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if said == "" {
		t.Error("chat: got nothing; want text")
	}

	if mayLeaveStreams() {
		leaving, leave := context.WithCancel(ctx)
		defer leave()
		long := &api.ChatRequest{
			Model:    lab.ChatModel,
			Messages: []api.Message{{Role: "user", Content: "Tell me all."}},
			Options:  map[string]any{"num_predict": 80000},
		}
		if err := client.Chat(leaving, long, func(api.ChatResponse) error { leave(); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("abort: got %v; want %v", err, context.Canceled)
		}
		wantServedNext(t, func(ctx context.Context) error {
			_, err := chat(ctx, client, lab.ChatModel, false)
			return err
		})
	}
	if _, err := newClient(t, foreman.URL, "").List(ctx); err == nil {
		t.Error("list without the token: got no error; want one")
	}
}

// mayLeaveStreams tells whether a test may leave a stream and then count on Ollama.
// If a word is made just as its reader leaves, Ollama never gives back the place that
// the chat had, and serves no other until the model is unloaded. Tiny models on llama.cpp
// are fast enough for that, and so is the stand-in at testPace on a busy machine.
func mayLeaveStreams() bool { return standIn }

// startLeavable returns an Ollama for a test that leaves streams where it may: with the
// stand-in one of its own, at abortPace.
func startLeavable(t *testing.T) *lab.Ollama {
	if !mayLeaveStreams() {
		return ollama
	}
	return startOllama(t, abortPace.Env()...)
}
