package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"foreman/e2e/lab"
)

// needStandIn skips the test where the Ollama is one that multiplies.
func needStandIn(t *testing.T) {
	t.Helper()
	if !standIn {
		leaveOut(t, "the stand-in for llama-server has a pace that a test can set: unset FOREMAN_E2E_OLLAMA")
	}
}

// TestLabModels looks at what the lab's models say of themselves.
func TestLabModels(t *testing.T) {
	for _, name := range []string{lab.ChatModel, lab.EmbedModel} {
		shown, err := ollama.Client.Show(t.Context(), &api.ShowRequest{Model: name, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		if want := []model.Capability{model.CapabilityCompletion}; !slices.Equal(shown.Capabilities, want) {
			t.Errorf("%s: capabilities: got %q; want %q", name, shown.Capabilities, want)
		}
		for key, want := range map[string]float64{"llama.context_length": 2048, "llama.embedding_length": 64, "general.parameter_count": 124352} {
			if got := shown.ModelInfo[key]; got != want {
				t.Errorf("%s: %s: got %v; want %v", name, key, got, want)
			}
		}
		up := slices.IndexFunc(shown.Tensors, func(tensor api.Tensor) bool { return tensor.Name == "blk.0.ffn_up.weight" })
		if up < 0 || !slices.Equal(shown.Tensors[up].Shape, []uint64{64, 128}) {
			t.Errorf("%s: tensors: got %+v; want blk.0.ffn_up.weight among them, in rows of 64", name, shown.Tensors)
		}
	}
}

// TestStandInPace has an Ollama whose loads, prompts and words take long enough to
// be seen, each in its turn.
func TestStandInPace(t *testing.T) {
	t.Parallel()
	needStandIn(t)
	pace := lab.Pace{Load: time.Second, Prompt: 500 * time.Millisecond, Rate: 50}
	own := startOllama(t, pace.Env()...)
	var last api.ChatResponse
	words := 0
	begin := time.Now()
	err := own.Client.Chat(t.Context(), &api.ChatRequest{
		Model:    lab.ChatModel,
		Messages: []api.Message{{Role: "user", Content: "hello"}},
		Options:  map[string]any{"num_predict": 26},
	}, func(r api.ChatResponse) error {
		if !r.Done {
			words++
		}
		last = r
		return nil
	})
	took := time.Since(begin)
	if err != nil || words != 26 || last.EvalCount != 26 || last.DoneReason != "length" {
		t.Errorf("got %d words, %+v, %v; want 26 and done for their number", words, last, err)
	}
	for what, times := range map[string]struct{ got, least time.Duration }{
		"load":   {last.LoadDuration, pace.Load},
		"prompt": {last.PromptEvalDuration, pace.Prompt},
		"words":  {last.EvalDuration, 500 * time.Millisecond},
		"all":    {took, 2 * time.Second},
	} {
		if times.got < times.least {
			t.Errorf("%s took %v; want %v or more", what, times.got, times.least)
		}
	}
}

// TestStandInCrash has llama-server end in the middle of an answer. Ollama says so,
// and the next request starts another one.
func TestStandInCrash(t *testing.T) {
	t.Parallel()
	needStandIn(t)
	own := startOllama(t, "STANDIN_CRASH=20")
	chat := func(words int) string {
		return post(t, own.URL+"/api/chat", fmt.Sprintf(
			`{"model":"tiny-chat","options":{"num_predict":%d},"messages":[{"role":"user","content":"hello"}]}`, words)).body
	}
	for range 2 {
		if got := chat(30); !tellsError(got) || strings.Count(got, "\n") < 10 {
			t.Errorf("got %s; want some words and an error", got)
		}
		if got := chat(10); !wholeNative(got) {
			t.Errorf("after the crash: got %s; want a whole answer", got)
		}
	}
}

// TestCloudModel asks for a model that runs elsewhere, which is a server of the
// test's here.
func TestCloudModel(t *testing.T) {
	t.Parallel()
	asked := ""
	cloud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.URL.Path + " " + string(body)
		io.WriteString(w, `{"model":"huge","message":{"role":"assistant","content":"from afar"},"done":true}`+"\n")
	}))
	t.Cleanup(cloud.Close)
	own := startOllama(t, "OLLAMA_NO_CLOUD=false", "OLLAMA_REMOTES=127.0.0.1")
	if err := own.AddCloudModel("tiny-cloud", cloud.URL, "huge"); err != nil {
		t.Fatal(err)
	}
	var list struct{ Models []map[string]any }
	if err := json.Unmarshal([]byte(get(t, own.URL+"/api/tags").body), &list); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, m := range list.Models {
		found = found || m["name"] == "tiny-cloud:latest" && m["remote_host"] == cloud.URL && m["remote_model"] == "huge"
	}
	if !found || len(list.Models) != 3 {
		t.Errorf("list: got %v; want the lab's models and tiny-cloud with its host", list.Models)
	}
	said, err := chat(t.Context(), own.Client, "tiny-cloud", false)
	if err != nil || len(said) != 1 || said[0].Message.Content != "from afar" {
		t.Errorf("chat: got %+v, %v; want what the other server says", said, err)
	}
	if !strings.HasPrefix(asked, "/api/chat ") || !strings.Contains(asked, `"huge"`) {
		t.Errorf("the other server was asked %q; want a chat with huge", asked)
	}
}

// TestTranscription sends a sound to Ollama itself.
func TestTranscription(t *testing.T) {
	t.Parallel()
	needStandIn(t) // which hears nothing, but answers
	own := startOllama(t)
	if err := own.AddEarModel("tiny-ear"); err != nil {
		t.Fatal(err)
	}
	shown, err := own.Client.Show(t.Context(), &api.ShowRequest{Model: "tiny-ear"})
	if err != nil || !slices.Contains(shown.Capabilities, model.CapabilityAudio) {
		t.Errorf("show: got %+v, %v; want a model that can hear", shown, err)
	}
	got := postSound(t, own.URL, "tiny-ear")
	var heard struct{ Text string }
	if err := json.Unmarshal([]byte(got.body), &heard); err != nil || got.StatusCode != http.StatusOK || len(strings.Fields(heard.Text)) != 32 {
		t.Errorf("got %d %s; want 32 words", got.StatusCode, got.body)
	}
}

// postSound posts a second of silence to be transcribed.
func postSound(t *testing.T, base, model string) answer {
	t.Helper()
	const rate = 8000
	sound := []byte("RIFF\x24\x1f\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00data\x40\x1f\x00\x00")
	sound = append(sound, bytes.Repeat([]byte{128}, rate)...)
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if err := form.WriteField("model", model); err != nil {
		t.Fatal(err)
	}
	file, err := form.CreateFormFile("file", "silence.wav")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(sound); err != nil {
		t.Fatal(err)
	}
	if err := form.Close(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(base+"/v1/audio/transcriptions", form.FormDataContentType(), &body)
	return read(t, resp, err)
}
