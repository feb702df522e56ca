package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A Run is what a front, or a policy, made of a work.
type Run struct {
	Key, Front string // of its front
	Host       string // in words
	People     int    // see shares
	Background bool
	Seed       uint64
	Horizon    float64 // seconds
	Scale      float64 // simulated seconds in a real one; 0: it was simulated
	Machine    float64 // its load when the run began
	Chats      []*Record
	Embed      []float64 // real milliseconds of each embedding
	EmbedLost  int
	Samples    []Sample
}

// Figures are what is said of the runs of a front on a host.
type Figures struct {
	Runs                   []Run
	Use, Loading, Idle     float64 // shares of the time in which the host worked, in which it loaded models, and in which it did nothing while somebody waited
	Done, Tokens           float64 // chats that ended well by the horizon, and tokens of their answers; for each run
	Loads                  float64 // of models, for each chat that began
	Warm                   float64 // share of the prompts' tokens that the host still had
	Jain                   float64 // see fairness; NaN: nothing is known
	GaveUp, Failed         int
	Waits                  map[string][]float64 // for the first word, by kind, sorted
	EmbedP99               float64              // real milliseconds
	EmbedLost              int
	Ratio, Late            float64 // time for which the host worked, by what its model says; how late chats were sent, p99
	MachineLow, MachineTop float64
}

func figuresOf(runs []Run) Figures {
	f := Figures{Runs: runs, Waits: map[string][]float64{}, MachineLow: math.Inf(1)}
	var time, busy, model, began, prompt, warm, fair, windows float64
	var late, embed []float64
	for _, run := range runs {
		time += run.Horizon
		f.Idle += idle(run)
		embed = append(embed, run.Embed...)
		f.EmbedLost += run.EmbedLost
		f.MachineLow, f.MachineTop = min(f.MachineLow, run.Machine), max(f.MachineTop, run.Machine)
		jain, n := fairness(run)
		fair, windows = fair+jain, windows+float64(n)
		for _, r := range run.Chats {
			f.Waits[r.Kind] = append(f.Waits[r.Kind], r.waited())
			late = append(late, r.Sent-r.Due)
			switch {
			case r.Outcome == gaveUp:
				f.GaveUp++
			case r.Outcome == failed:
				f.Failed++
			case r.Outcome == ok && r.End <= run.Horizon:
				f.Done++
				f.Tokens += float64(r.Out)
			}
			if r.Stop == 0 || r.Start >= run.Horizon {
				continue
			}
			took := min(r.Stop, run.Horizon) - r.Start
			f.Use += took
			f.Loading += min(r.Load, took)
			if r.Outcome == ok {
				busy += r.Stop - r.Start
				model += r.total()
			}
			if began++; r.Load > 0 {
				f.Loads++
			}
			prompt += float64(r.Prompt)
			warm += float64(r.Cached)
		}
	}
	for _, waits := range f.Waits {
		slices.Sort(waits)
	}
	slices.Sort(late)
	slices.Sort(embed)
	n := float64(len(runs))
	f.Use, f.Loading, f.Idle, f.Done, f.Tokens = f.Use/time, f.Loading/time, f.Idle/time, f.Done/n, f.Tokens/n
	f.Loads, f.Warm, f.Jain, f.Ratio = f.Loads/began, warm/prompt, fair/windows, busy/model
	f.EmbedP99, f.Late = quantile(embed, 0.99), quantile(late, 0.99)
	return f
}

// idle returns for how long the host did nothing while somebody waited, until the horizon.
func idle(run Run) (seconds float64) {
	type step struct {
		at            float64
		waiting, busy int
	}
	var steps []step
	for _, r := range run.Chats {
		until := r.End
		if r.Stop > 0 {
			until = r.Start
			steps = append(steps, step{r.Start, 0, 1}, step{r.Stop, 0, -1})
		}
		steps = append(steps, step{r.Sent, 1, 0}, step{until, -1, 0})
	}
	slices.SortFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	waiting, busy, last := 0, 0, 0.0
	for _, s := range steps {
		at := min(s.at, run.Horizon)
		if waiting > 0 && busy == 0 {
			seconds += at - last
		}
		waiting, busy, last = waiting+s.waiting, busy+s.busy, at
	}
	return seconds
}

// fairness looks at windows of five minutes. In each, the clients count who had a chat waiting or running for nine
// tenths of it; where they are two or more, Jain's index is taken of their host time, divided by their weights. It
// returns the sum over the windows.
func fairness(run Run) (jain float64, windows int) {
	const length, enough = 300, 0.9
	chats := slices.SortedFunc(slices.Values(run.Chats), func(a, b *Record) int { return cmp.Compare(a.Sent, b.Sent) })
	for from := 0.0; from+length <= run.Horizon; from += length {
		clip := func(a, b float64) float64 { return max(0, min(b, from+length)-max(a, from)) }
		there, until, host := map[string]float64{}, map[string]float64{}, map[string]float64{}
		for _, r := range chats {
			there[r.Client] += clip(max(r.Sent, until[r.Client]), r.End)
			until[r.Client] = max(until[r.Client], r.End)
			host[r.Client] += clip(r.Start, r.Stop)
		}
		var n, sum, squares float64
		for client, t := range there {
			if weight := float64(shares{run.People, run.Background}.weight(client)); t >= enough*length && weight > 0 {
				n++
				sum += host[client] / weight
				squares += math.Pow(host[client]/weight, 2)
			}
		}
		if n >= 2 && squares > 0 {
			jain += sum * sum / (n * squares)
			windows++
		}
	}
	return jain, windows
}

// quantile returns a quantile of sorted values; NaN: there are none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// A group is the runs on one host, front by front, in the order in which they were measured.
type group struct {
	host   string
	fronts []Figures
}

// of returns the figures of a front; nil: it was not measured.
func (g group) of(key string) *Figures {
	i := slices.IndexFunc(g.fronts, func(f Figures) bool { return f.Runs[0].Key == key })
	if i < 0 {
		return nil
	}
	return &g.fronts[i]
}

func groupsOf(runs []Run) (groups []group) {
	for len(runs) > 0 {
		host := runs[0].Host
		var rest []Run
		var fronts [][]Run
		for _, r := range runs {
			if r.Host != host {
				rest = append(rest, r)
				continue
			}
			i := slices.IndexFunc(fronts, func(f []Run) bool { return f[0].Front == r.Front })
			if i < 0 {
				i, fronts = len(fronts), append(fronts, nil)
			}
			fronts[i] = append(fronts[i], r)
		}
		g := group{host: host}
		for _, f := range fronts {
			g.fronts = append(g.fronts, figuresOf(f))
		}
		groups, runs = append(groups, g), rest
	}
	return groups
}

// A column of a table has a name, and a cell for each front.
type column struct {
	name string
	cell func(Figures) string
}

func number(name, form string, of func(Figures) float64) column {
	return column{name, func(f Figures) string {
		if v := of(f); !math.IsNaN(v) {
			return fmt.Sprintf(form, v)
		}
		return "–"
	}}
}

// waits is p50, p95 and the longest of a kind.
func waits(kind string) column {
	return column{kind, func(f Figures) string {
		w := f.Waits[kind]
		if len(w) == 0 {
			return "–"
		}
		return fmt.Sprintf("%.0f / %.0f / %.0f", quantile(w, 0.5), quantile(w, 0.95), w[len(w)-1])
	}}
}

var aboutHost = []column{
	number("use of the host %", "%.0f", func(f Figures) float64 { return 100 * f.Use }),
	number("loading %", "%.0f", func(f Figures) float64 { return 100 * f.Loading }),
	number("idle while somebody waits %", "%.1f", func(f Figures) float64 { return 100 * f.Idle }),
	number("chats done", "%.0f", func(f Figures) float64 { return f.Done }),
	number("1,000 tokens", "%.0f", func(f Figures) float64 { return f.Tokens / 1000 }),
	number("loads in 100 chats", "%.1f", func(f Figures) float64 { return 100 * f.Loads }),
	number("warm %", "%.0f", func(f Figures) float64 { return 100 * f.Warm }),
	number("Jain", "%.2f", func(f Figures) float64 { return f.Jain }),
	{"gave up, all runs", func(f Figures) string {
		if f.Failed > 0 {
			return fmt.Sprintf("%d, and %d failed", f.GaveUp, f.Failed)
		}
		return fmt.Sprint(f.GaveUp)
	}},
	{"an embedding's p99 ms", func(f Figures) string {
		switch {
		case math.IsNaN(f.EmbedP99):
			return "–"
		case f.EmbedLost > 0:
			return fmt.Sprintf("%.0f, %d failed", f.EmbedP99, f.EmbedLost)
		}
		return fmt.Sprintf("%.0f", f.EmbedP99)
	}},
}

// aboutRun is to judge the runs by.
var aboutRun = []column{
	number("host's time, by its model", "%.3f", func(f Figures) float64 { return f.Ratio }),
	number("sent late, p99 s", "%.2f", func(f Figures) float64 { return f.Late }),
	{"load of the machine", func(f Figures) string {
		low, top := fmt.Sprintf("%.2f", f.MachineLow), fmt.Sprintf("%.2f", f.MachineTop)
		switch {
		case f.Runs[0].Scale == 0:
			return "simulated"
		case low == top:
			return low
		}
		return low + " to " + top
	}},
}

var aboutWaits = []column{waits(people), waits(agents), waits(editor), waits(titles), waits(batch)}

// tables is all that is said of the runs, in Markdown.
func tables(runs []Run) string {
	var b strings.Builder
	groups := groupsOf(runs)
	for _, g := range groups {
		first := g.fronts[0].Runs
		how := "simulated"
		if scale := first[0].Scale; scale > 0 {
			how = fmt.Sprintf("at 1:%.0f", scale)
		}
		fmt.Fprintf(&b, "**%s**: %d runs of %.0f minutes for each front, %s.\n\n", g.host, len(first), first[0].Horizon/60, how)
		b.WriteString(g.table(slices.Concat(aboutHost, aboutRun)))
		b.WriteString("\nSeconds until the first word, p50 / p95 / longest:\n\n")
		b.WriteString(g.table(aboutWaits) + "\n")
	}
	return b.String() + goals(groups)
}

func (g group) table(columns []column) string {
	var b strings.Builder
	b.WriteString("| front |")
	for _, c := range columns {
		b.WriteString(" " + c.name + " |")
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", 1+len(columns)) + "\n")
	for _, f := range g.fronts {
		b.WriteString("| " + f.Runs[0].Front + " |")
		for _, c := range columns {
			b.WriteString(" " + c.cell(f) + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// A goal is what foreman should reach on a host. A figure of NaN is not known.
type goal struct {
	name   string
	most   bool // at most the limit, not at least
	limit  float64
	figure func(g group, none, foreman Figures) float64
}

func p95(f Figures) float64 { return quantile(f.Waits[people], 0.95) }

var allGoals = []goal{
	{"a person's wait at p95, of that without a front", true, 0.30, func(_ group, none, foreman Figures) float64 { return p95(foreman) / p95(none) }},
	{"the same, where people weigh 3", true, 0.20, func(g group, none, _ Figures) float64 {
		if f := g.of("weights"); f != nil {
			return p95(*f) / p95(none)
		}
		return math.NaN()
	}},
	{"clients that give up, or fail", true, 0, func(_ group, _, foreman Figures) float64 { return float64(foreman.GaveUp + foreman.Failed) }},
	{"tokens, of those without a front", false, 1.15, func(_ group, none, foreman Figures) float64 { return foreman.Tokens / none.Tokens }},
	{"tokens, of the best front's that starves nobody", false, 0.92, func(g group, _, foreman Figures) float64 {
		best := foreman.Tokens
		for _, f := range g.fronts {
			if run := f.Runs[0]; f.GaveUp+f.Failed == 0 && run.Key != "" && !run.Background { // a front, and one that lets no batch starve
				best = max(best, f.Tokens)
			}
		}
		return foreman.Tokens / best
	}},
	{"model loads in 100 chats", true, 10, func(_ group, _, foreman Figures) float64 { return 100 * foreman.Loads }},
	{"host idle while somebody waits, %", true, 1, func(_ group, _, foreman Figures) float64 { return 100 * foreman.Idle }},
	{"Jain's index", false, 0.95, func(_ group, _, foreman Figures) float64 { return foreman.Jain }},
	{"an embedding's p99, of that without a front", true, 1.5, func(_ group, none, foreman Figures) float64 { return foreman.EmbedP99 / none.EmbedP99 }},
}

// goals is a table of which goals are reached, on the hosts where foreman and none were measured.
func goals(groups []group) string {
	groups = slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return g.of("none") == nil || g.of("foreman") == nil })
	if len(groups) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("| foreman's goal |")
	for _, g := range groups {
		b.WriteString(" " + g.host + " |")
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", 1+len(groups)) + "\n")
	for _, goal := range allGoals {
		word := "at least"
		if goal.most {
			word = "at most"
		}
		fmt.Fprintf(&b, "| %s: %s %.4g |", goal.name, word, goal.limit)
		for _, g := range groups {
			v := goal.figure(g, *g.of("none"), *g.of("foreman"))
			verdict := "pass"
			if goal.most && v > goal.limit || !goal.most && v < goal.limit {
				verdict = "**fail**"
			}
			if math.IsNaN(v) {
				b.WriteString(" – |")
			} else {
				fmt.Fprintf(&b, " %.2f %s |", v, verdict)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
