package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"

	"foreman/e2e/lab"
)

// wakeAfter is how long the machine of TestWake takes.
var wakeAfter = flag.Duration("wake", 10*time.Second, "how long after the first packet TestWake starts Ollama; a cold machine takes 70s to 112s")

// TestWake has the machine of an Ollama fall asleep, and official clients, with a stream and
// without, all wait until it has been woken and its Ollama started.
func TestWake(t *testing.T) {
	t.Parallel()
	run := installBeats(t)
	const mac = "a0:b1:c2:d3:e4:f5"
	card, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_WAKE="+mac+"@"+card.LocalAddr().String(), "FOREMAN_HEARTBEAT=1s")
	eventually(t, func() error { return resident(t.Context(), own.Client, lab.EmbedModel) })
	own.Kill()
	wake := sleepAt(t, strings.TrimPrefix(own.URL, "http://"))
	late := unansweredPolls(t, foreman.URL) + 2 // the first may have been refused
	eventually(t, func() error {
		if n := unansweredPolls(t, foreman.URL); n < late {
			return fmt.Errorf("%d polls were not answered; want %d", n, late)
		}
		return nil
	})

	var mu sync.Mutex
	var packets []string
	first := make(chan struct{})
	var listening sync.WaitGroup
	listening.Go(func() {
		for b := make([]byte, 200); ; {
			n, _, err := card.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			if packets = append(packets, hex.EncodeToString(b[:n])); len(packets) == 1 {
				close(first)
			}
			mu.Unlock()
		}
	})
	t.Cleanup(func() { card.Close(); listening.Wait() })
	for _, path := range []string{"/api/tags", "/api/ps", "/api/version", "/v1/models", "/healthz", "/metrics", "/status", "/"} {
		get(t, foreman.URL+path)
	}
	post(t, foreman.URL+"/api/show", `{"model":"tiny-chat"}`)
	post(t, foreman.URL+"/api/chat", `{"model":"absent"}`)
	mu.Lock()
	if len(packets) > 0 {
		t.Error("woken by reads, or for a model that the host does not have")
	}
	mu.Unlock()

	client, openAI := newClient(t, foreman.URL, ""), newOpenAI(foreman.URL, "any")
	alone := func(_ []string, err error) error { return err }
	began := time.Now()
	var clients sync.WaitGroup
	for name, ask := range map[string]func(context.Context) error{
		"Ollama, stream": func(ctx context.Context) error { return alone(askOllama(ctx, foreman.URL)) },
		"Ollama":         func(ctx context.Context) error { _, err := chat(ctx, client, lab.ChatModel, false); return err },
		"Ollama, embed": func(ctx context.Context) error {
			_, err := client.Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: "one"})
			return err
		},
		"OpenAI, stream":    func(ctx context.Context) error { return alone(askOpenAI(ctx, foreman.URL)) },
		"OpenAI, responses": func(ctx context.Context) error { return alone(askOpenAIResponses(ctx, foreman.URL)) },
		"OpenAI": func(ctx context.Context) error {
			_, err := openAI.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
				Model: lab.ChatModel, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(beatsQuestion)},
			})
			return err
		},
		"OpenAI, embeddings": func(ctx context.Context) error {
			_, err := openAI.Embeddings.New(ctx, openai.EmbeddingNewParams{
				Model: lab.EmbedModel, Input: openai.EmbeddingNewParamsInputUnion{OfString: openai.String("one")},
			})
			return err
		},
		"langchaingo, stream": func(ctx context.Context) error { return alone(askLangchain(ctx, foreman.URL)) },
	} {
		clients.Go(func() {
			if err := ask(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			t.Logf("%s: answered after %v", name, time.Since(began).Round(time.Millisecond))
		})
	}
	clients.Go(func() { run(t, "wake.test.js", "WAKE_URL="+foreman.URL, "EMBED_MODEL="+lab.EmbedModel) })

	select {
	case <-first:
	case <-time.After(time.Minute):
		t.Fatal("no packet came")
	}
	if err := wantHealth(foreman.URL, "waking", "unreachable"); err != nil {
		t.Error(err)
	}
	time.Sleep(*wakeAfter) // the machine takes it
	wake()
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	started := time.Since(began)
	clients.Wait()
	t.Logf("Ollama answered after %v, all clients after %v", started.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	eventually(t, func() error { return wantHealth(foreman.URL, "ok", "") })
	eventually(t, func() error { return resident(t.Context(), own.Client, lab.EmbedModel) })
	mu.Lock()
	defer mu.Unlock()
	if least := int(*wakeAfter / (5 * time.Second)); len(packets) < least || len(packets) > least+3 {
		t.Errorf("%d packets; want one every 5 s", len(packets))
	}
	card6, _ := net.ParseMAC(mac)
	want := hex.EncodeToString(append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(card6, 16)...))
	for _, packet := range packets {
		if packet != want {
			t.Errorf("packet %s; want %s", packet, want)
		}
	}
	log := foreman.Log()
	if once, streams := strings.Count(log, `"waking the target"`), strings.Count(log, "early=true"); once != 1 || streams < 8 {
		t.Errorf("woken %d times, and %d streams heard heartbeats; want once, and all of them", once, streams)
	}
}

// sleepAt has connections to an address of this machine find nobody until wake is called, as
// if it slept: its listener accepts none, and has a queue that is full.
func sleepAt(t *testing.T, addr string) (wake func()) {
	t.Helper()
	var l net.Listener
	eventually(t, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var short error
	if err := errors.Join(raw.Control(func(fd uintptr) { short = syscall.Listen(int(fd), 0) }), short); err != nil {
		t.Fatal(err)
	}
	open := []interface{ Close() error }{l}
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			break
		}
		open = append(open, c)
	}
	wake = sync.OnceFunc(func() {
		for _, c := range open {
			c.Close()
		}
	})
	t.Cleanup(wake)
	return wake
}

var unansweredSample = regexp.MustCompile(`(?m)^foreman_polls_total\{result="unreachable"\} (\d+)$`)

// unansweredPolls returns how many polls of a foreman's were not answered.
func unansweredPolls(t *testing.T, foreman string) int {
	t.Helper()
	match := unansweredSample.FindStringSubmatch(get(t, foreman+"/metrics").body)
	if match == nil {
		t.Fatal("no such metric")
	}
	n, _ := strconv.Atoi(match[1])
	return n
}
