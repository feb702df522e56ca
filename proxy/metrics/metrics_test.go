package metrics

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// write returns what s writes, after parse has accepted it.
func write(t *testing.T, s *Set) string {
	t.Helper()
	var b strings.Builder
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	if _, err := parse(b.String()); err != nil {
		t.Fatalf("%v in:\n%s", err, b.String())
	}
	return b.String()
}

var (
	headerLine = regexp.MustCompile(`^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.+)\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(,|$)`)
	helpText   = regexp.MustCompile(`^(?:[^\\]|\\[\\n])+$`)
)

// parse reads the text format and returns the samples by name and labels. It is
// stricter than Prometheus: each family is one block of HELP, TYPE and samples, and
// histograms are complete and consistent.
func parse(text string) (map[string]float64, error) {
	samples, kinds := map[string]float64{}, map[string]string{}
	family, kind, help := "", "", false
	if !strings.HasSuffix(text, "\n") {
		return nil, errors.New("no newline at the end")
	}
	var last struct { // of a histogram's series
		labels string
		bound  float64
		count  float64
		step   string // "_bucket", "_sum" or "_count"
	}
	complete := func() bool { return last.step == "" || last.step == "_count" }
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := headerLine.FindStringSubmatch(line); m != nil {
			switch {
			case !complete():
				return nil, fmt.Errorf("incomplete histogram before %q", line)
			case m[1] == "HELP" && kinds[m[2]] == "" && !help && helpText.MatchString(m[3]):
				family, kind, help = m[2], "", true
			case m[1] == "TYPE" && m[2] == family && help && slices.Contains([]string{"counter", "gauge", "histogram"}, m[3]):
				kind, kinds[family], help = m[3], m[3], false
			default:
				return nil, fmt.Errorf("misplaced header %q", line)
			}
			last.step = ""
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("bad line %q", line)
		}
		value, err := strconv.ParseFloat(m[4], 64)
		if err != nil {
			return nil, err
		}
		var labels, le string
		seen := map[string]bool{}
		for rest := m[3]; rest != ""; {
			pair := labelPair.FindStringSubmatch(rest)
			if pair == nil || seen[pair[1]] || pair[3] == "," && len(rest) == len(pair[0]) {
				return nil, fmt.Errorf("bad labels in %q", line)
			}
			seen[pair[1]] = true
			rest = rest[len(pair[0]):]
			if kind == "histogram" && pair[1] == "le" {
				le = pair[2]
			} else {
				labels += pair[1] + "=" + pair[2] + ";"
			}
		}
		if _, twice := samples[m[1]+m[2]]; twice {
			return nil, fmt.Errorf("sample stands twice: %q", line)
		}
		samples[m[1]+m[2]] = value
		suffix, ok := strings.CutPrefix(m[1], family)
		if !ok || kind == "" || kind != "histogram" && suffix != "" {
			return nil, fmt.Errorf("sample outside its family: %q", line)
		}
		if kind != "histogram" {
			continue
		}
		switch suffix {
		case "_bucket":
			bound, err := strconv.ParseFloat(le, 64)
			if err != nil {
				return nil, err
			}
			if complete() {
				last.labels, last.bound, last.count = labels, math.Inf(-1), 0
			} else if last.step != "_bucket" {
				return nil, fmt.Errorf("misplaced bucket %q", line)
			}
			if labels != last.labels || bound <= last.bound || value < last.count {
				return nil, fmt.Errorf("buckets out of order at %q", line)
			}
			last.bound, last.count = bound, value
		case "_sum":
			if last.step != "_bucket" || !math.IsInf(last.bound, 1) || labels != last.labels {
				return nil, fmt.Errorf("misplaced sum %q", line)
			}
		case "_count":
			if last.step != "_sum" || value != last.count || labels != last.labels {
				return nil, fmt.Errorf("misplaced or wrong count %q", line)
			}
		default:
			return nil, fmt.Errorf("sample outside its family: %q", line)
		}
		last.step = suffix
	}
	if help || !complete() {
		return nil, errors.New("ends in the middle of a family")
	}
	return samples, nil
}

func TestParserIsStrict(t *testing.T) {
	const head = "# HELP a A.\n# TYPE a counter\n"
	const histogram = "# HELP h H.\n# TYPE h histogram\n"
	for _, text := range []string{
		"a 1\n", head + "a 1", head + "a\n", head + "a x\n", head + "b 1\n", head + "a 1\na 1\n", head + head,
		"# TYPE a counter\na 1\n", "# HELP a A.\na 1\n", "# HELP a \\x\n# TYPE a counter\n",
		head + "a{} 1\n", head + "a{x=\"1\",} 1\n", head + "a{x=\"1\",x=\"2\"} 1\n", head + "a{x=\"\\t\"} 1\n", head + "a{x=\"\"\"} 1\n",
		histogram + "h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n",
		histogram + "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
		histogram + "h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
		histogram + "h_bucket{le=\"+Inf\"} 1\nh_count 1\n", histogram + "h_bucket{le=\"+Inf\"} 1\n",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("parse accepts:\n%s", text)
		}
	}
}

func TestWrite(t *testing.T) {
	s := NewSet()
	requests := s.Counter("requests_total", "Requests, by route and code.", "route", "code")
	wait := s.Histogram("wait_seconds", "Time spent waiting.", []float64{.001, .5, 60})
	s.Func(GaugeKind, "none", "Left out.", nil, func(func(float64, ...string)) {})
	s.Func(CounterKind, "polls_total", "Polls, by result.", []string{"result"}, func(emit func(float64, ...string)) {
		emit(7, "ok")
		emit(.5, "failed")
	})
	first := s.Histogram("first_seconds", "First byte.", []float64{1}, "route")
	s.Counter("empty_total", "No series yet.", "reason")
	requests.Inc("/b", "200")
	requests.Inc("/a", "404")
	requests.Init("/a", "200")
	requests.Init("/b", "200") // does not reset the series
	requests.Inc("/b", "200")
	wait.Init()
	first.Observe(time.Second, "/z")
	first.Observe(2*time.Second, "/a")
	const want = `# HELP requests_total Requests, by route and code.
# TYPE requests_total counter
requests_total{route="/a",code="200"} 0
requests_total{route="/a",code="404"} 1
requests_total{route="/b",code="200"} 2
# HELP wait_seconds Time spent waiting.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.001"} 0
wait_seconds_bucket{le="0.5"} 0
wait_seconds_bucket{le="60"} 0
wait_seconds_bucket{le="+Inf"} 0
wait_seconds_sum 0
wait_seconds_count 0
# HELP polls_total Polls, by result.
# TYPE polls_total counter
polls_total{result="failed"} 0.5
polls_total{result="ok"} 7
# HELP first_seconds First byte.
# TYPE first_seconds histogram
first_seconds_bucket{route="/a",le="1"} 0
first_seconds_bucket{route="/a",le="+Inf"} 1
first_seconds_sum{route="/a"} 2
first_seconds_count{route="/a"} 1
first_seconds_bucket{route="/z",le="1"} 1
first_seconds_bucket{route="/z",le="+Inf"} 1
first_seconds_sum{route="/z"} 1
first_seconds_count{route="/z"} 1
# HELP empty_total No series yet.
# TYPE empty_total counter
`
	if got := write(t, s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestHistogram(t *testing.T) {
	s := NewSet()
	h := s.Histogram("h", "H.", []float64{.001, .0025, 600})
	for _, d := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, time.Hour} {
		h.Observe(d)
	}
	const want = `# HELP h H.
# TYPE h histogram
h_bucket{le="0.001"} 2
h_bucket{le="0.0025"} 3
h_bucket{le="600"} 3
h_bucket{le="+Inf"} 4
h_sum 3600.003
h_count 4
`
	if got := write(t, s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestEscape(t *testing.T) {
	s := NewSet()
	s.Counter("a", "A \\ \"quoted\"\nhelp.", "x").Inc("\\n \"}\n{,é")
	const want = `# HELP a A \\ "quoted"\nhelp.
# TYPE a counter
a{x="\\n \"}\n{,é"} 1
`
	if got := write(t, s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestPanics(t *testing.T) {
	s := NewSet()
	c, h := s.Counter("c", "C.", "x", "y"), s.Histogram("h", "H.", []float64{1}, "x")
	bad := NewSet()
	bad.Func(GaugeKind, "g", "G.", []string{"x"}, func(emit func(float64, ...string)) { emit(1) })
	for name, f := range map[string]func(){
		"too few values":        func() { c.Inc("1") },
		"too many values":       func() { c.Inc("1", "2", "3") },
		"none to Init":          func() { c.Init() },
		"none to Observe":       func() { h.Observe(1) },
		"none to emit":          func() { bad.Write(&strings.Builder{}) },
		"same name":             func() { s.Counter("c", "C.") },
		"same name, other kind": func() { s.Func(GaugeKind, "h", "H.", nil, nil) },
		"too many labels":       func() { s.Counter("d", "D.", "x", "y", "z") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
	c.Inc("1", "2") // the mutex is free after a panic
	if got := write(t, s); !strings.Contains(got, `c{x="1",y="2"} 1`+"\n") || strings.Count(got, "c{") != 1 {
		t.Errorf("after the panics:\n%s", got)
	}
}

// A read function may use its own set: the mutex is free.
func TestFuncRunsUnlocked(t *testing.T) {
	s := NewSet()
	c := s.Counter("c", "C.")
	s.Func(GaugeKind, "g", "G.", nil, func(emit func(float64, ...string)) {
		if !s.mu.TryLock() {
			t.Fatal("the set is locked")
		}
		s.mu.Unlock()
		c.Inc()
		emit(math.Inf(1))
	})
	if got := write(t, s); !strings.HasSuffix(got, "\ng +Inf\n") {
		t.Errorf("got:\n%s", got)
	}
}

type failing struct{ err error }

func (w failing) Write([]byte) (int, error) { return 0, w.err }

func TestWriteReturnsTheError(t *testing.T) {
	s, want := NewSet(), errors.New("gone")
	s.Counter("c", "C.").Inc()
	if err := s.Write(failing{want}); !errors.Is(err, want) {
		t.Errorf("got %v; want %v", err, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	const goroutines, rounds = 4, 200
	s := NewSet()
	c, h := s.Counter("c", "C.", "x"), s.Histogram("h", "H.", []float64{.001, 1}, "x")
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			for n := range rounds {
				value := strconv.Itoa(n % 3)
				c.Inc(value)
				h.Observe(time.Duration(n)*time.Millisecond, value)
				if n%20 == i {
					write(t, s) // parse checks that every histogram is consistent
				}
			}
		})
	}
	wg.Wait()
	samples, err := parse(write(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c", "h_count"} {
		sum := 0.
		for i := range 3 {
			sum += samples[fmt.Sprintf(`%s{x="%d"}`, name, i)]
		}
		if sum != goroutines*rounds {
			t.Errorf("%s: %v in all; want %d", name, sum, goroutines*rounds)
		}
	}
}

func TestExistingSeriesDoNotAllocate(t *testing.T) {
	s := NewSet()
	c, h := s.Counter("c", "C.", "x", "y"), s.Histogram("h", "H.", []float64{1}, "x", "y")
	x, y := strings.Repeat("x", 2), strings.Repeat("y", 2)
	if n := testing.AllocsPerRun(100, func() { c.Inc(x, y); h.Observe(time.Second, x, y) }); n != 0 {
		t.Errorf("%v allocations; want none", n)
	}
}

func TestProcess(t *testing.T) {
	s := NewSet()
	s.Process()
	samples, err := parse(write(t, s))
	if err != nil {
		t.Fatal(err)
	}
	now := float64(time.Now().Unix())
	limits := map[string][2]float64{
		"go_goroutines": {1, 1000},
		fmt.Sprintf(`go_info{version="%s"}`, runtime.Version()): {1, 1},
	}
	if runtime.GOOS == "linux" {
		maps.Copy(limits, map[string][2]float64{
			"process_start_time_seconds":    {now - 24*60*60, now + 2},
			"process_resident_memory_bytes": {1 << 20, 1 << 32},
			"process_open_fds":              {3, samples["process_max_fds"]},
			"process_max_fds":               {3, math.MaxUint64},
		})
	}
	for name, limit := range limits {
		if v, ok := samples[name]; !ok || v < limit[0] || v > limit[1] {
			t.Errorf("%s = %v, %v; want %v to %v", name, v, ok, limit[0], limit[1])
		}
	}
	if len(samples) != len(limits) {
		t.Errorf("%d samples; want %d: %v", len(samples), len(limits), samples)
	}
}

func TestProcValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits")
	const text = "Limit   Soft   Hard   Units\nMax open files  1024  4096  files\nMax address space   unlimited  unlimited  bytes\nVmRSS:\t  17 kB\nodd x\nnone \n7\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]float64{"Max open files ": 1024, "Max address space ": math.MaxUint64, "VmRSS:": 17} {
		if got, ok := procValue(file, prefix); got != want || !ok {
			t.Errorf("%q: %v, %v; want %v", prefix, got, ok, want)
		}
	}
	for _, prefix := range []string{"odd ", "none ", "open files ", "missing "} {
		if got, ok := procValue(file, prefix); ok {
			t.Errorf("%q: %v; want no value", prefix, got)
		}
	}
	if _, ok := procValue(file+"x", "odd "); ok {
		t.Error("a value from a missing file")
	}
}

func BenchmarkInc(b *testing.B) {
	c := NewSet().Counter("c", "C.", "route", "code")
	b.ReportAllocs()
	for b.Loop() {
		c.Inc("/api/chat", "200")
	}
}
