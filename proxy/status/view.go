package status

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"net"
	"slices"
	"time"
)

const (
	// listLimit is how many chats in line, models and clients the page shows at once.
	listLimit = 10

	// routeLimit and agentLimit are how many characters of a path and of a client's
	// program the page shows.
	routeLimit = 60
	agentLimit = 40

	// forever is when a model is unloaded that Ollama was told to keep.
	forever = 365 * 24 * time.Hour
)

// A view is a Page as the template needs it. Its fields hide those of the same name
// in Page: they hold formatted values.
type view struct {
	*Page
	Style                     template.CSS
	Script                    template.JS
	Title                     string
	Hint                      string // what to do about Reason
	Since, LastPoll, NextPoll string

	Running              *chatRow
	Waiting, MoreWaiting []chatRow // in the order of their turns
	Line, FirstMore      int       // how many wait, and the place of the first of MoreWaiting

	Models, MoreModels []modelRow // the resident ones first
	EmbedderMissing    bool       // unless ResidentUnknown: there is an embedder, and it is not resident

	Totals     []total
	Shares     []shareRow
	MoreShares int // clients beyond those in Shares

	Legend        []legend
	Full, Half    string // how long a request takes that has a bar of full and of half length
	Chats, Others []requestRow
}

type chatRow struct {
	Chat
	Tag      string // that it goes next, and why; empty: it does not
	Progress []string
	Stop     string // the name of its button
	Short    string // its client's program
}

type modelRow struct {
	Model
	Size, Unloads string
}

type total struct{ Name, Value string }

type shareRow struct {
	Share
	Time    string
	Percent int
}

// hints say for each reason to be degraded what to do.
var hints = map[string]string{
	"starting":     "foreman asks the host for its models for the first time. That takes a few seconds.",
	"unreachable":  "Nothing answers at this address. Does Ollama run? By itself it listens on 127.0.0.1 only: set OLLAMA_HOST=0.0.0.0 on the host and restart it.",
	"unauthorized": "The host refuses foreman. Is FOREMAN_OLLAMA_TOKEN right? If Ollama does not accept the Host name, use an IP address in FOREMAN_OLLAMA_URL.",
	"bad answer":   "Something answers at this address, but not as Ollama does. Is FOREMAN_OLLAMA_URL right? See what /api/tags answers there.",
}

func (p *Page) view() *view {
	v := &view{
		Page:     p,
		Style:    style,
		Script:   script,
		Title:    p.title(),
		Hint:     hints[p.Reason],
		Since:    formatDuration(p.Now.Sub(p.Since)),
		LastPoll: "never",
		NextPoll: "the next is under way",

		Line:      len(p.Waiting),
		FirstMore: listLimit + 1,
		EmbedderMissing: p.Embedder != "" &&
			!slices.ContainsFunc(p.Models, func(m Model) bool { return m.Embedder && m.Resident }),

		Totals: []total{
			{"chats", formatCount(int64(p.Today.Chats))},
			{"of the host", formatDuration(p.Today.Held)},
			{"tokens read", formatCount(p.Today.PromptTokens)},
			{"tokens written", formatCount(p.Today.CompletionTokens)},
			{"other requests", formatCount(int64(p.Today.Others))},
		},
		Legend: legends,
	}
	if !p.LastPoll.IsZero() {
		v.LastPoll = formatDuration(p.Now.Sub(p.LastPoll)) + " ago"
	}
	if left := p.NextPoll.Sub(p.Now); left > 0 {
		v.NextPoll = "the next in " + formatCountdown(left)
	}

	if p.Running != nil {
		running := newChatRow(*p.Running, p.Now)
		v.Running = &running
	}
	var waiting []chatRow
	for i, c := range slices.SortedStableFunc(slices.Values(p.Waiting), func(a, b Chat) int { return cmp.Compare(a.Position, b.Position) }) {
		c.Position = i + 1
		waiting = append(waiting, newChatRow(c, p.Now))
	}
	v.Waiting, v.MoreWaiting = split(waiting)

	var models []modelRow
	for _, m := range p.Models {
		models = append(models, newModelRow(m, p.Now))
	}
	slices.SortStableFunc(models, func(a, b modelRow) int { return cmp.Compare(rank(a.Resident), rank(b.Resident)) })
	v.Models, v.MoreModels = split(models)

	shares, more := split(p.Today.Shares)
	for _, s := range shares {
		percent := math.Round(100 * s.Held.Seconds() / max(p.Today.Held, 1).Seconds())
		v.Shares = append(v.Shares, shareRow{s, formatDuration(s.Held), int(percent)})
	}
	v.MoreShares = len(more)

	longest := time.Duration(1) // not 0: it divides
	for _, r := range p.Chats {
		longest = max(longest, r.Duration)
	}
	v.Full, v.Half = formatDuration(longest), formatDuration(longest/4) // see barParts
	for _, r := range p.Chats {
		v.Chats = append(v.Chats, newRequestRow(r, p.Now, longest))
	}
	for _, r := range p.Others {
		v.Others = append(v.Others, newRequestRow(r, p.Now, longest))
	}
	return v
}

// split returns what the page shows of a list at once, and the rest.
func split[T any](list []T) (shown, more []T) {
	n := min(len(list), listLimit)
	return list[:n], list[n:]
}

func rank(first bool) int {
	if first {
		return 0
	}
	return 1
}

// title returns the title of the document: what a tab in the background has to tell.
func (p *Page) title() string {
	text := ""
	if p.Reason != "" {
		text = "degraded"
	}
	if n := len(p.Waiting); n > 0 {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%d waiting", n)
	}
	if text == "" && p.Running != nil {
		text = "busy"
	}
	if text == "" {
		return "foreman"
	}
	return text + " · foreman"
}

// newChatRow returns the row of a chat. A Position is its place in line.
func newChatRow(c Chat, now time.Time) chatRow {
	c.Client = withoutPort(c.Client)
	row := chatRow{Chat: c, Short: shortAgent(c.Agent)}
	row.Stop = "Stop the chat of " + c.Client + " with " + c.Model
	since := formatDuration(now.Sub(c.Since))
	if c.Position == 0 {
		row.Stop += ", which is running"
		row.Progress = []string{"running for " + since, "no byte yet"}
		if c.Answering {
			row.Progress[1] = formatSize(c.Bytes) + " so far"
		}
		return row
	}
	row.Stop += fmt.Sprintf(", number %d in line", c.Position)
	row.Progress = []string{"waiting for " + since}
	if c.Estimate != nil {
		row.Progress = append(row.Progress, formatEstimate(*c.Estimate)+" to go")
	}
	if c.Next {
		row.Tag = "next"
		if c.Position > 1 {
			row.Tag += ": its model is loaded"
		}
	}
	return row
}

func newModelRow(m Model, now time.Time) modelRow {
	row := modelRow{Model: m}
	if m.Size > 0 {
		row.Size = formatSize(m.Size)
	}
	switch left := m.Expires.Sub(now); {
	case !m.Resident || left <= 0: // not known, or by a poll that is old
	case left > forever:
		row.Unloads = "stays loaded"
	default:
		row.Unloads = "unloads in " + formatCoarse(left)
	}
	return row
}

// withoutPort returns a client without its port, if it has one.
func withoutPort(client string) string {
	if host, _, err := net.SplitHostPort(client); err == nil {
		return host
	}
	return client
}
