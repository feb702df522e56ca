package status

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	minutes = 60
	// slots is how many minutes an Hour has room for: a chat may be told of a little late.
	slots = 64
	// usesLimit is how many uses are told apart in a minute, and laneLimit how many
	// clients the page tells apart in an hour.
	usesLimit = 24
	laneLimit = 6
	// spanLength is how many minutes a row of the strip's table is for.
	spanLength = 5
)

// Classes of uses: what the page calls them, and their classes in the style sheet.
const (
	had     = "had"     // a chat of a client had its turn; the page has the client's name
	loading = "loading" // and the host loaded a model for it, as it says itself
	away    = "away"    // the state was degraded
	idle    = "idle"    // it was not, and nobody had the turn
	paused  = "paused"  // the host was kept for its owner
	waiting = "waiting" // a chat stood in line; several may at once
)

// order is that of the lanes.
var order = []string{had, loading, away, paused, idle, waiting}

// A use is what a part of the host's time was for.
type use struct{ class, client string }

// An Hour is what the host's time was for in each of the last sixty minutes of the clock.
// A minute is where its number since 1970 says, modulo slots.
type Hour [slots]minute

type minute struct {
	number int64
	times  map[use]time.Duration
}

func (h *Hour) at(number int64) *minute { return &h[uint64(number)%slots] }

// add notes a use from begin to end, as far as that is in the hour before now.
func (h *Hour) add(u use, begin, end, now time.Time) {
	if end.After(now) { // the wait for a host that is woken is in line and in the turn
		end = now
	}
	if !begin.Before(end) {
		return
	}
	for n := max(begin.Unix()/60, now.Unix()/60-minutes+1); n <= end.Unix()/60; n++ {
		m := h.at(n)
		if m.number != n || m.times == nil {
			*m = minute{n, map[use]time.Duration{}}
		}
		from, to := time.Unix(60*n, 0), time.Unix(60*n+60, 0)
		if begin.After(from) {
			from = begin
		}
		if end.Before(to) {
			to = end
		}
		in := u
		if m.times[in] == 0 && len(m.times) >= usesLimit && in.client != "" {
			in.client = others
		}
		m.times[in] += to.Sub(from)
	}
}

// addRecord notes what a chat took that has ended.
func (h *Hour) addRecord(r Record) {
	joined := r.Ended.Add(r.Arriving - r.Duration)
	began := joined.Add(r.Queued)
	h.add(use{class: waiting}, joined, began, r.Ended)
	if r.Held == 0 {
		return
	}
	h.add(use{had, withoutPort(r.Client)}, began, began.Add(r.Held), r.Ended)
	if sent := began.Add(r.Idle); r.Usage.Load > 0 {
		h.add(use{class: loading}, sent, sent.Add(min(r.Usage.Load, r.Held-r.Idle)), r.Ended)
	}
}

func (h Hour) clone() Hour {
	for i := range h {
		h[i].times = maps.Clone(h[i].times)
	}
	return h
}

// A lane is a line of the page's strip: a use of the host's time, minute by minute.
type lane struct {
	use
	times [minutes]time.Duration
	total time.Duration
	now   time.Duration // how much of the last minute is over
}

// lanes returns the strip of the last hour: what each client had, most first, and what
// else was.
func (p *Page) lanes() []*lane {
	hour := p.Hour.clone()
	if r := p.Running; r != nil {
		hour.add(use{class: waiting}, r.Joined, r.Since, p.Now)
		hour.add(use{had, withoutPort(r.Client)}, r.Since, p.Now, p.Now)
	}
	for _, c := range p.Waiting {
		hour.add(use{class: waiting}, c.Since, p.Now, p.Now)
	}
	for _, pause := range p.PastPauses {
		hour.add(use{class: paused}, pause.Since, pause.Until, p.Now)
	}
	if p.Pause != nil {
		hour.add(use{class: paused}, p.Pause.Since, p.Now, p.Now)
	}
	for i, change := range p.Host.Changes {
		class, end := idle, p.Now
		if change.Reason != "" {
			class = away
		}
		if i+1 < len(p.Host.Changes) {
			end = p.Host.Changes[i+1].At
		}
		hour.add(use{class: class}, change.At, end, p.Now)
	}
	of := map[use]*lane{}
	for i := range minutes {
		number := p.Now.Unix()/60 - minutes + 1 + int64(i)
		m := hour.at(number)
		if m.number != number {
			continue
		}
		for u := range m.times {
			if u.class == had || u.class == paused {
				m.times[use{class: idle}] -= m.times[u]
			}
		}
		for u, d := range m.times {
			if d <= 0 {
				continue
			}
			if of[u] == nil {
				of[u] = &lane{use: u, now: max(p.Now.Sub(p.Now.Truncate(time.Minute)), time.Second)}
			}
			of[u].times[i] = d
			of[u].total += d
		}
	}
	return merge(slices.SortedFunc(maps.Values(of), func(a, b *lane) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.class), slices.Index(order, b.class)), cmp.Compare(b.total, a.total), cmp.Compare(a.client, b.client))
	}))
}

// merge makes one lane of those of the clients that had least, where there are many.
func merge(lanes []*lane) []*lane {
	clients := 0
	for clients < len(lanes) && lanes[clients].class == had {
		clients++
	}
	if clients <= laneLimit {
		return lanes
	}
	rest := *lanes[laneLimit-1]
	rest.client = fmt.Sprint(clients-laneLimit+1, " others")
	for _, l := range lanes[laneLimit:clients] {
		for i, d := range l.times {
			rest.times[i] += d
		}
		rest.total += l.total
	}
	return slices.Concat(lanes[:laneLimit-1], []*lane{&rest}, lanes[clients:])
}

// Name returns what the page calls a lane.
func (l *lane) Name() string { return cmp.Or(l.client, l.class) }

// Class returns a lane's class in the style sheet.
func (l *lane) Class() string { return l.class }

// level returns how full a lane is in a minute: of the host's time a part, of chats in
// line the number, on average.
func (l *lane) level(i int) float64 {
	if i == minutes-1 {
		return float64(l.times[i]) / float64(l.now)
	}
	return l.times[i].Minutes()
}

// Path returns the drawing of a lane: a column for each minute, one unit wide and up to
// 100 high. The tallest of chats in line is for the most.
func (l *lane) Path() string {
	full := 1.0
	if l.class == waiting {
		full = l.most(0, minutes)
	}
	var b strings.Builder
	for i := range l.times {
		if level := min(l.level(i)/full, 1); level > 0 {
			fmt.Fprintf(&b, "M%d 100v-%.0fh1V100z", i, max(100*level, 8))
		}
	}
	return b.String()
}

func (l *lane) most(from, to int) (most float64) {
	for i := from; i < to; i++ {
		most = max(most, l.level(i))
	}
	return most
}

// Total returns what a lane comes to.
func (l *lane) Total() string { return l.sum(0, minutes, formatCoarse) }

// sum returns what a lane comes to in some minutes; empty: to nothing.
func (l *lane) sum(from, to int, format func(time.Duration) string) string {
	var sum time.Duration
	for _, d := range l.times[from:to] {
		sum += d
	}
	switch {
	case sum == 0:
		return ""
	case l.class == waiting:
		return fmt.Sprintf("up to %.0f", math.Ceil(l.most(from, to)))
	default:
		return format(sum)
	}
}

// A span is what was in some minutes, in words.
type span struct{ Ago, Host, Waiting string }

// Spans returns the hour in words, the last minutes first, as far as anything is known.
func (v *view) Spans() (spans []span) {
	for to := minutes; to > 0; to -= spanLength {
		s := span{Ago: fmt.Sprintf("%d to %d", minutes-to, minutes-to+spanLength)}
		var uses []string
		for _, l := range v.Lanes {
			switch sum := l.sum(to-spanLength, to, formatDuration); {
			case sum == "":
			case l.class == waiting:
				s.Waiting = sum
			default:
				uses = append(uses, l.Name()+" "+unbroken(sum))
			}
		}
		s.Host = strings.Join(uses, ", ")
		if s.Host != "" || s.Waiting != "" {
			spans = append(spans, s)
		}
	}
	return spans
}
