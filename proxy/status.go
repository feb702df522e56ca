package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // for the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"sync"
	"time"

	"foreman/inventory"
)

// The page and what goes into it. Script and style are part of the page, so that
// one request shows it, and the policy allows these two and nothing else.
var (
	//go:embed status.html
	statusHTML string
	//go:embed status.css
	statusCSS string
	//go:embed status.js
	statusJS string

	statusTemplate = template.Must(template.New("status").Parse(statusHTML))
	statusPolicy   = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		sourceHash(statusCSS), sourceHash(statusJS))
)

// sourceHash is how a Content-Security-Policy names an inline script or style.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// status is what the page shows.
type status struct {
	Version string
	Now     time.Time
	Style   template.CSS
	Script  template.JS

	Target   string
	Reason   string // empty: up
	Since    string
	LastPoll string

	Chat       *seat // nil: nobody holds the turn
	Waiting    []seat
	Overtaking bool // the next in line is not the first

	Embedder string
	Warm     bool
	Models   []loaded
	PSFailed bool // what is resident could not be read

	Recent []bar
}

// A seat is a chat in line or at the target.
type seat struct {
	Model, Client, Since string
	Bytes                string // of the answer so far; empty: none yet
	Next                 bool   // its turn comes next
}

// A loaded is a model of the target.
type loaded struct {
	Name               string
	Resident, Embedder bool
}

// A bar is a request that has ended, and its parts drawn to one scale.
type bar struct {
	record
	Ago, Queue, First, Total string
	Parts                    []part
}

// A part is a part of a request's time, as the style sheet calls it, and where it
// is drawn, of 1000.
type part struct {
	Class    string
	X, Width int
}

// statusPage answers /status.
func (p *Proxy) statusPage(x *exchange, r *http.Request) error {
	s := p.status(r.Context())
	var b bytes.Buffer
	if err := statusTemplate.Execute(&b, s); err != nil {
		return err
	}
	h := x.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", statusPolicy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	x.WriteHeader(http.StatusOK)
	x.Write(b.Bytes())
	return nil
}

func (p *Proxy) status(ctx context.Context) *status {
	now := time.Now()
	state := p.Inventory.State()
	s := &status{
		Version:  p.Version,
		Now:      now.UTC(),
		Style:    template.CSS(statusCSS),
		Script:   template.JS(statusJS),
		Target:   p.Target.url.Redacted(),
		Reason:   state.Reason,
		Since:    span(now.Sub(state.Since)),
		LastPoll: "never",
		Embedder: p.EmbedModel,
		Recent:   p.recent.bars(now),
	}
	if !state.LastPoll.IsZero() {
		s.LastPoll = span(now.Sub(state.LastPoll)) + " ago"
	}
	holder, waiting, next := p.Gate.Line()
	if x, ok := holder.(*exchange); ok {
		s.Chat = &seat{Model: x.model, Client: x.request.RemoteAddr}
		if j := p.running.Load(); j != nil && j.x == x {
			s.Chat.Since = span(j.elapsed())
			if j.answered.Load() > 0 {
				s.Chat.Bytes = size(j.received.Load())
			}
		}
	}
	for _, v := range waiting {
		x, ok := v.(*exchange)
		if !ok {
			continue
		}
		s.Waiting = append(s.Waiting, seat{Model: x.model, Client: x.request.RemoteAddr, Since: span(now.Sub(x.joined)), Next: v == next})
	}
	s.Overtaking = len(s.Waiting) > 0 && !s.Waiting[0].Next
	resident, err := p.ps.names(ctx, p.Target, state)
	s.PSFailed = err != nil
	for _, name := range state.Names() {
		is := func(other string) bool { return inventory.Same(name, other) }
		m := loaded{Name: name, Resident: slices.ContainsFunc(resident, is), Embedder: is(p.EmbedModel)}
		s.Models = append(s.Models, m)
		s.Warm = s.Warm || m.Resident && m.Embedder
	}
	return s
}

// span writes a duration as a person reads it.
func span(d time.Duration) string {
	switch d = max(d, 0); { // what came while the page was made is from now
	case 0 < d && d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// size writes a number of bytes as a person reads it.
func size(n int64) string {
	switch v := float64(n); {
	case n < 1e3:
		return fmt.Sprintf("%d bytes", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", v/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", v/1e6)
	default:
		return fmt.Sprintf("%.1f GB", v/1e9)
	}
}

// A psCache remembers which models are resident for as long as it takes many
// people to look at the page.
type psCache struct {
	mu    sync.Mutex // guards what follows, and lets one ask at a time
	asked time.Time
	known []string
	err   error
}

func (c *psCache) names(ctx context.Context, t *Target, state inventory.State) ([]string, error) {
	if state.Degraded() {
		return nil, inventory.ErrUnreachable
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.asked) > 2*time.Second {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // others read the answer too
		defer cancel()
		c.known, c.err = t.PS(ctx)
		c.asked = time.Now()
	}
	return c.known, c.err
}

// recent keeps the last requests.
type recent struct {
	mu      sync.Mutex          // guards what follows
	records [recentLimit]record // a ring
	added   int                 // since the start
}

const recentLimit = 20

func (r *recent) add(rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records[r.added%recentLimit] = rec
	r.added++
}

// latest returns them, the latest first.
func (r *recent) latest() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var latest []record
	for i := r.added - 1; i >= max(0, r.added-recentLimit); i-- {
		latest = append(latest, r.records[i%recentLimit])
	}
	return latest
}

// bars returns the last requests, latest first, drawn to the longest of them.
func (r *recent) bars(now time.Time) []bar {
	latest := r.latest()
	longest := time.Duration(1)
	for _, rec := range latest {
		longest = max(longest, rec.Duration)
	}
	place := func(d time.Duration) int { return int(1000 * d / longest) }
	var bars []bar
	for _, rec := range latest {
		first := rec.FirstByte
		if first == 0 {
			first = rec.Duration
		}
		b := bar{record: rec, Ago: span(now.Sub(rec.Began.Add(rec.Duration))), Queue: span(rec.Queued), First: span(first), Total: span(rec.Duration)}
		x := 0
		for _, end := range []struct {
			class string
			at    time.Duration
		}{{"arriving", rec.Arriving}, {"queue", rec.Arriving + rec.Queued}, {"first", first}, {"rest", rec.Duration}} {
			if to := place(end.at); to > x {
				b.Parts = append(b.Parts, part{end.class, x, to - x})
				x = to
			}
		}
		bars = append(bars, b)
	}
	return bars
}
