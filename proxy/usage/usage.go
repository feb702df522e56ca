// Package usage reads from the end of an answer what the target says that it took:
// tokens, and where the time went. The answer itself passes by unread.
package usage

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// A Usage is what an answer took, as the target says. Zero fields were not reported: only
// Ollama's own API has times.
type Usage struct {
	PromptTokens     int64
	CachedTokens     int64 // of those of the prompt: the host had read them before
	CompletionTokens int64
	Load             time.Duration // until the model was loaded; milliseconds where it was resident
	Prompt           time.Duration // to read the prompt
	Completion       time.Duration // to make the answer
}

// TokensPerSecond is how fast the answer was made; 0: not known.
func (u Usage) TokensPerSecond() float64 {
	if u.Completion <= 0 {
		return 0
	}
	return float64(u.CompletionTokens) / u.Completion.Seconds()
}

const (
	// tailSize is how many bytes of an answer's end are kept at least. The last chunk of
	// a stream has some hundred bytes; longer ones have what is looked for near their end.
	tailSize = 16 << 10
	// chunks is how many chunks from the end may have it: OpenAI's and Anthropic's APIs
	// have an event without it behind the one that has it.
	chunks = 3
	// guesses is how many places are tried in a chunk whose beginning is not kept.
	guesses = 8
)

// A Tail keeps the end of an answer. The zero value is ready for one.
type Tail struct {
	end []byte
	cut bool // more came before
}

// Add notes bytes of the answer.
func (t *Tail) Add(b []byte) {
	if len(t.end)+len(b) > 2*tailSize {
		b = last(b, tailSize)
		t.end = append(t.end[:0], last(t.end, tailSize-len(b))...)
		t.cut = true
	}
	t.end = append(t.end, b...)
}

// last returns the last n bytes of b, or all if it has fewer.
func last(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// EndsWith reports whether the answer so far is empty or ends with what stands between two
// chunks, so that another may follow.
func (t *Tail) EndsWith(separator string) bool {
	return len(t.end) == 0 || bytes.HasSuffix(t.end, []byte(separator))
}

// LastChunk returns the chunk with which the answer so far ends, without the separator
// behind it; empty: the answer is. It is not ok within a chunk, nor if the chunk is too
// long to be kept whole.
func (t *Tail) LastChunk(separator string) (chunk []byte, ok bool) {
	if len(t.end) == 0 {
		return nil, true
	}
	rest, ended := bytes.CutSuffix(t.end, []byte(separator))
	if start := bytes.LastIndex(rest, []byte(separator)); start >= 0 {
		return rest[start+len(separator):], ended
	}
	return rest, ended && !t.cut
}

// Usage returns what the answer took, once it has come to its end.
func (t *Tail) Usage() Usage {
	rest := t.end
	for read := 0; read < chunks && len(rest) > 0; {
		start := bytes.LastIndexByte(rest, '\n') + 1
		chunk, isWhole := rest[start:], start > 0 || !t.cut
		rest = rest[:max(start-1, 0)]
		if isWhole {
			if chunk = content(chunk); chunk == nil {
				continue
			}
		} else {
			chunk = endOf(chunk)
		}
		if u := parse(chunk); u != (Usage{}) {
			return u
		}
		read++
	}
	return Usage{}
}

// content returns the JSON of a line of an answer, or of a stream of events; nil: it has
// none.
func content(line []byte) []byte {
	line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data:")))
	if !bytes.HasPrefix(line, []byte("{")) {
		return nil
	}
	return line
}

// endOf returns the end of an object, whose beginning is lost, as an object: from the
// key on that is looked for. A string cannot be taken for a key, as its quotes are
// escaped; nor can a key of an inner object, for what follows would not be JSON then.
func endOf(chunk []byte) []byte {
	for _, key := range []string{`"total_duration":`, `"usage":`} {
		rest := chunk
		for range guesses {
			at := bytes.LastIndex(rest, []byte(key))
			if at < 0 {
				break
			}
			for _, begin := range []string{`{`, `{"response":{`} {
				if object := append([]byte(begin), chunk[at:]...); json.Valid(object) {
					return object
				}
			}
			rest = rest[:at]
		}
	}
	return nil
}

// parse returns what a chunk says, in the words of any of the APIs.
func parse(chunk []byte) Usage {
	var said struct {
		Load             duration        `json:"load_duration"`
		PromptTokens     tokens          `json:"prompt_eval_count"`
		CachedTokens     tokens          `json:"prompt_eval_cached_count"`
		Prompt           duration        `json:"prompt_eval_duration"`
		CompletionTokens tokens          `json:"eval_count"`
		Completion       duration        `json:"eval_duration"`
		Usage            json.RawMessage `json:"usage"`
		Response         json.RawMessage `json:"response"` // of OpenAI's responses an object, of /api/generate a string
	}
	if json.Unmarshal(chunk, &said) != nil {
		return Usage{} // an answer is whatever the target says, JSON or not
	}
	if bytes.HasPrefix(said.Response, []byte("{")) {
		var response struct {
			Usage json.RawMessage `json:"usage"`
		}
		json.Unmarshal(said.Response, &response) // it is JSON, as all of the chunk is
		said.Usage = response.Usage
	}
	var usage struct {
		PromptTokens     tokens  `json:"prompt_tokens"`
		PromptDetails    details `json:"prompt_tokens_details"`
		CompletionTokens tokens  `json:"completion_tokens"`
		InputTokens      tokens  `json:"input_tokens"` // OpenAI's responses, and Anthropic, who leaves out those that are cached
		InputDetails     details `json:"input_tokens_details"`
		CacheRead        tokens  `json:"cache_read_input_tokens"`
		OutputTokens     tokens  `json:"output_tokens"`
	}
	if said.Usage != nil && json.Unmarshal(said.Usage, &usage) != nil {
		return Usage{} // null is an empty one, all else but an object is none
	}
	return Usage{
		PromptTokens:     int64(said.PromptTokens + usage.PromptTokens + usage.InputTokens + usage.CacheRead),
		CachedTokens:     int64(said.CachedTokens) + int64(usage.PromptDetails+usage.InputDetails) + int64(usage.CacheRead),
		CompletionTokens: int64(said.CompletionTokens + usage.CompletionTokens + usage.OutputTokens),
		Load:             time.Duration(said.Load),
		Prompt:           time.Duration(said.Prompt),
		Completion:       time.Duration(said.Completion),
	}
}

// More than this no answer takes: a target that says so is wrong, and has said nothing.
const (
	maxTokens   = 1e9
	maxDuration = 24 * time.Hour
)

type (
	tokens   int64
	details  tokens // an object that has the number of those that were cached
	duration time.Duration
)

func (n *tokens) UnmarshalJSON(b []byte) error { *n = tokens(count(b, maxTokens)); return nil }
func (d *details) UnmarshalJSON(b []byte) error {
	var said struct {
		Cached tokens `json:"cached_tokens"`
	}
	json.Unmarshal(b, &said) // what is no object says nothing
	*d = details(said.Cached)
	return nil
}
func (d *duration) UnmarshalJSON(b []byte) error {
	*d = duration(count(b, int64(maxDuration)))
	return nil
}

// count returns a number of whole units, or 0 if it is no such number from 0 to most.
func count(b []byte, most int64) int64 {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0
	}
	return n
}
