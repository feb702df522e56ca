package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// Soakers are clients that ask for all kinds of things and leave as they please.
type soakers struct {
	t      *testing.T
	base   string
	watch  *watch
	client *http.Client

	mu     sync.Mutex // guards counts
	counts map[string]int
}

// A wish is something to ask for, and how to tell whether its answer is whole.
type wish struct {
	path, body string
	stream     bool
	whole      func(body string) bool
}

// wishForChat returns a chat of some length in one of three dialects.
func wishForChat(rnd *rand.Rand) wish {
	var (
		model  = []string{lab.ChatModel, lab.ChatModel, lab.EmbedModel}[rnd.IntN(3)]
		tokens = []int{1, 8, 32, 200}[rnd.IntN(4)]
		prompt = fmt.Sprint("soak ", rnd.IntN(1000))
		stream = rnd.IntN(2) == 0
	)
	messages := fmt.Sprintf(`[{"role":"user","content":%q}]`, prompt)
	switch rnd.IntN(3) {
	case 0:
		body := fmt.Sprintf(`{"model":%q,"stream":%t,"options":{"num_predict":%d},"messages":%s}`, model, stream, tokens, messages)
		return wish{"/api/chat", body, stream, wholeNative}
	case 1:
		body := fmt.Sprintf(`{"model":%q,"stream":%t,"options":{"num_predict":%d},"prompt":%q}`, model, stream, tokens, prompt)
		return wish{"/api/generate", body, stream, wholeNative}
	default:
		body := fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":%d,"messages":%s}`, model, stream, tokens, messages)
		if stream {
			return wish{"/v1/chat/completions", body, stream, wholeEvents}
		}
		return wish{"/v1/chat/completions", body, stream, has("choices")}
	}
}

func wishForEmbed(rnd *rand.Rand) wish {
	path := []string{"/api/embed", "/api/embeddings", "/v1/embeddings"}[rnd.IntN(3)]
	body := fmt.Sprintf(`{"model":%q,"input":"soak","prompt":"soak"}`, lab.EmbedModel)
	return wish{path, body, false, has(map[string]string{
		"/api/embed": "embeddings", "/api/embeddings": "embedding", "/v1/embeddings": "data",
	}[path])}
}

// wholeNative wants one JSON object per line, the last and no other one done.
func wholeNative(body string) bool {
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	for i, line := range lines {
		var said struct{ Done bool }
		if json.Unmarshal([]byte(line), &said) != nil || said.Done != (i == len(lines)-1) {
			return false
		}
	}
	return true
}

func wholeEvents(body string) bool { return strings.HasSuffix(body, "data: [DONE]\n\n") }

// has wants one JSON object in which the list under key is not empty.
func has(key string) func(string) bool {
	return func(body string) bool {
		var said map[string]json.RawMessage
		var list []any
		return json.Unmarshal([]byte(body), &said) == nil && json.Unmarshal(said[key], &list) == nil && len(list) > 0
	}
}

// tellsError reports whether the last line of an answer is Ollama's own error.
func tellsError(body string) bool {
	lines := strings.Split(strings.TrimSpace(body), "\n")
	var said struct{ Error any }
	return json.Unmarshal([]byte(lines[len(lines)-1]), &said) == nil && said.Error != nil
}

// run has one client ask again and again, until stop ends or it has asked often
// enough. What it has begun goes on as long as ctx does.
func (s *soakers) run(ctx, stop context.Context, number int, next func(*rand.Rand) wish) {
	rnd := rand.New(rand.NewPCG(1, uint64(number)))
	for i := range 20_000 {
		if stop.Err() != nil {
			return
		}
		outcome := s.ask(ctx, number, fmt.Sprintf("soak-%d-%d", number, i), next(rnd), rnd)
		s.mu.Lock()
		s.counts[outcome]++
		s.mu.Unlock()
		pause := time.Duration(rnd.IntN(20)) * time.Millisecond
		if outcome != "whole" && !strings.HasPrefix(outcome, "left") {
			pause += 50 * time.Millisecond // as one does who was refused
		}
		select {
		case <-time.After(pause):
		case <-stop.Done():
		}
	}
}

// ask sends one wish, perhaps leaves before it is fulfilled, and tells what came
// of it.
func (s *soakers) ask(ctx context.Context, number int, id string, w wish, rnd *rand.Rand) (outcome string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v := s.watch.expect(id)
	defer s.watch.forget(v)
	leave := func() { s.watch.leave(v); cancel() }
	reads := -1 // until it leaves in mid-stream
	switch rnd.IntN(10) {
	case 0, 1: // in line, most likely
		defer time.AfterFunc(time.Duration(rnd.IntN(100))*time.Millisecond, leave).Stop()
	case 2: // before the first byte
		go func() {
			select {
			case <-v.opened:
				leave()
			case <-ctx.Done():
			}
		}()
	case 3, 4:
		reads = 1 + rnd.IntN(8)
	}
	broken := func(where string, err error) string {
		switch {
		case s.watch.hasLeft(v) && where == "mid-stream":
			return "left in mid-stream"
		case s.watch.hasLeft(v) && v.hasOpened():
			return "left before the first byte"
		case s.watch.hasLeft(v):
			return "left in line"
		case ctx.Err() != nil:
			s.t.Errorf("%s %s: no answer, or no end of it, when all was over: %v", id, w.path, err)
			return "hung"
		}
		return "cut: in " + where
	}

	r, err := http.NewRequestWithContext(ctx, "POST", s.base+w.path, strings.NewReader(w.body))
	if err != nil {
		s.t.Error(err)
		return "hung"
	}
	r.Header.Set("X-Request-Id", id)
	r.Header.Set("Authorization", "Bearer "+soakToken(number))
	resp, err := s.client.Do(r)
	if err != nil {
		return broken("its header", err)
	}
	defer resp.Body.Close()
	var body strings.Builder
	buffer := make([]byte, 4096)
	for err = nil; err == nil; reads-- {
		if reads == 0 {
			leave()
		}
		var n int
		n, err = resp.Body.Read(buffer)
		body.Write(buffer[:n])
	}
	switch {
	case err != io.EOF:
		return broken("mid-stream", err)
	case (resp.StatusCode >= 500 || resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized) && tellsError(body.String()): // 403: stopped; 401: the token was taken back
		return fmt.Sprint("refused: ", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		s.t.Errorf("%s %s: got %d %s; want 200, or 401, 403 or from 500 on with an error", id, w.path, resp.StatusCode, &body)
	case w.whole(body.String()):
		return "whole"
	case tellsError(body.String()):
		return "cut: told in the answer"
	default:
		s.t.Errorf("%s %s: a clean end without its end:\n%s", id, w.path, &body)
	}
	return "wrong"
}

// sum adds up the outcomes that begin with a word.
func (s *soakers) sum(word string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for outcome, count := range s.counts {
		if strings.HasPrefix(outcome, word) {
			n += count
		}
	}
	return n
}

// String lists the outcomes and how often each of them came.
func (s *soakers) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list strings.Builder
	for _, outcome := range slices.Sorted(maps.Keys(s.counts)) {
		fmt.Fprintf(&list, "%6d %s\n", s.counts[outcome], outcome)
	}
	return list.String()
}
