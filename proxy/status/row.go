package status

import (
	"cmp"
	"fmt"
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

// slow is how long a chat takes at least for the page to say what took most of it.
const slow = 5 * time.Second

type requestRow struct {
	Record
	Short, ShortID        string // its client's program, and its id
	Outcome, OutcomeClass string
	Cells                 []cell
	Total, Mostly, Ago    string
	Parts                 []barPart
}

// A cell tells of one part of a chat's time, or of several that are not told apart.
type cell struct {
	Span  int // columns
	Label string
	Value string
	Notes []string
}

// A barPart is a part of a chat's time in its bar, which is barWidth units wide for the
// longest chat.
type barPart struct {
	Class    string // in the style sheet
	X, Width int
}

const barWidth = 1000 // as the viewBox in status.html

// A legend is what a class of a barPart stands for.
type legend struct{ Class, Name string }

var legends = []legend{
	{"arriving", "upload"}, {"queue", "in line"}, {"load", "load"}, {"prompt", "prompt"}, {"words", "words"},
	{"first", "the host's time, not told apart"}, {"other", "other"},
}

func newRequestRow(r Record, now time.Time, longest time.Duration) requestRow {
	r.Client = withoutPort(r.Client)
	r.Route = shorten(r.Route, routeLimit)
	row := requestRow{
		Record:  r,
		Short:   shortAgent(r.Agent),
		ShortID: shortID(r.ID),
		Total:   formatDuration(r.Duration),
		Ago:     formatAgo(now.Sub(r.Ended)),
	}
	row.Outcome, row.OutcomeClass = r.outcome()
	parts := r.parts()
	row.Cells = r.cells(parts)
	row.Parts = barParts(parts, r.Duration, longest)
	if r.Duration >= slow {
		row.Mostly = mostly(parts, r.Duration)
	}
	return row
}

// outcome returns how a request ended, and how that looks. Where somebody ended it on
// purpose, nothing is wrong.
func (r Record) outcome() (text, class string) {
	switch {
	case r.Status == 499:
		return "client left", "soft"
	case r.Why() == "stopped":
		return "stopped on this page", "soft"
	case r.Why() == "token revoked":
		return r.Why(), "soft"
	}
	text, class = fmt.Sprint(r.Status), "fine"
	if r.Status >= 400 || r.Cut {
		class = "bad"
	}
	switch why := r.Why(); why {
	case "":
	case "path":
		text += " unknown path"
	default:
		text += " " + why
	}
	if r.Cut {
		text += ", cut"
	}
	if r.Early && r.Status >= 400 {
		text += ", after an early 200"
	}
	return text, class
}

// A part is a part of a request's time.
type part struct {
	class, name string
	time        time.Duration
}

// parts returns the parts of a request's time, in order.
func (r Record) parts() []part {
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
	case r.Held == 0 && r.Beside == "": // the target had none of it
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

// mostly names the longest parts that are more than half of the time together.
func mostly(parts []part, whole time.Duration) string {
	var names []string
	var sum time.Duration
	for _, p := range slices.SortedStableFunc(slices.Values(parts), func(a, b part) int { return cmp.Compare(b.time, a.time) }) {
		names = append(names, p.name)
		if sum += p.time; sum > whole/2 {
			break
		}
	}
	return strings.Join(names, ", ")
}

// cells returns the cells of a chat's time in line, load, prompt and words.
func (r Record) cells(parts []part) []cell {
	times, names := map[string]string{}, map[string]string{}
	for _, p := range parts {
		if p.time >= time.Millisecond { // shorter ones only disturb
			times[p.class], names[p.class] = formatDuration(p.time), p.name
		}
	}
	line := cell{1, "in line", times["queue"], nil}
	if r.Arriving >= time.Second/10 {
		line.Notes = append(line.Notes, "upload "+strings.ReplaceAll(times["arriving"], " ", "\u00a0"))
	}
	load, prompt, words := cell{1, "load", times["load"], nil}, cell{1, "prompt", times["prompt"], nil}, cell{1, "words", times["words"], nil}
	if n := r.Usage.PromptTokens; n > 0 {
		prompt.Notes = append(prompt.Notes, formatTokens(n))
	}
	if n := r.Usage.CompletionTokens; n > 0 {
		words.Notes = append(words.Notes, formatTokens(n))
	}
	if rate := r.Usage.TokensPerSecond(); rate > 0 {
		words.Notes = append(words.Notes, formatRate(rate))
	}
	first := cell{2, names["first"], times["first"], prompt.Notes}
	switch {
	case first.Value == "":
		return []cell{line, load, prompt, words}
	case first.Label != onePiece:
		return []cell{line, first, words}
	}
	first.Span = 3
	if r.Usage.PromptTokens > 0 {
		first.Notes[0] += " read"
	}
	if r.Usage.CompletionTokens > 0 {
		first.Notes = append(first.Notes, words.Notes[0]+" written")
	}
	return []cell{line, first}
}

// barParts returns the parts that are long enough to see. The bar's length grows with
// the root of the time that it stands for: 2 s are seen beside 67 s, and so are their
// parts. Within a bar, a part's length grows with its time.
func barParts(parts []part, whole, longest time.Duration) []barPart {
	width := barWidth * math.Sqrt(float64(whole)/float64(longest))
	var bar []barPart
	var sum time.Duration
	x := 0
	for _, p := range parts {
		sum += p.time
		if end := int(width * float64(sum) / float64(whole)); end > x {
			bar = append(bar, barPart{p.class, x, end - x})
			x = end
		}
	}
	return bar
}
