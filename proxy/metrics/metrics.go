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

// A Set is a list of metrics, each of which has a name of its own. The zero value is empty.
// A Set and its metrics are for one goroutine at a time.
type Set struct {
	families []*family
}

type family struct {
	kind       string
	name, help string
	labels     []string
	bounds     []float64 // of a histogram; the last is infinite
	series     map[string]*series
}

type series struct {
	sum     float64
	buckets []uint64 // observations up to each bound, and above the one before
}

func (s *Set) register(f *family) *family {
	f.series = map[string]*series{}
	s.families = append(s.families, f)
	if len(f.labels) == 0 {
		f.at()
	}
	return f
}

// at returns the series with these label values, and creates it if needed. The key of a
// series is what stands between its braces.
func (f *family) at(values ...string) *series {
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
	s := f.series[string(key)]
	if s == nil {
		s = &series{buckets: make([]uint64, len(f.bounds))}
		f.series[string(key)] = s
	}
	return s
}

// Init creates the series with these label values at 0, so that Prometheus sees its
// first increase; one without labels is there from the start. It panics if there is not
// one value for each label.
func (f *family) Init(values ...string) {
	f.at(values...)
}

// A Counter counts events, or what they come to.
type Counter struct{ *family }

// Counter registers a counter.
func (s *Set) Counter(name, help string, labels ...string) *Counter {
	return &Counter{s.register(&family{kind: "counter", name: name, help: help, labels: labels})}
}

// Inc adds 1 to the series with these label values. It panics if there is not one
// value for each label.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Add adds n, which is not negative, to the series with these label values. It panics
// if there is not one value for each label.
func (c *Counter) Add(n float64, values ...string) {
	c.at(values...).sum += n
}

// A Histogram counts durations in buckets.
type Histogram struct{ *family }

// Histogram registers a histogram. The bounds are the upper limits of its buckets,
// inclusive, ascending and in seconds, without +Inf.
func (s *Set) Histogram(name, help string, bounds []float64, labels ...string) *Histogram {
	bounds = append(slices.Clone(bounds), math.Inf(1))
	return &Histogram{s.register(&family{kind: "histogram", name: name, help: help, labels: labels, bounds: bounds})}
}

// Observe adds a duration to the series with these label values. It panics if there
// is not one value for each label.
func (h *Histogram) Observe(d time.Duration, values ...string) {
	s := h.at(values...)
	s.sum += d.Seconds()
	bucket, _ := slices.BinarySearch(h.bounds, d.Seconds())
	s.buckets[bucket]++
}

// Gauge adds a metric with one series, of the value that it has now and labels in pairs of
// name and value. It is left out if the value is not a number.
func (s *Set) Gauge(name, help string, value float64, labels ...string) {
	if math.IsNaN(value) {
		return
	}
	var names, values []string
	for pair := range slices.Chunk(labels, 2) {
		names, values = append(names, pair[0]), append(values, pair[1])
	}
	s.register(&family{kind: "gauge", name: name, help: help, labels: names}).at(values...).sum = value
}

// Text returns the metrics in order of registration, and the series of each in order of
// their label values.
func (s *Set) Text() []byte {
	var b bytes.Buffer
	for _, f := range s.families {
		f.write(&b)
	}
	return b.Bytes()
}

func (f *family) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", f.name, helpEscaper.Replace(f.help), f.kind)
	for _, labels := range slices.SortedFunc(maps.Keys(f.series), byValues) {
		s := f.series[labels]
		if f.bounds == nil {
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
