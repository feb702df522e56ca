// Package dialect has what foreman itself says, in the words of the APIs that Ollama
// speaks: an error as a whole answer, an error that ends a stream, and a heartbeat in a
// stream that is silent.
package dialect

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Dialect is one API. Get one with [Of].
type Dialect string

const (
	native    Dialect = "native"
	openAI    Dialect = "OpenAI"
	responses Dialect = "OpenAI's responses"
	anthropic Dialect = "Anthropic"
)

// Of returns the dialect of a path.
func Of(path string) Dialect {
	switch {
	case path == "/v1/messages", strings.HasPrefix(path, "/v1/messages/"):
		return anthropic
	case path == "/v1/responses":
		return responses
	case strings.HasPrefix(path, "/v1/"):
		return openAI
	default:
		return native
	}
}

// A Failure is an error to tell a client.
type Failure struct {
	Status int    // HTTP status that the error has, or would have
	Code   string // OpenAI's code for it; empty: OpenAI has none
	Text   string
}

// Error returns an error as the JSON of a whole answer, on one line: Ollama's command
// line reads the first line of an error only.
func (d Dialect) Error(f Failure) []byte {
	switch d {
	case anthropic:
		return line(anthropicError(f))
	case openAI, responses:
		return line(struct {
			Error openAIInner `json:"error"`
		}{openAIError(f)})
	default:
		e := struct {
			Error  string `json:"error"`
			Status string `json:"status,omitempty"` // what Ollama's Go client and command line show of a 401
		}{Error: f.Text}
		if f.Status == http.StatusUnauthorized {
			e.Status = f.Text
		}
		return line(e)
	}
}

// StreamError returns an error that ends a stream. The clients of each API take it for
// one.
func (d Dialect) StreamError(f Failure) []byte {
	switch d {
	case anthropic:
		return event("error", line(anthropicError(f)))
	case responses:
		// https://platform.openai.com/docs/api-reference/responses-streaming/error; OpenAI's
		// clients look for the error of the other APIs as well.
		inner := openAIError(f)
		return event("error", line(struct {
			Type     string      `json:"type"`
			Code     *string     `json:"code"`
			Message  string      `json:"message"`
			Param    *string     `json:"param"`
			Sequence int         `json:"sequence_number"`
			Error    openAIInner `json:"error"`
		}{"error", inner.Code, inner.Message, nil, 0, inner}))
	case openAI:
		return event("", d.Error(f))
	default:
		return d.Error(f)
	}
}

// ContentType is the Content-Type of a stream.
func (d Dialect) ContentType() string {
	if d == native {
		return "application/x-ndjson"
	}
	return "text/event-stream"
}

// Separator is what stands behind each chunk of a stream.
func (d Dialect) Separator() string {
	if d == native {
		return "\n"
	}
	return "\n\n"
}

// A Beat tells a client that its request waits.
type Beat struct {
	Path     string    // of the request
	Model    string    // as the target spells it
	Last     []byte    // the chunk of the target's behind which it comes; empty: none has come
	Now      time.Time // when it is told
	First    bool      // it is the first of its answer
	Events   bool      // the client goes by events, and not by comments and pings; see [CountsEvents]
	FirstID  bool      // the client keeps the first id, if it is empty too; see [KeepsFirstID]
	Position int       // in line; 1: next, 0: it waits for the target
	Waited   time.Duration
}

// CountsEvents tells by the fields of a request whether its client gives up unless it gets
// events: comments and pings are no sign of life to it, and it skips events whose type it
// does not know. OpenAI's Codex and Claude Code do, after 300 s.
func CountsEvents(h http.Header) bool {
	agent := strings.ToLower(h.Get("User-Agent"))
	return strings.HasPrefix(agent, "codex") || strings.HasPrefix(strings.ToLower(h.Get("Originator")), "codex") ||
		strings.HasPrefix(agent, "claude-cli/")
}

// KeepsFirstID tells by the fields of a request whether its client names an answer by the
// first id that it sees, an empty one too, and so mistakes two answers for one. LangChain
// for JavaScript does: LangGraph then puts the second in the place of the first.
func KeepsFirstID(h http.Header) bool {
	return strings.HasPrefix(strings.ToLower(h.Get("User-Agent")), "langchainjs-")
}

// Heartbeat returns a piece of a stream that has nothing in it but that the request is
// alive: a chunk as the API itself has it, with nothing said and no key that it does not
// have, for strict clients fail on one; or an event that the API has for this. OpenAI's
// clients put together the chunks of one id, and take an empty one before the first; some
// fail on a chunk without any, and so only who keeps the first gets none.
// The events of its responses begin with one that is the target's to send: a client of
// these gets a comment (https://html.spec.whatwg.org/multipage/server-sent-events.html)
// without an empty line behind it, for that makes an event of it to some, and only who
// goes by events gets one of a type that nobody knows. It is nil behind the chunk that is
// the stream's last, as its clients see it, or an error, or nothing that the API has.
func (d Dialect) Heartbeat(b Beat) []byte {
	last := said{Created: b.Now.Unix(), Model: b.Model, noID: b.FirstID}
	if len(b.Last) > 0 && !last.read(d, b.Last) {
		return nil
	}
	switch {
	case d == anthropic && b.Events:
		return event("message", line(struct { // of the names that Anthropic's library passes on
			Type string `json:"type"`
		}{"keepalive"}))
	case d == anthropic:
		return event("ping", line(struct {
			Type string `json:"type"`
		}{"ping"}))
	case b.Path == "/v1/chat/completions":
		delta := struct {
			Role    string `json:"role,omitempty"`
			Content string `json:"content"`
		}{}
		if b.First {
			delta.Role = "assistant"
		}
		type choice struct {
			Index        int     `json:"index"`
			Delta        any     `json:"delta"`
			FinishReason *string `json:"finish_reason"`
		}
		return last.chunk("chat.completion.chunk", choice{Delta: delta})
	case b.Path == "/v1/completions":
		type choice struct {
			Text         string  `json:"text"`
			Index        int     `json:"index"`
			Logprobs     *string `json:"logprobs"`
			FinishReason *string `json:"finish_reason"`
		}
		return last.chunk("text_completion", choice{})
	case d == responses && b.Events:
		return event("keepalive", line(struct {
			Type     string `json:"type"`
			Sequence int64  `json:"sequence_number"`
		}{"keepalive", last.Sequence}))
	case d != native:
		type queue struct {
			Position int   `json:"position"`
			WaitedMS int64 `json:"waited_ms"`
		}
		return append([]byte(": "), line(struct {
			Queue queue `json:"queue"`
		}{queue{b.Position, b.Waited.Milliseconds()}})...)
	case b.Path == "/api/generate":
		return line(struct {
			Model     string    `json:"model"`
			CreatedAt time.Time `json:"created_at"`
			Response  string    `json:"response"`
			Done      bool      `json:"done"`
		}{last.Model, b.Now.UTC(), "", false})
	default:
		type message struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		}
		return line(struct {
			Model     string    `json:"model"`
			CreatedAt time.Time `json:"created_at"`
			Message   message   `json:"message"`
			Done      bool      `json:"done"`
		}{last.Model, b.Now.UTC(), message{"assistant", ""}, false})
	}
}

// said is what the target said last, in the words of any of the APIs.
type said struct {
	ID      string
	Created int64
	Model   string
	Choices []struct {
		Finish string `json:"finish_reason"`
	}
	Done     bool
	Type     string
	Sequence int64 `json:"sequence_number"`
	Error    any
	noID     bool // an empty one is left out
}

// read reads the target's last chunk, and reports whether more of its stream is to come.
func (s *said) read(d Dialect, chunk []byte) bool {
	if d != native {
		_, chunk, _ = bytes.Cut(append([]byte("\n"), chunk...), []byte("\ndata:"))
	}
	if json.Unmarshal(chunk, s) != nil || s.Error != nil {
		return false
	}
	switch d {
	case native:
		return !s.Done
	case openAI: // a chunk without a choice comes behind the last of each, with what they took
		return len(s.Choices) > 0 && s.Choices[0].Finish == ""
	default:
		return s.Type != "" && !slices.Contains(lastEvents, s.Type)
	}
}

// lastEvents are the types of those that end a stream of events.
var lastEvents = []string{"error", "message_stop", "response.completed", "response.failed", "response.incomplete"}

// chunk is one of OpenAI's, with one choice, that belongs to the last.
func (s *said) chunk(object string, choice any) []byte {
	id := &s.ID
	if s.noID && s.ID == "" {
		id = nil
	}
	return event("", line(struct {
		ID      *string `json:"id,omitempty"`
		Object  string  `json:"object"`
		Created int64   `json:"created"`
		Model   string  `json:"model"`
		Choices []any   `json:"choices"`
	}{id, object, s.Created, s.Model, []any{choice}}))
}

// An openAIInner is the shape of https://platform.openai.com/docs/guides/error-codes.
type openAIInner struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// openAIError has OpenAI's own types: Ollama's, not_found_error and api_error, are not
// the same for the same status on all of its paths.
func openAIError(f Failure) openAIInner {
	e := openAIInner{Message: f.Text, Type: "server_error"}
	if f.Status < 500 {
		e.Type = "invalid_request_error"
	}
	if f.Code != "" {
		e.Code = &f.Code
	}
	return e
}

// anthropicError is the shape of https://docs.anthropic.com/en/api/errors.
func anthropicError(f Failure) any {
	type inner struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	}
	kind := "api_error"
	switch f.Status {
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusServiceUnavailable:
		kind = "overloaded_error"
	case http.StatusGatewayTimeout:
		kind = "timeout_error"
	default:
		if f.Status < 500 {
			kind = "invalid_request_error"
		}
	}
	return struct {
		Type  string `json:"type"`
		Error inner  `json:"error"`
	}{"error", inner{kind, f.Text}}
}

// line returns a value as JSON on one line.
func line(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // v is one of our own types
	}
	return append(b, '\n')
}

// event returns a server-sent event whose data is on one line. A name is optional.
func event(name string, data []byte) []byte {
	var b []byte
	if name != "" {
		b = append(b, "event: "+name+"\n"...)
	}
	b = append(b, "data: "...)
	return append(append(b, data...), '\n')
}
