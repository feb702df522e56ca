// Command e2e shows foreman at work in front of a real Ollama, which it builds
// from source, with two tiny models. It stays up until Ctrl-C and leaves nothing
// behind. With -busy, chats keep coming from three clients:
//
//	go -C testdata/e2e run .
//	go -C testdata/e2e run . -busy
//
// STANDIN_RATE=5 in its environment has it say five words a second; llamaserver
// has the other variables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal kills
	ctx, cancel := context.WithCancel(ctx)
	go endWithParent(cancel)
	go endWithReader(cancel)
	busy := flag.Bool("busy", false, "have chats come from three clients until Ctrl-C")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}

	if err := run(ctx, *busy); err != nil && ctx.Err() == nil {
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

// endWithReader calls stop when nobody reads any more what we say, as in `| head`.
// What we say from then on is lost, and does not kill.
func endWithReader(stop func()) {
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	<-gone
	stop()
}

// human is a pace that people can follow.
var human = lab.Pace{Load: 2 * time.Second, Prompt: 300 * time.Millisecond, Rate: 20}

// paceEnv is the environment for that pace, or for what our own environment says.
func paceEnv() []string {
	env := human.Env()
	for i, variable := range env {
		name, _, _ := strings.Cut(variable, "=")
		if value, ok := os.LookupEnv(name); ok {
			env[i] = name + "=" + value
		}
	}
	return env
}

func run(ctx context.Context, busy bool) error {
	if err := lab.CanBuildOllama(ctx); err != nil {
		return err
	}
	if address() != usual {
		fmt.Printf("%s is taken: foreman will be at another address. Where the README has this one, take that.\n", usual)
	}
	dir, err := os.MkdirTemp("", "foreman-e2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	binary, err := patiently("Building Ollama "+lab.OllamaVersion()+" from source (a few minutes the first time)", func() (string, error) {
		return lab.BuildOllama(ctx, dir)
	})
	if err != nil {
		return err
	}
	ollama, err := lab.StartOllama(ctx, binary, dir, paceEnv()...)
	if err != nil {
		return err
	}
	defer ollama.Kill()
	fmt.Printf("Ollama is up at %s with %s and %s\n", ollama.URL, lab.ChatModel, lab.EmbedModel)

	binary, err = patiently("Building foreman", func() (string, error) { return lab.BuildForeman(ctx, dir) })
	if err != nil {
		return err
	}
	foreman, err := lab.StartForeman(ctx, binary, dir,
		"FOREMAN_ADDR="+address(), // again: building takes a while
		"FOREMAN_OLLAMA_URL="+ollama.URL,
		"FOREMAN_EMBED_MODEL="+lab.EmbedModel,
		"FOREMAN_POLL_INTERVAL=5s")
	if err != nil {
		return err
	}
	defer foreman.Stop()
	fmt.Printf("foreman is up at %s\n", foreman.URL)

	fmt.Print(madeUp)
	if err := talk(ctx, foreman.URL); err != nil {
		return fmt.Errorf("%w\nforeman's log:\n%s", err, foreman.Log())
	}
	fmt.Printf("\nThree chats of two clients. Ollama gets one at a time. See them at %s/status\n", foreman.URL)
	show, err := newStage(foreman.URL)
	if err != nil {
		return err
	}
	if err := show.three(ctx); err != nil {
		return fmt.Errorf("%w\nforeman's log:\n%s", err, foreman.Log())
	}
	fmt.Printf(invitation, foreman.URL, lab.ChatModel, lab.EmbedModel, dir)
	if busy {
		fmt.Println("\nFrom now on three clients chat until Ctrl-C:")
		show.busy(ctx)
	}
	<-ctx.Done()
	fmt.Println("\nStopping both.")
	return nil
}

// patiently says what is done, and every few seconds that it is not done yet.
func patiently[T any](what string, do func() (T, error)) (T, error) {
	fmt.Printf("%s ...\n", what)
	begin, done := time.Now(), make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Printf("  ... for %.0f s now\n", time.Since(begin).Seconds())
			case <-done:
				return
			}
		}
	})
	result, err := do()
	close(done)
	telling.Wait()
	return result, err
}

const madeUp = `
The words are made up: a stand-in takes the place of llama-server, the program that
Ollama has multiply the weights. All else is Ollama.
`

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
  curl %[1]s/metrics
Who has the model and who waits: %[1]s/status

Logs are in %[4]s. Ctrl-C stops both servers and removes everything.
`
