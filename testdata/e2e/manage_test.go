package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// startOllama starts an Ollama of the test's own, which it may change or stop. More
// environment, or another value for a variable, goes in env.
func startOllama(t *testing.T, env ...string) *lab.Ollama {
	t.Helper()
	o, err := lab.StartOllama(t.Context(), ollamaBinary, t.TempDir(), append(testPace.Env(), env...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Kill)
	return o
}

// TestManage changes what Ollama holds with its own Go client. The polls are an
// hour apart: who asks right after a change is told of it all the same.
func TestManage(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_MANAGE=true", "FOREMAN_EMBED_MODEL=", "FOREMAN_POLL_INTERVAL=1h")
	client := newClient(t, foreman.URL, "")
	want := []string{lab.ChatModel + ":latest", lab.EmbedModel + ":latest"}
	holds := func(when string, more ...string) {
		t.Helper()
		list, err := client.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range list.Models {
			names = append(names, m.Name)
		}
		slices.Sort(names)
		want := slices.Sorted(slices.Values(append(more, want...)))
		if !slices.Equal(names, want) {
			t.Errorf("list right after %s: got %q; want %q", when, names, want)
		}
	}
	holds("the start")

	for range 10 { // it would be a race
		if err := client.Copy(t.Context(), &api.CopyRequest{Source: lab.ChatModel, Destination: "throw-away"}); err != nil {
			t.Fatal(err)
		}
		holds("copy", "throw-away:latest")
		if err := client.Delete(t.Context(), &api.DeleteRequest{Model: "throw-away"}); err != nil {
			t.Fatal(err)
		}
		holds("delete")
	}

	name := strings.TrimPrefix(startRegistry(t, own), "http://") + "/lab/pulled:latest"
	var progress []string
	err := client.Pull(t.Context(), &api.PullRequest{Model: "http://" + name, Insecure: true}, func(p api.ProgressResponse) error {
		progress = append(progress, p.Status)
		return nil
	})
	if err != nil || len(progress) < 3 || progress[len(progress)-1] != "success" {
		t.Fatalf("pull: got %q, %v; want its progress", progress, err)
	}
	t.Logf("pull: %q", progress)
	holds("pull", name)
	if said, err := chat(t.Context(), client, name, false); err != nil || said[0].Message.Content == "" {
		t.Errorf("chat with what was pulled: got %+v, %v; want text", said, err)
	}
}

// startRegistry starts a registry to pull from, with one model in it: another
// Ollama's chat model.
func startRegistry(t *testing.T, from *lab.Ollama) (url string) {
	t.Helper()
	models := from.Models()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/lab/pulled/manifests/latest", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(models, "manifests/registry.ollama.ai/library", lab.ChatModel, "latest"))
	})
	mux.HandleFunc("GET /v2/lab/pulled/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(models, "blobs", strings.Replace(r.PathValue("digest"), ":", "-", 1)))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	if _, err := os.Stat(models); err != nil {
		t.Fatal(fmt.Errorf("the registry's files: %w", err))
	}
	return server.URL
}
