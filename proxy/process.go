package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// writeGo writes the runtime's metrics under the names that Prometheus' own Go
// client gives them.
func writeGo(w io.Writer) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	threads, _ := runtime.ThreadCreateProfile(nil)
	settings := []rtmetrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}}
	rtmetrics.Read(settings)

	describe(w, "go_gc_duration_seconds", "summary", "A summary of the wall-time pause (stop-the-world) duration in garbage collection cycles.")
	for i, q := range gc.PauseQuantiles {
		fmt.Fprintf(w, "go_gc_duration_seconds{quantile=\"%s\"} %s\n", number(float64(i)/4), number(q.Seconds()))
	}
	fmt.Fprintf(w, "go_gc_duration_seconds_sum %s\ngo_gc_duration_seconds_count %d\n", number(gc.PauseTotal.Seconds()), gc.NumGC)
	single(w, fmt.Sprintf("go_info{version=%q}", runtime.Version()), "gauge", "Information about the Go environment.", 1)
	single(w, "go_goroutines", "gauge", "Number of goroutines that currently exist.", runtime.NumGoroutine())
	single(w, "go_threads", "gauge", "Number of OS threads created.", threads)
	single(w, "go_sched_gomaxprocs_threads", "gauge", "The current runtime.GOMAXPROCS setting.", runtime.GOMAXPROCS(0))
	single(w, "go_gc_gogc_percent", "gauge", "Heap size target percentage configured by the user, otherwise 100.", settings[0].Value.Uint64())
	single(w, "go_gc_gomemlimit_bytes", "gauge", "Go runtime memory limit configured by the user, otherwise math.MaxInt64.", settings[1].Value.Uint64())
	single(w, "go_memstats_last_gc_time_seconds", "gauge", "Number of seconds since 1970 of last garbage collection.", float64(m.LastGC)/1e9)
	for _, stat := range []struct {
		name, help string
		value      uint64
	}{
		{"alloc_bytes", "Number of bytes allocated in heap and currently in use.", m.Alloc},
		{"alloc_bytes_total", "Total number of bytes allocated in heap until now, even if released already.", m.TotalAlloc},
		{"buck_hash_sys_bytes", "Number of bytes used by the profiling bucket hash table.", m.BuckHashSys},
		{"frees_total", "Total number of heap objects frees.", m.Frees},
		{"gc_sys_bytes", "Number of bytes used for garbage collection system metadata.", m.GCSys},
		{"heap_alloc_bytes", "Number of heap bytes allocated and currently in use, same as go_memstats_alloc_bytes.", m.HeapAlloc},
		{"heap_idle_bytes", "Number of heap bytes waiting to be used.", m.HeapIdle},
		{"heap_inuse_bytes", "Number of heap bytes that are in use.", m.HeapInuse},
		{"heap_objects", "Number of currently allocated objects.", m.HeapObjects},
		{"heap_released_bytes", "Number of heap bytes released to OS.", m.HeapReleased},
		{"heap_sys_bytes", "Number of heap bytes obtained from system.", m.HeapSys},
		{"mallocs_total", "Total number of heap objects allocated, both live and gc-ed.", m.Mallocs},
		{"mcache_inuse_bytes", "Number of bytes in use by mcache structures.", m.MCacheInuse},
		{"mcache_sys_bytes", "Number of bytes used for mcache structures obtained from system.", m.MCacheSys},
		{"mspan_inuse_bytes", "Number of bytes in use by mspan structures.", m.MSpanInuse},
		{"mspan_sys_bytes", "Number of bytes used for mspan structures obtained from system.", m.MSpanSys},
		{"next_gc_bytes", "Number of heap bytes when next garbage collection will take place.", m.NextGC},
		{"other_sys_bytes", "Number of bytes used for other system allocations.", m.OtherSys},
		{"stack_inuse_bytes", "Number of bytes obtained from system for stack allocator in non-CGO environments.", m.StackInuse},
		{"stack_sys_bytes", "Number of bytes obtained from system for stack allocator.", m.StackSys},
		{"sys_bytes", "Number of bytes obtained from system.", m.Sys},
	} {
		kind := "gauge"
		if strings.HasSuffix(stat.name, "_total") {
			kind = "counter"
		}
		single(w, "go_memstats_"+stat.name, kind, stat.help, stat.value)
	}
}

// writeProcess writes the process' metrics, likewise, as far as proc(5) tells
// them: on Linux alone. Those of the network are of its whole network namespace,
// a container's as a rule.
func writeProcess(w io.Writer) {
	const ticks = 100 // per second: USER_HZ, the same on all Linux that Go runs on
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third on
	field := func(n int) float64 { v, _ := strconv.ParseFloat(fields[n-3], 64); return v }
	single(w, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", (field(14)+field(15))/ticks)
	single(w, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23))
	single(w, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24)*float64(os.Getpagesize()))
	if boot, ok := procValue("/proc/stat", "btime"); ok {
		single(w, "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", boot+field(22)/ticks)
	}
	if traffic := ipTraffic("/proc/self/net/netstat"); traffic != nil {
		single(w, "process_network_receive_bytes_total", "counter", "Number of bytes received by the process over the network.", traffic["InOctets"])
		single(w, "process_network_transmit_bytes_total", "counter", "Number of bytes sent by the process over the network.", traffic["OutOctets"])
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		single(w, "process_open_fds", "gauge", "Number of open file descriptors.", len(fds))
	}
	if most, ok := procValue("/proc/self/limits", "Max open files"); ok {
		single(w, "process_max_fds", "gauge", "Maximum number of open file descriptors.", most)
	}
	if most, ok := procValue("/proc/self/limits", "Max address space"); ok {
		single(w, "process_virtual_memory_max_bytes", "gauge", "Maximum amount of virtual memory available in bytes.", most)
	}
}

// ipTraffic returns the counters of IP: one line has their names, the next their
// values. Where they cannot be read it returns nil.
func ipTraffic(file string) map[string]float64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] != "IpExt:":
		case names == nil:
			names = fields
		case len(fields) == len(names):
			values := map[string]float64{}
			for i, name := range names {
				values[name], _ = strconv.ParseFloat(fields[i], 64)
			}
			return values
		}
	}
	return nil
}

// procValue returns the first value behind a name at the begin of a line. Where
// there is no limit it is the largest number, as Prometheus' client has it.
func procValue(file, name string) (float64, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+name+" ")
	values := strings.Fields(rest)
	switch {
	case len(values) == 0:
		return 0, false
	case values[0] == "unlimited":
		return math.MaxUint64, true
	}
	v, err := strconv.ParseFloat(values[0], 64)
	return v, err == nil
}
