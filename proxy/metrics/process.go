package metrics

import (
	"bytes"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Process registers metrics of the process, named as in Prometheus' Go client. Those
// that Linux' /proc provides are left out where it cannot be read.
func (s *Set) Process() {
	gauge := func(name, help string, read func() (float64, bool)) {
		s.Func(GaugeKind, name, help, nil, func(emit func(float64, ...string)) {
			if v, ok := read(); ok {
				emit(v)
			}
		})
	}
	start, ok := startTime() // once: the boot time in /proc moves when the clock is set
	gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", func() (float64, bool) { return start, ok })
	gauge("process_resident_memory_bytes", "Resident memory size in bytes.", func() (float64, bool) {
		kilobytes, ok := procValue("/proc/self/status", "VmRSS:")
		return kilobytes * 1024, ok
	})
	gauge("process_open_fds", "Number of open file descriptors.", func() (float64, bool) {
		fds, err := os.ReadDir("/proc/self/fd")
		return float64(len(fds)), err == nil
	})
	gauge("process_max_fds", "Maximum number of open file descriptors.", func() (float64, bool) {
		return procValue("/proc/self/limits", "Max open files ")
	})
	gauge("go_goroutines", "Number of goroutines that currently exist.", func() (float64, bool) {
		return float64(runtime.NumGoroutine()), true
	})
	s.Func(GaugeKind, "go_info", "Information about the Go environment.", []string{"version"}, func(emit func(float64, ...string)) {
		emit(1, runtime.Version())
	})
}

// startTime returns the start of the process in seconds since 1970.
func startTime() (float64, bool) {
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux that Go supports
	stat, err := os.ReadFile("/proc/self/stat")
	boot, ok := procValue("/proc/stat", "btime ")
	// The second field is the command's name in parentheses, which may contain spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if err != nil || !ok || len(fields) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseFloat(fields[22-3], 64)
	return boot + ticks/ticksPerSecond, err == nil
}

// procValue returns the first value after a prefix of a line in a file. It returns
// the largest uint64 for "unlimited", as Prometheus' Go client does.
func procValue(file, prefix string) (float64, bool) {
	text, err := os.ReadFile(file)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+prefix)
	line, _, _ := strings.Cut(rest, "\n")
	fields := strings.Fields(line)
	if err != nil || len(fields) == 0 {
		return 0, false
	}
	if fields[0] == "unlimited" {
		return math.MaxUint64, true
	}
	v, err := strconv.ParseFloat(fields[0], 64)
	return v, err == nil
}
