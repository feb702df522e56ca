package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// TestUsage: foreman's log and metrics have of each chat what Ollama told the client of
// it, in all dialects, streamed and not; of today's Ollama also the tokens that it had read
// before, as all ask the same.
func TestUsage(t *testing.T) {
	t.Parallel()
	own := startOllama(t, append(lab.Pace{Load: 300 * time.Millisecond, Prompt: 50 * time.Millisecond, Rate: 100}.Env(), "STANDIN_KEEP=12")...)
	foreman := startForeman(t, own.URL, "FOREMAN_LOG_FORMAT=json", "FOREMAN_EMBED_MODEL=")
	const messages = `"messages":[{"role":"user","content":"Who are you?"}]`
	prompt, completion := 0., 0.
	const firstChat, firstPrompt = 0, 2 // which have no other before them that begins so
	for i, test := range []struct{ name, path, body, promptTokens, completionTokens string }{
		{"native, streamed", "/api/chat", messages, "prompt_eval_count", "eval_count"},
		{"native", "/api/chat", messages + `,"stream":false`, "prompt_eval_count", "eval_count"},
		{"generate, streamed", "/api/generate", `"prompt":"Who are you?"`, "prompt_eval_count", "eval_count"},
		{"generate with its context", "/api/generate", `"prompt":"Who are you?","stream":false,"options":{"num_predict":3}`, "prompt_eval_count", "eval_count"},
		{"OpenAI, streamed", "/v1/chat/completions", messages + `,"stream":true,"stream_options":{"include_usage":true}`, "prompt_tokens", "completion_tokens"},
		{"OpenAI, streamed, without usage", "/v1/chat/completions", messages + `,"stream":true`, "", ""},
		{"OpenAI", "/v1/chat/completions", messages, "prompt_tokens", "completion_tokens"},
		{"OpenAI's completions", "/v1/completions", `"prompt":"Who are you?"`, "prompt_tokens", "completion_tokens"},
		{"OpenAI's responses, streamed", "/v1/responses", `"input":"Who are you?","stream":true`, "input_tokens", "output_tokens"},
		{"OpenAI's responses", "/v1/responses", `"input":"Who are you?"`, "input_tokens", "output_tokens"},
		{"Anthropic, streamed", "/v1/messages", messages + `,"max_tokens":10,"stream":true`, "input_tokens", "output_tokens"},
		{"Anthropic", "/v1/messages", messages + `,"max_tokens":10`, "input_tokens", "output_tokens"},
	} {
		said := post(t, foreman.URL+test.path, `{"model":"tiny-chat",`+test.body+"}").body
		var record map[string]any
		eventually(t, func() error {
			records := requests(t, foreman)
			if len(records) <= i {
				return fmt.Errorf("%d requests are in the log; want %d", len(records), i+1)
			}
			record = records[i]
			return nil
		})
		cacheKey := map[bool]string{true: "prompt_eval_cached_count", false: "cached_tokens"}[strings.HasPrefix(test.path, "/api/")]
		if test.path == "/v1/messages" {
			cacheKey = "cache_read_input_tokens"
		}
		cached := lastNumber(t, said, cacheKey)
		if got, _ := record["cached_tokens"].(float64); got != cached || standIn && (cached > 0) != (i != firstChat && i != firstPrompt && test.promptTokens != "") {
			t.Errorf("%s: cached_tokens: got %v in the log; Ollama told %v", test.name, record["cached_tokens"], cached)
		}
		for name, key := range map[string]string{"prompt_tokens": test.promptTokens, "completion_tokens": test.completionTokens} {
			want := 0.
			if key != "" {
				want = lastNumber(t, said, key)
				if want == 0 {
					t.Fatalf("%s: Ollama did not tell %s: %s", test.name, key, said)
				}
			}
			if key == "input_tokens" && test.path == "/v1/messages" { // there those that are cached are apart
				want += cached
			}
			if got, _ := record[name].(float64); got != want {
				t.Errorf("%s: %s: got %v in the log; Ollama told %v", test.name, name, record[name], want)
			}
			if name == "prompt_tokens" {
				prompt += want
			} else {
				completion += want
			}
		}
		_, told := record["load_ms"]
		if native := strings.HasPrefix(test.path, "/api/"); told != native || native && record["tokens_per_s"].(float64) <= 0 {
			t.Errorf("%s: got load_ms %v and tokens_per_s %v", test.name, record["load_ms"], record["tokens_per_s"])
		}
		if i == 0 && standIn && record["load_ms"].(float64) < 300 {
			t.Errorf("%s: got load_ms %v; want the 300 ms that the load takes", test.name, record["load_ms"])
		}
	}
	metrics := get(t, foreman.URL+"/metrics").body
	for _, want := range []string{
		fmt.Sprintf("foreman_tokens_total{kind=\"prompt\"} %v\n", prompt),
		fmt.Sprintf("foreman_tokens_total{kind=\"completion\"} %v\n", completion),
		"foreman_model_load_seconds_count 4\n",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// requests returns the records of requests in foreman's log, which is JSON, in order.
func requests(t *testing.T, foreman *lab.Foreman) []map[string]any {
	t.Helper()
	var all []map[string]any
	lines := bufio.NewScanner(strings.NewReader(foreman.Log()))
	for lines.Scan() {
		var record map[string]any
		if json.Unmarshal(lines.Bytes(), &record) == nil && record["msg"] == "request" {
			all = append(all, record)
		}
	}
	return all
}

// lastNumber returns the number behind the last key of that name in an answer; 0: there
// is none.
func lastNumber(t *testing.T, answer, key string) float64 {
	t.Helper()
	at := strings.LastIndex(answer, `"`+key+`":`)
	if at < 0 {
		return 0
	}
	var n float64
	if _, err := fmt.Sscan(strings.TrimLeft(answer[at+len(key)+3:], " "), &n); err != nil {
		return 0
	}
	return n
}
