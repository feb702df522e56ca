package dialect

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	for path, want := range map[string]Dialect{
		"/api/chat": native, "/api/generate": native, "/healthz": native, "/v1": native, "/": native,
		"/v1/chat/completions": openAI, "/v1/models/x": openAI, "/v1/audio/transcriptions": openAI, "/v1/messagesx": openAI, "/v1/responses/compact": openAI,
		"/v1/responses": responses,
		"/v1/messages":  anthropic, "/v1/messages/count_tokens": anthropic,
	} {
		if got := Of(path); got != want {
			t.Errorf("%s: got %s; want %s", path, got, want)
		}
	}
}

// The errors of each API. Those that end a stream are told from an answer by the
// official clients, as testdata/e2e tries.
func TestErrors(t *testing.T) {
	for _, test := range []struct {
		dialect       Dialect
		failure       Failure
		whole, stream string
	}{
		{native, Failure{503, "", `full "x"`}, `{"error":"full \"x\""}` + "\n", `{"error":"full \"x\""}` + "\n"},
		{native, Failure{401, "invalid_api_key", "no"}, `{"error":"no","status":"no"}` + "\n", `{"error":"no","status":"no"}` + "\n"},
		{openAI, Failure{503, "", "full"}, `{"error":{"message":"full","type":"server_error","param":null,"code":null}}` + "\n",
			`data: {"error":{"message":"full","type":"server_error","param":null,"code":null}}` + "\n\n"},
		{openAI, Failure{404, "model_not_found", "no"}, `{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}` + "\n",
			`data: {"error":{"message":"no","type":"invalid_request_error","param":null,"code":"model_not_found"}}` + "\n\n"},
		{responses, Failure{500, "", "no"}, `{"error":{"message":"no","type":"server_error","param":null,"code":null}}` + "\n",
			"event: error\n" + `data: {"type":"error","code":null,"message":"no","param":null,"sequence_number":0,"error":{"message":"no","type":"server_error","param":null,"code":null}}` + "\n\n"},
		{anthropic, Failure{503, "", "full"}, `{"type":"error","error":{"type":"overloaded_error","message":"full"}}` + "\n",
			"event: error\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"full"}}` + "\n\n"},
	} {
		if got := string(test.dialect.Error(test.failure)); got != test.whole {
			t.Errorf("%s: got\n%s; want\n%s", test.dialect, got, test.whole)
		}
		if got := string(test.dialect.StreamError(test.failure)); got != test.stream {
			t.Errorf("%s, in a stream: got\n%s; want\n%s", test.dialect, got, test.stream)
		}
	}
	for status, want := range map[int]string{
		400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 405: "invalid_request_error",
		413: "request_too_large", 500: "api_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error", 508: "api_error",
	} {
		if got := string(anthropic.Error(Failure{Status: status})); got != `{"type":"error","error":{"type":"`+want+`","message":""}}`+"\n" {
			t.Errorf("%d %s: got %s; want %s", status, http.StatusText(status), got, want)
		}
	}
}

func TestHeartbeats(t *testing.T) {
	const (
		ndjson, sse = "application/x-ndjson", "text/event-stream"
		comment     = `: {"queue":{"position":3,"waited_ms":1500}}` + "\n"
	)
	for _, test := range []struct {
		path              string
		first, events     bool
		contentType, want string
	}{
		{"/api/chat", true, false, ndjson, `{"model":"a\"b","created_at":"2026-11-26T22:00:00Z","message":{"role":"assistant","content":""},"done":false}` + "\n"},
		{"/api/generate", false, true, ndjson, `{"model":"a\"b","created_at":"2026-11-26T22:00:00Z","response":"","done":false}` + "\n"},
		{"/v1/chat/completions", true, false, sse, `data: {"id":"","object":"chat.completion.chunk","created":1795730400,"model":"a\"b","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}` + "\n\n"},
		{"/v1/chat/completions", false, true, sse, `data: {"id":"","object":"chat.completion.chunk","created":1795730400,"model":"a\"b","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}` + "\n\n"},
		{"/v1/completions", true, false, sse, `data: {"id":"","object":"text_completion","created":1795730400,"model":"a\"b","choices":[{"text":"","index":0,"logprobs":null,"finish_reason":null}]}` + "\n\n"},
		{"/v1/responses", true, false, sse, comment},
		{"/v1/responses", false, true, sse, "event: keepalive\n" + `data: {"type":"keepalive","sequence_number":0}` + "\n\n"},
		{"/v1/audio/transcriptions", true, true, sse, comment},
		{"/v1/messages", false, true, sse, "event: message\n" + `data: {"type":"keepalive"}` + "\n\n"},
		{"/v1/messages", true, false, sse, "event: ping\n" + `data: {"type":"ping"}` + "\n\n"},
	} {
		b := Beat{
			Path: test.path, Model: `a"b`, Now: time.Date(2026, 11, 26, 23, 0, 0, 0, time.FixedZone("", 3600)),
			First: test.first, Events: test.events, Position: 3, Waited: 1500 * time.Millisecond,
		}
		anyID := b
		anyID.FirstID = true
		if got, want := string(Of(test.path).Heartbeat(anyID)), strings.Replace(test.want, `"id":"",`, "", 1); got != want {
			t.Errorf("%s, who keeps the first id: got %s; want %s", test.path, got, want)
		}
		if got := string(Of(test.path).Heartbeat(b)); got != test.want || Of(test.path).ContentType() != test.contentType {
			t.Errorf("%s, first %v, events %v: got %s %s; want %s %s", test.path, test.first, test.events, Of(test.path).ContentType(), got, test.contentType, test.want)
		}
	}
}

func TestKeepsFirstID(t *testing.T) {
	for agent, want := range map[string]bool{
		"langchainjs-openai/1.0.0 (node/v20.20.2; linux; x64)": true, "LangChainJS-azure-openai/1.0.0": true,
		"": false, "OpenAI/JS 6.49.0": false, "my-langchainjs-openai/1": false,
	} {
		if got := KeepsFirstID(http.Header{"User-Agent": {agent}}); got != want {
			t.Errorf("%q: got %v", agent, got)
		}
	}
}

func TestCountsEvents(t *testing.T) {
	for _, test := range []struct {
		originator, agent string
		want              bool
	}{
		{"codex_exec", "", true}, {"codex_vscode", "Electron/1", true}, {"", "codex_cli_rs/0.171.0 (Debian)", true}, {"Codex Desktop", "", true},
		{"", "claude-cli/2.1.197 (external, sdk-cli)", true}, {"", "Anthropic/JS 1.12.0", false},
		{"", "", false}, {"", "OpenAI/Go 3.96.0", false}, {"xcode", "Mozilla/5.0 (codex)", false},
	} {
		if got := CountsEvents(http.Header{"Originator": {test.originator}, "User-Agent": {test.agent}}); got != test.want {
			t.Errorf("%q, %q: got %v", test.originator, test.agent, got)
		}
	}
}
