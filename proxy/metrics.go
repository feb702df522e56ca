package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"foreman/inventory"
)

// Bounds of the histograms, in seconds. A wait for a turn and an answer may both
// take from a millisecond to many minutes.
var bounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// The metrics that count what happens: their labels, and the values of the first
// label that are known beforehand. Those stand at 0 from the start, so that their
// first increase is one.
var families = []struct {
	name, kind, help string
	labels           []string
	known            []string
}{
	{"foreman_requests_total", "counter", "Requests that have ended, by route and status; 499: the client left.", []string{"route", "code"}, nil},
	{"foreman_request_duration_seconds", "histogram", "Time from a request's header to the end of its answer.", []string{"route"}, nil},
	{"foreman_first_byte_seconds", "histogram", "Time from a request's header to the header of its answer.", []string{"route"}, nil},
	{"foreman_queue_wait_seconds", "histogram", "Time that chats waited for their turn.", nil, []string{""}},
	{"foreman_rejected_total", "counter", "Requests that foreman itself answered with an error, by reason.", []string{"reason"}, reasons},
	{"foreman_slot_taken_total", "counter", "Chats whose turn was taken away before the target had answered them, by reason.", []string{"reason"}, []string{takenLeft, takenStalled, takenAsleep, takenStall}},
	{"foreman_polls_total", "counter", "Polls of the inventory, by result.", []string{"result"}, []string{"ok", inventory.Unreachable, inventory.Unauthorized, inventory.BadAnswer}},
	{"foreman_warms_total", "counter", "Attempts to warm the embedder, by result.", []string{"result"}, []string{"ok", "failed"}},
	{"foreman_retries_total", "counter", "Requests sent once more because the target had closed the kept-alive connection.", nil, []string{""}},
}

// metrics counts what has happened since the start. Its labels come from closed
// sets: the route table, status codes and constants; never from a client.
type metrics struct {
	mu     sync.Mutex // guards series and what it points to
	series map[key]*series
}

// A key names a series: its family and the values of its labels.
type key struct {
	family string
	labels [2]string
}

// A series is a counter, or a histogram.
type series struct {
	key
	total   uint64
	sum     float64
	buckets []uint64 // one for each bound; what lies above them all is in total alone
}

func newMetrics() *metrics {
	m := &metrics{series: map[key]*series{}}
	for _, f := range families {
		for _, value := range f.known {
			m.atLocked(f.name, value)
		}
	}
	return m
}

// atLocked returns a series, which it makes if need be.
func (m *metrics) atLocked(family string, labels ...string) *series {
	k := key{family: family}
	copy(k.labels[:], labels)
	s := m.series[k]
	if s == nil {
		s = &series{key: k, buckets: make([]uint64, len(bounds))}
		m.series[k] = s
	}
	return s
}

// count adds one to a counter.
func (m *metrics) count(family string, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.atLocked(family, labels...).total++
}

// observe notes a duration in a histogram.
func (m *metrics) observe(family, label string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.atLocked(family, label)
	s.total++
	s.sum += d.Seconds()
	if i, _ := slices.BinarySearch(bounds, d.Seconds()); i < len(bounds) {
		s.buckets[i]++
	}
}

// ended notes a request that has ended.
func (m *metrics) ended(rec *record) {
	m.count("foreman_requests_total", rec.Route, strconv.Itoa(rec.Status))
	m.observe("foreman_request_duration_seconds", rec.Route, rec.Duration)
	if rec.FirstByte > 0 {
		m.observe("foreman_first_byte_seconds", rec.Route, rec.FirstByte)
	}
	if rec.Reason != "" {
		m.count("foreman_rejected_total", rec.Reason)
	}
	if rec.Taken != "" {
		m.count("foreman_slot_taken_total", rec.Taken)
	}
}

// Polled notes what a poll of the inventory led to. Connections to a target that
// does not answer may be dead without knowing it, and are not used again.
func (p *Proxy) Polled(state inventory.State) {
	if state.Reason == inventory.Unreachable {
		p.Target.pooled.CloseIdleConnections()
	}
	p.metrics.count("foreman_polls_total", cmp.Or(state.Reason, "ok"))
}

// Warmed notes an attempt to warm the embedder.
func (p *Proxy) Warmed(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	p.metrics.count("foreman_warms_total", result)
}

// write writes all series in the Prometheus text format.
func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sorted := slices.SortedFunc(maps.Values(m.series), func(a, b *series) int { return slices.Compare(a.labels[:], b.labels[:]) })
	for _, f := range families {
		describe(w, f.name, f.kind, f.help)
		for _, s := range sorted {
			if s.family != f.name {
				continue
			}
			labels := s.labels[:len(f.labels)]
			if f.kind == "counter" {
				fmt.Fprintf(w, "%s%s %d\n", f.name, labelled(f.labels, labels), s.total)
				continue
			}
			bucket := func(bound float64, n uint64) {
				all := labelled(append(slices.Clip(f.labels), "le"), append(slices.Clip(labels), number(bound)))
				fmt.Fprintf(w, "%s_bucket%s %d\n", f.name, all, n)
			}
			below := uint64(0)
			for i, bound := range bounds {
				below += s.buckets[i]
				bucket(bound, below)
			}
			bucket(math.Inf(1), s.total)
			all := labelled(f.labels, labels)
			fmt.Fprintf(w, "%s_sum%s %s\n%[1]s_count%[2]s %[4]d\n", f.name, all, number(s.sum), s.total)
		}
	}
}

// labelled writes labels. Their values need no escape: none comes from outside.
func labelled(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	pairs := make([]string, len(names))
	for i, name := range names {
		pairs[i] = name + `="` + values[i] + `"`
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// number writes a value as the text format has it.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func describe(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %[1]s %[3]s\n", name, help, kind)
}

// single writes a metric of one series; its name may have labels.
func single[N int | uint64 | float64](w io.Writer, name, kind, help string, value N) {
	family, _, _ := strings.Cut(name, "{")
	describe(w, family, kind, help)
	fmt.Fprintf(w, "%s %s\n", name, number(float64(value)))
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// metricsPage answers /metrics.
func (p *Proxy) metricsPage(x *exchange) error {
	var b bytes.Buffer
	p.metrics.write(&b)
	waiting, busy := p.Gate.Len()
	state := p.Inventory.State()
	single(&b, "foreman_queue_depth", "gauge", "Chats that wait for their turn.", waiting)
	single(&b, "foreman_chats_in_flight", "gauge", "Chats that have their turn, 0 or 1.", truth(busy))
	single(&b, "foreman_target_up", "gauge", "Whether the last poll of the target was good.", truth(!state.Degraded()))
	single(&b, "foreman_inventory_models", "gauge", "Models that the target holds, as last known.", state.Len())
	if !state.LastPoll.IsZero() {
		single(&b, "foreman_inventory_age_seconds", "gauge", "Time since the last good poll.", time.Since(state.LastPoll).Seconds())
	}
	single(&b, "foreman_embedder_resident", "gauge", "Whether the embedder was resident when last looked.", truth(p.Resident != nil && p.Resident()))
	single(&b, fmt.Sprintf("foreman_build_info{version=%q,goversion=%q}", p.Version, runtime.Version()), "gauge", "What runs, in its labels; always 1.", 1)
	writeGo(&b)
	writeProcess(&b)

	h := x.Header()
	h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	x.WriteHeader(http.StatusOK)
	x.Write(b.Bytes())
	return nil
}
