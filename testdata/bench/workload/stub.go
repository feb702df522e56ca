package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A clock turns real time into simulated time.
type clock struct {
	start time.Time
	scale float64
}

func (c clock) at(t time.Time) float64         { return t.Sub(c.start).Seconds() * c.scale }
func (c clock) now() float64                   { return c.at(time.Now()) }
func (c clock) real(sim float64) time.Duration { return time.Duration(sim / c.scale * 1e9) }

// sleep sleeps until a time, and reports false if ctx ended first.
func (c clock) sleep(ctx context.Context, until float64) bool {
	timer := time.NewTimer(time.Until(c.start.Add(c.real(until))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// A stub serves a Host as Ollama's API, and notes what each chat took. The sizes of a chat are a Request in JSON, as
// the content of its last message.
type stub struct {
	clock
	server *http.Server
	addr   string
	embeds sync.Mutex // held by the embedding that is made

	mu     sync.Mutex // guards what follows
	host   Host
	busy   bool
	line   []waiter        // in order of arrival
	served map[int]*Record // by ID, the host's side only
}

// A waiter is a chat that is in the host and waits.
type waiter struct {
	model string
	turn  chan struct{} // closed when it comes
}

const (
	// embedTime is the real time that an embedding takes, beside the chats and one at a time: Ollama loads an embedder
	// with one slot, whatever OLLAMA_NUM_PARALLEL says (server/sched.go).
	embedTime = 2 * time.Millisecond

	tags = `{"models":[{"name":"a:latest","model":"a:latest"},{"name":"b:latest","model":"b:latest"},{"name":"embed:latest","model":"embed:latest"}]}`
	ps   = `{"models":[{"name":"embed:latest","model":"embed:latest","expires_at":"2318-01-01T00:00:00Z"},{"name":"%[1]s:latest","model":"%[1]s:latest"}]}`
)

// startStub starts a stub on a free port.
func startStub(host Host, scale float64) (*stub, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	s := &stub{clock: clock{time.Now(), scale}, server: &http.Server{Handler: mux}, addr: ln.Addr().String(), host: host, served: map[int]*Record{}}
	reply := func(pattern string, body func() string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			io.WriteString(w, body())
		})
	}
	embed := func(pattern, body string) {
		reply(pattern, func() string {
			s.embeds.Lock()
			defer s.embeds.Unlock()
			time.Sleep(embedTime)
			return body
		})
	}
	mux.HandleFunc("POST /api/chat", s.chat)
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	embed("POST /api/embed", `{"model":"embed","embeddings":[[0.1,0.2]]}`)
	embed("POST /v1/embeddings", `{"data":[{"embedding":[0.1,0.2]}]}`)
	reply("GET /api/tags", func() string { return tags })
	reply("GET /api/version", func() string { return `{"version":"0.34.4"}` })
	reply("GET /{$}", func() string { return "Ollama is running" })
	reply("GET /api/ps", func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return fmt.Sprintf(ps, s.host.loaded)
	})
	go s.server.Serve(ln)
	return s, nil
}

func (s *stub) url() string { return "http://" + s.addr }

// begin begins the run: no chat has come yet.
func (s *stub) begin(c clock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = c
}

// end returns what was served, by ID, once the last clients have left.
func (s *stub) end() (map[int]*Record, error) {
	for {
		s.mu.Lock()
		busy := s.busy
		s.mu.Unlock()
		if !busy {
			return s.served, s.server.Close()
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *stub) chat(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Messages []struct{ Content string }
	}
	var request Request
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &asked)
	}
	if err != nil || len(asked.Messages) == 0 || json.Unmarshal([]byte(asked.Messages[len(asked.Messages)-1].Content), &request) != nil {
		http.Error(w, `{"error":"no sizes in the last message"}`, http.StatusBadRequest)
		return
	}
	if s.enter(r.Context(), request.Model) {
		record := s.serve(request)
		s.answer(w, r, record)
		s.leave(record)
	}
}

// answer takes the time of a chat and writes its answer: a piece for each second.
func (s *stub) answer(w http.ResponseWriter, r *http.Request, record *Record) {
	const said = `{"model":"m","message":{"role":"assistant","content":"words"},"done":`
	piece := said + "false}\n"
	last := fmt.Sprintf(said+`true,"load_duration":%d,"prompt_eval_count":%d,"prompt_eval_cached_count":%d,"eval_count":%d}`+"\n",
		s.real(record.Load).Nanoseconds(), record.Prompt, record.Cached, record.Out)
	w.Header().Set("Content-Type", "application/x-ndjson")
	if strings.HasPrefix(r.URL.Path, "/v1/") && record.Stream {
		piece, last = `data: {"choices":[{"delta":{"content":"words"}}]}`+"\n\n", "data: [DONE]\n\n"
		w.Header().Set("Content-Type", "text/event-stream")
	}
	end := record.Start + record.total()
	for at := record.Start + record.Load + record.Read; record.Stream && at < end; at++ {
		if !s.sleep(r.Context(), at) {
			return
		}
		io.WriteString(w, piece)
		http.NewResponseController(w).Flush()
	}
	if s.sleep(r.Context(), end) {
		io.WriteString(w, last)
	}
}

// enter waits in line, and reports false if ctx ended first.
func (s *stub) enter(ctx context.Context, model string) bool {
	turn := make(chan struct{})
	s.mu.Lock()
	s.line = append(s.line, waiter{model, turn})
	if !s.busy {
		s.passOn()
	}
	s.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.line, waiter{model, turn}); i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
	} else {
		s.passOn() // the turn came at the same moment
	}
	return false
}

func (s *stub) serve(request Request) *Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	record := &Record{Request: request, Start: s.now(), Cost: s.host.begin(request)}
	s.served[request.ID] = record
	return record
}

func (s *stub) leave(record *Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record.Stop = s.now()
	s.host.end(record.Cost, record.Stop-record.Start)
	s.passOn()
}

// passOn gives the turn to the first in line for the model that is loaded, and else to the first: in Ollama 0.34 a
// request for a loaded model does not queue up with those that have to wait for a load (server/sched.go, GetRunner).
func (s *stub) passOn() {
	if s.busy = len(s.line) > 0; s.busy {
		next := max(0, slices.IndexFunc(s.line, func(w waiter) bool { return w.model == s.host.loaded }))
		close(s.line[next].turn)
		s.line = slices.Delete(s.line, next, next+1)
	}
}
