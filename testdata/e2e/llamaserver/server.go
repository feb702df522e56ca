package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// defaultWords is the length of an answer when the request sets no limit.
const defaultWords = 32

// A server answers for one model.
type server struct {
	model string // the file's name, which Ollama makes of its content
	pace  pace
	ready time.Time     // when the model is loaded
	slots chan struct{} // one for each request that is worked on
	cache cache
	log   diary
	mux   *http.ServeMux
}

func newServer(model string, p pace, slots int) *server {
	mux := http.NewServeMux()
	s := &server{model: model, pace: p, ready: time.Now().Add(p.load), slots: make(chan struct{}, slots), cache: cache{keep: p.keep}, mux: mux}
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("POST /completion", s.completion)
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	mux.HandleFunc("POST /v1/embeddings", s.embeddings)
	mux.HandleFunc("POST /embedding", s.embedding)
	mux.HandleFunc("POST /tokenize", s.tokenize)
	mux.HandleFunc("POST /detokenize", s.detokenize)
	mux.HandleFunc("POST /apply-template", s.applyTemplate)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if time.Now().Before(s.ready) {
		fail(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model")
		return
	}
	s.mux.ServeHTTP(w, r)
}

// A prompt is what the words of an answer are made from.
type prompt struct {
	text   string
	tokens int
}

// completion answers with words, one event for each.
func (s *server) completion(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Prompt json.RawMessage // a text, tokens, or a text with pictures
		Limit  *int            `json:"n_predict"`
	}
	if !read(w, r, &request) {
		return
	}
	p := prompt{string(request.Prompt), len(request.Prompt)}
	var text string
	var tokens []int
	switch {
	case json.Unmarshal(request.Prompt, &text) == nil:
		p = prompt{text, len(tokensOf(text))}
	case json.Unmarshal(request.Prompt, &tokens) == nil:
		p = prompt{textOf(tokens), len(tokens)}
	}
	type event struct {
		Content  string   `json:"content"`
		Stop     bool     `json:"stop"`
		StopType string   `json:"stop_type,omitempty"`
		Timings  *timings `json:"timings,omitempty"`
	}
	s.say(w, r, p, request.Limit, nil, func(word string) any {
		return event{Content: word}
	}, func(whole bool, t timings) any {
		stop := "limit"
		if whole {
			stop = "eos"
		}
		return event{Stop: true, StopType: stop, Timings: &t}
	})
}

// A message is one of a chat. Its content is a text, or a list of texts, pictures
// and sounds.
type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// render makes one text of a chat.
func render(messages []message) string {
	var b strings.Builder
	for _, m := range messages {
		var text string
		if json.Unmarshal(m.Content, &text) != nil {
			text = string(m.Content)
		}
		fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", m.Role, text)
	}
	b.WriteString("<|im_start|>assistant\n")
	return b.String()
}

// chat answers as OpenAI does, with words, one event for each.
func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Messages []message
		Limit    *int `json:"n_predict"`
		Most     *int `json:"max_tokens"`
	}
	if !read(w, r, &request) {
		return
	}
	if request.Limit == nil {
		request.Limit = request.Most
	}
	type delta struct {
		Role    string `json:"role,omitempty"`
		Content string `json:"content,omitempty"`
	}
	type choice struct {
		Index        int     `json:"index"`
		Delta        delta   `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	}
	type event struct {
		Object  string   `json:"object"`
		Choices []choice `json:"choices"`
		Timings *timings `json:"timings,omitempty"`
	}
	chunk := func(c choice, t *timings) event {
		return event{"chat.completion.chunk", []choice{c}, t}
	}
	text := render(request.Messages)
	s.say(w, r, prompt{text, len(tokensOf(text))}, request.Limit,
		chunk(choice{Delta: delta{Role: "assistant"}}, nil),
		func(word string) any { return chunk(choice{Delta: delta{Content: word}}, nil) },
		func(whole bool, t timings) any {
			reason := "length"
			if whole {
				reason = "stop"
			}
			return chunk(choice{FinishReason: &reason}, &t)
		})
}

// timings is what llama-server tells at the end of an answer.
type timings struct {
	CacheN      int     `json:"cache_n"`
	PromptN     int     `json:"prompt_n"`
	PromptMS    float64 `json:"prompt_ms"`
	PredictedN  int     `json:"predicted_n"`
	PredictedMS float64 `json:"predicted_ms"`
}

// say writes an answer as events, at its pace, until its end or until the client
// has left. The events are those that begin it, unless that is nil, those of words,
// and the one that ends it, of an answer that is whole or has as many words as it may.
func (s *server) say(w http.ResponseWriter, r *http.Request, p prompt, limit *int, begin any, word func(string) any, end func(whole bool, t timings) any) {
	if !s.take(r) {
		return
	}
	defer s.free()
	words, whole := play(s.model, p.text)
	if !whole {
		n := defaultWords
		if limit != nil && *limit > 0 {
			n = *limit
		}
		words = newVoice(s.model, p.text).words(n)
	}
	started := time.Now()
	said, cached := 0, s.cache.find(p.text, p.tokens)
	defer func() { s.log.answers(started, p, cached, said) }()
	reading := s.pace.prompt
	if s.pace.read > 0 {
		reading += time.Duration(float64(p.tokens-cached) / s.pace.read * float64(time.Second))
	}
	kept := p.text[:min(cached, len(p.text))] // what is kept of a prompt that nobody waits for
	var answer strings.Builder
	defer func() { s.cache.keepFirst(kept + answer.String()) }()
	if sleepUntil(r.Context(), started.Add(reading)) != nil {
		return
	}
	kept = p.text
	w.Header().Set("Content-Type", "text/event-stream")
	flusher := http.NewResponseController(w)
	send := func(event any) bool {
		b, err := json.Marshal(event)
		if err != nil {
			panic(err) // texts and numbers can be written
		}
		_, err = fmt.Fprintf(w, "data: %s\n\n", b)
		return err == nil && flusher.Flush() == nil
	}
	if begin != nil && !send(begin) {
		return
	}
	first := time.Now()
	next := func(text string, pause time.Duration) bool {
		if said+1 == s.pace.crash {
			os.Exit(1)
		}
		due := first.Add(pause)
		if s.pace.rate > 0 {
			due = due.Add(time.Duration(float64(said) / s.pace.rate * float64(time.Second)))
		}
		if sleepUntil(r.Context(), due) != nil || !send(word(text)) {
			return false
		}
		said++
		answer.WriteString(text)
		return true
	}
	last := ""
	for text := range words {
		if last != "" && !next(last, 0) {
			return
		}
		last = text
	}
	if !next(last, s.pace.pause) {
		return
	}
	send(end(whole, timings{
		CacheN: cached, PromptN: p.tokens - cached, PromptMS: milliseconds(first.Sub(started)),
		PredictedN: said, PredictedMS: milliseconds(time.Since(first)),
	}))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// take waits for a slot. It returns false if the client leaves first.
func (s *server) take(r *http.Request) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (s *server) free() { <-s.slots }

// embeddings answers as OpenAI does.
func (s *server) embeddings(w http.ResponseWriter, r *http.Request) {
	var request struct{ Input string }
	if !read(w, r, &request) || !s.take(r) {
		return
	}
	defer s.free()
	n := len(tokensOf(request.Input))
	answer(w, map[string]any{
		"object": "list",
		"data":   []any{map[string]any{"object": "embedding", "index": 0, "embedding": embed(s.model, request.Input)}},
		"usage":  map[string]int{"prompt_tokens": n, "total_tokens": n},
	})
}

// embedding answers in llama-server's own shape.
func (s *server) embedding(w http.ResponseWriter, r *http.Request) {
	var request struct{ Content string }
	if !read(w, r, &request) || !s.take(r) {
		return
	}
	defer s.free()
	answer(w, []any{map[string]any{"index": 0, "embedding": [][]float32{embed(s.model, request.Content)}}})
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) {
	var request struct{ Content string }
	if read(w, r, &request) {
		answer(w, map[string]any{"tokens": tokensOf(request.Content)})
	}
}

func (s *server) detokenize(w http.ResponseWriter, r *http.Request) {
	var request struct{ Tokens []int }
	if read(w, r, &request) {
		answer(w, map[string]any{"content": textOf(request.Tokens)})
	}
}

func (s *server) applyTemplate(w http.ResponseWriter, r *http.Request) {
	var request struct{ Messages []message }
	if read(w, r, &request) {
		answer(w, map[string]any{"prompt": render(request.Messages)})
	}
}

// read reads the request's body. If it cannot, it answers so and returns false.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	// To its end, for only then net/http notices that a client leaves.
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // who does not take it has left
}

func fail(w http.ResponseWriter, status int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "type": kind, "message": text}})
}
