package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// TestPause has the owner of a real Ollama's machine pause while a chat runs: it ends, then
// nothing is resident, not even the embedder that foreman had pinned; a client that streams
// waits, and hears heartbeats; and an embedding is refused. When the owner resumes, all of
// them have what they want.
func TestPause(t *testing.T) {
	needStandIn(t)
	t.Parallel()
	own := startOllama(t, lab.Pace{Rate: 20}.Env()...)
	foreman := startForeman(t, own.URL, "FOREMAN_HEARTBEAT=100ms", "FOREMAN_POLL_INTERVAL=1h")
	eventually(t, func() error { return pinned(t.Context(), own.Client) })
	client := newClient(t, foreman.URL, "")
	ask := func(began func()) (words int, err error) {
		beats := 0
		err = client.Chat(t.Context(), &api.ChatRequest{
			Model: lab.ChatModel, Messages: []api.Message{{Role: "user", Content: "hello"}}, Options: map[string]any{"num_predict": 40},
		}, func(r api.ChatResponse) error {
			if r.Message.Content != "" {
				words++
			} else {
				beats++
			}
			if words > 0 || beats > 3 {
				began()
			}
			return nil
		})
		return words, err
	}
	begin := func() (heard <-chan struct{}, ended <-chan error) {
		first, last := make(chan struct{}, 1000), make(chan error, 1)
		go func() {
			words, err := ask(func() { first <- struct{}{} })
			if err == nil && words < 39 {
				err = fmt.Errorf("%d words; want 40", words)
			}
			last <- err
		}()
		return first, last
	}
	heard, running := begin()
	<-heard
	paused := time.Now()
	askStatus(t, foreman.URL, http.MethodPost, url.Values{"pause": {"on"}})
	heard, waiting := begin()
	<-heard // four heartbeats
	if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: lab.EmbedModel, Input: "one"}); err == nil ||
		!strings.Contains(err.Error(), "the Ollama host is paused until its owner resumes it") {
		t.Errorf("an embedding: got %v; want it refused for the pause", err)
	}
	if err := <-running; err != nil {
		t.Errorf("the chat that ran: %v", err)
	}
	ended := time.Now()
	empty := func() error { return wantEmpty(t.Context(), own.Client) }
	eventually(t, func() error { return errors.Join(empty(), wantUnloaded(t, foreman.URL)) })
	t.Logf("the chat ended %.2f s after the pause; nothing resident %.2f s after that", ended.Sub(paused).Seconds(), time.Since(ended).Seconds())
	for range 10 {
		<-heard
	}
	if err := empty(); err != nil {
		t.Errorf("while chats wait: %v", err)
	}
	resumed := time.Now()
	askStatus(t, foreman.URL, http.MethodPost, url.Values{"resume": {"1"}})
	if err := <-waiting; err != nil {
		t.Errorf("the chat that waited: %v", err)
	}
	eventually(t, func() error { return pinned(t.Context(), own.Client) })
	t.Logf("the chat that waited was answered, and the embedder resident again, %.2f s after", time.Since(resumed).Seconds())
	if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: lab.EmbedModel, Input: "one"}); err != nil {
		t.Errorf("an embedding after it all: %v", err)
	}

	chatWithoutEnd(t, foreman.URL)
	askStatus(t, foreman.URL, http.MethodPost, url.Values{"pause": {"1h"}, "now": {"1"}})
	eventually(t, func() error { return errors.Join(empty(), wantUnloaded(t, foreman.URL)) })
}

// wantEmpty returns an error unless nothing is resident.
func wantEmpty(ctx context.Context, client *api.Client) error {
	running, err := client.ListRunning(ctx)
	if err == nil && len(running.Models) > 0 {
		err = fmt.Errorf("resident are %+v; want none", running.Models)
	}
	return err
}

// wantUnloaded returns an error unless foreman is paused and says that nothing is resident.
func wantUnloaded(t *testing.T, base string) error {
	var status struct {
		Pause struct{ Unloaded bool }
	}
	if err := json.Unmarshal([]byte(askStatus(t, base, http.MethodGet, nil)), &status); err != nil {
		return err
	}
	if !status.Pause.Unloaded {
		return errors.New("the models are not unloaded, foreman says")
	}
	return nil
}
