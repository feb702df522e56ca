package status

import (
	"html/template"
	"io"
	"math"
	"net/netip"
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

// pageTemplate is the page, which a view fills.
var pageTemplate = template.Must(template.New("status").Funcs(template.FuncMap{
	"agent":     shortAgent,
	"ago":       formatAgo,
	"bar":       bar,
	"count":     formatCount,
	"countdown": formatCountdown,
	"duration":  formatDuration,
	"estimate":  formatEstimate,
	"hint":      func(state string) string { return hints[state] },
	"host":      withoutPort,
	"id":        shortID,
	"mark":      func(state string) string { return marks[state] },
	"mostly":    mostly,
	"onePiece":  func() string { return onePiece },
	"percent":   percent,
	"rate":      formatRate,
	"route":     func(route string) string { return shorten(route, routeLimit) },
	"size":      formatSize,
	"times":     times,
	"tokens":    formatTokens,
	"unbroken":  unbroken,
	"unloads":   unloads,
}).Option("missingkey=zero").Parse(pageHTML))

// marks are for those who do not see colours.
var marks = map[string]string{up: "●", slow: "●", waking: "◆", degraded: "▲"}

// hints say for states, and for each reason to be degraded, what to do.
var hints = map[string]string{
	slow:           "The host takes 4 s or longer to say which models it has. Chats go on.",
	waking:         "Nothing answers at this address. foreman has sent the machine a magic packet, and chats wait in line until it is up, or FOREMAN_WAKE_TIMEOUT has passed.",
	"starting":     "foreman asks the host for its models for the first time. That takes a few seconds.",
	"unreachable":  "Nothing answers at this address. Does Ollama run? By itself it listens on 127.0.0.1 only: set OLLAMA_HOST=0.0.0.0 on the host and restart it.",
	"unauthorized": "The host refuses foreman. Is FOREMAN_OLLAMA_TOKEN right? If Ollama does not accept the Host name, use an IP address in FOREMAN_OLLAMA_URL.",
	"bad answer":   "Something answers at this address, but not as Ollama does. Is FOREMAN_OLLAMA_URL right? See what /api/tags answers there.",
}

// Write writes the page as HTML. When it returns an error, it may have written a
// part of the page.
func (p *Page) Write(w io.Writer) error {
	v := &view{
		Page:   p,
		Style:  style,
		Script: script,
		EmbedderMissing: p.Embedder != "" &&
			!slices.ContainsFunc(p.Models, func(m Model) bool { return m.Embedder && m.IsResident() }),
		Longest: 1, // not 0: it divides
	}
	v.Line = split(p.batches())
	v.Lanes = p.lanes()
	var models []Model
	for _, resident := range []bool{true, false} {
		for _, m := range p.Models {
			if m.IsResident() == resident {
				models = append(models, m)
			}
		}
	}
	v.ModelLists = split(models)
	v.ShareLists = split(p.Shares)
	for _, r := range p.Chats {
		v.Longest = max(v.Longest, r.Duration)
	}
	return pageTemplate.Execute(w, v)
}

// A view is a Page, and what the template needs beside it. Its lists are split.
type view struct {
	*Page
	Style           template.CSS
	Script          template.JS
	Line            [][]*batch // in the order of their turns
	Lanes           []*lane    // of the last hour
	ModelLists      [][]Model  // the resident ones first
	ShareLists      [][]Share
	EmbedderMissing bool          // unless ResidentUnknown: there is an embedder, and it is not resident
	Longest         time.Duration // of Chats
}

// A chatRow is a chat, and what the template of one needs beside it.
type chatRow struct {
	Chat
	For time.Duration // how long it runs, or waits
}

// Row returns the row of a chat.
func (v *view) Row(c Chat) chatRow { return chatRow{c, v.Now.Sub(c.Since)} }

// HalfBar returns how long a chat takes that has half a bar; see [bar].
func (v *view) HalfBar() time.Duration { return v.Longest / 4 }

// manyAgents is how many programs at one address are hardly those of one client.
const manyAgents = 3

// OneAddress returns the address that all chats on the page come from, if they are of
// many programs; empty: they are not.
func (v *view) OneAddress() string {
	clients, agents := map[string]bool{}, map[string]bool{}
	add := func(client, agent string) {
		clients[withoutPort(client)], agents[agent] = true, true
	}
	if v.Running != nil {
		add(v.Running.Client, v.Running.Agent)
	}
	for _, c := range v.Waiting {
		add(c.Client, c.Agent)
	}
	for _, r := range v.Chats {
		add(r.Client, r.Agent)
	}
	delete(agents, "")
	for client := range clients {
		_, errAddr := netip.ParseAddr(client)
		_, errPrefix := netip.ParsePrefix(client) // of IPv6
		if len(clients) == 1 && len(agents) >= manyAgents && (errAddr == nil || errPrefix == nil) {
			return client
		}
	}
	return ""
}

// split returns what the page shows of a list at once, and the rest if there is one.
func split[T any](list []T) [][]T {
	if len(list) <= listLimit {
		return [][]T{list}
	}
	return [][]T{list[:listLimit], list[listLimit:]}
}

// unloads says when a model is unloaded; empty: it is not resident, nobody knows, or a
// poll said so that is old.
func unloads(m Model, now time.Time) string {
	switch left := m.Expires.Sub(now); {
	case !m.IsResident() || left <= 0:
		return ""
	case left > forever:
		return "stays loaded"
	default:
		return "unloads in " + formatCoarse(left)
	}
}

func percent(part, whole Span) float64 {
	return math.Round(100 * float64(part) / float64(max(whole, 1)))
}

// withoutPort returns a client without its port, if it has one.
func withoutPort(client string) string {
	if from, err := netip.ParseAddrPort(client); err == nil {
		return from.Addr().String()
	}
	return client
}
