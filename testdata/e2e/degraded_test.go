package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"foreman/e2e/lab"
)

// TestLastKnown kills an Ollama of its own. What clients ask first, whether
// there is an Ollama and what it holds, is still answered as it last was, and at
// once: nobody is there whom an answer could wait for.
func TestLastKnown(t *testing.T) {
	t.Parallel()
	paths := []string{"/api/tags", "/v1/models", "/api/version"}
	own := startOllama(t)
	foreman := startForeman(t, own.URL)
	before := map[string]answer{}
	for _, path := range paths {
		before[path] = get(t, own.URL+path)
	}
	// What is to be told later is read behind a poll: before the next one it was.
	first := lastPoll(t, foreman.URL)
	eventually(t, func() error {
		if lastPoll(t, foreman.URL) == first {
			return errors.New("no second poll yet")
		}
		return nil
	})
	own.Kill()
	eventually(t, func() error { return wantHealth(foreman.URL, "degraded", "unreachable") })
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			got, want := get(t, foreman.URL+path), before[path]
			if got.StatusCode != http.StatusOK || got.body != want.body {
				t.Errorf("got %d %s; want 200 %s", got.StatusCode, got.body, want.body)
			}
			if got, want := got.Header.Get("Content-Type"), want.Header.Get("Content-Type"); got != want {
				t.Errorf("Content-Type: got %q; want %q", got, want)
			}
			if age, err := strconv.Atoi(got.Header.Get("Age")); err != nil || age < 0 {
				t.Errorf("Age: got %q; want seconds", got.Header.Get("Age"))
			}
		})
	}
	if got := get(t, foreman.URL+"/"); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("GET /: got %d %s; want 503, for Ollama is not running", got.StatusCode, got.body)
	}
	run := commandLine(t, foreman.URL)
	if got, err := run("list"); err != nil || !strings.Contains(got, lab.ChatModel+":latest") {
		t.Errorf("ollama list: got %q, %v; want the last known", got, err)
	}
	if got, err := run("run", lab.ChatModel, "hello"); err == nil || !strings.Contains(got, "the Ollama host is unreachable") {
		t.Errorf("ollama run: got %q, %v; want to be told what is wrong", got, err)
	}
	for _, client := range []struct {
		name string
		call func() error
	}{
		{"official list", func() error { _, err := newClient(t, foreman.URL, "").List(t.Context()); return err }},
		{"official version", func() error { _, err := newClient(t, foreman.URL, "").Version(t.Context()); return err }},
		{"openai models", func() error {
			client := newOpenAI(foreman.URL, "any")
			_, err := client.Models.List(t.Context())
			return err
		}},
	} {
		if err := client.call(); err != nil {
			t.Errorf("%s: got %v; want the last known", client.name, err)
		}
	}
}

// lastPoll returns when the last good poll was, as foreman tells it.
func lastPoll(t *testing.T, base string) string {
	t.Helper()
	var got struct {
		LastPoll string `json:"last_poll"`
	}
	if err := json.Unmarshal([]byte(get(t, base+"/healthz").body), &got); err != nil || got.LastPoll == "" {
		t.Fatalf("healthz: last_poll is %q, %v; want a time", got.LastPoll, err)
	}
	return got.LastPoll
}
