package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// A plainClient behaves as small Go libraries for Ollama do: it only chats, has no
// time limit of its own, and repeats what may pass.
type plainClient struct {
	base, key string
	repeats   int             // how often it did repeat
	refused   func(times int) // called at each refusal that it may repeat
	again     func(times int) // called before it does
}

type plainMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type plainRequest struct {
	Model    string         `json:"model"`
	Messages []plainMessage `json:"messages"`
	Stream   bool           `json:"stream"` // always said
	Options  map[string]any `json:"options,omitempty"`
}

type plainPiece struct {
	Message plainMessage `json:"message"`
	Done    bool         `json:"done"`
	Error   string       `json:"error"`
}

// plainDelays are what it waits before it repeats a request.
var plainDelays = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}

// A plainError is an answer that is not 2xx, with its whole body.
type plainError struct {
	status int
	body   string
}

func (e *plainError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// chat returns the text of the answer and in how many pieces it came.
func (c *plainClient) chat(ctx context.Context, request plainRequest) (text string, pieces int, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return "", 0, err
	}
	resp, err := c.post(ctx, body)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var piece plainPiece
		if err := decoder.Decode(&piece); err != nil {
			return text, pieces, fmt.Errorf("piece %d: %w", pieces+1, err)
		}
		if piece.Error != "" {
			return text, pieces, errors.New(piece.Error)
		}
		text += piece.Message.Content
		pieces++
		if piece.Done || !request.Stream {
			return text, pieces, nil
		}
	}
}

// post sends the chat until it has an answer that is final.
func (c *plainClient) post(ctx context.Context, body []byte) (*http.Response, error) {
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/api/chat", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		if c.key != "" {
			req.Header.Set("Authorization", "Bearer "+c.key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		said, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return nil, err
		}
		final := &plainError{resp.StatusCode, string(said)}
		if try == len(plainDelays) {
			return nil, final
		}
		delay := plainDelays[try]
		switch resp.StatusCode {
		case http.StatusTooManyRequests:
			if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
				delay = time.Duration(seconds) * time.Second
			}
		case http.StatusBadGateway, http.StatusServiceUnavailable:
		default:
			return nil, final
		}
		if c.refused != nil {
			c.refused(try + 1)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(delay):
		}
		c.repeats++
		if c.again != nil {
			c.again(c.repeats)
		}
	}
}

// asks is a chat of the length that the lab's models have by themselves.
func asks(model string, stream bool) plainRequest {
	return plainRequest{Model: model, Stream: stream, Messages: []plainMessage{{"user", "Who are you?"}}}
}

// TestPlainClient chats with a client that somebody wrote in an hour, with a token.
func TestPlainClient(t *testing.T) {
	foreman := startForeman(t, ollama.URL, "FOREMAN_TOKEN=sesame")
	client := &plainClient{base: foreman.URL, key: "sesame"}
	whole, pieces, err := client.chat(t.Context(), asks(lab.ChatModel, false))
	if err != nil || whole == "" || pieces != 1 {
		t.Errorf("chat: got %q in %d pieces, %v; want text in one", whole, pieces, err)
	}
	streamed, pieces, err := client.chat(t.Context(), asks(lab.ChatModel, true))
	if err != nil || streamed != whole || pieces < 12 {
		t.Errorf("stream: got %q in %d pieces, %v; want %q in twelve or more", streamed, pieces, err, whole)
	}

	for _, tt := range []struct {
		name string
		err  error
		want plainError
	}{
		{"unknown model", errorOf(client.chat(t.Context(), asks("absent", false))), plainError{http.StatusNotFound, `{"error":"model 'absent' not found"}` + "\n"}},
		{"unknown model, stream", errorOf(client.chat(t.Context(), asks("absent", true))), plainError{http.StatusNotFound, `{"error":"model 'absent' not found"}` + "\n"}},
	} {
		var got *plainError
		if !errors.As(tt.err, &got) || *got != tt.want {
			t.Errorf("%s: got %q; want %q", tt.name, tt.err, &tt.want)
		}
	}
	stranger := &plainClient{base: foreman.URL}
	var refused *plainError
	if _, _, err := stranger.chat(t.Context(), asks(lab.ChatModel, false)); !errors.As(err, &refused) || refused.status != http.StatusUnauthorized || !strings.Contains(refused.body, "token") {
		t.Errorf("no key: got %v; want 401 that names the token", err)
	}
	if client.repeats+stranger.repeats != 0 {
		t.Errorf("repeated %d times; want what is final not repeated", client.repeats+stranger.repeats)
	}

	endless := asks(lab.ChatModel, false)
	endless.Options = map[string]any{"num_predict": 80000}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, _, err := client.chat(ctx, endless)
		left <- err
	}()
	waitRunning(t, foreman.URL)
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("abort: got %v; want %v", err, context.Canceled)
	}
	wantServedNext(t, func(ctx context.Context) error { return errorOf(client.chat(ctx, asks(lab.ChatModel, false))) })
}

// TestPlainClientInOutage has Ollama away for 5 s: it dies, and is started again 2 s
// after the client was refused for the third time, which is after 3 s. The client asks
// for the last time after 7 s, or when Ollama is up. foreman polls as seldom as it does
// by default: it must not take the outage to be longer than it is.
func TestPlainClientInOutage(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_TOKEN=sesame", "FOREMAN_POLL_INTERVAL=30s")
	own.Kill()
	begin := time.Now()
	back := make(chan error, 1)
	client := &plainClient{base: foreman.URL, key: "sesame"}
	client.refused = func(times int) {
		if times == 3 {
			time.AfterFunc(2*time.Second, func() { back <- own.Start(t.Context()) })
		}
	}
	client.again = func(times int) {
		if times == 3 {
			if err := <-back; err != nil {
				t.Error(err)
			}
		}
	}
	text, _, err := client.chat(t.Context(), asks(lab.ChatModel, false))
	t.Logf("answered %.1fs after Ollama died, after %d repeats", time.Since(begin).Seconds(), client.repeats)
	if err != nil || text == "" || client.repeats != 3 {
		t.Errorf("got %q, %v after %d repeats; want an answer after three", text, err, client.repeats)
	}
}

// errorOf returns the error of a chat.
func errorOf(_ string, _ int, err error) error { return err }

// waitRunning waits until a chat runs in the foreman at base.
func waitRunning(t *testing.T, base string) {
	t.Helper()
	eventually(t, func() error {
		if got := get(t, base+"/healthz").body; !strings.Contains(got, `"running":1`) {
			return fmt.Errorf("got %s; want a chat that runs", got)
		}
		return nil
	})
}

// wantServedNext makes a chat after one was aborted. The aborted one would hold the
// line for longer than this waits.
func wantServedNext(t *testing.T, chat func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := chat(ctx); err != nil {
		t.Errorf("the chat after an aborted one: got %v; want an answer", err)
	}
}
