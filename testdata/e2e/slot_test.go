package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// startMeter starts a meter in front of the shared Ollama for one test.
func startMeter(t *testing.T, hold func(*http.Request)) *lab.Meter {
	t.Helper()
	m, err := lab.NewMeter(ollama.URL, hold)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// A barrier lets nobody pass until n have arrived.
type barrier struct {
	n       int64
	arrived atomic.Int64
	open    chan struct{}
}

func newBarrier(n int64) *barrier { return &barrier{n: n, open: make(chan struct{})} }

func (b *barrier) wait(ctx context.Context) error {
	if b.arrived.Add(1) == b.n {
		close(b.open)
	}
	select {
	case <-b.open:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("only %d of %d have arrived: %w", b.arrived.Load(), b.n, ctx.Err())
	}
}

// TestChatsOneAtATimeEmbedsTogether has 16 chats and 64 embeds at once. At
// Ollama, eight of the embeds have to be open together before any of them may
// go on, and the first chat may not go on before all embeds are done.
func TestChatsOneAtATimeEmbedsTogether(t *testing.T) {
	const chats, embeds, together = 16, 64, 8
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	embedsMeet, embedsDone := newBarrier(together), make(chan struct{})
	meter := startMeter(t, func(r *http.Request) {
		switch r.URL.Path {
		case "/api/embed":
			if err := embedsMeet.wait(ctx); err != nil {
				t.Errorf("embeds at Ollama: %v", err)
			}
		case "/api/chat":
			select {
			case <-embedsDone:
			case <-ctx.Done():
				t.Error("the embeds wait for a chat")
			}
		}
	})
	foreman := startForeman(t, meter.URL, "FOREMAN_EMBED_MODEL=")
	client := newClient(t, foreman.URL, "")

	begin := time.Now()
	var chatting, embedding sync.WaitGroup
	for i := range chats {
		stream := i%2 == 0
		chatting.Go(func() {
			tokens, last := 0, api.ChatResponse{}
			err := client.Chat(ctx, &api.ChatRequest{
				Model:    lab.ChatModel,
				Messages: []api.Message{{Role: "user", Content: fmt.Sprint("chat ", i)}},
				Stream:   &stream,
			}, func(r api.ChatResponse) error {
				tokens++
				last = r
				return nil
			})
			if err != nil || !last.Done || last.EvalCount != 32 {
				t.Errorf("chat %d: got %v, %d tokens, done %t; want 32 tokens and done", i, err, last.EvalCount, last.Done)
			}
		})
	}
	for i := range embeds {
		embedding.Go(func() {
			r, err := client.Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: fmt.Sprint("embed ", i)})
			if err != nil || len(r.Embeddings) != 1 {
				t.Errorf("embed %d: got %+v, %v; want one embedding", i, r, err)
			}
		})
	}
	embedding.Wait()
	close(embedsDone)
	chatting.Wait()

	if got := meter.Most("/api/chat"); got != 1 {
		t.Errorf("chats open at once at Ollama: got %d; want 1", got)
	}
	if got := meter.Total("/api/chat"); got != chats {
		t.Errorf("chats at Ollama: got %d; want %d", got, chats)
	}
	if got := meter.Most("/api/embed"); got < together {
		t.Errorf("embeds open at once at Ollama: got %d; want %d or more", got, together)
	}
	if got := meter.Total("/api/embed"); got != embeds {
		t.Errorf("embeds at Ollama: got %d; want %d", got, embeds)
	}
	t.Logf("%d chats and %d embeds in %.2fs; open at once at Ollama: %d chat, %d embeds",
		chats, embeds, time.Since(begin).Seconds(), meter.Most("/api/chat"), meter.Most("/api/embed"))
}

// TestMeterSeesOverlap is the control of the test above: without foreman, two
// chats do meet at Ollama, and the meter says so.
func TestMeterSeesOverlap(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	meet := newBarrier(2)
	meter := startMeter(t, func(*http.Request) {
		if err := meet.wait(ctx); err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			resp, err := http.Post(meter.URL+"/api/chat", "", strings.NewReader(`{"model":"tiny-chat","stream":false}`))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
	if got := meter.Most("/api/chat"); got != 2 {
		t.Errorf("chats open at once: got %d; want 2", got)
	}
}

// TestStreamComesAsItIsMade reads the first lines of an answer of which Ollama
// would make 80,000, and leaves. That frees the slot for the next chat.
func TestStreamComesAsItIsMade(t *testing.T) {
	meter := startMeter(t, nil)
	foreman := startForeman(t, meter.URL)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", foreman.URL+"/api/chat", strings.NewReader(
		`{"model":"tiny-chat","messages":[{"role":"user","content":"Tell me all."}],"options":{"num_predict":80000}}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for range 5 {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"done":false`) {
			t.Fatalf("got %q, %v; want a line of an answer that goes on", lines.Text(), lines.Err())
		}
	}
	if got := meter.Open("/api/chat"); got != 1 {
		t.Fatalf("chats open at Ollama after five lines: got %d; want 1", got)
	}
	cancel()
	eventually(t, func() error {
		if n := meter.Open("/api/chat"); n > 0 {
			return fmt.Errorf("chats open at Ollama after the client left: got %d; want none", n)
		}
		return nil
	})
	next := post(t, foreman.URL+"/api/chat", `{"model":"tiny-chat","stream":false,"messages":[{"role":"user","content":"hello"}]}`)
	if next.StatusCode != http.StatusOK {
		t.Errorf("the next chat: got %d %s; want 200", next.StatusCode, next.body)
	}
	if got := next.Header.Get("Server-Timing"); !regexp.MustCompile(`^queue;dur=[\d.]+$`).MatchString(got) {
		t.Errorf("Server-Timing: got %q; want queue;dur=<ms>", got)
	}
}
