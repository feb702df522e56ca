package status

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the example in README.md anew")

// The example in README.md is what a page comes to.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 11, 26, 23, 0, 0, 0, time.FixedZone("", 3600))
	estimate := 95 * time.Second
	p := &Page{
		Version: "v1.2.3", Now: at, Target: "http://gpu.lan:11434", Since: at.Add(-time.Hour), LastPoll: at.Add(-7 * time.Second),
		Running: &Chat{ID: "7K3Q", Model: "llama3.2:latest", Client: "192.0.2.7:50312", Since: at.Add(-25 * time.Second), Bytes: 4096, Answering: true},
		Waiting: []Chat{{ID: "9BXA", Model: "qwen3:8b", Client: "192.0.2.8:41100", Options: "num_ctx=8192", Since: at.Add(-4 * time.Second), Position: 1, Next: true, Estimate: &estimate}},
		Models: []Model{
			{Name: "llama3.2:latest", Resident: true},
			{Name: "nomic-embed-text:latest", Resident: true, Embedder: true},
			{Name: "gpt-oss:120b-cloud", Remote: true},
		},
		Today: []Usage{{"192.0.2.7", 12, 3 * time.Minute}, {"192.0.2.8", 1, 4 * time.Second}},
		Recent: []Request{{
			ID: "5MZD", Method: "POST", Route: "/api/chat", Model: "llama3.2:latest", Client: "192.0.2.8:41096", Status: 503, Early: true, Err: "queue timeout",
			Ended: at.Add(-30 * time.Second), Queued: time.Minute, FirstByte: 20 * time.Second, Duration: time.Minute,
		}},
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
	p = &Page{Now: at, Since: at, Reason: "starting", ResidentUnknown: true, Models: p.Models[:1]}
	for _, want := range []string{`"status": "degraded"`, `"reason": "starting"`, `"last_poll": null`, `"running": null`, `"waiting": []`, `"resident": null`, `"recent": []`} {
		if got := write(); !strings.Contains(got, want) {
			t.Errorf("got\n%s; want %s in it", got, want)
		}
	}
}
