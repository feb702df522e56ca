package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// A fetched is what came of a fetch in a page: an answer that the page could
// read, or the browser's refusal.
type fetched struct {
	Status  int
	Lines   []string // the first ones
	Refused string
}

// fetchLines is run in the page: it fetches, reads the first lines of the answer
// as they come, and leaves.
const fetchLines = `async (method, url, body, count) => {
	try {
		const leave = new AbortController();
		const request = {method, signal: leave.signal};
		if (body) Object.assign(request, {body, headers: {"Content-Type": "application/json"}});
		const answer = await fetch(url, request);
		const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
		let text = "";
		while (text.split("\n").length <= count) {
			const {done, value} = await reader.read();
			if (done) break;
			text += value;
		}
		const lines = text.trim().split("\n").slice(0, count);
		leave.abort();
		return {Status: answer.status, Lines: lines};
	} catch (err) {
		return {Refused: String(err)};
	}
}`

// TestCORS opens a page of an origin that Ollama does not know by itself. What
// the page may do with foreman is what it may do with the Ollama behind it.
func TestCORS(t *testing.T) {
	t.Parallel()
	const host = "app.example.test"
	tab := startBrowser(t, host)
	origin := openPage(t, tab, host)
	requests := []struct {
		name, method, path, body string
		lines                    int
		status                   int
	}{
		// Of this chat Ollama would make 80,000 lines.
		{"chat", "POST", "/api/chat", `{"model":"tiny-chat","messages":[{"role":"user","content":"hello"}],"options":{"num_predict":80000}}`, 5, 200},
		{"embed", "POST", "/api/embed", `{"model":"tiny-embed","input":"hello"}`, 1, 200},
		{"OpenAI's chat", "POST", "/v1/chat/completions", `{"model":"tiny-chat","messages":[{"role":"user","content":"hello"}],"max_tokens":3}`, 1, 200},
		{"version", "GET", "/api/version", "", 1, 200},
		{"tags", "GET", "/api/tags", "", 1, 200},
		{"an unknown model", "POST", "/api/chat", `{"model":"absent","messages":[{"role":"user","content":"hello"}]}`, 1, 404},
	}
	targets := []struct {
		name    string
		ollama  *lab.Ollama
		allowed bool
	}{
		{"refused", ollama, false},
		{"allowed", startOllama(t, "OLLAMA_ORIGINS="+origin), true},
	}
	for _, target := range targets {
		foreman := startForeman(t, target.ollama.URL)
		for _, r := range requests {
			t.Run(target.name+"/"+r.name, func(t *testing.T) {
				for _, base := range []string{target.ollama.URL, foreman.URL} {
					got := inPage[fetched](t, tab, fetchLines, r.method, base+r.path, r.body, r.lines)
					t.Logf("%s: %.200v", base, fmt.Sprintf("%+v", got))
					switch {
					case !target.allowed && got.Refused == "":
						t.Errorf("%s: got %+v; want a refusal", base, got)
					case target.allowed && (got.Status != r.status || len(got.Lines) != r.lines):
						t.Errorf("%s: got %+v; want %d and %d lines", base, got, r.status, r.lines)
					}
				}
			})
		}
	}
}

// TestCORSOfAnEarlyAnswer: a page whose browser remembers a preflight from before foreman
// started hears heartbeats, if the Ollama lets it read.
func TestCORSOfAnEarlyAnswer(t *testing.T) {
	t.Parallel()
	needStandIn(t)
	const page = "http://app.example.test"
	pace := testPace
	pace.Prompt = time.Second
	own := startOllama(t, append(pace.Env(), "OLLAMA_ORIGINS="+page)...)
	foreman := startForeman(t, own.URL, "FOREMAN_HEARTBEAT=100ms")
	for _, path := range []string{"/api/chat", "/v1/chat/completions"} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", foreman.URL+path,
			strings.NewReader(`{"model":"tiny-chat","stream":true,"messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Origin", page)
		resp, err := http.DefaultClient.Do(r)
		got := read(t, resp, err)
		if got.Header.Get("X-Accel-Buffering") == "" || got.Header.Get("Access-Control-Allow-Origin") != page || countBeats(got.body) < 3 {
			t.Errorf("%s: got %v; want an early answer that the page may read", path, got.Header)
		}
	}
}
