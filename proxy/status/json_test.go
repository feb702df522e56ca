package status

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"foreman/proxy/usage"
)

var update = flag.Bool("update", false, "write the example in README.md anew")

// The example in README.md is what a page comes to.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 11, 26, 23, 0, 0, 0, time.FixedZone("", 3600))
	estimate := Span(95 * time.Second)
	p := &Page{
		Version: "v1.2.3", Now: at,
		Host:     Host{URL: "http://gpu.lan:11434", Since: at.Add(-time.Hour), LastPoll: at.Add(-7 * time.Second), NextPoll: at.Add(23 * time.Second)},
		Pause:    &Pause{By: "ann", Since: at.Add(-2 * time.Second), Until: at.Add(time.Hour)},
		Running:  &Chat{ID: "7K3Q", Model: "llama3.2:latest", Key: "41", Client: "192.0.2.7", Agent: "ollama-js/0.6.4", Since: at.Add(-25 * time.Second), Bytes: 4096, Answering: true},
		Waiting:  []Chat{{ID: "9BXA", Model: "qwen3:8b", Key: "42", Client: "ann", Weight: 3, Background: "header", Options: "num_ctx=8192", Since: at.Add(-4 * time.Second), Position: 1, Next: true, Estimate: &estimate}},
		Embeds:   &Embeds{4, 96},
		Affinity: Span(24 * time.Second),
		Models: []Model{
			{Name: "llama3.2:latest", Size: 2019393189, Resident: new(true), Expires: at.Add(5 * time.Minute)},
			{Name: "nomic-embed-text:latest", Resident: new(true), Embedder: true},
			{Name: "gpt-oss:120b-cloud", Resident: new(false), Remote: true},
		},
		Day: Day{
			Shares: []Share{{"192.0.2.7", Sum{12, Span(3 * time.Minute), 19000, 11000, 3500}}, {"ann", Sum{1, Span(4 * time.Second), 1431, 0, 370}}},
			Totals: Totals{Sum{13, Span(184 * time.Second), 20431, 11000, 3870}, 512},
		},
		Chats: []Record{{
			ID: "6QQA", Method: "POST", Route: "/api/chat", Model: "llama3.2:latest", Client: "192.0.2.7", Agent: "ollama-js/0.6.4", Status: 200,
			Ended: at.Add(-25 * time.Second), Queued: 2 * time.Second, FirstByte: 5 * time.Second, Duration: 9 * time.Second,
			Usage: usage.Usage{PromptTokens: 812, CachedTokens: 500, CompletionTokens: 160, Load: 2 * time.Second, Prompt: time.Second, Completion: 4 * time.Second},
		}, {
			ID: "5MZD", Method: "POST", Route: "/api/chat", Model: "llama3.2:latest", Client: "ann", Status: 503, Early: true, Reason: "queue timeout",
			Ended: at.Add(-30 * time.Second), Queued: time.Minute, FirstByte: 20 * time.Second, Duration: time.Minute,
		}},
		Others: []Record{{ID: "5MZC", Method: "POST", Route: "/api/embed", Client: "192.0.2.9", Status: 200, Ended: at.Add(-time.Second), FirstByte: 19 * time.Millisecond, Duration: 19 * time.Millisecond}},
	}
	write := func() string {
		t.Helper()
		var b strings.Builder
		if err := p.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	got := write()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(readme), "```json\n")
	want, after, ok := strings.Cut(rest, "```")
	if *update {
		if err := os.WriteFile("README.md", []byte(before+"```json\n"+got+"```"+after), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got != want || !ok {
		t.Errorf("got\n%s; want as README.md has it\n%s", got, want)
	}

	// What is not known is null, and lists are never.
	p = &Page{Now: at, Host: Host{Since: at, Reason: "starting"}, ResidentUnknown: true, Models: []Model{{Name: "any"}}}
	for _, want := range []string{`"status": "degraded"`, `"reason": "starting"`, `"last_poll": null`, `"pause": null`, `"running": null`, `"waiting": []`, `"resident": null`, `"today": []`, `"recent": []`, `"others": []`} {
		if got := write(); !strings.Contains(got, want) {
			t.Errorf("got\n%s; want %s in it", got, want)
		}
	}
}
