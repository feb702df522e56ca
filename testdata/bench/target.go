package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A target stands in for Ollama, and notes how long it sat idle between two
// chats. It says three words at once, or as many as options.num_predict asks for
// and then one in each wordTime.
type target struct {
	addr string

	mu     sync.Mutex // guards what follows
	open   int        // chats
	most   int
	ended  time.Time // when the last chat ended
	gaps   []time.Duration
	hold   chan struct{} // the first chat waits until it is closed; nil: none does
	holder chan struct{} // closed when that chat is there
}

const wordTime = time.Millisecond

// epoch is when the time begins that the target sends as words.
var epoch = time.Now()

// A chunk is a line of the target's answer to a chat.
type chunk struct {
	Model   string `json:"model"`
	Message struct {
		Role    string `json:"role"`
		Content string `json:"content"` // when it was sent, in ns since epoch
	} `json:"message"`
	Done bool `json:"done"`
}

const models = `{"models":[{"name":"chat:latest","model":"chat:latest"},{"name":"embed:latest","model":"embed:latest"}]}`

func startTarget() (*target, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &target{addr: ln.Addr().String()}
	embedding := `{"model":"embed","embeddings":[[` + strings.Repeat("-0.12345678,", 767) + `0.1]]}`
	reply := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			io.WriteString(w, body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/chat", t.chat)
	mux.HandleFunc("POST /api/embed", reply(embedding))
	mux.HandleFunc("GET /api/tags", reply(models))
	mux.HandleFunc("GET /", reply(`{}`))
	go http.Serve(ln, mux)
	return t, nil
}

func (t *target) chat(w http.ResponseWriter, r *http.Request) {
	hold := t.begin()
	defer t.end()
	var asked struct {
		Options struct {
			Words int `json:"num_predict"`
		} `json:"options"`
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &asked)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	words, pause := asked.Options.Words, wordTime
	if words == 0 {
		words, pause = 3, 0
	}
	out := json.NewEncoder(w)
	word := chunk{Model: "chat"}
	word.Message.Role = "assistant"
	for range words {
		time.Sleep(pause)
		word.Message.Content = strconv.FormatInt(int64(time.Since(epoch)), 10)
		if out.Encode(word) != nil || http.NewResponseController(w).Flush() != nil {
			return // nobody is there any more
		}
	}
	word.Message.Content, word.Done = "", true
	out.Encode(word)
}

// begin notes a chat that comes, and returns what it has to wait for.
func (t *target) begin() (hold chan struct{}) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	t.most = max(t.most, t.open)
	if t.open == 1 && !t.ended.IsZero() {
		t.gaps = append(t.gaps, now.Sub(t.ended))
	}
	if t.holder != nil {
		close(t.holder)
		t.holder = nil
		return t.hold
	}
	return nil
}

func (t *target) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
	t.ended = time.Now()
}

// holdNext makes the next chat wait until release is called.
func (t *target) holdNext() (there <-chan struct{}, release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hold, t.holder = make(chan struct{}), make(chan struct{})
	hold := t.hold
	t.forget()
	return t.holder, func() { close(hold) }
}

// startOver forgets the chats until now.
func (t *target) startOver() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
}

// forget is startOver for callers that hold mu.
func (t *target) forget() { t.gaps, t.most, t.ended = nil, 0, time.Time{} }

// idle returns the target's idle times between two chats since holdNext or startOver, sorted,
// and how many chats were open at once at the most.
func (t *target) idle() (gaps []time.Duration, most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(slices.Values(t.gaps)), t.most
}
