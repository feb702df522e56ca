package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// TestEmbedderComesBack has an embedding with a third model evict the embedder while
// a chat runs. No poll is due for an hour: foreman looks because of the embedding.
func TestEmbedderComesBack(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	const third = "tiny-third"
	if err := own.AddEarModel(third); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, own.URL, "FOREMAN_POLL_INTERVAL=1h")
	client := newClient(t, foreman.URL, "")
	back := func() error { return resident(t.Context(), own.Client, lab.EmbedModel) }
	eventually(t, back)
	leave := chatWithoutEnd(t, foreman.URL)

	for warms := 2; warms <= 3; warms++ {
		if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: third, Input: "one"}); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		want := fmt.Sprintf(`foreman_warms_total{result="ok"} %d`, warms)
		eventually(t, func() error {
			if metrics := get(t, foreman.URL+"/metrics").body; !strings.Contains(metrics, want) {
				return fmt.Errorf("no %s", want)
			}
			return back()
		})
		t.Logf("the embedder is resident again %.2fs after the embedding with another model", time.Since(begin).Seconds())
	}
	if got := strings.Count(foreman.Log(), "OLLAMA_MAX_LOADED_MODELS=3"); got != 1 {
		t.Errorf("foreman warned %d times; want once", got)
	}
	if got := get(t, foreman.URL+"/healthz").body; !strings.Contains(got, `"running":1`) {
		t.Errorf("got %s; want the chat to have its turn all the while", got)
	}
	leave()
}

// TestKeepAliveOfAClient: the next poll undoes it. No pin is sent that changes nothing.
func TestKeepAliveOfAClient(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	var pins, polls atomic.Int64
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if r.Header.Get("User-Agent") != "foreman" {
			return
		}
		switch r.URL.Path {
		case "/api/embed":
			pins.Add(1)
		case "/api/ps":
			polls.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	foreman := startForeman(t, meter.URL)
	pinned := func() error { return pinned(t.Context(), own.Client) }
	eventually(t, pinned)
	wantPins := func(want int64) {
		t.Helper()
		until := polls.Load() + 5
		eventually(t, func() error {
			if got := polls.Load(); got < until {
				return fmt.Errorf("polled %d times; want %d", got, until)
			}
			return pinned()
		})
		if got := pins.Load(); got != want {
			t.Errorf("pinned %d times; want %d", got, want)
		}
	}
	wantPins(1)
	client := newClient(t, foreman.URL, "")
	for want := int64(2); want <= 3; want++ {
		if _, err := client.Embed(t.Context(), &api.EmbedRequest{
			Model: lab.EmbedModel, Input: "one", KeepAlive: &api.Duration{Duration: 5 * time.Second},
		}); err != nil {
			t.Fatal(err)
		}
		wantPins(want)
	}
}

// pinned returns an error unless the embedder is resident, and for good.
func pinned(ctx context.Context, client *api.Client) error {
	running, err := client.ListRunning(ctx)
	if err != nil {
		return err
	}
	for _, m := range running.Models {
		if m.Name == lab.EmbedModel+":latest" && m.ExpiresAt.Year() > 2200 {
			return nil
		}
	}
	return fmt.Errorf("resident are %+v; want the embedder, for good", running.Models)
}

// TestEmbedderOfAClientWithOptions: a client that asks for the embedder with a num_ctx of its
// own has it loaded once more, and not twice with each poll that pins it anew.
func TestEmbedderOfAClientWithOptions(t *testing.T) {
	needStandIn(t)
	t.Parallel()
	own := startOllama(t)
	client := newClient(t, startForeman(t, own.URL).URL, "")
	embed := func() {
		t.Helper()
		if _, err := client.Embed(t.Context(), &api.EmbedRequest{
			Model: lab.EmbedModel, Input: "one", KeepAlive: &api.Duration{Duration: 5 * time.Minute}, Options: map[string]any{"num_ctx": 256},
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return pinned(t.Context(), own.Client) }) // the client's keep_alive is undone
	}
	loads := func() int { return strings.Count(own.Log(), "starting llama-server") }
	eventually(t, func() error { return pinned(t.Context(), own.Client) })
	embed()
	embed() // a poll may have found the embedder away while the first had it loaded anew, and asked for it as before
	before := loads()
	for range 8 {
		embed()
	}
	if after := loads(); before < 2 || before > 4 || after != before {
		t.Errorf("loaded %d times, and %d times more for 8 embeddings that had another keep_alive; want 2 to 4, and none", before, after-before)
	}
}

// chatWithoutEnd has a chat run that ends when the client leaves, and returns a
// function that has it leave.
func chatWithoutEnd(t *testing.T, base string) (leave func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/chat", strings.NewReader(
		`{"model":"tiny-chat","messages":[{"role":"user","content":"Tell me all."}],"options":{"num_predict":80000}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"done":false`) {
		t.Fatalf("got %q, %v; want the first line of a chat", line, err)
	}
	return cancel
}
