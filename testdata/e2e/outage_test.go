package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"foreman/e2e/lab"
)

// TestOutage kills an Ollama of its own, runners and all, and starts it again.
func TestOutage(t *testing.T) {
	t.Parallel()
	const chat = `{"model":"tiny-chat","stream":false,"messages":[{"role":"user","content":"hello"}]}`
	ollama := startOllama(t)
	foreman := startForeman(t, ollama.URL)

	embedderResident := func() error { return resident(t.Context(), ollama.Client, lab.EmbedModel) }
	eventually(t, embedderResident)
	if got := post(t, foreman.URL+"/api/chat", chat); got.StatusCode != http.StatusOK {
		t.Fatalf("chat before the outage: got %d %s; want 200", got.StatusCode, got.body)
	}
	before := get(t, foreman.URL+"/api/tags")
	if err := wantHealth(foreman.URL, "ok", ""); err != nil {
		t.Error(err)
	}

	ollama.Kill()
	eventually(t, func() error { return wantHealth(foreman.URL, "degraded", "unreachable") })
	if err := wantStatus(foreman.URL+"/readyz", http.StatusServiceUnavailable); err != nil {
		t.Error(err)
	}
	during := get(t, foreman.URL+"/api/tags")
	if during.StatusCode != http.StatusOK || during.body != before.body {
		t.Errorf("tags: got %d %s; want the last known:\n%s", during.StatusCode, during.body, before.body)
	}
	if during.Header.Get("Age") == "" {
		t.Error("tags: got no Age")
	}
	for _, got := range []answer{
		post(t, foreman.URL+"/api/chat", chat),
		post(t, foreman.URL+"/api/chat", strings.Replace(chat, "tiny-chat", "absent", 1)),
		post(t, foreman.URL+"/api/embed", `{"model":"tiny-embed","input":"hello"}`),
		get(t, foreman.URL+"/api/ps"),
	} {
		if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
			t.Errorf("%s: got %d, Retry-After %q; want 503 with Retry-After",
				got.Request.URL.Path, got.StatusCode, got.Header.Get("Retry-After"))
		}
		t.Logf("%s: %d %s", got.Request.URL.Path, got.StatusCode, strings.TrimSpace(got.body))
	}

	if err := ollama.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return wantHealth(foreman.URL, "ok", "") })
	if err := wantStatus(foreman.URL+"/readyz", http.StatusOK); err != nil {
		t.Error(err)
	}
	eventually(t, embedderResident)
	if got := post(t, foreman.URL+"/api/chat", chat); got.StatusCode != http.StatusOK {
		t.Errorf("chat after the outage: got %d %s; want 200", got.StatusCode, got.body)
	}
	t.Logf("foreman's log:\n%s", foreman.Log())
}

// wantHealth returns an error unless foreman is alive and says this of itself.
func wantHealth(base, status, reason string) error {
	resp, err := http.Get(base + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var got struct{ Status, Reason string }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || got.Status != status || got.Reason != reason {
		return fmt.Errorf("healthz: got %d %+v; want 200 %s %q", resp.StatusCode, got, status, reason)
	}
	return nil
}
