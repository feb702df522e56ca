package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"foreman/e2e/lab"
)

// TestModelsOfAClient: to the official clients of somebody who may ask for the embedder
// alone, the other model is not there; somebody else has both.
func TestModelsOfAClient(t *testing.T) {
	t.Parallel()
	meter := startMeter(t, nil)
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("guest sesame-guest models=tiny-e*\nowner sesame-owner\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, meter.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_MANAGE=true")
	eventually(t, func() error { // the list is read behind the first poll
		resp, err := withToken("sesame-guest").Get(foreman.URL + "/v1/models")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		return err
	})
	ctx, stream := t.Context(), false
	for who, models := range map[string]int{"guest": 1, "owner": 2} {
		client := newClient(t, foreman.URL, "sesame-"+who)
		official := openai.NewClient(option.WithBaseURL(foreman.URL+"/v1"), option.WithAPIKey("sesame-"+who), option.WithMaxRetries(0))
		if _, err := client.Embed(ctx, &api.EmbedRequest{Model: "Tiny-Embed", Input: "one"}); err != nil {
			t.Errorf("%s: embed: %v", who, err)
		}
		list, err := client.List(ctx)
		if err != nil || len(list.Models) != models {
			t.Errorf("%s: list: %v, %v; want %d models", who, list, err, models)
		}
		page, err := official.Models.List(ctx)
		if err != nil || len(page.Data) != models {
			t.Errorf("%s: OpenAI's list: %v, %v; want %d models", who, page, err, models)
		}
		if _, err := official.Models.Get(ctx, lab.EmbedModel); err != nil {
			t.Errorf("%s: OpenAI's model: %v", who, err)
		}
		running, err := client.ListRunning(ctx)
		if err != nil || who == "guest" && len(running.Models) > 1 {
			t.Errorf("%s: running: %v, %v", who, running, err)
		}
		chats := meter.Total("/api/chat")
		for what, ask := range map[string]func() error{
			"chat": func() error {
				return client.Chat(ctx, &api.ChatRequest{Model: lab.ChatModel, Stream: &stream, Messages: []api.Message{{Role: "user", Content: "hello"}}}, func(api.ChatResponse) error { return nil })
			},
			"show": func() error { _, err := client.Show(ctx, &api.ShowRequest{Model: "library/Tiny-Chat"}); return err },
			"embed": func() error {
				_, err := client.Embed(ctx, &api.EmbedRequest{Model: lab.ChatModel + ":latest", Input: "one"})
				return err
			},
			"OpenAI's model": func() error { _, err := official.Models.Get(ctx, lab.ChatModel); return err },
		} {
			err := ask()
			if who == "owner" {
				if err != nil {
					t.Errorf("owner: %s: %v", what, err)
				}
				continue
			}
			native, openAI := new(api.StatusError), new(openai.Error)
			if !(errors.As(err, native) && native.StatusCode == http.StatusNotFound || errors.As(err, &openAI) && openAI.StatusCode == http.StatusNotFound && openAI.Code == "model_not_found") {
				t.Errorf("guest: %s: %v; want 404", what, err)
			}
		}
		if got := meter.Total("/api/chat") - chats; got != models-1 {
			t.Errorf("%s: %d chats came to Ollama; want %d", who, got, models-1)
		}
		if err := client.Copy(ctx, &api.CopyRequest{Source: lab.EmbedModel, Destination: "x"}); who == "guest" && err == nil {
			t.Error("guest: copied a model")
		} else if who == "owner" && (err != nil || ollama.Client.Delete(ctx, &api.DeleteRequest{Model: "x"}) != nil) {
			t.Errorf("owner: copy: %v", err)
		}
	}
}
