package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// TestRemoteModelNeedsNoTurn: the shared Ollama plays the cloud that Ollama of the
// test's own passes a model's requests on to.
func TestRemoteModelNeedsNoTurn(t *testing.T) {
	t.Parallel()
	own := startOllama(t, "OLLAMA_NO_CLOUD=false", "OLLAMA_REMOTES=127.0.0.1")
	if err := own.AddCloudModel("tiny-cloud", ollama.URL, lab.ChatModel); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, own.URL)
	leave := chatWithoutEnd(t, foreman.URL)
	answer := post(t, foreman.URL+"/api/chat", `{"model":"tiny-cloud","stream":false,"messages":[{"role":"user","content":"Who are you?"}]}`)
	if answer.StatusCode != http.StatusOK || !strings.Contains(answer.body, `"remote_model":"tiny-chat"`) || !strings.Contains(answer.body, `"done":true`) {
		t.Errorf("got %d %s; want an answer of another host", answer.StatusCode, answer.body)
	}
	if log := foreman.Log(); !strings.Contains(log, `model=tiny-cloud:latest queue_ms=0 ungated="remote model"`) {
		t.Error("the log does not say that it needed no turn")
	}
	page := get(t, foreman.URL+"/status").body
	if !strings.Contains(page, `<span class="tag">remote model</span>`) || !strings.Contains(page, `<code>tiny-cloud:latest</code>`) || !strings.Contains(page, `<span class="tag">remote</span>`) {
		t.Errorf("the page does not mark the request, or the model:\n%s", page)
	}
	if got := get(t, foreman.URL+"/healthz").body; !strings.Contains(got, `"running":1,"waiting":0`) {
		t.Errorf("got %s; want the other chat to have its turn", got)
	}
	leave()
}

// TestUnloadNeedsNoTurn: a model can be unloaded while a chat runs, as ollama stop does.
func TestUnloadNeedsNoTurn(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=")
	client := newClient(t, foreman.URL, "")
	if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: lab.EmbedModel, Input: "one"}); err != nil {
		t.Fatal(err)
	}
	leave := chatWithoutEnd(t, foreman.URL)
	for _, ask := range []struct{ path, body string }{
		{"/api/generate", `{"model":"tiny-embed","keep_alive":0}`},
		{"/api/chat", `{"model":"tiny-embed","messages":[],"keep_alive":"0s"}`},
	} {
		if answer := post(t, foreman.URL+ask.path, ask.body); !strings.Contains(answer.body, `"done_reason":"unload"`) {
			t.Errorf("%s: got %d %s; want it unloaded", ask.body, answer.StatusCode, answer.body)
		}
	}
	eventually(t, func() error {
		if resident(t.Context(), own.Client, lab.EmbedModel) == nil {
			return fmt.Errorf("%s is still resident", lab.EmbedModel)
		}
		return resident(t.Context(), own.Client, lab.ChatModel)
	})
	leave()
}

// TestNames asks for a model in the ways that Ollama understands, and for models of
// its cloud, which foreman refuses: they would run on the account of its owner.
func TestNames(t *testing.T) {
	meter := startMeter(t, nil)
	foreman := startForeman(t, meter.URL, "FOREMAN_EMBED_MODEL=")
	ask := func(name string) answer {
		return post(t, foreman.URL+"/api/chat", fmt.Sprintf(`{"model":%q,"stream":false,"messages":[{"role":"user","content":"hello"}]}`, name))
	}
	for _, name := range []string{"tiny-chat", " tiny-chat\t", "tiny-chat:local", "Tiny-Chat:latest:LOCAL", "library/tiny-chat"} {
		if got := ask(name); got.StatusCode != http.StatusOK {
			t.Errorf("%q: got %d %s; want 200", name, got.StatusCode, got.body)
		}
	}
	passed := meter.Total("/api/chat")
	for _, name := range []string{"tiny-chat:cloud", "tiny-chat:7b-cloud", "gpt-oss:120b-cloud", " tiny-chat: CLOUD "} {
		if got := ask(name); got.StatusCode != http.StatusNotFound || !strings.Contains(got.body, "not found: a cloud model would run on the account") {
			t.Errorf("%q: got %d %s; want 404 that says why", name, got.StatusCode, got.body)
		}
	}
	// Under /v1/ Ollama looks for cloud models in the field that is spelt model, and then
	// answers with the last one, however it is spelt.
	if got := post(t, foreman.URL+"/v1/chat/completions", `{"model":"tiny-chat:cloud","Model":"tiny-chat","messages":[{"role":"user","content":"hello"}]}`); got.StatusCode != http.StatusBadRequest {
		t.Errorf("a cloud model beside another: got %d %s; want 400", got.StatusCode, got.body)
	}
	if got := meter.Total("/api/chat") + meter.Total("/v1/chat/completions"); got != passed {
		t.Errorf("%d requests for cloud models reached Ollama", got-passed)
	}
}

// TestTranscriptionThroughForeman compares what Ollama and foreman answer to a form.
func TestTranscriptionThroughForeman(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	if err := own.AddEarModel("tiny-ear"); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=")
	const (
		head  = "--b0undary\r\nContent-Disposition: form-data; name="
		file  = head + "\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00\r\n"
		end   = "--b0undary--\r\n"
		model = head + "\"model\"\r\n\r\n"
	)
	ask := func(base, body string) answer {
		resp, err := http.Post(base+"/v1/audio/transcriptions", "multipart/form-data; boundary=b0undary", strings.NewReader(body))
		return read(t, resp, err)
	}
	for name, body := range map[string]string{
		"model last":     file + model + "tiny-ear\r\n" + end,
		"model first":    model + "tiny-ear\r\n" + file + head + "\"response_format\"\r\n\r\ntext\r\n" + end,
		"cannot hear":    file + model + "tiny-chat\r\n" + end,
		"no file":        model + "tiny-ear\r\n" + end,
		"file behind 1M": head + "\"prompt\"\r\n\r\n" + strings.Repeat("x", 1<<20) + "\r\n" + file + model + "tiny-ear\r\n" + end,
	} {
		want, got := ask(own.URL, body), ask(foreman.URL, body)
		if got.StatusCode != want.StatusCode || got.body != want.body || !slices.Equal(got.Header["Content-Type"], want.Header["Content-Type"]) {
			t.Errorf("%s: got %d %s %s; want %d %s %s", name, got.StatusCode, got.Header["Content-Type"], got.body, want.StatusCode, want.Header["Content-Type"], want.body)
		}
		if got.Header.Get("Server-Timing") == "" {
			t.Errorf("%s: it had no turn", name)
		}
		t.Logf("%s: %d %.200s", name, got.StatusCode, got.body)
	}
	if got := ask(foreman.URL, file+model+"absent\r\n"+end); got.StatusCode != http.StatusNotFound || !strings.Contains(got.body, `"message":"model 'absent' not found"`) {
		t.Errorf("an unknown model: got %d %s; want 404", got.StatusCode, got.body)
	}
}
