package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

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
	for name, token := range map[string]string{"without a token": "", "with a token": "lab-token"} {
		t.Run(name, func(t *testing.T) {
			foreman := startForeman(t, ollama.URL, "FOREMAN_TOKEN="+token)
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
			expect(`foreman_slot_taken_total{reason="client left"}`, func(v float64) bool { return v >= 1 })
		})
	}
}

// readmePromQL returns the expressions that the README gives, in order.
func readmePromQL(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
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
	if len(expressions) != 3 {
		t.Fatalf("the README has %q; want three expressions", expressions)
	}
	return expressions
}

// TestPromQL tries the lines that the README gives.
func TestPromQL(t *testing.T) {
	lines := readmePromQL(t)
	waits, busy, outages := lines[0], lines[1], lines[2]
	ollama, err := lab.StartOllama(t.Context(), ollamaBinary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ollama.Kill)
	foreman := startForeman(t, ollama.URL)
	expect := startPrometheus(t, foreman.URL, "")
	expect(`foreman_queue_wait_seconds_count`, equals(0))

	line := lineUp(t, foreman.URL, "", 2)
	expect(`foreman_queue_depth`, equals(2))
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
	promtool := need(t, prometheusAdvice, "promtool")
	foreman := startForeman(t, ollama.URL)
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

// TestProcessMetricsAreTheUsualOnes compares with those of Prometheus' own
// client in the process of the test: names, types and labels.
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
		for _, q := range f.Metric[0].GetSummary().GetQuantile() {
			labels = append(labels, fmt.Sprint(q.GetQuantile()))
		}
		return fmt.Sprint(f.GetType(), labels, len(f.Metric))
	}
	known := map[string]bool{}
	var missing []string
	for _, want := range usual {
		known[want.GetName()] = true
		got := ours[want.GetName()]
		switch {
		case got == nil:
			missing = append(missing, want.GetName())
		case shape(got) != shape(want):
			t.Errorf("%s: got %s; want %s", want.GetName(), shape(got), shape(want))
		}
	}
	for name := range ours {
		if own := strings.HasPrefix(name, "foreman_"); own == known[name] {
			t.Errorf("%s is neither foreman's own nor one of the usual", name)
		}
	}
	if missing != nil {
		t.Errorf("missing are %q", missing)
	}
}
