// Package metrics keeps counters and histograms and writes them in the Prometheus
// text format (https://prometheus.io/docs/instrumenting/exposition_formats/).
//
// A metric is a family of series, one for each combination of label values. Series
// are never removed: label values must come from closed sets, not from clients.
package metrics

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ContentType is the media type of what [Set.Text] returns.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// A Kind is the type of a metric registered with [Set.Func].
type Kind string

// The kinds of metrics whose values are read for [Set.Text].
const (
	CounterKind Kind = "counter"
	GaugeKind   Kind = "gauge"

	histogramKind Kind = "histogram"
)

// A Set is a list of metrics, each of which has a name of its own. The zero value is empty.
// A Set and its metrics are for one goroutine at a time.
type Set struct {
	families []*family
}

type family struct {
	kind       Kind
	name, help string
	labels     []string
	bounds     []float64 // of a histogram; the last is infinite
	series     map[string]*series
	read       func(emit func(value float64, values ...string)) // only for Func, instead of series
}

type series struct {
	sum     float64
	buckets []uint64 // observations up to each bound, and above the one before
}

func (s *Set) register(f *family) *family {
	f.series = map[string]*series{}
	s.families = append(s.families, f)
	if f.read == nil && len(f.labels) == 0 {
		f.at(f.series)
	}
	return f
}

// at returns the one of these series that has these label values, and creates it if
// needed. The key of a series is what stands between its braces.
func (f *family) at(all map[string]*series, values ...string) *series {
	if len(values) != len(f.labels) {
		panic(fmt.Sprintf("metrics: %s needs %d label values, not %d", f.name, len(f.labels), len(values)))
	}
	var space [128]byte // keeps Inc and Observe free of allocations
	key := space[:0]
	for i, label := range f.labels {
		if i > 0 {
			key = append(key, ',')
		}
		key = append(key, label...)
		key = append(key, `="`...)
		key = append(key, valueEscaper.Replace(values[i])...)
		key = append(key, '"')
	}
	s := all[string(key)]
	if s == nil {
		s = &series{buckets: make([]uint64, len(f.bounds))}
		all[string(key)] = s
	}
	return s
}

// Init creates the series with these label values at 0, so that Prometheus sees its
// first increase; one without labels is there from the start. It panics if there is not
// one value for each label.
func (f *family) Init(values ...string) {
	f.at(f.series, values...)
}

// A Counter counts events, or what they come to.
type Counter struct{ *family }

// Counter registers a counter.
func (s *Set) Counter(name, help string, labels ...string) *Counter {
	return &Counter{s.register(&family{kind: CounterKind, name: name, help: help, labels: labels})}
}

// Inc adds 1 to the series with these label values. It panics if there is not one
// value for each label.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Add adds n, which is not negative, to the series with these label values. It panics
// if there is not one value for each label.
func (c *Counter) Add(n float64, values ...string) {
	c.at(c.series, values...).sum += n
}

// A Histogram counts durations in buckets.
type Histogram struct{ *family }

// Histogram registers a histogram. The bounds are the upper limits of its buckets,
// inclusive, ascending and in seconds, without +Inf.
func (s *Set) Histogram(name, help string, bounds []float64, labels ...string) *Histogram {
	bounds = append(slices.Clone(bounds), math.Inf(1))
	return &Histogram{s.register(&family{kind: histogramKind, name: name, help: help, labels: labels, bounds: bounds})}
}

// Observe adds a duration to the series with these label values. It panics if there
// is not one value for each label.
func (h *Histogram) Observe(d time.Duration, values ...string) {
	s := h.at(h.series, values...)
	s.sum += d.Seconds()
	bucket, _ := slices.BinarySearch(h.bounds, d.Seconds())
	s.buckets[bucket]++
}

// Func registers a metric whose values are read for [Set.Text]. The
// function read calls emit for each series, with one value for each label; the last
// value counts. If it emits nothing, the metric is left out.
func (s *Set) Func(kind Kind, name, help string, labels []string, read func(emit func(value float64, values ...string))) {
	s.register(&family{kind: kind, name: name, help: help, labels: labels, read: read})
}

// Gauge registers a metric without labels whose value is read for [Set.Text]. It
// is left out while that is not a number.
func (s *Set) Gauge(name, help string, read func() float64) {
	s.Func(GaugeKind, name, help, nil, func(emit func(float64, ...string)) {
		if value := read(); !math.IsNaN(value) {
			emit(value)
		}
	})
}

// Text returns the metrics in order of registration, and the series of each in order of
// their label values.
func (s *Set) Text() []byte {
	var b bytes.Buffer
	for _, f := range s.families {
		if f.read == nil {
			f.write(&b, f.series)
			continue
		}
		emitted := map[string]*series{}
		f.read(func(value float64, values ...string) { f.at(emitted, values...).sum = value })
		if len(emitted) > 0 {
			f.write(&b, emitted)
		}
	}
	return b.Bytes()
}

func (f *family) write(b *bytes.Buffer, all map[string]*series) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", f.name, helpEscaper.Replace(f.help), f.kind)
	for _, labels := range slices.SortedFunc(maps.Keys(all), byValues) {
		s := all[labels]
		if f.kind != histogramKind {
			writeSample(b, f.name, labels, s.sum)
			continue
		}
		separator, count := "", uint64(0)
		if labels != "" {
			separator = ","
		}
		for i, bound := range f.bounds {
			count += s.buckets[i]
			writeSample(b, f.name+"_bucket", labels+separator+`le="`+formatFloat(bound)+`"`, float64(count))
		}
		writeSample(b, f.name+"_sum", labels, s.sum)
		writeSample(b, f.name+"_count", labels, float64(count))
	}
}

// byValues compares the labels of two series. A value comes before those that go on
// where it ends with its quote.
func byValues(a, b string) int {
	return strings.Compare(strings.TrimSuffix(a, `"`), strings.TrimSuffix(b, `"`))
}

// The text format escapes quotes in label values only.
var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func writeSample(b *bytes.Buffer, name, labels string, value float64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(b, "%s%s %s\n", name, labels, formatFloat(value))
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
