package status

import (
	"cmp"
	"fmt"
	"html/template"
	"net"
	"slices"
	"time"
)

const (
	// How many characters the page shows of what clients choose.
	routeLimit = 60
	agentLimit = 30
	idLimit    = 8

	todayLimit   = 10 // clients that the page shows
	waitingLimit = 10 // chats that it shows at once
	barWidth     = 1000
	barLeast     = 4 // units of a bar that are seen

	// forGood is from when on a model that stays loaded for so long stays for good.
	forGood = 30 * 24 * time.Hour
)

// A view is a Page as the template needs it. Its fields hide those of the same name
// in Page: they hold formatted values.
type view struct {
	*Page
	Style           template.CSS
	Script          template.JS
	Title           string
	Hint            string // what to do about Reason
	Since           string
	LastPoll        string
	NextPoll        string // empty: it is under way
	Running         *chatRow
	Waiting         []chatRow
	More            []chatRow // that wait, beyond those in Waiting
	WaitingCount    int
	Overtaking      bool // the next chat is not the first in line
	Models          []modelRow
	EmbedderMissing bool // unless ResidentUnknown: there is an embedder, and it is not resident
	FullBar         string
	Chats, Others   []requestRow
	Today           dayRow
}

type chatRow struct {
	Chat
	Since, Bytes, Estimate, Program string
}

type modelRow struct {
	Model
	Size, Unloads string
}

type dayRow struct {
	Shares                                      []shareRow
	More                                        int // clients beyond those
	IsEmpty                                     bool
	Chats, Held, Prompt, Completion, OthersDone string
}

type shareRow struct {
	Client, Time string
	Chats        int
}

type requestRow struct {
	Request
	Program, ShortID string
	Result, Tone     string // Tone is a class in the style sheet; empty: all is well
	Total, Rate      string
	Prompt, Written  string // tokens; empty: not known
	Parts            []part
}

// A part is a part of a request's time, and its place in the bar, which is barWidth
// units wide for the longest request.
type part struct {
	Class, Name, Time string
	X, Width          int
	IsMost            bool // it took more than half of the time
	IsShort           bool // it took next to none of it
}

// hints say what may be done about each reason to be degraded.
var hints = map[string]string{
	"starting":     "The first poll is under way.",
	"unreachable":  "Is the machine on, and does Ollama listen there? On 127.0.0.1 only that machine itself reaches it: OLLAMA_HOST=0.0.0.0 changes that.",
	"unauthorized": "FOREMAN_OLLAMA_TOKEN may be wrong, or Ollama does not accept the Host name: use an IP address in FOREMAN_OLLAMA_URL.",
	"bad answer":   "Something answers there that is no Ollama, or one that fails: its log says why.",
}

func (p *Page) view() *view {
	v := &view{
		Page:         p,
		Style:        style,
		Script:       script,
		Title:        p.title(),
		Hint:         hints[p.Reason],
		Since:        formatDuration(p.Now.Sub(p.Since)),
		LastPoll:     "never",
		WaitingCount: len(p.Waiting),
		Overtaking:   len(p.Waiting) > 0 && !p.Waiting[0].Next,
		Today:        newDayRow(p.Today),
	}
	if !p.LastPoll.IsZero() {
		v.LastPoll = formatDuration(p.Now.Sub(p.LastPoll)) + " ago"
	}
	if p.NextPoll.After(p.Now) {
		v.NextPoll = formatDuration(p.NextPoll.Sub(p.Now))
	}
	if p.Running != nil {
		running := newChatRow(*p.Running, p.Now)
		v.Running = &running
	}
	for i, c := range p.Waiting {
		if row := newChatRow(c, p.Now); i < waitingLimit {
			v.Waiting = append(v.Waiting, row)
		} else {
			v.More = append(v.More, row)
		}
	}
	for _, m := range p.Models {
		v.Models = append(v.Models, newModelRow(m, p.Now))
	}
	v.EmbedderMissing = p.Embedder != "" &&
		!slices.ContainsFunc(p.Models, func(m Model) bool { return m.Embedder && m.Resident })

	longest := time.Duration(1) // not 0: it divides
	for _, r := range p.Chats {
		longest = max(longest, r.Duration)
	}
	v.FullBar = formatDuration(longest)
	for _, r := range p.Chats {
		v.Chats = append(v.Chats, newRequestRow(r, longest))
	}
	for _, r := range p.Others {
		v.Others = append(v.Others, newRequestRow(r, longest))
	}
	return v
}

// title says in a browser's tab what goes on.
func (p *Page) title() string {
	switch waiting := len(p.Waiting); {
	case p.Reason != "" && waiting > 0:
		return fmt.Sprintf("degraded, %d waiting · foreman", waiting)
	case p.Reason != "":
		return "degraded · foreman"
	case waiting > 0:
		return fmt.Sprintf("%d waiting · foreman", waiting)
	case p.Running != nil:
		return "running · foreman"
	default:
		return "foreman"
	}
}

func newChatRow(c Chat, now time.Time) chatRow {
	row := chatRow{Chat: c, Since: formatDuration(now.Sub(c.Since)), Bytes: formatSize(c.Bytes), Program: formatAgent(c.Agent)}
	if c.Estimate != nil {
		row.Estimate = formatEstimate(*c.Estimate)
	}
	return row
}

func newModelRow(m Model, now time.Time) modelRow {
	row := modelRow{Model: m}
	if m.Size > 0 {
		row.Size = formatSize(m.Size)
	}
	switch left := m.Expires.Sub(now); {
	case !m.Resident || m.Expires.IsZero():
	case left > forGood:
		row.Unloads = "stays loaded"
	default:
		row.Unloads = "unloads in " + formatDuration(left)
	}
	return row
}

func newDayRow(d Day) dayRow {
	row := dayRow{
		Chats: count(int64(d.Chats), "chat"), Held: formatDuration(d.Held),
		Prompt: formatCount(d.PromptTokens), Completion: formatCount(d.CompletionTokens),
		OthersDone: count(int64(d.Others), "other request"),
		IsEmpty:    d.Chats == 0 && d.Others == 0,
	}
	for _, s := range d.Shares[:min(len(d.Shares), todayLimit)] {
		row.Shares = append(row.Shares, shareRow{s.Client, formatDuration(s.Held), s.Chats})
	}
	row.More = len(d.Shares) - len(row.Shares)
	return row
}

// count returns a number of things.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return formatCount(n) + " " + thing + "s"
}

func newRequestRow(r Request, longest time.Duration) requestRow {
	if host, _, err := net.SplitHostPort(r.Client); err == nil {
		r.Client = host
	}
	r.Route = shorten(r.Route, routeLimit)
	row := requestRow{
		Request: r,
		Program: formatAgent(r.Agent),
		ShortID: shorten(r.ID, idLimit),
		Total:   formatDuration(r.Duration),
		Parts:   r.parts(longest),
	}
	row.Result, row.Tone = r.result()
	if rate := r.Usage.TokensPerSecond(); rate > 0 {
		row.Rate = formatRate(rate)
	}
	if r.Usage.PromptTokens > 0 {
		row.Prompt = formatCount(r.Usage.PromptTokens)
	}
	if r.Usage.CompletionTokens > 0 {
		row.Written = formatCount(r.Usage.CompletionTokens)
	}
	return row
}

// statusClientLeft is the status of a request whose client left before its end.
const statusClientLeft = 499

// result says how a request ended, and in which tone: bad where something failed, soft
// where somebody wanted it so.
func (r *Request) result() (text, tone string) {
	switch {
	case r.Status == statusClientLeft:
		return "client left", "soft"
	case r.Err == "stopped":
		return "stopped", "soft"
	case r.Cut:
		return "cut: " + cmp.Or(r.Err, "the host broke off"), "bad"
	case r.Status >= 400:
		text = fmt.Sprint(r.Status)
		if r.Early {
			text += " after an early 200"
		}
		if r.Err != "" {
			text += " " + r.Err
		}
		return text, "bad"
	default:
		return fmt.Sprint(r.Status), ""
	}
}

// parts returns the parts of a request's time, in their order.
func (r *Request) parts(longest time.Duration) []part {
	type end struct {
		class, name string
		at          time.Duration // from the request's start
	}
	turn := r.Arriving + r.Queued
	ends := []end{{"upload", "upload", r.Arriving}, {"line", "in line", turn}}
	if u := r.Usage; u.Load > 0 || u.Prompt > 0 { // the target says where its time went
		loaded := turn + u.Load
		ends = append(ends, end{"load", "load", loaded}, end{"prompt", "prompt", loaded + u.Prompt},
			end{"words", "words", loaded + u.Prompt + u.Completion}, end{"other", "other", r.Duration})
	} else if r.FirstByte > 0 && r.Held == 0 && r.Beside == "" { // the target never saw it
		ends = append(ends, end{"first", "foreman", r.Duration})
	} else if r.FirstByte > 0 {
		ends = append(ends, end{"first", "load and prompt", r.FirstByte}, end{"words", "words", r.Duration})
	} else { // no answer: the wait for it took the rest of the time
		ends = append(ends, end{"first", "no answer", r.Duration})
	}
	var parts []part
	var at time.Duration
	x := 0
	for _, e := range ends {
		until := min(e.at, r.Duration)
		if until <= at {
			continue
		}
		took := until - at
		p := part{Class: e.class, Name: e.name, Time: formatDuration(took), X: x, IsMost: 2*took > r.Duration, IsShort: 50*took < r.Duration}
		at = until
		p.Width = int(barWidth*at/longest) - x
		if at == r.Duration { // the last: a bar that nobody sees says nothing
			p.Width = max(p.Width, barLeast-x)
		}
		x += p.Width
		parts = append(parts, p)
	}
	return parts
}
