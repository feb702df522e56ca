package metrics

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// started is when the process was, but for some milliseconds.
var started = time.Now()

// Process adds metrics of the process as it is now, named as in Prometheus' Go client. Those
// that Linux' /proc provides are left out where it cannot be read.
func (s *Set) Process() {
	open := math.NaN()
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		open = float64(len(fds))
	}
	s.Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", float64(started.UnixMilli())/1000)
	s.Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", procValue("/proc/self/status", "VmRSS:")*1024) // of kilobytes
	s.Gauge("process_open_fds", "Number of open file descriptors.", open)
	s.Gauge("process_max_fds", "Maximum number of open file descriptors.", procValue("/proc/self/limits", "Max open files "))
	s.Gauge("go_goroutines", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	s.Gauge("go_info", "Information about the Go environment.", 1, "version", runtime.Version())
}

// procValue returns the first value after a prefix of a line in a file; NaN: there is
// none. For "unlimited" that is the largest uint64, as in Prometheus' Go client.
func procValue(file, prefix string) float64 {
	text, err := os.ReadFile(file)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+prefix)
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if err != nil || len(fields) == 0 {
		return math.NaN()
	}
	if fields[0] == "unlimited" {
		return math.MaxUint64
	}
	v, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		return math.NaN()
	}
	return v
}
