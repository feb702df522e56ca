package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// TestAffinity counts how often an Ollama with room for one model loads one while
// it answers twenty chats that alternate between two. All of them stand in line
// before the first is answered.
func TestAffinity(t *testing.T) {
	t.Parallel()
	const chats = 20
	models := []string{lab.ChatModel, lab.EmbedModel}
	asItCame := make([]string, chats)
	for i := range asItCame {
		asItCame[i] = models[i%2]
	}
	together := slices.Sorted(slices.Values(asItCame)) // tiny-chat first
	for _, tt := range []struct {
		name  string
		env   []string
		order []string
		loads int
	}{
		{"1m", []string{"FOREMAN_AFFINITY=1m"}, together, 2}, // auto may be 20s, and this machine slow
		{"0", []string{"FOREMAN_AFFINITY=0"}, asItCame, chats},
	} {
		t.Run(tt.name, func(t *testing.T) {
			own := startOllama(t, "OLLAMA_MAX_LOADED_MODELS=1")
			var (
				mu    sync.Mutex
				order []string // of the chats at Ollama, by model
			)
			ready := make(chan struct{})
			meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
				if r.URL.Path != "/api/chat" {
					return
				}
				mu.Lock()
				order = append(order, r.Header.Get("X-Request-Id"))
				mu.Unlock()
				select {
				case <-ready:
				case <-r.Context().Done():
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(meter.Close)
			foreman := startForeman(t, meter.URL, append(tt.env, "FOREMAN_EMBED_MODEL=")...)

			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			var all sync.WaitGroup
			for i, model := range asItCame {
				all.Go(func() {
					if err := chatAs(ctx, foreman.URL, model); err != nil {
						t.Errorf("chat %d: %v", i, err)
					}
				})
				eventually(t, func() error { return wantLine(foreman.URL, i) })
			}
			before := loads(own)
			close(ready)
			all.Wait()

			if !slices.Equal(order, tt.order) {
				t.Errorf("order at Ollama: got %q; want %q", order, tt.order)
			}
			if got := loads(own) - before; got != tt.loads {
				t.Errorf("loads: got %d; want %d", got, tt.loads)
			}
			t.Logf("%d chats alternating between two models: %d loads", chats, loads(own)-before)
		})
	}
}

// TestOneSlot has a chat run for a while at an Ollama with room for one model: what
// foreman says of it, it says once.
func TestOneSlot(t *testing.T) {
	t.Parallel()
	own := startOllama(t, "OLLAMA_MAX_LOADED_MODELS=1")
	foreman := startForeman(t, own.URL)
	const warning = "only one model resident while a chat runs"
	chat := lineUp(t, foreman.URL, "", 0)[0]
	eventually(t, func() error {
		if !strings.Contains(foreman.Log(), warning) {
			return fmt.Errorf("the log does not say %q", warning)
		}
		return nil
	})
	polls := func() float64 {
		all, err := metricsOf(foreman.URL)
		if err != nil {
			t.Fatal(err)
		}
		return all[`foreman_polls_total{result="ok"}`]
	}
	before := polls()
	eventually(t, func() error {
		if n := polls() - before; n < 3 {
			return fmt.Errorf("%v polls since", n)
		}
		return nil
	})
	chat.leave()
	if n := strings.Count(foreman.Log(), warning); n != 1 {
		t.Errorf("the warning stands %d times in the log; want once", n)
	}
}

// chatAs chats with a model and gives the request the model's name, for who sees
// it at Ollama.
func chatAs(ctx context.Context, base, model string) error {
	r, err := http.NewRequestWithContext(ctx, "POST", base+"/api/chat", strings.NewReader(
		fmt.Sprintf(`{"model":%q,"stream":false,"messages":[{"role":"user","content":"hello"}]}`, model)))
	if err != nil {
		return err
	}
	r.Header.Set("X-Request-Id", model)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s; want 200", resp.Status)
	}
	return nil
}

// wantLine returns an error unless a chat has its turn and so many wait.
func wantLine(base string, waiting int) error {
	all, err := metricsOf(base)
	if err != nil {
		return err
	}
	if all["foreman_chats_in_flight"] != 1 || all["foreman_queue_depth"] != float64(waiting) {
		return fmt.Errorf("in flight %v, waiting %v; want 1, %d",
			all["foreman_chats_in_flight"], all["foreman_queue_depth"], waiting)
	}
	return nil
}

// loads returns how many times Ollama has loaded a model.
func loads(o *lab.Ollama) int { return strings.Count(o.Log(), `msg="loaded runners"`) }
