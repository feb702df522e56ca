package main

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"foreman/e2e/lab"
)

// What differs from one answer of Ollama to the next: times and durations.
var varies = regexp.MustCompile(`("(?:created_at|modified_at|expires_at|\w+_duration)":)("[^"]*"|\d+)`)

// TestSameAsDirect holds foreman's answers against Ollama's own, byte for byte
// but for the times in them.
func TestSameAsDirect(t *testing.T) {
	foreman := startForeman(t, ollama.URL)
	const messages = `"messages":[{"role":"user","content":"Who are you?"}]`
	tests := []struct{ name, path, body string }{
		{"chat", "/api/chat", `{"model":"tiny-chat","stream":false,` + messages + `}`},
		{"chat streaming", "/api/chat", `{"model":"tiny-chat",` + messages + `}`},
		{"chat with options", "/api/chat", `{"model":"tiny-chat","options":{"num_predict":100,"temperature":2,"seed":7},` + messages + `}`},
		{"chat by full name", "/api/chat", `{"model":"Tiny-Chat:latest","stream":false,` + messages + `}`},
		{"chat with the embedder", "/api/chat", `{"model":"tiny-embed","stream":false,` + messages + `}`},
		{"chat without messages", "/api/chat", `{"model":"tiny-chat"}`},
		{"embed", "/api/embed", `{"model":"tiny-embed","input":"one"}`},
		{"embeddings", "/api/embeddings", `{"model":"tiny-embed","prompt":"one"}`},
		{"embed unknown", "/api/embed", `{"model":"absent","input":"one"}`},
		{"tags", "/api/tags", ""},
		{"ps", "/api/ps", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ask := func(base string) answer {
				if tt.body == "" {
					return get(t, base+tt.path)
				}
				return post(t, base+tt.path, tt.body)
			}
			direct, through := ask(ollama.URL), ask(foreman.URL)
			if through.StatusCode != direct.StatusCode {
				t.Errorf("status: got %d; want %d", through.StatusCode, direct.StatusCode)
			}
			got, want := varies.ReplaceAllString(through.body, "$1*"), varies.ReplaceAllString(direct.body, "$1*")
			if got != want {
				t.Errorf("body: got\n%s; want\n%s", got, want)
			}
			if !slices.Equal(through.TransferEncoding, direct.TransferEncoding) {
				t.Errorf("transfer encoding: got %q; want %q", through.TransferEncoding, direct.TransferEncoding)
			}
			for name, want := range direct.Header {
				if got := through.Header[name]; name != "Date" && name != "Content-Length" && !slices.Equal(got, want) {
					t.Errorf("%s: got %q; want %q", name, got, want)
				}
				through.Header.Del(name)
			}
			t.Logf("%d, %d bytes, %d lines; headers of foreman's own: %v",
				through.StatusCode, len(through.body), strings.Count(through.body, "\n"), through.Header)
		})
	}
}

func TestUnknownModel(t *testing.T) {
	meter := startMeter(t, nil)
	foreman := startForeman(t, meter.URL)
	got := post(t, foreman.URL+"/api/chat", `{"model":"absent","messages":[{"role":"user","content":"hello"}]}`)
	if want := `{"error":"model 'absent' not found"}`; got.StatusCode != http.StatusNotFound || strings.TrimSpace(got.body) != want {
		t.Errorf("got %d %s; want 404 %s", got.StatusCode, got.body, want)
	}
	if n := meter.Total("/api/chat"); n != 0 {
		t.Errorf("Ollama saw %d chats; want none", n)
	}
}

// TestReadFromInventory reads what Ollama holds through its own client.
func TestReadFromInventory(t *testing.T) {
	foreman := startForeman(t, ollama.URL)
	client := newClient(t, foreman.URL, "")
	list, err := client.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range list.Models {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	if want := []string{lab.ChatModel + ":latest", lab.EmbedModel + ":latest"}; !slices.Equal(names, want) {
		t.Errorf("tags: got %q; want %q", names, want)
	}
	if age := get(t, foreman.URL+"/api/tags").Header.Get("Age"); age == "" {
		t.Error("tags: got no Age; want the seconds since the last poll")
	}
	eventually(t, func() error { return resident(t.Context(), client, lab.EmbedModel) })
}
