// Command e2e shows foreman at work in front of a real Ollama, which it builds
// from source, with two tiny models of random weights. It stays up until Ctrl-C
// and leaves nothing behind:
//
//	go -C testdata/e2e run .
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal kills
	ctx, cancel := context.WithCancel(ctx)
	go endWithParent(cancel)

	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// endWithParent calls stop when our parent ends: whoever kills `go run` means
// us, but go run passes no signal on.
func endWithParent(stop func()) {
	parent := os.Getppid()
	lab.Until(context.Background(), func() error {
		if os.Getppid() == parent {
			return errors.New("the parent lives")
		}
		return nil
	})
	stop()
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "foreman-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	fmt.Printf("Building Ollama %s from source (a few minutes the first time) ...\n", lab.OllamaVersion())
	binary, err := lab.BuildOllama(ctx, dir)
	if err != nil {
		return err
	}
	ollama, err := lab.StartOllama(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer ollama.Kill()
	fmt.Printf("Ollama is up at %s with %s and %s\n", ollama.URL, lab.ChatModel, lab.EmbedModel)

	fmt.Println("Building foreman ...")
	binary, err = lab.BuildForeman(ctx, dir)
	if err != nil {
		return err
	}
	foreman, err := lab.StartForeman(ctx, binary, dir,
		"FOREMAN_ADDR="+address(),
		"FOREMAN_OLLAMA_URL="+ollama.URL,
		"FOREMAN_EMBED_MODEL="+lab.EmbedModel,
		"FOREMAN_POLL_INTERVAL=5s")
	if err != nil {
		return err
	}
	defer foreman.Stop()
	fmt.Printf("foreman is up at %s\n", foreman.URL)
	if !strings.HasSuffix(foreman.URL, usual) {
		fmt.Printf("%s was taken. Where the README has it, take this address.\n", usual)
	}

	if err := talk(ctx, foreman.URL); err != nil {
		return fmt.Errorf("%w\nforeman's log:\n%s", err, foreman.Log())
	}
	fmt.Printf(invitation, foreman.URL, lab.ChatModel, lab.EmbedModel, dir)
	<-ctx.Done()
	fmt.Println("\nStopping both.")
	return nil
}

// usual is the address in the README's examples.
const usual = "127.0.0.1:8080"

// address is where the README says that foreman listens, or a free port if that
// one is taken.
func address() string {
	l, err := net.Listen("tcp", usual)
	if err != nil {
		return "127.0.0.1:0"
	}
	l.Close()
	return usual
}

// talk sends a streaming chat, a chat and an embed, and prints what came back.
func talk(ctx context.Context, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return err
	}
	client := api.NewClient(u, http.DefaultClient)
	fmt.Print("\nThe weights are random numbers, so what the models say is gibberish.\n")
	for _, stream := range []bool{true, false} {
		fmt.Printf("  chat, stream=%-5t ", stream)
		chunks := 0
		err := client.Chat(ctx, &api.ChatRequest{
			Model:    lab.ChatModel,
			Messages: []api.Message{{Role: "user", Content: "Who are you?"}},
			Stream:   &stream,
		}, func(r api.ChatResponse) error {
			chunks++
			fmt.Print(r.Message.Content)
			return nil
		})
		if err != nil {
			return fmt.Errorf("chat: %w", err)
		}
		fmt.Printf("  (chunks: %d)\n", chunks)
	}
	r, err := client.Embed(ctx, &api.EmbedRequest{Model: lab.EmbedModel, Input: "Who are you?"})
	if err != nil {
		return fmt.Errorf("embed: %w", err)
	}
	fmt.Printf("  embed              %.3f ...  (numbers: %d)\n", r.Embeddings[0][:8], len(r.Embeddings[0]))
	return nil
}

const invitation = `
Try it:
  curl %[1]s/api/tags
  curl %[1]s/api/chat -d '{"model":"%[2]s","messages":[{"role":"user","content":"hello"}]}'
  curl %[1]s/api/chat -d '{"model":"%[2]s","messages":[{"role":"user","content":"hello"}],"stream":false}'
  curl %[1]s/api/embed -d '{"model":"%[3]s","input":"hello"}'
  curl %[1]s/healthz

Logs are in %[4]s. Ctrl-C stops both servers and removes everything.
`
