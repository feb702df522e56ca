package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"github.com/tmc/langchaingo/llms"
	langchain "github.com/tmc/langchaingo/llms/ollama"

	"foreman/e2e/lab"
)

// abortPace is slow, so that a client leaves between two words (see mayLeaveStreams)
// and a chat of manyWords outlasts the test: Ollama makes ten contexts of them, which
// takes seven minutes.
var abortPace = lab.Pace{Rate: 50}

const manyWords = 80000

// A witnessed is a foreman with a meter between it and Ollama.
type witnessed struct {
	*lab.Foreman
	token string
	meter *lab.Meter
}

func startWitnessed(t *testing.T, ollama *lab.Ollama, token string) witnessed {
	t.Helper()
	meter, err := lab.NewMeter(ollama.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	return witnessed{startForeman(t, meter.URL, "FOREMAN_TOKEN="+token), token, meter}
}

var chatsLeft = regexp.MustCompile(`(?m)^foreman_turns_revoked_total\{reason="client left"\} (\d+)$`)

// left returns how many chats foreman says it has ended because their client left.
func (w witnessed) left(t *testing.T) int {
	t.Helper()
	resp, err := withToken(w.token).Get(w.URL + "/metrics")
	metrics := read(t, resp, err)
	match := chatsLeft.FindStringSubmatch(metrics.body)
	if match == nil {
		t.Fatalf("got %d %s; want %v in it", metrics.StatusCode, metrics.body, chatsLeft)
	}
	n, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wantLeft waits until foreman has ended so many chats because their client left, the
// turn is free, and no chat is open at Ollama.
func (w witnessed) wantLeft(t *testing.T, want int, path string) {
	t.Helper()
	eventually(t, func() error {
		if got := w.left(t); got != want {
			return fmt.Errorf("chats left by their clients: got %d; want %d", got, want)
		}
		if n := w.meter.Open(path); n != 0 {
			return fmt.Errorf("open at Ollama: got %d; want none", n)
		}
		resp, err := http.Get(w.URL + "/healthz") // needs no token
		var health struct{ Running, Waiting int }
		if err := json.Unmarshal([]byte(read(t, resp, err).body), &health); err != nil {
			return err
		}
		if health.Running+health.Waiting != 0 {
			return fmt.Errorf("healthz: got %+v; want nobody", health)
		}
		return nil
	})
}

// TestAbort has Go clients leave a long stream when they have heard the first of it, in
// the two ways that they have: the context ends, or their caller has heard enough. Then
// foreman has told Ollama, and the client's next chat is served.
func TestAbort(t *testing.T) {
	t.Parallel()
	needStandIn(t) // for its pace
	foreman := startWitnessed(t, startOllama(t, abortPace.Env()...), "sesame")
	client := newClient(t, foreman.URL, foreman.token)
	openAI := newOpenAI(foreman.URL, foreman.token)
	llm, err := langchain.New(
		langchain.WithServerURL(foreman.URL), langchain.WithModel(lab.ChatModel), langchain.WithHTTPClient(withToken(foreman.token)))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		// chat asks for so many words, and calls heard for each piece of the answer.
		chat func(ctx context.Context, words int, heard func() error) error
		// cancelled is what chat returns when ctx has ended.
		cancelled error
	}{
		{"chat", "/api/chat", func(ctx context.Context, words int, heard func() error) error {
			return client.Chat(ctx, &api.ChatRequest{
				Model:    lab.ChatModel,
				Messages: []api.Message{{Role: "user", Content: "Who are you?"}},
				Options:  map[string]any{"num_predict": words},
			}, func(api.ChatResponse) error { return heard() })
		}, context.Canceled},
		{"generate", "/api/generate", func(ctx context.Context, words int, heard func() error) error {
			return client.Generate(ctx, &api.GenerateRequest{
				Model:   lab.ChatModel,
				Prompt:  "Once upon",
				Options: map[string]any{"num_predict": words},
			}, func(api.GenerateResponse) error { return heard() })
		}, context.Canceled},
		{"langchaingo", "/api/chat", func(ctx context.Context, words int, heard func() error) error {
			_, err := llm.Call(ctx, "Who are you?", llms.WithMaxTokens(words),
				llms.WithStreamingFunc(func(context.Context, []byte) error { return heard() }))
			return err
		}, nil}, // to langchaingo every stream that ends is whole
		{"OpenAI's chat", "/v1/chat/completions", func(ctx context.Context, words int, heard func() error) error {
			stream := openAI.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
				Model:     lab.ChatModel,
				Messages:  []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Who are you?")},
				MaxTokens: openai.Int(int64(words)),
			})
			defer stream.Close()
			for stream.Next() {
				if err := heard(); err != nil {
					return err
				}
			}
			return stream.Err()
		}, context.Canceled},
		{"OpenAI's responses", "/v1/responses", func(ctx context.Context, words int, heard func() error) error {
			stream := openAI.Responses.NewStreaming(ctx, responses.ResponseNewParams{
				Model:           lab.ChatModel,
				Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String("Who are you?")},
				MaxOutputTokens: openai.Int(int64(words)),
			})
			defer stream.Close()
			for stream.Next() {
				if stream.Current().Type != "response.output_text.delta" {
					continue
				}
				if err := heard(); err != nil {
					return err
				}
			}
			return stream.Err()
		}, context.Canceled},
	}
	errEnough := errors.New("heard enough")
	for _, tt := range tests {
		for _, way := range []string{"context", "caller"} {
			t.Run(tt.name+"/"+way, func(t *testing.T) {
				before := foreman.left(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				leave, want := func() error { cancel(); return nil }, tt.cancelled
				if way == "caller" {
					leave, want = func() error { return errEnough }, errEnough
				}
				if err := tt.chat(ctx, manyWords, leave); !errors.Is(err, want) {
					t.Errorf("the chat that is left: got %v; want %v", err, want)
				}
				foreman.wantLeft(t, before+1, tt.path)

				pieces := 0
				err := tt.chat(t.Context(), 12, func() error { pieces++; return nil })
				if err != nil || pieces < 12 {
					t.Errorf("the next chat: got %d pieces, %v; want 12 or more", pieces, err)
				}
			})
		}
	}
}

// TestCommandLineAborts interrupts `ollama run` as Ctrl-C does, in the middle of an
// answer. The command ends well, and the next run is served.
func TestCommandLineAborts(t *testing.T) {
	t.Parallel()
	needStandIn(t) // for its pace
	const talkative = "tiny-talkative"
	own := startOllama(t, abortPace.Env()...)
	err := own.Client.Create(t.Context(), &api.CreateRequest{
		Model: talkative, From: lab.ChatModel, Parameters: map[string]any{"num_predict": manyWords},
	}, func(api.ProgressResponse) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	foreman := startWitnessed(t, own, "") // the command line cannot send one

	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), ollamaBinary, "run", talkative, "Tell me all.")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "OLLAMA_HOST=" + foreman.URL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := stdout.Read(make([]byte, 100)); err != nil || n == 0 {
		t.Errorf("got %d bytes, %v; want a word", n, err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: got %v, %q; want exit status 0", err, &stderr)
	}
	foreman.wantLeft(t, 1, "/api/generate")
	if out, err := commandLine(t, foreman.URL)("run", lab.ChatModel, "Who are you?"); err != nil || out == "" {
		t.Errorf("the next run: got %q, %v; want text", out, err)
	}
}
