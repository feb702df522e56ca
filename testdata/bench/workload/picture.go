package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A drawing is an SVG in the making. It is light or dark, as its reader's system is.
type drawing struct{ strings.Builder }

// colours are those of a light page and of a dark one, by the class that has them.
var colours = []struct{ class, light, dark string }{
	{"none", "#6e7781", "#9198a1"},
	{"haproxy", "#953800", "#db6d28"},
	{"llama-swap", "#b58900", "#e3b341"},
	{"foreman", "#0969da", "#58a6ff"},
	{"arrival", "#1a7f37", "#56d364"},
	{"weights", "#8250df", "#bc8cff"},
	{"background", "#cf222e", "#ff7b72"},
	{people, "#0969da", "#58a6ff"},
	{agents, "#bc4c00", "#f0883e"},
	{editor, "#1a7f37", "#56d364"},
	{batch, "#8c959f", "#848d97"},
	{"load", "#24292f", "#f0f6fc"},
}

func newDrawing(width, height int, title string) *drawing {
	d := new(drawing)
	light, dark := "--ink:#1f2328;--paper:#fff;--grid:#d0d7de;", "--ink:#e6edf3;--paper:#0d1117;--grid:#3d444d;"
	var classes strings.Builder
	for i, c := range colours {
		light += fmt.Sprintf("--c%d:%s;", i, c.light)
		dark += fmt.Sprintf("--c%d:%s;", i, c.dark)
		fmt.Fprintf(&classes, ".%s{stroke:var(--c%[2]d)}\n", c.class, i)
	}
	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%d" role="img">
<title>%s</title>
<style>
svg{%s}
@media (prefers-color-scheme: dark){svg{%s}}
.paper{fill:var(--paper)}
text{font:12px system-ui,sans-serif;fill:var(--ink)}
.head{font-weight:600}
.end{text-anchor:end}
.middle{text-anchor:middle}
path{fill:none;stroke-width:1.5}
.grid{stroke:var(--grid);stroke-width:1}
.thick{stroke-width:3}
.turn{stroke-width:6}
%s</style>
<rect class="paper" width="%[1]d" height="%[2]d"/>
`, width, height, html.EscapeString(title), light, dark, &classes)
	return d
}

func (d *drawing) text(class string, x, y float64, text string) {
	fmt.Fprintf(d, "<text class=%q x=\"%.1f\" y=\"%.1f\">%s</text>\n", class, x, y, html.EscapeString(text))
}

func (d *drawing) path(class, steps string) {
	if steps != "" {
		fmt.Fprintf(d, "<path class=%q d=%q/>\n", class, steps)
	}
}

func (d *drawing) end() string {
	d.WriteString("</svg>\n")
	return d.String()
}

// An area is where a chart is drawn: from left and top on, with values up to most.
type area struct {
	left, top, width, height float64
	mostX, mostY             float64
}

func (a area) x(v float64) float64 { return a.left + a.width*v/a.mostX }
func (a area) y(v float64) float64 { return a.top + a.height*(1-v/a.mostY) }

// grid draws lines at some values of each axis, and the values.
func (d *drawing) grid(a area, xs, ys []float64, x, y string) {
	for _, v := range xs {
		d.path("grid", fmt.Sprintf("M%.1f %.1fv%.1f", a.x(v), a.top, a.height))
		d.text("middle", a.x(v), a.top+a.height+16, fmt.Sprintf(x, v))
	}
	for _, v := range ys {
		d.path("grid", fmt.Sprintf("M%.1f %.1fh%.1f", a.left, a.y(v), a.width))
		d.text("end", a.left-6, a.y(v)+4, fmt.Sprintf(y, v))
	}
}

// ticks returns about n round numbers from 0 to most.
func ticks(most float64, n int) (all []float64) {
	step := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if most/(step*factor) <= float64(n) {
			step *= factor
			break
		}
	}
	for v := 0.0; v <= most; v += step {
		all = append(all, v)
	}
	return all
}

// drawWaits shows for each kind of client which share of the chats had a first word by when, a line for each front.
func drawWaits(g group) string {
	d := newDrawing(960, 550, "Waits for the first word, "+g.host)
	d.text("head", 20, 20, "How many of 100 chats had a first word after so many seconds, "+g.host)
	x, row := 20.0, 44.0
	for _, f := range g.fronts {
		run := f.Runs[0]
		if run.Key == "" {
			continue // a policy that no front has
		}
		wide := 50 + 6.5*float64(len(run.Front))
		if x+wide > 950 {
			x, row = 20, row+18
		}
		d.path(lineOf(run.Key), fmt.Sprintf("M%.1f %.1fh24", x, row-4))
		d.text("", x+30, row, strings.ReplaceAll(run.Front, "`", ""))
		x += wide
	}
	for i, kind := range []string{people, agents, editor, batch} {
		a := area{left: 60 + float64(i%2)*470, top: 100 + float64(i/2)*240, width: 410, height: 180, mostX: 1, mostY: 100}
		for _, f := range g.fronts {
			if w := f.Waits[kind]; len(w) > 0 && f.Runs[0].Key != "" && !(f.Runs[0].Background && kind == batch) { // that would dwarf the others
				a.mostX = max(a.mostX, quantile(w, 0.99))
			}
		}
		d.text("head", a.left, a.top-10, kind)
		d.grid(a, ticks(a.mostX, 8), []float64{0, 25, 50, 75, 95}, "%.0f", "%.0f")
		for _, f := range g.fronts {
			if f.Runs[0].Key == "" {
				continue
			}
			w := f.Waits[kind]
			var line strings.Builder
			for n := 0; n <= 100 && len(w) > 0; n++ {
				v := quantile(w, float64(n)/100)
				if v > a.mostX {
					break
				}
				fmt.Fprintf(&line, "%c%.1f %.1f", "ML"[min(n, 1)], a.x(v), a.y(float64(n)))
			}
			d.path(lineOf(f.Runs[0].Key), line.String())
		}
	}
	return d.end()
}

// lineOf is how a front's line looks.
func lineOf(key string) string {
	if key == "foreman" || key == "none" {
		return key + " thick"
	}
	return key
}

// drawTurns shows who had the host, a row for each client of each front.
func drawTurns(g group) string {
	const lane, left, width, top = 8.0, 230.0, 710.0, 66.0
	kinds := []string{people, agents, editor, batch}
	kindOf := func(r *Record) string {
		if r.Kind == titles {
			return people
		}
		return r.Kind
	}
	var shown []Run
	for _, f := range g.fronts {
		if f.Runs[0].Key != "" {
			shown = append(shown, f.Runs[0])
		}
	}
	clients := map[string]string{} // the kind of each
	for _, run := range shown {
		for _, r := range run.Chats {
			clients[r.Client] = kindOf(r)
		}
	}
	var rows []string
	for client := range clients {
		rows = append(rows, client)
	}
	slices.SortFunc(rows, func(a, b string) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, clients[a]), slices.Index(kinds, clients[b])), cmp.Compare(a, b))
	})
	band := lane*float64(len(rows)) + 16
	d := newDrawing(960, int(top+band*float64(len(shown))+30), "Who had the host, "+g.host)
	d.text("head", 20, 24, "Who had the host, "+g.host+": a row for each client, by the minute")
	x := 230.0
	for _, class := range append(slices.Clone(kinds), "load") {
		d.path(class+" turn", fmt.Sprintf("M%.1f 42h16", x))
		name := class
		if class == "load" {
			name = "a model is loaded"
		}
		d.text("", x+22, 46, name)
		x += 90
	}
	for i, run := range shown {
		a := area{left: left, top: top + band*float64(i), width: width, height: band - 16, mostX: run.Horizon, mostY: 1}
		d.text("end", left-12, a.top+a.height/2+4, strings.ReplaceAll(run.Front, "`", ""))
		for _, minute := range ticks(run.Horizon/60, 12) {
			d.path("grid", fmt.Sprintf("M%.1f %.1fv%.1f", a.x(60*minute), a.top, a.height))
			if i == len(shown)-1 {
				d.text("middle", a.x(60*minute), a.top+a.height+18, fmt.Sprintf("%.0f", minute))
			}
		}
		turns := map[string]*strings.Builder{}
		draw := func(class string, y, from, to float64) {
			if turns[class] == nil {
				turns[class] = new(strings.Builder)
			}
			if from < to && from < run.Horizon {
				fmt.Fprintf(turns[class], "M%.1f %.0fh%.1f", a.x(from), y, max(0.3, a.x(min(to, run.Horizon))-a.x(from)))
			}
		}
		for _, r := range run.Chats {
			if r.Stop > 0 {
				y := a.top + lane*(0.5+float64(slices.Index(rows, r.Client)))
				loaded := min(r.Stop, r.Start+r.Load)
				draw("load", y, r.Start, loaded)
				draw(kindOf(r), y, loaded, r.Stop)
			}
		}
		for _, class := range append(slices.Clone(kinds), "load") {
			if turns[class] != nil {
				d.path(class+" turn", turns[class].String())
			}
		}
	}
	return d.end()
}

// drawResources shows what a front took of the machine.
func drawResources(samples []Sample) string {
	d := newDrawing(960, 520, "Memory, goroutines and descriptors")
	if len(samples) < 2 {
		return d.end()
	}
	for i, chart := range []struct {
		name string
		of   func(Sample) float64
	}{
		{"resident memory, MB", func(s Sample) float64 { return s.MB }},
		{"goroutines", func(s Sample) float64 { return float64(s.Goroutines) }},
		{"descriptors", func(s Sample) float64 { return float64(s.Descriptors) }},
	} {
		a := area{left: 60, top: 40 + 160*float64(i), width: 870, height: 100, mostX: samples[len(samples)-1].At / 60, mostY: 1}
		for _, s := range samples {
			a.mostY = max(a.mostY, chart.of(s))
		}
		d.text("head", a.left, a.top-10, chart.name+", by the minute")
		d.grid(a, ticks(a.mostX, 12), ticks(a.mostY, 4), "%.4g", "%.4g")
		var line strings.Builder
		for n, s := range samples {
			fmt.Fprintf(&line, "%c%.1f %.1f", "ML"[min(n, 1)], a.x(s.At/60), a.y(chart.of(s)))
		}
		d.path("foreman", line.String())
	}
	return d.end()
}
