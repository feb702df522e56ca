package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// TestEmbedStorm has a storm of 200 embeddings while a chat streams and somebody asks for an
// embedding now and then, without FOREMAN_EMBEDS and with 4. With it no more than these are
// at Ollama at once, and a query waits for few of the others. What becomes of the chat's
// words it only tells: that depends on the machine.
func TestEmbedStorm(t *testing.T) {
	t.Parallel()
	const storm, queries = 200, 5
	for _, limit := range []int{0, 4} {
		t.Run(fmt.Sprint("FOREMAN_EMBEDS=", limit), func(t *testing.T) {
			var (
				mu    sync.Mutex
				began []string // who had the embeddings at Ollama, in order
			)
			own := startOllama(t)
			meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
				if who, _, ok := strings.Cut(r.Header.Get("X-Request-Id"), "-"); ok && r.URL.Path == "/api/embed" {
					mu.Lock()
					defer mu.Unlock()
					began = append(began, who)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(meter.Close)
			file := filepath.Join(t.TempDir(), "tokens")
			if err := os.WriteFile(file, []byte("ingestion sesame-ingestion\nperson sesame-person\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			foreman := startForeman(t, meter.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_EMBED_MODEL=", fmt.Sprint("FOREMAN_EMBEDS=", limit))
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			embed := func(who string, n int) {
				header := http.Header{"Authorization": {"Bearer sesame-" + who}, "X-Request-Id": {fmt.Sprint(who, "-", n)}} // which tells the meter who asks
				_, err := newClientWith(t, foreman.URL, header).Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: strings.Repeat(fmt.Sprint(n, " and so on "), 4)})
				if err != nil {
					t.Errorf("%s: %v", who, err)
				}
			}
			words, leave := countWords(t, foreman.URL)
			embed("person", 0) // loads the model
			rate := func(do func()) float64 {
				before, at := words(), time.Now()
				do()
				return float64(words()-before) / time.Since(at).Seconds()
			}
			alone := rate(func() { time.Sleep(3 * time.Second) })
			longest, most := time.Duration(0), 0
			var took time.Duration
			inStorm := rate(func() {
				at := time.Now()
				var all sync.WaitGroup
				for i := range storm {
					all.Go(func() { embed("ingestion", i) })
				}
				eventually(t, func() error {
					if open := meter.Open("/api/embed"); open < max(limit, 1) {
						return fmt.Errorf("%d embeddings are at Ollama", open)
					}
					return nil
				})
				for i := range queries {
					mu.Lock()
					before := len(began)
					mu.Unlock()
					asked := time.Now()
					embed("person", i)
					longest = max(longest, time.Since(asked))
					mu.Lock()
					if at := slices.Index(began[before:], "person"); at >= 0 {
						most = max(most, at)
					} else {
						t.Error("the query has not come to Ollama")
					}
					mu.Unlock()
				}
				all.Wait()
				took = time.Since(at)
			})
			leave()
			if got := meter.Most("/api/embed"); limit > 0 && (got != limit || most > storm/4) { // also while queries were on their way
				t.Errorf("%d embeddings at Ollama at once, %d of the storm before a query of somebody else; want %d, and few", got, most, limit)
			}
			t.Logf("words a second: %.0f alone, %.0f in the storm of %v; at Ollama at once %d; the longest of %d queries %v, with %d of the storm before it",
				alone, inStorm, took.Round(time.Millisecond), meter.Most("/api/embed"), queries, longest.Round(time.Millisecond), most)
		})
	}
}

// countWords has a chat go on, as somebody with a token, until leave is called, and counts
// its words.
func countWords(t *testing.T, base string) (words func() int64, leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/chat", strings.NewReader(
		`{"model":"tiny-chat","messages":[{"role":"user","content":"Tell me all."}],"options":{"num_predict":80000}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := withToken("sesame-person").Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("chat: %v, %v", resp, err)
	}
	var n atomic.Int64
	var reading sync.WaitGroup
	reading.Go(func() {
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			n.Add(1)
		}
		if ctx.Err() == nil {
			t.Error("the chat has ended")
		}
	})
	return n.Load, func() { cancel(); reading.Wait() }
}
