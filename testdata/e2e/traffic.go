package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// A stage is where clients chat through foreman. It tells what happens as it
// happens: who asks, who waits for whom, who is served.
type stage struct {
	base    string
	clients []*client // anna, bert and clara
	begin   time.Time

	mu    sync.Mutex // guards what follows, and keeps what is told in order
	asked int        // how many chats there have been
	line  []string   // the names of who has asked and has no whole answer yet
}

// A client is somebody with a program and an address of their own.
type client struct {
	name string
	api  *api.Client
}

func newStage(base string) (*stage, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	s := &stage{base: base, begin: time.Now()}
	for i, name := range []string{"anna", "bert", "clara"} {
		transport := &named{name, http.DefaultTransport.(*http.Transport).Clone()}
		dialer := &net.Dialer{LocalAddr: loopback(byte(2 + i))}
		transport.DialContext = dialer.DialContext
		s.clients = append(s.clients, &client{name, api.NewClient(u, &http.Client{Transport: transport})})
	}
	return s, nil
}

// loopback returns an address of this machine that nobody else has here, 127.0.0.2
// for instance, or nil where 127.0.0.1 is the only one.
func loopback(last byte) net.Addr {
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil
	}
	l.Close()
	return addr
}

// named sends requests under the name of a program.
type named struct {
	name string
	*http.Transport
}

func (n *named) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", n.name+"/1.0")
	return n.Transport.RoundTrip(r)
}

// three has two clients ask for three chats, each as soon as foreman has the one
// before, and returns when all have been answered.
func (s *stage) three(ctx context.Context) error {
	anna, bert := s.clients[0], s.clients[1]
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 3)
	for i, c := range []*client{anna, bert, anna} {
		all.Go(func() { errs <- s.chat(ctx, c, 40) })
		if err := lab.Until(ctx, func() error { return s.arrived(1 + i) }); err != nil {
			return err
		}
	}
	for range 3 {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// arrived returns an error until so many chats have been asked for and foreman has
// those that are not answered yet.
func (s *stage) arrived(asked int) error {
	var health struct{ Running, Waiting int }
	if err := getJSON(s.base+"/healthz", &health); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := health.Running + health.Waiting; s.asked < asked || got < len(s.line) {
		return fmt.Errorf("foreman has %d chats of %d, and %d were asked for", got, len(s.line), s.asked)
	}
	return nil
}

// busy has all clients chat again and again until ctx ends.
func (s *stage) busy(ctx context.Context) {
	var all sync.WaitGroup
	for _, c := range s.clients {
		all.Go(func() {
			for {
				select {
				case <-time.After(time.Duration(rand.IntN(4000)) * time.Millisecond):
				case <-ctx.Done():
					return
				}
				if err := s.chat(ctx, c, 20+rand.IntN(60)); err != nil && ctx.Err() == nil {
					s.tell("%s has no answer: %v", c.name, err)
				}
			}
		})
	}
	all.Wait()
}

// chat has one client ask for an answer of so many words.
func (s *stage) chat(ctx context.Context, c *client, words int) error {
	asked := time.Now()
	leave := s.enter(c.name)
	defer leave()
	var answer strings.Builder
	err := c.api.Chat(ctx, &api.ChatRequest{
		Model:    lab.ChatModel,
		Messages: []api.Message{{Role: "user", Content: "This is " + c.name + ". Tell me something."}},
		Options:  map[string]any{"num_predict": words},
	}, func(r api.ChatResponse) error {
		if answer.Len() == 0 && !r.Done {
			s.tell("%s is served, after %.1f s", c.name, time.Since(asked).Seconds())
		}
		answer.WriteString(r.Message.Content)
		return nil
	})
	if err != nil {
		return fmt.Errorf("chat: %w", err)
	}
	s.tell("%s has it all: %.40s ... (%d words)", c.name, answer.String(), len(strings.Fields(answer.String())))
	return nil
}

// enter puts a name at the end of the line and tells so. It returns a function
// that takes it out.
func (s *stage) enter(name string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := "asks"
	if slices.Contains(s.line, name) {
		asks = "asks again"
	}
	if len(s.line) > 0 {
		asks += " and waits behind " + strings.Join(s.line, ", ")
	}
	s.print("%s %s", name, asks)
	s.asked++
	s.line = append(s.line, name)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if i := slices.Index(s.line, name); i >= 0 { // the first of its name is answered first
			s.line = slices.Delete(s.line, i, i+1)
		}
	}
}

func (s *stage) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(format, args...)
}

// print is called with mu held.
func (s *stage) print(format string, args ...any) {
	fmt.Printf("  %5.1f s  %s\n", time.Since(s.begin).Seconds(), fmt.Sprintf(format, args...))
}

func getJSON(url string, into any) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}
