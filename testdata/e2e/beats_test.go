package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
	goopenai "github.com/sashabaranov/go-openai"
	"github.com/tmc/langchaingo/llms"
	langchain "github.com/tmc/langchaingo/llms/ollama"

	"foreman/e2e/lab"
)

const beatsQuestion = "Who are you?"

// beatsTasks have the model call a tool, behind some words and before any.
var beatsTasks = []string{
	"Write the line hello to the file greeting.txt and say so.",
	"Without a word, write the line hello to the file greeting.txt and say so.",
}

// writeFile is the tool for beatsTasks. What the model calls it with is writeCall.
var writeFile = map[string]any{
	"type": "object", "required": []string{"path", "content"},
	"properties": map[string]any{"path": map[string]string{"type": "string"}, "content": map[string]string{"type": "string"}},
}

const writeCall = `write_file {"content":"hello\n","path":"greeting.txt"}`

// beatsEndings are where a client hears three heartbeats or more, and then what the
// name says.
type beatsEndings struct {
	plain                string // an answer with no heartbeat
	slow                 string // the same, also to beatsTasks, by and by
	answer, failure, cut *tap
	odd                  map[string]*tap // by the text of an error of the host's that has none for most readers
}

// oddErrors are what hosts and proxies before them answer with instead of an error as the
// API has it, and what foreman makes of it.
var oddErrors = []struct {
	status     int
	body, text string
}{
	{524, "", "the Ollama host answered 524"},
	{500, `{"error":""}`, "the Ollama host answered 500 Internal Server Error"},
	{500, `{"error":{"code":500,"message":"out of memory"}}`, "out of memory"},
}

// startBeats starts foremen with a heartbeat of 100ms. In front of one an Ollama reads
// each prompt for a second, and is silent for a second before its last word; somebody has the turn of the next for longer than its clients
// may wait; and what the third answers breaks off in its middle.
func startBeats(t *testing.T) beatsEndings {
	t.Helper()
	needStandIn(t)
	const heartbeat = "FOREMAN_HEARTBEAT=100ms"
	pace := testPace
	pace.Prompt, pace.Pause = time.Second, time.Second
	slow := startAgentOllama(t, pace)
	held, _ := holdTurn(t, heartbeat, "FOREMAN_QUEUE_TIMEOUT=1s")
	odd := map[string]*tap{}
	for _, e := range oddErrors {
		odd[e.text] = newTap(t, startForeman(t, failLate(t, slow.URL, e.status, e.body), heartbeat).URL)
	}
	return beatsEndings{
		odd:     odd,
		plain:   ollama.URL,
		slow:    slow.URL,
		answer:  newTap(t, startForeman(t, slow.URL, heartbeat).URL),
		failure: newTap(t, held),
		cut:     newTap(t, startForeman(t, breakOff(t, slow.URL), heartbeat).URL),
	}
}

// holdTurn starts a foreman and has a client take the turn. Until release is called no
// chat gets to Ollama. Nobody leaves in the middle of an answer: after that, Ollama
// v0.34.4 may never answer again.
func holdTurn(t *testing.T, env ...string) (foreman string, release func()) {
	t.Helper()
	released := make(chan struct{})
	meter, err := lab.NewMeter(ollama.URL, func(r *http.Request) {
		if r.URL.Path != "/api/chat" {
			return
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	foreman = startForeman(t, meter.URL, env...).URL
	call(t, foreman+"/api/chat", "", `{"model":"`+lab.ChatModel+`","messages":[{"role":"user","content":"Tell me all."}]}`)
	eventually(t, func() error { return wantWaiting(foreman, 0) })
	return foreman, sync.OnceFunc(func() { close(released) })
}

// wantBeats looks whether each ending was heard, behind three heartbeats or more, and
// whether there were as many in the middle of each answer.
func (e beatsEndings) wantBeats(t *testing.T) {
	t.Helper()
	taps := map[string]*tap{"answer": e.answer, "failure": e.failure, "cut": e.cut}
	maps.Copy(taps, e.odd)
	for name, tap := range taps {
		beats, mid := tap.beats()
		if name == "answer" && (len(mid) == 0 || slices.Min(mid) < 3) {
			t.Errorf("got %d heartbeats in the middle of answers; want three or more in each", mid)
		}
		if len(beats) == 0 || slices.Min(beats) < 3 {
			t.Errorf("%s: got %d heartbeats; want three or more in each answer, and an answer", name, beats)
		}
	}
}

// oddURLs are where an odd error is heard, by its text.
func (e beatsEndings) oddURLs() map[string]string {
	urls := map[string]string{}
	for text, tap := range e.odd {
		urls[text] = tap.URL
	}
	return urls
}

// A tap stands between foreman and its clients. It passes every byte on, and keeps what
// both say.
type tap struct {
	URL string

	mu          sync.Mutex
	asked, said []*bytes.Buffer // each connection's, guarded by mu
}

func newTap(t *testing.T, target string) *tap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{URL: "http://" + listener.Addr().String()}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			open.Go(func() { p.serve(ctx, client, strings.TrimPrefix(target, "http://")) })
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		open.Wait()
	})
	return p
}

// serve passes bytes on until a side closes its connection.
func (p *tap) serve(ctx context.Context, client net.Conn, target string) {
	defer client.Close()
	foreman, err := net.Dial("tcp", target)
	if err != nil {
		return // the client sees its connection end
	}
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		foreman.Close()
		client.Close()
	})
	defer stop()
	p.mu.Lock()
	asked, said := new(bytes.Buffer), new(bytes.Buffer)
	p.asked, p.said = append(p.asked, asked), append(p.said, said)
	p.mu.Unlock()
	var asking sync.WaitGroup
	asking.Go(func() {
		defer end()
		p.pass(foreman, client, asked)
	})
	p.pass(client, foreman, said)
	end()
	asking.Wait()
}

// pass passes bytes on, and keeps them.
func (p *tap) pass(to, from net.Conn, kept *bytes.Buffer) {
	io.Copy(to, io.TeeReader(from, writerFunc(func(b []byte) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return kept.Write(b)
	})))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// beats returns how many heartbeats there were in each answer since it was last called,
// and how many of those in its middle.
func (p *tap) beats() (beats, mid []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, said := range p.said {
		for _, answer := range strings.Split(said.String(), "HTTP/1.1 ")[1:] {
			beats = append(beats, countBeats(answer))
			mid = append(mid, countBeats(middle(answer)))
		}
		said.Reset()
	}
	return beats, mid
}

// aWord is where a stream says a word, and toolCall where it calls a tool, in each API.
var (
	aWord    = regexp.MustCompile(`("content"|"response"|"delta"|"text_delta","text"):"[^"]`)
	toolCall = regexp.MustCompile(`"tool_calls"|"function_call"|"tool_use"`)
)

// middle returns what stands between the first word of a stream and its end, or between
// its last word, if it has any, and its call of a tool.
func middle(answer string) string {
	if call := toolCall.FindStringIndex(answer); call != nil {
		answer = answer[:call[0]]
		if words := aWord.FindAllStringIndex(answer, -1); words != nil {
			answer = answer[words[len(words)-1][0]:]
		}
		return answer
	}
	if first := aWord.FindStringIndex(answer); first != nil {
		return answer[first[0]:]
	}
	return ""
}

// countBeats returns how many heartbeats there are in a piece of a stream. An answer of
// words has none of these.
func countBeats(text string) (n int) {
	for _, sign := range []string{
		`"message":{"role":"assistant","content":""},"done":false}`, `"response":"","done":false}`, `"content":""},"finish_reason":null}]}`,
		`: {"queue":{"position":`, `data: {"type":"keepalive",`, `data: {"type":"ping"}`,
	} {
		n += strings.Count(text, sign)
	}
	return n
}

// breakOff returns the URL of a server that passes on what the target says, and closes
// the connection within each answer that has many lines. The target does not notice: see
// [holdTurn].
func breakOff(t *testing.T, target string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u) },
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // of what it breaks off
		ModifyResponse: func(r *http.Response) error {
			r.Body = &broken{ReadCloser: r.Body, lines: 21}
			return nil
		},
	})
	t.Cleanup(server.Close)
	return server.URL
}

// failLate returns the URL of a server that answers each chat with an error, after a
// second in which a client may hear heartbeats. All else the target answers.
func failLate(t *testing.T, target string, status int, body string) string {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.URL.Path == "/api/show" {
			proxy.ServeHTTP(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A broken body fails behind so many lines.
type broken struct {
	io.ReadCloser
	lines int
}

func (b *broken) Read(p []byte) (int, error) {
	if b.lines == 0 {
		_, err := io.Copy(io.Discard, b.ReadCloser)
		return 0, errors.Join(errors.New("broken off by the test"), err)
	}
	n, err := b.ReadCloser.Read(p)
	for i, c := range p[:n] {
		if c != '\n' {
			continue
		}
		if b.lines--; b.lines == 0 {
			return i + 1, nil
		}
	}
	return n, err
}

// TestBeats has each client hear heartbeats and then an answer, an error or a cut. The
// README has what their users see of it, in a table.
func TestBeats(t *testing.T) {
	t.Parallel()
	endings := startBeats(t)
	oldOpenAI := buildOldOpenAI(t)
	old := func(ctx context.Context, base string) ([]string, error) {
		said, err := oldOpenAI(ctx, base, lab.ChatModel, beatsQuestion)
		return []string{said}, err
	}
	callOld := func(ctx context.Context, base, task string) (string, error) {
		parameters, err := json.Marshal(writeFile)
		if err != nil {
			return "", err
		}
		said, err := oldOpenAI(ctx, base, agentModel, task, string(parameters))
		_, call, _ := strings.Cut(said, "\n\n")
		name, arguments, _ := strings.Cut(strings.TrimSpace(call), " ")
		return callText(name, arguments), err
	}
	for _, client := range []struct {
		name string
		// ask returns the pieces of text that the client hands to its user.
		ask func(ctx context.Context, base string) ([]string, error)
		// call returns the call of a tool that comes of a task; nil: the client knows no tools.
		call    func(ctx context.Context, base, task string) (string, error)
		empty   bool   // a heartbeat is a piece of no text
		failure string // part of the error that ends beatsEndings.failure
		cut     string // the same for beatsEndings.cut
	}{
		{name: "ollama api", ask: askOllama, call: callOllama, empty: true, failure: "waited too long for a turn", cut: "unexpected EOF"},
		{name: "openai-go chat", ask: askOpenAI, call: callOpenAI, empty: true, failure: "waited too long for a turn", cut: "unexpected EOF"},
		{name: "openai-go responses", ask: askOpenAIResponses, call: callOpenAIResponses, failure: "waited too long for a turn", cut: "unexpected EOF"},
		{name: "openai-go v3.37.0", ask: old, call: callOld, failure: "waited too long for a turn", cut: "unexpected EOF"},
		{name: "go-openai", ask: askGoOpenAI, call: callGoOpenAI, empty: true, failure: "waited too long for a turn", cut: "unexpected EOF"},
		{name: "langchaingo", ask: askLangchain, empty: true, failure: "waited too long for a turn", cut: errNoAnswer.Error()},
	} {
		t.Run(client.name, func(t *testing.T) {
			want, err := client.ask(t.Context(), endings.plain)
			if err != nil || strings.Join(want, "") == "" {
				t.Fatalf("no heartbeat: got %q, %v; want an answer", want, err)
			}
			got, err := client.ask(t.Context(), endings.answer.URL)
			if err != nil || !slices.Equal(texts(got), texts(want)) {
				t.Errorf("answer: got %q, %v; want %q", got, err, want)
			}
			more := len(got) - len(want)
			if client.empty && more < 3 || !client.empty && more != 0 {
				t.Errorf("answer: got %d pieces more than without heartbeats; want one for each: %v", more, client.empty)
			}
			t.Logf("answer: %d pieces, %d more", len(got), more)
			for _, task := range beatsTasks {
				for _, base := range []string{endings.slow, endings.answer.URL} {
					if client.call == nil {
						break
					}
					if got, err := client.call(t.Context(), base, task); err != nil || got != writeCall {
						t.Errorf("%s: got %s, %v; want %s", task, got, err, writeCall)
					}
				}
			}
			got, err = client.ask(t.Context(), endings.failure.URL)
			if len(texts(got)) != 0 || err == nil || !strings.Contains(err.Error(), client.failure) {
				t.Errorf("failure: got %q, %v; want an error with %q", got, err, client.failure)
			}
			t.Logf("failure: %v (%T)", err, err)
			for text, tap := range endings.odd {
				if got, err := client.ask(t.Context(), tap.URL); len(texts(got)) != 0 || err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("an odd error: got %q, %v; want an error with %q", got, err, text)
				}
			}
			got, err = client.ask(t.Context(), endings.cut.URL)
			switch said, all := strings.Join(got, ""), strings.Join(want, ""); {
			case said == "" || said == all || !strings.HasPrefix(all, said):
				t.Errorf("cut: got %q; want some of %q", got, want)
			case err == nil || !strings.Contains(err.Error(), client.cut):
				t.Errorf("cut: got %q, %v; want an error with %q", got, err, client.cut)
			}
			t.Logf("cut: %v (%T)", err, err)
			endings.wantBeats(t)
		})
	}
}

// texts returns the pieces that have text.
func texts(pieces []string) []string {
	return slices.DeleteFunc(slices.Clone(pieces), func(s string) bool { return s == "" })
}

func askOllama(ctx context.Context, base string) (pieces []string, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	err = api.NewClient(u, http.DefaultClient).Chat(ctx, &api.ChatRequest{
		Model:    lab.ChatModel,
		Messages: []api.Message{{Role: "user", Content: beatsQuestion}},
	}, func(r api.ChatResponse) error {
		pieces = append(pieces, r.Message.Content)
		return nil
	})
	return pieces, err
}

func askOpenAI(ctx context.Context, base string) (pieces []string, err error) {
	client := newOpenAI(base, "any")
	stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model:    lab.ChatModel,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(beatsQuestion)},
	})
	defer stream.Close()
	var whole openai.ChatCompletionAccumulator
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			pieces = append(pieces, choice.Delta.Content)
		}
		if !whole.AddChunk(stream.Current()) {
			return pieces, fmt.Errorf("a chunk does not belong to the others: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		return pieces, err
	}
	if got, want := whole.Choices[0].Message.Content, strings.Join(pieces, ""); got != want {
		return pieces, fmt.Errorf("put together, the pieces are %q; want %q", got, want)
	}
	return pieces, nil
}

func askOpenAIResponses(ctx context.Context, base string) (pieces []string, err error) {
	client := newOpenAI(base, "any")
	stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model: lab.ChatModel,
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(beatsQuestion)},
	})
	defer stream.Close()
	for stream.Next() {
		pieces = append(pieces, stream.Current().Delta)
	}
	return pieces, stream.Err()
}

// errNoAnswer stands for what langchaingo has instead of an error after a cut.
var errNoAnswer = errors.New("no error, but an empty answer")

func askLangchain(ctx context.Context, base string) (pieces []string, err error) {
	model, err := langchain.New(langchain.WithServerURL(base), langchain.WithModel(lab.ChatModel))
	if err != nil {
		return nil, err
	}
	answer, err := model.Call(ctx, beatsQuestion, llms.WithStreamingFunc(func(_ context.Context, piece []byte) error {
		pieces = append(pieces, string(piece))
		return nil
	}))
	if all := strings.Join(pieces, ""); err == nil && answer == "" && all != "" {
		err = errNoAnswer
	} else if err == nil && answer != all {
		err = fmt.Errorf("the answer is %q, of pieces that are %q", answer, all)
	}
	return pieces, err
}

// buildOldOpenAI builds openai-old and returns a function that asks with it.
func buildOldOpenAI(t *testing.T) func(ctx context.Context, base string, args ...string) (string, error) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "openai-old")
	build := exec.CommandContext(t.Context(), "go", "-C", "openai-old", "build", "-o", binary)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build openai-old: %v\n%s", err, out)
	}
	return func(ctx context.Context, base string, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, binary, append([]string{base}, args...)...).Output()
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = errors.New(string(exit.Stderr))
		}
		return string(out), err
	}
}

func callOllama(ctx context.Context, base, task string) (call string, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	tool := api.Tool{Type: "function", Function: api.ToolFunction{Name: "write_file"}}
	parameters, err := json.Marshal(writeFile)
	if err == nil {
		err = json.Unmarshal(parameters, &tool.Function.Parameters)
	}
	if err != nil {
		return "", err
	}
	err = api.NewClient(u, http.DefaultClient).Chat(ctx, &api.ChatRequest{
		Model:    agentModel,
		Messages: []api.Message{{Role: "user", Content: task}},
		Tools:    api.Tools{tool},
	}, func(r api.ChatResponse) error {
		for _, made := range r.Message.ToolCalls {
			call += callText(made.Function.Name, made.Function.Arguments.String())
		}
		return nil
	})
	return call, err
}

// callText returns a call of a tool as writeCall has it.
func callText(name, arguments string) string {
	var v any
	if err := json.Unmarshal([]byte(arguments), &v); err != nil {
		return name + " " + err.Error()
	}
	sorted, err := json.Marshal(v)
	if err != nil {
		panic(err) // it was JSON before
	}
	return name + " " + string(sorted)
}

func callOpenAI(ctx context.Context, base, task string) (call string, err error) {
	client := newOpenAI(base, "any")
	stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model:    agentModel,
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(task)},
		Tools:    []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "write_file", Parameters: writeFile})},
	})
	defer stream.Close()
	var whole openai.ChatCompletionAccumulator
	for stream.Next() {
		if !whole.AddChunk(stream.Current()) {
			return "", fmt.Errorf("a chunk does not belong to the others: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		return "", err
	}
	for _, made := range whole.Choices[0].Message.ToolCalls {
		call += callText(made.Function.Name, made.Function.Arguments)
	}
	return call, nil
}

func callOpenAIResponses(ctx context.Context, base, task string) (call string, err error) {
	client := newOpenAI(base, "any")
	stream := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model: agentModel,
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String(task)},
		Tools: []responses.ToolUnionParam{responses.ToolParamOfFunction("write_file", writeFile, false)},
	})
	defer stream.Close()
	for stream.Next() {
		for _, item := range stream.Current().Response.Output { // of the last event
			if item.Type == "function_call" {
				made := item.AsFunctionCall()
				call += callText(made.Name, made.Arguments)
			}
		}
	}
	return call, stream.Err()
}

func askGoOpenAI(ctx context.Context, base string) (pieces []string, err error) {
	err = eachGoOpenAI(ctx, base, goopenai.ChatCompletionRequest{
		Model:    lab.ChatModel,
		Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: beatsQuestion}},
	}, func(delta goopenai.ChatCompletionStreamChoiceDelta) { pieces = append(pieces, delta.Content) })
	return pieces, err
}

func callGoOpenAI(ctx context.Context, base, task string) (call string, err error) {
	err = eachGoOpenAI(ctx, base, goopenai.ChatCompletionRequest{
		Model:    agentModel,
		Messages: []goopenai.ChatCompletionMessage{{Role: "user", Content: task}},
		Tools:    []goopenai.Tool{{Type: "function", Function: &goopenai.FunctionDefinition{Name: "write_file", Parameters: writeFile}}},
	}, func(delta goopenai.ChatCompletionStreamChoiceDelta) {
		for _, made := range delta.ToolCalls {
			call += callText(made.Function.Name, made.Function.Arguments)
		}
	})
	return call, err
}

// eachGoOpenAI hands each piece of a streamed answer to piece.
func eachGoOpenAI(ctx context.Context, base string, ask goopenai.ChatCompletionRequest, piece func(goopenai.ChatCompletionStreamChoiceDelta)) error {
	config := goopenai.DefaultConfig("any")
	config.BaseURL = base + "/v1"
	stream, err := goopenai.NewClientWithConfig(config).CreateChatCompletionStream(ctx, ask)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, choice := range chunk.Choices {
			piece(choice.Delta)
		}
	}
}

// TestBeatsCurl looks at what curl prints, and how it ends.
func TestBeatsCurl(t *testing.T) {
	t.Parallel()
	curl := need(t, "the command line tests need curl (Debian: apt-get install curl)", "curl")
	endings := startBeats(t)
	for _, api := range []struct{ path, body, beat, failure string }{
		{"/api/chat", `{"model":"tiny-chat","messages":[{"role":"user","content":"Who are you?"}]}`, `{"model":"tiny-chat:latest",`, "\n" + `{"error":"waited too long for a turn"}` + "\n"},
		{"/v1/chat/completions", `{"model":"tiny-chat","stream":true,"messages":[{"role":"user","content":"Who are you?"}]}`, `data: {"id":"",`, "\n" + `data: {"error":{"message":"waited too long for a turn",`},
		{"/v1/responses", `{"model":"tiny-chat","stream":true,"input":"Who are you?"}`, `: {"queue":`, "\nevent: error\ndata: {"},
		{"/v1/messages", `{"model":"tiny-chat","stream":true,"max_tokens":12,"messages":[{"role":"user","content":"Who are you?"}]}`, "event: ping\n", "\nevent: error\ndata: {"},
	} {
		ask := func(base string) (printed string, status int) {
			cmd := exec.CommandContext(t.Context(), curl, "-sN", base+api.path, "-d", api.body)
			out, err := cmd.Output()
			if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			return string(out), cmd.ProcessState.ExitCode()
		}
		const broken = 18 // CURLE_PARTIAL_FILE
		for _, ending := range []struct {
			name, url string
			status    int
			last      string
		}{
			{"answer", endings.answer.URL, 0, ""},
			{"failure", endings.failure.URL, 0, api.failure},
			{"cut", endings.cut.URL, broken, ""},
		} {
			printed, status := ask(ending.url)
			if status != ending.status || !strings.HasPrefix(printed, api.beat) || !strings.Contains(printed, ending.last) {
				t.Errorf("%s, %s: got status %d, %s; want %d, %s first and then %s", api.path, ending.name, status, printed, ending.status, api.beat, ending.last)
			}
		}
		for text, tap := range endings.odd {
			if printed, status := ask(tap.URL); status != 0 || !strings.HasPrefix(printed, api.beat) || !strings.Contains(printed, text) {
				t.Errorf("%s, an odd error: got status %d, %s; want 0, %s first and then %s", api.path, status, printed, api.beat, text)
			}
		}
	}
	endings.wantBeats(t)
}

// TestBeatsJavaScript installs the clients of js-beats/package-lock.json in a copy of
// js-beats and runs the tests there, with each file's endings for itself.
func TestBeatsJavaScript(t *testing.T) {
	t.Parallel()
	run := installBeats(t)
	endings := startBeats(t)
	odd, err := json.Marshal(endings.oddURLs())
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{"ollama", "openai", "anthropic", "langchain", "langchain-openai", "ai-sdk"} {
		t.Run(client, func(t *testing.T) {
			run(t, client+".test.js",
				"PLAIN_URL="+endings.plain,
				"SLOW_URL="+endings.slow,
				"AGENT_MODEL="+agentModel,
				"ANSWER_URL="+endings.answer.URL,
				"FAILURE_URL="+endings.failure.URL,
				"ODD_URLS="+string(odd),
				"CUT_URL="+endings.cut.URL)
			endings.wantBeats(t)
		})
	}
}

// TestBeatsKeepClientsInLine has clients whose patience ends after two seconds wait for
// ten in line, with and without heartbeats, and for five in the middle of an answer.
func TestBeatsKeepClientsInLine(t *testing.T) {
	t.Parallel()
	run := installBeats(t)
	line, release := holdTurn(t, "FOREMAN_HEARTBEAT=500ms")
	silent, releaseSilent := holdTurn(t, "FOREMAN_HEARTBEAT=0")
	pace := testPace
	pace.Pause = 5 * time.Second
	pausing := startOllama(t, pace.Env()...).URL
	env := []string{
		"LINE_URL=" + line, "PAUSE_URL=" + startForeman(t, pausing, "FOREMAN_HEARTBEAT=500ms").URL,
		"SILENT_URL=" + silent, "SILENT_PAUSE_URL=" + startForeman(t, pausing, "FOREMAN_HEARTBEAT=0").URL,
	}
	var clients sync.WaitGroup
	t.Cleanup(clients.Wait)
	clients.Go(func() { run(t, "line.test.js", env...) })
	eventually(t, func() error { return wantWaiting(line, 2) })
	time.Sleep(10 * time.Second) // five times the patience of the clients
	if err := wantWaiting(line, 2); err != nil {
		t.Error(err)
	}
	release()
	releaseSilent() // of it waits a request that its client has given up, and has not cancelled
	clients.Wait()
}

// beatsDir is a copy of js-beats with what it needs, once for all tests.
var beatsDir = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(testDir, "js-beats")
	if err := os.CopyFS(dir, os.DirFS("js-beats")); err != nil {
		return "", err
	}
	install := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return dir, nil
})

// installBeats returns a function that runs a file of tests in beatsDir.
func installBeats(t *testing.T) (run func(t *testing.T, file string, env ...string)) {
	t.Helper()
	const advice = "the JavaScript clients need Node.js 20 or later, with npm (Debian: apt-get install nodejs npm)"
	node := need(t, advice, "node")
	need(t, advice, "npm")
	dir, err := beatsDir()
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, file string, env ...string) {
		t.Helper()
		// Without --test it has no children. A client that leaves a connection open keeps it from ending.
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, node, "--test-reporter=spec", file)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "CHAT_MODEL="+lab.ChatModel), env...)
		out, err := cmd.CombinedOutput()
		t.Logf("%s:\n%s", file, out)
		if err != nil {
			t.Errorf("%s: got %v; want exit status 0", file, err)
		}
	}
}
