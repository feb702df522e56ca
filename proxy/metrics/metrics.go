// Package metrics keeps counters and histograms and writes them in the Prometheus
// text format (https://prometheus.io/docs/instrumenting/exposition_formats/).
//
// A metric is a family of series, one for each combination of label values. Series
// are never removed: label values must come from closed sets, not from clients.
package metrics

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ContentType is the media type of what [Set.Write] writes.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// A Kind is the type of a metric registered with [Set.Func].
type Kind string

// The kinds of metrics whose values are read when the set is written.
const (
	CounterKind Kind = "counter"
	GaugeKind   Kind = "gauge"

	histogramKind Kind = "histogram"
)

// maxLabels limits the labels of a [Counter] or a [Histogram]. An array of fixed
// size as the map key keeps Inc and Observe free of allocations.
const maxLabels = 2

// A Set is a list of metrics. Make one with [NewSet].
type Set struct {
	mu       sync.Mutex // guards families and all their series
	families []*family
}

type family struct {
	mu         *sync.Mutex // the set's
	kind       Kind
	name, help string
	labels     []string
	bounds     []float64 // only for a histogram
	series     map[[maxLabels]string]*series
	read       func(emit func(value float64, values ...string)) // only for Func, instead of series
}

type series struct {
	total   uint64 // observations
	sum     float64
	buckets []uint64 // not cumulative; observations above all bounds are only in total
}

// NewSet returns an empty set.
func NewSet() *Set { return new(Set) }

func (s *Set) register(f *family) *family {
	f.mu, f.series = &s.mu, map[[maxLabels]string]*series{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.families {
		if other.name == f.name {
			panic("metrics: " + f.name + " is registered twice")
		}
	}
	if f.read == nil && len(f.labels) > maxLabels {
		panic("metrics: " + f.name + " has too many labels")
	}
	s.families = append(s.families, f)
	return f
}

func (f *family) checkValues(values []string) {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("metrics: %s needs %d label values, not %d", f.name, len(f.labels), len(values)))
	}
}

// seriesLocked returns the series with these label values and creates it if needed.
func (f *family) seriesLocked(values []string) *series {
	f.checkValues(values)
	var key [maxLabels]string
	copy(key[:], values)
	s := f.series[key]
	if s == nil {
		s = &series{buckets: make([]uint64, len(f.bounds))}
		f.series[key] = s
	}
	return s
}

// Init creates the series with these label values at 0, so that Prometheus sees its
// first increase. It panics if there is not one value for each label.
func (f *family) Init(values ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seriesLocked(values)
}

// A Counter counts events, or what they come to.
type Counter struct{ *family }

// Counter registers a counter with at most two labels. It panics if the name is taken.
func (s *Set) Counter(name, help string, labels ...string) *Counter {
	return &Counter{s.register(&family{kind: CounterKind, name: name, help: help, labels: labels})}
}

// Inc adds 1 to the series with these label values. It panics if there is not one
// value for each label.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Add adds n, which is not negative, to the series with these label values. It panics
// if there is not one value for each label.
func (c *Counter) Add(n float64, values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seriesLocked(values).sum += n
}

// A Histogram counts durations in buckets.
type Histogram struct{ *family }

// Histogram registers a histogram with at most two labels. The bounds are the upper
// limits of its buckets, inclusive, ascending and in seconds, without +Inf. It panics
// if the name is taken.
func (s *Set) Histogram(name, help string, bounds []float64, labels ...string) *Histogram {
	return &Histogram{s.register(&family{kind: histogramKind, name: name, help: help, labels: labels, bounds: bounds})}
}

// Observe adds a duration to the series with these label values. It panics if there
// is not one value for each label.
func (h *Histogram) Observe(d time.Duration, values ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seriesLocked(values)
	s.total++
	s.sum += d.Seconds()
	if i, _ := slices.BinarySearch(h.bounds, d.Seconds()); i < len(h.bounds) {
		s.buckets[i]++
	}
}

// Func registers a metric whose values are read when the set is written. The
// function read calls emit once for each series, with one value for each label. If
// it emits nothing, the metric is left out. The set is not locked while read runs.
// Func panics if the name is taken.
func (s *Set) Func(kind Kind, name, help string, labels []string, read func(emit func(value float64, values ...string))) {
	s.register(&family{kind: kind, name: name, help: help, labels: labels, read: read})
}

// Write writes the metrics in order of registration, and the series of each in order
// of their label values. It writes once and returns the error of w.
func (s *Set) Write(w io.Writer) error {
	s.mu.Lock()
	families := slices.Clone(s.families)
	s.mu.Unlock()
	var b bytes.Buffer
	for _, f := range families {
		if f.read != nil {
			f.writeRead(&b)
		} else {
			f.writeSeries(&b)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (f *family) writeRead(b *bytes.Buffer) {
	type sample struct {
		value  float64
		values []string
	}
	var samples []sample
	f.read(func(value float64, values ...string) {
		f.checkValues(values)
		samples = append(samples, sample{value, slices.Clone(values)})
	})
	if len(samples) == 0 {
		return
	}
	slices.SortFunc(samples, func(a, b sample) int { return slices.Compare(a.values, b.values) })
	f.writeHeader(b)
	for _, s := range samples {
		writeSample(b, f.name, f.labels, s.values, formatFloat(s.value))
	}
}

func (f *family) writeSeries(b *bytes.Buffer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeHeader(b)
	for _, key := range slices.SortedFunc(maps.Keys(f.series), func(a, b [maxLabels]string) int { return slices.Compare(a[:], b[:]) }) {
		s, values := f.series[key], key[:len(f.labels)]
		if f.kind != histogramKind {
			writeSample(b, f.name, f.labels, values, formatFloat(s.sum))
			continue
		}
		total := strconv.FormatUint(s.total, 10)
		withLE, cumulative := append(slices.Clone(f.labels), "le"), uint64(0)
		for i, bound := range f.bounds {
			cumulative += s.buckets[i]
			writeSample(b, f.name+"_bucket", withLE, append(slices.Clone(values), formatFloat(bound)), strconv.FormatUint(cumulative, 10))
		}
		writeSample(b, f.name+"_bucket", withLE, append(slices.Clone(values), formatFloat(math.Inf(1))), total)
		writeSample(b, f.name+"_sum", f.labels, values, formatFloat(s.sum))
		writeSample(b, f.name+"_count", f.labels, values, total)
	}
}

// The text format escapes quotes in label values only.
var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (f *family) writeHeader(b *bytes.Buffer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", f.name, helpEscaper.Replace(f.help), f.kind)
}

func writeSample(b *bytes.Buffer, name string, labels, values []string, value string) {
	b.WriteString(name)
	for i, label := range labels {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(b, `%s="%s"`, label, valueEscaper.Replace(values[i]))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteString(" " + value + "\n")
}

// formatFloat returns a number without an exponent, as encoding/json does: unless it
// is very large or very small.
func formatFloat(v float64) string {
	format := byte('f')
	if size := math.Abs(v); size != 0 && (size < 1e-6 || size >= 1e21) {
		format = 'e'
	}
	return strconv.FormatFloat(v, format, -1, 64)
}
