package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"foreman/e2e/lab"
)

const prometheusAdvice = "the tests of /metrics need Prometheus (Debian: apt-get install prometheus)"

// startPrometheus starts a Prometheus for one test and returns a function that
// waits until an expression's value is as wanted.
func startPrometheus(t *testing.T, target, token string) (expect func(expression string, ok func(float64) bool)) {
	t.Helper()
	p, err := lab.StartPrometheus(t.Context(), need(t, prometheusAdvice, "prometheus"), t.TempDir(), target, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return func(expression string, ok func(float64) bool) {
		t.Helper()
		eventually(t, func() error {
			v, err := p.Query(t.Context(), expression)
			if err == nil && !ok(v) {
				err = fmt.Errorf("%s = %v", expression, v)
			} else if err == nil {
				t.Logf("%s = %v", expression, v)
			}
			return err
		})
	}
}

func equals(want float64) func(float64) bool { return func(got float64) bool { return got == want } }

// TestPrometheusScrapes has a real Prometheus count those who wait.
func TestPrometheusScrapes(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{"without a token": "", "with a token": "lab-token"} {
		t.Run(name, func(t *testing.T) {
			foreman := startForeman(t, startLeavable(t).URL, "FOREMAN_TOKEN="+token)
			expect := startPrometheus(t, foreman.URL, token)
			expect(`up`, equals(1))
			expect(`foreman_queue_depth`, equals(0))
			line := lineUp(t, foreman.URL, token, 2)
			expect(`foreman_queue_depth`, equals(2))
			expect(`foreman_chats_in_flight`, equals(1))
			for _, c := range line {
				c.leave()
			}
			expect(`foreman_queue_depth + foreman_chats_in_flight`, equals(0))
			expect(`foreman_turns_revoked_total{reason="client left"}`, func(v float64) bool { return v >= 1 })
		})
	}
}

// readmePromQL returns the expressions that proxy/metrics/README.md gives, in order.
func readmePromQL(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../proxy/metrics/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "```promql\n")
	block, _, _ = strings.Cut(block, "```")
	var expressions []string
	for line := range strings.Lines(block) {
		if !strings.HasPrefix(line, "#") {
			expressions = append(expressions, strings.TrimSpace(line))
		}
	}
	if len(expressions) != 7 {
		t.Fatalf("proxy/metrics/README.md has %q; want seven expressions", expressions)
	}
	return expressions
}

// TestPromQL tries the lines that proxy/metrics/README.md gives.
func TestPromQL(t *testing.T) {
	t.Parallel()
	lines := readmePromQL(t)
	waits, busy, made, cached, loads, idle, outages := lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6]
	needStandIn(t)
	ollama := startOllama(t, append(lab.Pace{Load: 1500 * time.Millisecond, Rate: abortPace.Rate}.Env(), "STANDIN_KEEP=1")...)
	tokens := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(tokens, []byte("ann sesame-ann\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, ollama.URL, "FOREMAN_TOKENS_FILE="+tokens)
	expect := startPrometheus(t, foreman.URL, "sesame-ann")
	expect(`foreman_queue_wait_seconds_count`, equals(0))

	ask := func() {
		t.Helper()
		if _, err := chat(t.Context(), newClient(t, foreman.URL, "sesame-ann"), lab.ChatModel, false); err != nil {
			t.Fatal(err)
		}
	}
	ask() // has its model loaded
	expect(`foreman_client_tokens_total{kind="prompt"}`, func(v float64) bool { return v > 0 })
	ask() // has its prompt in the host's memory
	expect(cached, func(v float64) bool { return 0 < v && v <= 1 })
	line := lineUp(t, foreman.URL, "sesame-ann", 2)
	expect(`foreman_queue_depth`, equals(2))
	for _, expression := range []string{made, loads, idle} {
		expect(expression, func(v float64) bool { return v > 0 })
	}
	line[0].leave()
	expect(`foreman_queue_depth`, equals(1))
	line[1].leave()
	expect(`foreman_queue_depth`, equals(0))
	share := func(v float64) bool { return 0 < v && v < 1 }
	expect(waits, func(v float64) bool { return 0 < v && v <= 600 })
	expect(busy, share)

	for before := range 2 {
		ollama.Kill()
		expect(outages, equals(float64(before+1)))
		expect(`1 - avg_over_time(foreman_target_up[1d])`, share)
		if err := ollama.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		expect(`foreman_target_up`, equals(1))
	}
	expect(`increase(foreman_polls_total{result="unreachable"}[1h])`, func(v float64) bool { return v > 0 })
}

// TestPromtoolFindsNothing has Prometheus' own checker read what foreman tells
// after requests of all kinds.
func TestPromtoolFindsNothing(t *testing.T) {
	t.Parallel()
	promtool := need(t, prometheusAdvice, "promtool")
	foreman := startForeman(t, startLeavable(t).URL)
	for _, request := range [][2]string{
		{"/api/chat", `{"model":"tiny-chat","messages":[{"role":"user","content":"hello"}]}`},
		{"/api/embed", `{"model":"tiny-embed","input":"hello"}`},
		{"/v1/chat/completions", `{"model":"tiny-chat","messages":[{"role":"user","content":"hello"}]}`},
		{"/api/chat", `{"model":"a \"b\"\n{c}\\"}`},
		{"/api/chat", `{`},
		{"/api/pull", `{"model":"tiny-chat"}`},
		{"/no/such{path=\"1\"}", `{}`},
	} {
		post(t, foreman.URL+request[0], request[1])
	}
	lineUp(t, foreman.URL, "", 0)[0].leave()
	eventually(t, func() error {
		if !strings.Contains(get(t, foreman.URL+"/metrics").body, `code="499"} 1`) {
			return fmt.Errorf("no chat of a client that left is counted")
		}
		return nil
	})

	page := get(t, foreman.URL+"/metrics")
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(page.body)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	if got, want := page.Header.Get("Content-Type"), "text/plain; version=0.0.4; charset=utf-8"; got != want {
		t.Errorf("Content-Type: got %q; want %q", got, want)
	}
	families(t, page.body)
}

// families reads the text format as Prometheus' own library does.
func families(t *testing.T, page string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	got, err := parser.TextToMetricFamilies(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestProcessMetricsAreTheUsualOnes compares what foreman tells of its process with
// what Prometheus' own client tells of the process of the test: names, types, labels
// and help. Beside them and its own metrics foreman has none.
func TestProcessMetricsAreTheUsualOnes(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	usual, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, ollama.URL)
	ours := families(t, get(t, foreman.URL+"/metrics").body)
	shape := func(f *dto.MetricFamily) string {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		return fmt.Sprintf("%s, labels %q, %d series, %q", f.GetType(), labels, len(f.Metric), f.GetHelp())
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range usual {
		byName[f.GetName()] = f
	}
	told := []string{
		"go_goroutines", "go_info",
		"process_max_fds", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds",
	}
	var notOurs []string
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if !strings.HasPrefix(name, "foreman_") {
			notOurs = append(notOurs, name)
		}
	}
	if !slices.Equal(notOurs, told) {
		t.Fatalf("beside its own metrics foreman has %q; want %q", notOurs, told)
	}
	for _, name := range told {
		got, want := ours[name], byName[name]
		if want == nil {
			t.Errorf("%s: Prometheus' own client has none", name)
		} else if shape(got) != shape(want) {
			t.Errorf("%s: got %s; want %s", name, shape(got), shape(want))
		}
	}
}
