package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// TestHostIsSlow has an Ollama take long to tell its models, as with a slow disk, and
// a chat waits long for its first word meanwhile.
func TestHostIsSlow(t *testing.T) {
	needStandIn(t)
	for _, takes := range []time.Duration{4500 * time.Millisecond, 6 * time.Second, 40 * time.Second} {
		t.Run(takes.String(), func(t *testing.T) {
			t.Parallel()
			own := startOllama(t, lab.Pace{Prompt: 25 * time.Second, Rate: 500}.Env()...)
			front, delay := slowFront(t, own.URL)
			foreman := startForeman(t, front, "FOREMAN_EMBED_MODEL=", "FOREMAN_POLL_INTERVAL=2s")
			delay.Store(int64(takes))
			eventually(t, func() error { return wantHealth(foreman.URL, "slow", "") })
			client := newClient(t, foreman.URL, "")
			var all sync.WaitGroup
			all.Go(func() {
				if said, err := chat(t.Context(), client, lab.ChatModel, true); err != nil || !said[len(said)-1].Done {
					t.Errorf("chat: got %+v, %v; want a whole answer", said, err)
				}
			})
			all.Go(func() {
				if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: lab.EmbedModel, Input: "one"}); err != nil {
					t.Errorf("embed: %v", err)
				}
			})
			all.Wait()
			if err := wantStatus(foreman.URL+"/readyz", http.StatusOK); err != nil {
				t.Error(err)
			}
			if log := foreman.Log(); strings.Contains(log, "degraded") || strings.Count(log, "target slow to tell its models") != 1 {
				t.Error("want it slow in the log, once, and never degraded")
			}
			delay.Store(0)
			eventually(t, func() error { return wantHealth(foreman.URL, "ok", "") })
		})
	}
}

// slowFront starts a front that passes all to an Ollama, and holds the answers to
// /api/tags up by a delay in nanoseconds.
func slowFront(t *testing.T, target string) (base string, delay *atomic.Int64) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	delay = new(atomic.Int64)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, FlushInterval: -1}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/tags" {
			select {
			case <-time.After(time.Duration(delay.Load())):
			case <-r.Context().Done():
				return
			}
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, delay
}

// TestHostIsStopped stops an Ollama whose kernel takes connections on, in the middle of an
// answer: the next chat has its turn, and its 503, within 50 s.
func TestHostIsStopped(t *testing.T) {
	needStandIn(t)
	t.Parallel()
	own := startOllama(t, lab.Pace{Rate: 20}.Env()...)
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=")
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"hello"}],"options":{"num_predict":2000}}`, lab.ChatModel)
	resp, err := http.Post(foreman.URL+"/api/chat", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan()
	own.Sleep()
	t.Cleanup(own.Wake)
	began := time.Now()
	for lines.Scan() {
	}
	took := time.Since(began)
	t.Logf("cut after %v: %v", took, lines.Err())
	if lines.Err() == nil || took > time.Minute { // on a busy machine
		t.Errorf("ended after %v with %v; want it cut within 50s", took, lines.Err())
	}
	if got := post(t, foreman.URL+"/api/chat", body); got.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("next chat: got %d %s; want 503", got.StatusCode, got.body)
	}
	own.Wake()
	eventually(t, func() error { return wantHealth(foreman.URL, "ok", "") })
}
