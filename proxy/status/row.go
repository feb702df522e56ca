package status

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// onePiece is the name of the host's time for an answer that comes all at once, which
	// takes atOnce at most.
	onePiece = "load, prompt and words"
	atOnce   = 10 * time.Millisecond
)

// slowChat is how long a chat takes at least for the page to say what took most of it.
const slowChat = 5 * time.Second

// A part is a part of a request's time.
type part struct {
	class, name string
	time        time.Duration
}

// partsOf returns the parts of a request's time, in order.
func partsOf(r Record) []part {
	var parts []part
	left := r.Duration
	add := func(class, name string, d time.Duration) {
		if d = min(d, left); d > 0 { // the target's clock may be wrong
			parts = append(parts, part{class, name, d})
			left -= d
		}
	}
	add("arriving", "upload", r.Arriving)
	add("queue", "in line", r.Queued)
	switch u := r.Usage; {
	case u.Load > 0 || u.Prompt > 0: // the target says where its time went
		add("load", "load", u.Load)
		add("prompt", "prompt", u.Prompt)
		add("words", "words", u.Completion)
		add("other", "other", left)
	case r.Held == 0 && r.Ungated == "": // the target had none of it
		add("other", "other", left)
	case r.FirstByte == 0 || r.Why() != "" && !r.Cut: // what was answered, if anything, is foreman's
		add("first", "no answer", left)
	case u.Completion > 0: // foreman has seen how long the words took to come
		add("first", "load and prompt", left-u.Completion)
		add("words", "words", left)
	case r.Early || r.Duration-r.FirstByte < r.Duration/100+atOnce: // or nobody knows when the answer began
		add("first", onePiece, left)
	default:
		add("first", "load and prompt", r.FirstByte-r.Arriving-r.Queued)
		add("words", "words", left)
	}
	return parts
}

// mostly names the longest parts of a slow request's time that are more than half of it
// together; empty: it is not slow.
func mostly(r Record) string {
	if r.Duration < slowChat {
		return ""
	}
	var names []string
	var sum time.Duration
	for _, p := range slices.SortedStableFunc(slices.Values(partsOf(r)), func(a, b part) int { return cmp.Compare(b.time, a.time) }) {
		names = append(names, p.name)
		if sum += p.time; sum > r.Duration/2 {
			break
		}
	}
	return strings.Join(names, ", ")
}

// times returns the parts of a request's time for its cells, by class, and as label what
// the first of the host's words waited for.
func times(r Record) map[string]string {
	times := map[string]string{}
	for _, p := range partsOf(r) {
		switch {
		case p.time < time.Millisecond: // it only disturbs
			continue
		case p.class == "arriving" && p.time < time.Second/10:
			continue
		case p.class == "first":
			times["label"] = p.name
		}
		times[p.class] = formatDuration(p.time)
	}
	return times
}

// barWidth is how many units the bar of the longest chat is wide: as the viewBox in
// status.html.
const barWidth = 1000

// A barPart is a part of a chat's time in its bar.
type barPart struct {
	Class    string // in the style sheet
	X, Width int
}

// bar returns the parts that are long enough to see. The bar's length grows with the root
// of the time that it stands for: 2 s are seen beside 67 s, and so are their parts. Within
// a bar, a part's length grows with its time.
func bar(r Record, longest time.Duration) []barPart {
	width := barWidth * math.Sqrt(float64(r.Duration)/float64(longest))
	var bar []barPart
	var sum time.Duration
	x := 0
	for _, p := range partsOf(r) {
		sum += p.time
		if end := int(width * float64(sum) / float64(r.Duration)); end > x {
			bar = append(bar, barPart{p.class, x, end - x})
			x = end
		}
	}
	return bar
}
