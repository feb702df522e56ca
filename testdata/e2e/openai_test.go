package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"foreman/e2e/lab"
)

// newOpenAI returns OpenAI's own Go client for the server at base. It always
// sends a key, as a bearer token.
func newOpenAI(base, key string) openai.Client {
	return openai.NewClient(
		option.WithBaseURL(base+"/v1/"), option.WithAPIKey(key),
		option.WithHTTPClient(http.DefaultClient), option.WithMaxRetries(0))
}

// TestOpenAI drives OpenAI's own Go client, direct and through a foreman for
// which its key is the token.
func TestOpenAI(t *testing.T) {
	ollama := startLeavable(t)
	foreman := startForeman(t, ollama.URL, "FOREMAN_TOKEN=sesame")
	through, direct := newOpenAI(foreman.URL, "sesame"), newOpenAI(ollama.URL, "any")
	question := openai.ChatCompletionNewParams{
		Model:       lab.ChatModel,
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Who are you?")},
		MaxTokens:   openai.Int(12),
		Temperature: openai.Float(0),
		Seed:        openai.Int(1),
	}
	said := ""

	t.Run("chat", func(t *testing.T) {
		want, err := direct.Chat.Completions.New(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		got, err := through.Chat.Completions.New(t.Context(), question)
		if err != nil {
			t.Fatal(err)
		}
		said = want.Choices[0].Message.Content
		if got := got.Choices[0].Message.Content; got != said || got == "" {
			t.Errorf("text: got %q; want %q", got, said)
		}
		if got, want := got.Usage.CompletionTokens, want.Usage.CompletionTokens; got != want || got != 12 {
			t.Errorf("tokens: got %d; want %d", got, want)
		}
	})

	t.Run("stream", func(t *testing.T) {
		question.StreamOptions.IncludeUsage = openai.Bool(true)
		stream := through.Chat.Completions.NewStreaming(t.Context(), question)
		defer stream.Close()
		all, chunks := openai.ChatCompletionAccumulator{}, 0
		for stream.Next() {
			chunks++
			if !all.AddChunk(stream.Current()) {
				t.Errorf("chunk %d does not belong to the answer: %s", chunks, stream.Current().RawJSON())
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		if len(all.Choices) != 1 || all.Choices[0].Message.Content != said {
			t.Errorf("got %+v; want %q", all.Choices, said)
		}
		if chunks < 12 || all.Usage.CompletionTokens != 12 {
			t.Errorf("got %d chunks, %d tokens; want 12 tokens, each in a chunk of its own", chunks, all.Usage.CompletionTokens)
		}
	})

	t.Run("completion", func(t *testing.T) {
		got, err := through.Completions.New(t.Context(), openai.CompletionNewParams{
			Model:  lab.ChatModel,
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once upon")},
		})
		if err != nil || got.Choices[0].Text == "" {
			t.Errorf("got %+v, %v; want text", got, err)
		}
	})

	t.Run("embeddings", func(t *testing.T) {
		texts := openai.EmbeddingNewParams{
			Model: lab.EmbedModel,
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}},
		}
		want, err := direct.Embeddings.New(t.Context(), texts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := through.Embeddings.New(t.Context(), texts)
		if err != nil || len(got.Data) != 2 {
			t.Fatalf("got %+v, %v; want two embeddings", got, err)
		}
		for i := range want.Data {
			if !slices.Equal(got.Data[i].Embedding, want.Data[i].Embedding) {
				t.Errorf("embedding %d: got %v; want %v", i, got.Data[i].Embedding, want.Data[i].Embedding)
			}
		}
	})

	t.Run("models", func(t *testing.T) {
		var names []string
		models := through.Models.ListAutoPaging(t.Context())
		for models.Next() {
			names = append(names, models.Current().ID)
		}
		if want := []string{lab.ChatModel + ":latest", lab.EmbedModel + ":latest"}; models.Err() != nil || !slices.Equal(names, want) {
			t.Errorf("list: got %q, %v; want %q", names, models.Err(), want)
		}
		if got, err := through.Models.Get(t.Context(), lab.ChatModel); err != nil || got.ID != lab.ChatModel || got.OwnedBy == "" {
			t.Errorf("retrieve: got %+v, %v; want %s", got, err, lab.ChatModel)
		}
	})

	t.Run("responses", func(t *testing.T) {
		ask := responses.ResponseNewParams{
			Model:           lab.ChatModel,
			Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String("Who are you?")},
			MaxOutputTokens: openai.Int(12),
		}
		whole, err := through.Responses.New(t.Context(), ask)
		if err != nil || whole.OutputText() == "" || whole.Usage.OutputTokens != 12 {
			t.Fatalf("got %+v, %v; want 12 tokens", whole, err)
		}
		stream := through.Responses.NewStreaming(t.Context(), ask)
		defer stream.Close()
		text, last, pieces := "", "", 0
		for stream.Next() {
			event := stream.Current()
			if event.Type == "response.output_text.delta" {
				text += event.Delta
				pieces++
			}
			last = event.Type
		}
		if stream.Err() != nil || text != whole.OutputText() || pieces < 12 || last != "response.completed" {
			t.Errorf("stream: got %q in %d pieces, last %s, %v; want %q in 12, completed", text, pieces, last, stream.Err(), whole.OutputText())
		}
		ask.Model = "absent"
		_, unknown := through.Responses.New(t.Context(), ask)
		wantOpenAIError(t, unknown, http.StatusNotFound, "invalid_request_error", "model 'absent' not found")
	})

	t.Run("abort", func(t *testing.T) {
		long := question
		long.MaxTokens = openai.Int(80000)
		next := func(ctx context.Context) error {
			_, err := through.Chat.Completions.New(ctx, question)
			return err
		}

		if mayLeaveStreams() {
			ctx, cancel := context.WithCancel(t.Context())
			stream := through.Chat.Completions.NewStreaming(ctx, long)
			if !stream.Next() {
				t.Fatalf("stream: got nothing, %v", stream.Err())
			}
			cancel()
			for stream.Next() {
			}
			if err := stream.Err(); !errors.Is(err, context.Canceled) {
				t.Errorf("stream: got %v; want %v", err, context.Canceled)
			}
			wantServedNext(t, next)
		}

		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := through.Responses.New(ctx, responses.ResponseNewParams{
				Model:           lab.ChatModel,
				Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String("Tell me all.")},
				MaxOutputTokens: openai.Int(80000),
			})
			left <- err
		}()
		waitRunning(t, foreman.URL)
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("responses: got %v; want %v", err, context.Canceled)
		}
		wantServedNext(t, next)
	})

	t.Run("errors", func(t *testing.T) {
		question.Model = "absent"
		_, unknown := through.Chat.Completions.New(t.Context(), question)
		wantOpenAIError(t, unknown, http.StatusNotFound, "invalid_request_error", "model 'absent' not found")
		_, unknown = through.Models.Get(t.Context(), "absent")
		wantOpenAIError(t, unknown, http.StatusNotFound, "not_found_error", "absent") // Ollama's own
		wrong := newOpenAI(foreman.URL, "simsim")
		_, refused := wrong.Models.List(t.Context())
		wantOpenAIError(t, refused, http.StatusUnauthorized, "invalid_request_error", "token")
	})
}

func wantOpenAIError(t *testing.T, err error, status int, kind, message string) {
	t.Helper()
	var got *openai.Error
	if !errors.As(err, &got) {
		t.Errorf("got %v; want OpenAI's error", err)
		return
	}
	if got.StatusCode != status || got.Type != kind || !strings.Contains(got.Message, message) {
		t.Errorf("got %d, type %q, message %q; want %d, %q, %q", got.StatusCode, got.Type, got.Message, status, kind, message)
	}
}
