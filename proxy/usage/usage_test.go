package usage

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// chat is the end of an answer of Ollama's own API, as today's Ollama writes it.
const chat = `"done":true,"done_reason":"stop","total_duration":5000000000,"load_duration":2000000000,"prompt_eval_count":26,"prompt_eval_cached_count":20,"prompt_eval_duration":1000000000,"eval_count":50,"eval_duration":2000000000}` + "\n"

var chatUsage = Usage{26, 20, 50, 2 * time.Second, time.Second, 2 * time.Second}

func TestUsage(t *testing.T) {
	words := strings.Repeat(`{"model":"m","message":{"role":"assistant","content":"a"},"done":false}`+"\n", 2000)
	text := strings.Repeat(`la \"usage\":{\"prompt_tokens\":7} \"total_duration\":1, `, 200_000) // 10 MB in a string
	arguments := strings.Repeat(`{"function":{"name":"f","arguments":{"usage":{"prompt_tokens":7},"total_duration":1}}},`, 3) + `{}`
	delta := `event: message_delta` + "\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":20,"cache_read_input_tokens":6,"output_tokens":50}}` + "\n\n"
	completed := `"tools":[],"usage":{"input_tokens":26,"input_tokens_details":{"cached_tokens":6},"output_tokens":50,"total_tokens":76}},"sequence_number":9,"type":"response.completed"}` + "\n\n"
	told := Usage{PromptTokens: 26, CompletionTokens: 50}
	cached := Usage{PromptTokens: 26, CachedTokens: 6, CompletionTokens: 50}
	for _, test := range []struct {
		name, answer string
		want         Usage
	}{
		{"a stream", words + `{"model":"m","message":{"role":"assistant","content":""},` + chat, chatUsage},
		{"one chunk", `{"model":"m","message":{"role":"assistant","content":"a"},` + chat, chatUsage},
		{"without a line's end", strings.TrimSpace(`{"model":"m",` + chat), chatUsage},
		{"a chunk of 10 MB", `{"model":"m","message":{"role":"assistant","content":"` + text + `"},` + chat, chatUsage},
		{"10 MB of context", `{"model":"m","response":"a","done":true,"context":[1` + strings.Repeat(",1", 5<<20) + `],` + chat, chatUsage},
		{"tool calls with the same keys", `{"model":"` + text + `","message":{"tool_calls":[` + arguments + `]},` + chat, chatUsage},
		{"tool calls behind", `{"response":"` + text + `",` + strings.TrimSuffix(chat, "}\n") + `,"tool_calls":[` + arguments + "]}\n", chatUsage},
		{"some keys only", `{"response":"` + text + `","total_duration":5,"load_duration":6}`, Usage{Load: 6}},
		{"a stream that was loaded only", `{"model":"m","done":true,"done_reason":"load"}` + "\n", Usage{}},
		{"no last chunk", words, Usage{}},
		{"nothing", "", Usage{}},
		{"no JSON", "<html>\n" + chat, Usage{}},
		{"a beginning of 10 MB and no end", `{"model":"m","message":{"content":"` + text, Usage{}},
		{"an error in the end", words + `{"error":"out of memory"}` + "\n", Usage{}},

		{"OpenAI", `{"id":"1","choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":26,"completion_tokens":50,"total_tokens":76}}` + "\n", told},
		{"OpenAI, 10 MB", `{"id":"1","choices":[{"message":{"content":"` + text + `","tool_calls":[` + arguments + `]}}],"usage":{"prompt_tokens":26,"completion_tokens":50}}` + "\n", told},
		{"OpenAI's stream", "data: " + `{"choices":[{"delta":{"content":"a"}}],"usage":null}` + "\n\ndata: " + `{"choices":[],"usage":{"prompt_tokens":26,"prompt_tokens_details":{"cached_tokens":6},"completion_tokens":50}}` + "\n\ndata: [DONE]\n\n", cached},
		{"OpenAI's stream without usage", strings.Repeat("data: "+`{"choices":[{"delta":{"content":"a"}}]}`+"\n\n", 1000) + "data: [DONE]\n\n", Usage{}},
		{"usage null", "data: " + `{"choices":[],"usage":null}` + "\n\ndata: [DONE]\n\n", Usage{}},
		{"usage in an early chunk only", "data: " + `{"choices":[],"usage":{"prompt_tokens":26}}` + "\n\n" + strings.Repeat("data: {}\n\n", 3), Usage{}},
		{"OpenAI's responses", `{"object":"response","status":"completed","usage":{"input_tokens":26,"output_tokens":50},"metadata":{}}` + "\n", told},
		{"OpenAI's responses, streamed", "event: response.completed\ndata: " + `{"response":{"id":"1","output":[],` + completed, cached},
		{"OpenAI's responses, streamed, 10 MB", "event: response.completed\ndata: " + `{"response":{"id":"1","output":[{"text":"` + text + `"}],` + completed, cached},
		{"Anthropic", `{"type":"message","content":[{"type":"text","text":"a"}],"usage":{"input_tokens":26,"output_tokens":50}}` + "\n", told},
		{"Anthropic's stream", "event: ping\ndata: {}\n\n" + delta + "event: message_stop\ndata: " + `{"type":"message_stop"}` + "\n\n", cached},
		{"CRLF", strings.ReplaceAll(delta, "\n", "\r\n"), cached},

		{"negative", `{"load_duration":-1,"prompt_eval_count":-5,"eval_count":50,"eval_duration":-2}`, Usage{CompletionTokens: 50}},
		{"huge", `{"load_duration":1e300,"prompt_eval_count":99999999999999999999,"eval_count":1000000001,"eval_duration":9223372036854775807,"prompt_eval_duration":4}`, Usage{Prompt: 4}},
		{"strings and others", `{"load_duration":"2","prompt_eval_count":"26","eval_count":null,"eval_duration":[2],"prompt_eval_duration":1.5}`, Usage{}},
		{"usage is a string", `{"usage":"26","eval_count":50}`, Usage{}},
		{"details of another kind", `{"usage":{"prompt_tokens":26,"prompt_tokens_details":[6],"input_tokens_details":{"cached_tokens":"6"},"completion_tokens":50}}`, told},
		{"usage of strings", `{"usage":{"prompt_tokens":"26","completion_tokens":50}}`, Usage{CompletionTokens: 50}},
		{"a response in a response", strings.Repeat(`{"response":`, 1000) + `{"usage":{"prompt_tokens":26}}` + strings.Repeat("}", 1000), Usage{}},
		{"the response is no object", `{"response":["usage"],"usage":{"prompt_tokens":26}}`, Usage{PromptTokens: 26}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, size := range []int{1 << 30, 32 << 10, 1000} { // of a piece
				var tail Tail
				for rest := test.answer; rest != ""; {
					n := min(size, len(rest))
					tail.Add([]byte(rest[:n]))
					rest = rest[n:]
				}
				if got := tail.Usage(); got != test.want {
					t.Errorf("in pieces of %d bytes: got %+v; want %+v", size, got, test.want)
				}
				for _, separator := range []string{"\n", "\n\n"} {
					if got, want := tail.EndsWith(separator), test.answer == "" || strings.HasSuffix(test.answer, separator); got != want {
						t.Errorf("ends with %q: got %t; want %t", separator, got, want)
					}
				}
			}
		})
	}
}

func TestLastChunk(t *testing.T) {
	long := strings.Repeat("x", 2*tailSize)
	for _, test := range []struct {
		answer, separator, want string
		ok                      bool
	}{
		{"", "\n", "", true},
		{"a\n", "\n", "a", true},
		{"a\nb\n", "\n", "b", true},
		{"a\nb", "\n", "", false},
		{"data: a\n\ndata: b\n\n", "\n\n", "data: b", true},
		{"data: a\n\ndata: b\n", "\n\n", "", false},
		{"data: a\n", "\n\n", "", false},
		{long + "\nb\n", "\n", "b", true},
		{"a\n" + long + "\n", "\n", "", false},
	} {
		var tail Tail
		for i := range len(test.answer) {
			tail.Add([]byte(test.answer[i : i+1]))
		}
		if chunk, ok := tail.LastChunk(test.separator); ok != test.ok || ok && string(chunk) != test.want {
			t.Errorf("%.30q: got %q, %t; want %q, %t", test.answer, chunk, ok, test.want, test.ok)
		}
	}
}

// TestTailIsBounded: whatever comes in whatever pieces, a tail has the end of it, as
// much as is kept at least, and no more than twice as much.
func TestTailIsBounded(t *testing.T) {
	var all []byte
	var tail Tail
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		b := make([]byte, random.IntN(1+random.IntN(3*tailSize)))
		for i := range b {
			b[i] = byte(random.Int())
		}
		all = append(all, b...)
		tail.Add(b)
		n := len(tail.end)
		if n > 2*tailSize || n < min(len(all), tailSize) || string(all[len(all)-n:]) != string(tail.end) || tail.cut != (n < len(all)) {
			t.Fatalf("after %d bytes %d are kept, cut: %t", len(all), n, tail.cut)
		}
	}
	if n := cap(tail.end); n > 4*tailSize {
		t.Errorf("%d bytes of memory", n)
	}
}

func TestTokensPerSecond(t *testing.T) {
	for _, test := range []struct {
		u    Usage
		want float64
	}{
		{Usage{}, 0},
		{Usage{CompletionTokens: 50}, 0},
		{chatUsage, 25},
	} {
		if got := test.u.TokensPerSecond(); got != test.want {
			t.Errorf("%+v: got %v; want %v", test.u, got, test.want)
		}
	}
}
