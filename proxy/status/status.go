// Package status is the page at /status, from one struct that says what it shows,
// and the list of the last requests for it. It reads no state of foreman and serves
// no HTTP: its caller does both.
package status

import (
	"crypto/sha256"
	_ "embed" // for the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net"
	"slices"
	"time"

	"foreman/proxy/usage"
)

// The page and its parts. Script and style are inline, so that one request fetches
// everything and [ContentSecurityPolicy] allows these two by their hashes only.
var (
	//go:embed status.html
	pageHTML string
	//go:embed status.css
	style template.CSS
	//go:embed status.js
	script template.JS

	pageTemplate = template.Must(template.New("status").Parse(pageHTML))
)

// ContentSecurityPolicy is the value of the header field that the page needs.
var ContentSecurityPolicy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	sourceHash(string(style)), sourceHash(string(script)))

// sourceHash returns how a Content-Security-Policy names an inline script or style.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// A Page is what the page shows.
type Page struct {
	Version string
	Now     time.Time

	Target   string    // URL of the Ollama host, without secrets
	Reason   string    // why it is degraded; empty: it is up
	Since    time.Time // when that last changed
	LastPoll time.Time // the last good poll; zero: none yet
	NextPoll time.Time // when the next is due; zero: it is under way

	Running *Chat  // nil: no chat has the turn
	Waiting []Chat // in order of arrival

	Embedder        string // the model that is kept resident; empty: none
	Models          []Model
	ResidentUnknown bool // which models are resident could not be read

	Notice string // what to tell whoever has pressed a button; empty: nothing

	Chats  []Request // that have ended, latest first
	Others []Request // that were no chats
	Today  Day
}

// A Chat is one that has the turn, or waits for it.
type Chat struct {
	ID, Model, Client string
	Agent             string    // User-Agent
	Key               string    // with which it can be stopped
	Options           string    // with which its model is loaded; empty: the model's own
	Since             time.Time // when it got the turn, or joined the line
	Bytes             int64     // of the answer so far
	Answering         bool      // the target has begun to answer
	Position          int       // in line, from 1
	Next              bool      // its turn comes next

	// Estimate is how long it will still wait, if turns take as long as they did
	// lately; nil: it has the turn, or none has ended yet.
	Estimate *time.Duration
}

// A Model is one that the target holds.
type Model struct {
	Name               string
	Size               int64 // bytes on disk; 0: not known
	Resident, Embedder bool
	Expires            time.Time // when a resident one is unloaded if nobody uses it; zero: not known
	Remote             bool      // another host runs it
}

// A Request is one that has ended, and the parts of its time.
type Request struct {
	ID, Method string
	IsChat     bool
	Route      string        // path in the route table; the requested path where there is no route
	Model      string        // that the client asked for, known or not
	Client     string        // name, or address; the page leaves out its port
	Agent      string        // User-Agent
	Named      bool          // the name is that of a token
	Held       time.Duration // how long it had the turn; 0: it had none
	Beside     string        // why a chat needed no turn; empty: it did
	Status     int           // 499: the client left
	Early      bool          // the client got the header of its answer with a heartbeat
	Cut        bool          // the answer did not come to its end
	Err        string        // why it failed, in a few words; empty: it did not fail, or the target's answer says why
	Ended      time.Time
	Usage      usage.Usage // of a chat: what the target says of it

	Arriving  time.Duration // from its start until it joined the line
	Queued    time.Duration // in line, after Arriving
	FirstByte time.Duration // from its start to the answer's header; 0: there was none
	Duration  time.Duration // from its start to its end
}

// routeLimit is how many characters of a path the page shows.
const routeLimit = 60

// Write writes the page as HTML. When it returns an error, it may have written a
// part of the page.
func (p *Page) Write(w io.Writer) error {
	return pageTemplate.Execute(w, p.view())
}

// A view is a Page as the template needs it. Its fields hide those of the same name
// in Page: they hold formatted values.
type view struct {
	*Page
	Style           template.CSS
	Script          template.JS
	Since, LastPoll string
	Running         *chatRow
	Waiting         []chatRow
	Overtaking      bool // the next chat is not the first in line
	EmbedderMissing bool // unless ResidentUnknown: there is an embedder, and it is not resident
	Chats           []requestRow
	Today           []usageRow
	MoreToday       int // clients beyond those in Today
}

// todayLimit is how many clients the page shows.
const todayLimit = 10

type usageRow struct {
	Client, Time string
	Chats        int
}

type chatRow struct {
	Chat
	Since, Bytes, Estimate string
}

type requestRow struct {
	Request
	Ago, InLine, First, Total string
	Parts                     []barPart
}

// A barPart is a part of a request's time in its bar, which is barWidth units wide
// for the longest request.
type barPart struct {
	Class    string // in the style sheet
	X, Width int
}

const barWidth = 1000 // as the viewBox in status.html

func (p *Page) view() *view {
	v := &view{
		Page:     p,
		Style:    style,
		Script:   script,
		Since:    formatDuration(p.Now.Sub(p.Since)),
		LastPoll: "never",
	}
	if !p.LastPoll.IsZero() {
		v.LastPoll = formatDuration(p.Now.Sub(p.LastPoll)) + " ago"
	}
	row := func(c Chat) chatRow {
		r := chatRow{Chat: c, Since: formatDuration(p.Now.Sub(c.Since)), Bytes: formatSize(c.Bytes)}
		if c.Estimate != nil {
			r.Estimate = formatEstimate(*c.Estimate)
		}
		return r
	}
	if p.Running != nil {
		running := row(*p.Running)
		v.Running = &running
	}
	for _, c := range p.Waiting {
		v.Waiting = append(v.Waiting, row(c))
	}
	v.Overtaking = len(p.Waiting) > 0 && !p.Waiting[0].Next
	v.EmbedderMissing = p.Embedder != "" &&
		!slices.ContainsFunc(p.Models, func(m Model) bool { return m.Embedder && m.Resident })

	longest := time.Duration(1) // not 0: it divides
	for _, r := range p.Chats {
		longest = max(longest, r.Duration)
	}
	for _, r := range p.Chats {
		v.Chats = append(v.Chats, newRequestRow(r, p.Now, longest))
	}
	shares := p.Today.Shares
	for _, s := range shares[:min(len(shares), todayLimit)] {
		v.Today = append(v.Today, usageRow{s.Client, formatDuration(s.Held), s.Chats})
	}
	v.MoreToday = len(shares) - len(v.Today)
	return v
}

func newRequestRow(r Request, now time.Time, longest time.Duration) requestRow {
	if host, _, err := net.SplitHostPort(r.Client); err == nil {
		r.Client = host
	}
	r.Route = shorten(r.Route, routeLimit)
	return requestRow{
		Request: r,
		Ago:     formatDuration(now.Sub(r.Ended)),
		InLine:  formatDuration(r.Queued),
		First:   formatDuration(r.FirstByte),
		Total:   formatDuration(r.Duration),
		Parts:   barParts(r, longest),
	}
}

// barParts returns the parts of a request's time that are long enough to see.
func barParts(r Request, longest time.Duration) []barPart {
	type part struct {
		class string
		end   time.Duration // from the request's start
	}
	turn := r.Arriving + r.Queued
	ends := []part{{"arriving", r.Arriving}, {"queue", turn}}
	if u := r.Usage; u.Load > 0 || u.Prompt > 0 { // the target says where its time went
		prompt := turn + u.Load + u.Prompt
		ends = append(ends, part{"load", turn + u.Load}, part{"prompt", prompt}, part{"words", prompt + u.Completion}, part{"other", r.Duration})
	} else if r.FirstByte > 0 {
		ends = append(ends, part{"first", r.FirstByte}, part{"words", r.Duration})
	} else { // no answer: the wait for it took the rest of the time
		ends = append(ends, part{"first", r.Duration})
	}
	var parts []barPart
	x := 0
	for _, part := range ends {
		if end := int(barWidth * min(part.end, r.Duration) / longest); end > x {
			parts = append(parts, barPart{part.class, x, end - x})
			x = end
		}
	}
	return parts
}

// formatDuration returns a duration for people, rounded down.
func formatDuration(d time.Duration) string {
	switch d = max(d, 0); { // less than 0: it began after Page.Now was read
	case 0 < d && d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Truncate(time.Second/10).Seconds()) // never 60.0 s
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// formatEstimate returns a duration that nobody knows exactly.
func formatEstimate(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return "a few seconds"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds())/10*10)
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	default:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
}

// formatSize returns a number of bytes for people, rounded down.
func formatSize(n int64) string {
	switch {
	case n < 1e3:
		return fmt.Sprintf("%d bytes", n)
	case n < 1e6:
		return fmt.Sprintf("%d.%d kB", n/1e3, n%1e3/1e2)
	case n < 1e9:
		return fmt.Sprintf("%d.%d MB", n/1e6, n%1e6/1e5)
	default:
		return fmt.Sprintf("%d.%d GB", n/1e9, n%1e9/1e8)
	}
}

// shorten returns text, or its first n characters and an ellipsis if it has more.
func shorten(text string, n int) string {
	for i := range text {
		if n == 0 {
			return text[:i] + "…"
		}
		n--
	}
	return text
}
