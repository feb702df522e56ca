package metrics

import (
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

func wantText(t *testing.T, s *Set, want string) {
	t.Helper()
	if got := string(s.Text()); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// samples returns what s writes, by name and labels.
func samples(t *testing.T, s *Set) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	for line := range strings.Lines(string(s.Text())) {
		if strings.HasPrefix(line, "# ") {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSuffix(line[space+1:], "\n"), 64)
		if _, twice := got[line[:max(space, 0)]]; err != nil || twice {
			t.Fatalf("%q: %v, twice: %t", line, err, twice)
		}
		got[line[:space]] = value
	}
	return got
}

func TestWrite(t *testing.T) {
	s := new(Set)
	requests := s.Counter("requests_total", "Requests, by route and code.", "route", "code")
	wait := s.Histogram("wait_seconds", "Time spent waiting.", []float64{.001, .0025, 600})
	s.Gauge("none", "Left out.", math.NaN())
	s.Gauge("depth", "Depth.", .5)
	s.Gauge("info", "What runs.", 1, "version", "1.2", "os", "linux")
	first := s.Histogram("first_seconds", "First byte.", []float64{1}, "route")
	s.Counter("empty_total", "No series yet.", "reason")
	requests.Inc("/b", "200")
	requests.Inc("/a", "404")
	requests.Init("/a", "200")
	requests.Init("/b", "200") // does not reset the series
	seconds := s.Counter("seconds_total", "Time.")
	seconds.Add(0.25)
	seconds.Add(123456789)
	requests.Inc("/b", "200")
	for _, d := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, time.Hour} {
		wait.Observe(d)
	}
	first.Observe(time.Second, "/z")
	first.Init("/i")
	first.Observe(2*time.Second, "/a")
	wantText(t, s, `# HELP requests_total Requests, by route and code.
# TYPE requests_total counter
requests_total{route="/a",code="200"} 0
requests_total{route="/a",code="404"} 1
requests_total{route="/b",code="200"} 2
# HELP wait_seconds Time spent waiting.
# TYPE wait_seconds histogram
wait_seconds_bucket{le="0.001"} 2
wait_seconds_bucket{le="0.0025"} 3
wait_seconds_bucket{le="600"} 3
wait_seconds_bucket{le="+Inf"} 4
wait_seconds_sum 3600.003
wait_seconds_count 4
# HELP depth Depth.
# TYPE depth gauge
depth 0.5
# HELP info What runs.
# TYPE info gauge
info{version="1.2",os="linux"} 1
# HELP first_seconds First byte.
# TYPE first_seconds histogram
first_seconds_bucket{route="/a",le="1"} 0
first_seconds_bucket{route="/a",le="+Inf"} 1
first_seconds_sum{route="/a"} 2
first_seconds_count{route="/a"} 1
first_seconds_bucket{route="/i",le="1"} 0
first_seconds_bucket{route="/i",le="+Inf"} 0
first_seconds_sum{route="/i"} 0
first_seconds_count{route="/i"} 0
first_seconds_bucket{route="/z",le="1"} 1
first_seconds_bucket{route="/z",le="+Inf"} 1
first_seconds_sum{route="/z"} 1
first_seconds_count{route="/z"} 1
# HELP empty_total No series yet.
# TYPE empty_total counter
# HELP seconds_total Time.
# TYPE seconds_total counter
seconds_total 123456789.25
`)
}

func TestEscape(t *testing.T) {
	s := new(Set)
	s.Counter("a", "A \\ \"quoted\"\nhelp.", "x").Inc("\\n \"}\n{,é")
	wantText(t, s, `# HELP a A \\ "quoted"\nhelp.
# TYPE a counter
a{x="\\n \"}\n{,é"} 1
`)
}

func TestPanics(t *testing.T) {
	s := new(Set)
	c, h := s.Counter("c", "C.", "x", "y"), s.Histogram("h", "H.", []float64{1}, "x")
	for name, f := range map[string]func(){
		"too few values":  func() { c.Inc("1") },
		"too many values": func() { c.Inc("1", "2", "3") },
		"none to Init":    func() { c.Init() },
		"none to Observe": func() { h.Observe(1) },
		"half a pair":     func() { s.Gauge("g", "G.", 1, "x") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	c.Inc("1", "2")
	if got := string(s.Text()); !strings.Contains(got, `c{x="1",y="2"} 1`+"\n") || strings.Count(got, "c{") != 1 {
		t.Errorf("after the panics:\n%s", got)
	}
}

func TestExistingSeriesDoNotAllocate(t *testing.T) {
	s := new(Set)
	c, h := s.Counter("c", "C.", "x", "y"), s.Histogram("h", "H.", []float64{1}, "x", "y")
	x, y := strings.Repeat("x", 2), strings.Repeat("y", 2)
	if n := testing.AllocsPerRun(100, func() { c.Inc(x, y); h.Observe(time.Second, x, y) }); n != 0 {
		t.Errorf("%v allocations; want none", n)
	}
}

func TestProcess(t *testing.T) {
	s := new(Set)
	s.Process()
	got := samples(t, s)
	now := float64(time.Now().Unix())
	limits := map[string][2]float64{
		"go_goroutines":              {1, 1000},
		"process_start_time_seconds": {now - 24*60*60, now + 2},
		fmt.Sprintf(`go_info{version="%s"}`, runtime.Version()): {1, 1},
	}
	if runtime.GOOS == "linux" {
		maps.Copy(limits, map[string][2]float64{
			"process_resident_memory_bytes": {1 << 20, 1 << 32},
			"process_open_fds":              {3, got["process_max_fds"]},
			"process_max_fds":               {3, math.MaxUint64},
		})
	}
	for name, limit := range limits {
		if v, ok := got[name]; !ok || v < limit[0] || v > limit[1] {
			t.Errorf("%s = %v, %v; want %v to %v", name, v, ok, limit[0], limit[1])
		}
	}
	if len(got) != len(limits) {
		t.Errorf("%d samples; want %d: %v", len(got), len(limits), got)
	}
}

func TestProcValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limits")
	const text = "Limit   Soft   Hard   Units\nMax open files  1024  4096  files\nMax address space   unlimited  unlimited  bytes\nVmRSS:\t  17 kB\nodd x\nnone \n7\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]float64{"Max open files ": 1024, "Max address space ": math.MaxUint64, "VmRSS:": 17} {
		if got := procValue(file, prefix); got != want {
			t.Errorf("%q: %v; want %v", prefix, got, want)
		}
	}
	for _, prefix := range []string{"odd ", "none ", "open files ", "missing "} {
		if got := procValue(file, prefix); !math.IsNaN(got) {
			t.Errorf("%q: %v; want no value", prefix, got)
		}
	}
	if got := procValue(file+"x", "odd "); !math.IsNaN(got) {
		t.Error("a value from a missing file")
	}
}
