package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// scrape returns the samples of /metrics by name and labels.
func scrape(t *testing.T, f *front) map[string]string {
	t.Helper()
	a := f.do(t, "GET", "/metrics", "")
	if a.status != http.StatusOK || a.err != nil {
		t.Fatalf("/metrics: %d, %v", a.status, a.err)
	}
	samples := map[string]string{}
	for line := range strings.Lines(a.body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			name += "}"
		} else if name, value, ok = strings.Cut(strings.TrimSpace(line), " "); !ok {
			t.Fatalf("no sample: %q", line)
		}
		if _, twice := samples[name]; twice {
			t.Errorf("%s stands twice", name)
		}
		samples[name] = value
	}
	return samples
}

// await yields until cond holds: for what tells nobody when it happens.
func await(t *testing.T, cond func() bool) {
	t.Helper()
	for !cond() {
		if t.Context().Err() != nil {
			t.Fatal("the test has ended")
		}
		runtime.Gosched()
	}
}

func wantSamples(t *testing.T, f *front, want map[string]string) {
	t.Helper()
	got := scrape(t, f)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s = %q; want %q", name, got[name], value)
		}
	}
}

func TestMetricsTellOfRequests(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	post(t, f.URL+"/api/chat", `{"model":"CHAT"}`)
	post(t, f.URL+"/api/chat", `{"model":"nobody"}`)
	post(t, f.URL+"/api/embed", `{"model":"embed"}`)
	post(t, f.URL+"/anything/else", ``)
	wantSamples(t, f, map[string]string{
		`foreman_requests_total{route="/api/chat",code="200"}`:                  "1",
		`foreman_requests_total{route="/api/chat",code="404"}`:                  "1",
		`foreman_requests_total{route="/api/embed",code="200"}`:                 "1",
		`foreman_requests_total{route="other",code="404"}`:                      "1",
		`foreman_rejected_total{reason="unknown model"}`:                        "1",
		`foreman_rejected_total{reason="path"}`:                                 "1",
		`foreman_rejected_total{reason="queue full"}`:                           "0",
		`foreman_queue_wait_seconds_count`:                                      "1",
		`foreman_request_duration_seconds_bucket{route="/api/embed",le="+Inf"}`: "1",
		`foreman_first_byte_seconds_count{route="/api/chat"}`:                   "2",
		`foreman_queue_depth`:                                                   "0",
		`foreman_chats_in_flight`:                                               "0",
		`foreman_target_up`:                                                     "1",
		`foreman_inventory_models`:                                              "2",
		`foreman_retries_total`:                                                 "0",
		`foreman_slot_taken_total{reason="client left"}`:                        "0",
		`foreman_warms_total{result="ok"}`:                                      "0",
		`foreman_embedder_resident`:                                             "0",
	})
}

func TestMetricsTellOfTheLine(t *testing.T) {
	stub := newStub(t)
	inside, proceed := make(chan struct{}), make(chan struct{})
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-proceed
	}
	f := newFront(t, stub.URL, nil)
	done := make(chan struct{}, 2)
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			if resp, err := http.Post(f.URL+"/api/chat", "", strings.NewReader(`{"model":"chat"}`)); err == nil {
				resp.Body.Close()
			}
		}()
	}
	<-inside
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
	wantSamples(t, f, map[string]string{"foreman_queue_depth": "1", "foreman_chats_in_flight": "1"})
	proceed <- struct{}{}
	<-inside
	proceed <- struct{}{}
	<-done
	<-done
}

func TestMetricsTellOfTheTarget(t *testing.T) {
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Resident = func() bool { return true } })
	for i, reason := range []string{inventory.Unreachable, inventory.Unauthorized, inventory.BadAnswer} {
		for range i + 2 {
			f.Polled(inventory.State{Reason: reason})
		}
	}
	f.Warmed(nil)
	f.Warmed(errors.New("no"))
	f.Warmed(errors.New("no"))
	wantSamples(t, f, map[string]string{
		`foreman_polls_total{result="ok"}`:           "1",
		`foreman_polls_total{result="unreachable"}`:  "2",
		`foreman_polls_total{result="unauthorized"}`: "3",
		`foreman_polls_total{result="bad answer"}`:   "4",
		`foreman_warms_total{result="ok"}`:           "1",
		`foreman_warms_total{result="failed"}`:       "2",
		`foreman_embedder_resident`:                  "1",
	})
}

// The age is that of the last good poll, and there is none before the first.
func TestMetricsTellTheInventorysAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newSleeper(t)
		target.sleep(true)
		f, _ := newFrontIn(t, target, nil)
		if age, ok := scrape(t, f)["foreman_inventory_age_seconds"]; ok {
			t.Errorf("age %q before the first good poll; want none", age)
		}
		wantSamples(t, f, map[string]string{"foreman_target_up": "0", "foreman_inventory_models": "0"})
		target.sleep(false)
		f.Inventory.Check(t.Context(), "chat")
		time.Sleep(7 * time.Second)
		target.sleep(true)
		wantSamples(t, f, map[string]string{"foreman_target_up": "1", "foreman_inventory_age_seconds": "7"})
		time.Sleep(40 * time.Second)
		wantSamples(t, f, map[string]string{"foreman_target_up": "0", "foreman_inventory_age_seconds": "47", "foreman_inventory_models": "2"})
	})
}

// TestREADME compares the README's table of metrics with what is told.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| metric | type | labels |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	want := map[string]bool{}
	for _, match := range regexp.MustCompile("`(foreman_\\w+)`").FindAllStringSubmatch(table, -1) {
		want[match[1]] = true
	}
	got := map[string]bool{}
	f := newFront(t, newStub(t).URL, nil)
	_, page := get(t, f.URL+"/metrics", nil)
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (foreman_\w+) `).FindAllStringSubmatch(page, -1) {
		got[match[1]] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("/metrics has %q; the README %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// Whatever clients send, each label's values come from a set that is known.
func TestLabelsAreClosedSets(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	for _, model := range []string{"chat", "private", `"}\n{`, strings.Repeat("x", 300)} {
		body, err := json.Marshal(map[string]string{"model": model})
		if err != nil {
			t.Fatal(err)
		}
		for _, rt := range routes {
			for _, method := range append(strings.Fields(rt.methods), "OPTIONS", "PATCH") {
				f.do(t, method, strings.NewReplacer("{model...}", "a/b", "{digest}", "sha256:1").Replace(rt.path), string(body), "X-Request-Id", "private")
			}
		}
		f.do(t, "POST", "/private", string(body))
	}
	sets := map[string][]string{
		"route":  {nowhere.path},
		"reason": append(slices.Clone(reasons), takenLeft, takenStalled),
		"result": {"ok", "failed", inventory.Unreachable, inventory.Unauthorized, inventory.BadAnswer},
		"le":     {"+Inf"}, "quantile": {"0", "0.25", "0.5", "0.75", "1"},
		"version": {"v1.2.3", runtime.Version()}, "goversion": {runtime.Version()},
	}
	for _, rt := range routes {
		sets["route"] = append(sets["route"], rt.path)
	}
	for _, bound := range bounds {
		sets["le"] = append(sets["le"], number(bound))
	}
	for code := range 600 {
		sets["code"] = append(sets["code"], strconv.Itoa(code))
	}
	samples := scrape(t, f)
	if n := len(samples); n < 300 || n > 3000 {
		t.Errorf("%d samples; want some hundreds", n)
	}
	for name := range samples {
		for _, match := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(name, -1) {
			if !slices.Contains(sets[match[1]], match[2]) {
				t.Errorf("%s: %q is in no known set", name, match[0])
			}
		}
	}
}

// Some of the names of Prometheus' own Go client; testdata/e2e compares them all.
func TestMetricsOfTheProcess(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	samples := scrape(t, f)
	for _, name := range []string{
		"go_goroutines", "go_threads", "go_memstats_alloc_bytes", "go_memstats_heap_inuse_bytes", "go_gc_duration_seconds_count",
		`go_gc_duration_seconds{quantile="0.5"}`,
		"process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds",
		"process_network_receive_bytes_total",
	} {
		if samples[name] == "" {
			t.Errorf("no %s", name)
		}
	}
	if !regexp.MustCompile(`^\d`).MatchString(samples["go_goroutines"]) {
		t.Errorf("go_goroutines = %q", samples["go_goroutines"])
	}
}

func TestReasonsAreAClosedSet(t *testing.T) {
	m := newMetrics()
	x := &exchange{route: &nowhere}
	for _, err := range []error{
		badRequest(""), methodError(""), &http.MaxBytesError{}, errNoRoute, errHost, errToken, errManage, errLoop, errEncoding, errSlowUpload,
		inventory.ErrNotFound, ErrShuttingDown, errQueueTimeout, errNoRoom, inventory.ErrDegraded, errNotPolled, errAsleep, errStall, errUpload,
		inventory.ErrUnreachable, errSwitched, io.ErrNoProgress,
	} {
		a := x.explain(err)
		if _, ok := m.series[key{"foreman_rejected_total", [2]string{a.reason}}]; !ok {
			t.Errorf("%v: reason %q is not in reasons", err, a.reason)
		}
	}
}

func TestHistogramBuckets(t *testing.T) {
	if first, last := bounds[0], bounds[len(bounds)-1]; first != .001 || last != 600 || !slices.IsSorted(bounds) {
		t.Errorf("bounds %v; want them to rise from 1 ms to 10 min", bounds)
	}
	m := newMetrics()
	for _, d := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, time.Hour} {
		m.observe("foreman_queue_wait_seconds", "", d)
	}
	var b strings.Builder
	m.write(&b)
	for _, line := range []string{
		`foreman_queue_wait_seconds_bucket{le="0.001"} 2`,
		`foreman_queue_wait_seconds_bucket{le="0.0025"} 3`,
		`foreman_queue_wait_seconds_bucket{le="600"} 3`,
		`foreman_queue_wait_seconds_bucket{le="+Inf"} 4`,
		`foreman_queue_wait_seconds_sum 3600.003`,
		`foreman_queue_wait_seconds_count 4`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no %q in:\n%s", line, b.String())
		}
	}
}

func TestIPTraffic(t *testing.T) {
	file := filepath.Join(t.TempDir(), "netstat")
	for text, want := range map[string]string{
		"TcpExt: A B\nTcpExt: 1 2\nIpExt: InOctets X OutOctets\nIpExt: 7 8 9\n": "7 9",
		"IpExt: InOctets OutOctets\nIpExt: 7\n":                                 "none",
		"IpExt: InOctets OutOctets\n":                                           "none",
		"":                                                                      "none",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := "none"
		if traffic := ipTraffic(file); traffic != nil {
			got = fmt.Sprint(traffic["InOctets"], traffic["OutOctets"])
		}
		if got != want {
			t.Errorf("%q: got %s; want %s", text, got, want)
		}
	}
}

func TestProcValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits")
	if err := os.WriteFile(file, []byte("Limit   Soft   Hard   Units\nMax open files  1024  4096  files\nMax address space   unlimited  unlimited  bytes\nbtime 17\nodd x\nempty "), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"Max open files": 1024, "Max address space": math.MaxUint64, "btime": 17} {
		if got, ok := procValue(file, name); got != want || !ok {
			t.Errorf("%s = %v, %v; want %v", name, got, ok, want)
		}
	}
	for _, name := range []string{"odd", "empty", "time", "none"} {
		if got, ok := procValue(file, name); ok {
			t.Errorf("%s = %v; want none", name, got)
		}
	}
	if _, ok := procValue(file+"x", "btime"); ok {
		t.Error("a value out of a file that is not there")
	}
}
