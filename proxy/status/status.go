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
	"slices"
	"time"
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
)

// ContentSecurityPolicy is the value of the header field that the page needs.
var ContentSecurityPolicy = fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	sourceHash(string(style)), sourceHash(string(script)))

// sourceHash returns how a Content-Security-Policy names an inline script or style.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// A Page is what the page shows, and what JSON has of it, which README.md explains.
type Page struct {
	Version  string    `json:"version"`
	Now      time.Time `json:"now"`
	Host     Host      `json:"host"`
	Pause    *Pause    `json:"pause"`            // nil: not paused
	Running  *Chat     `json:"running"`          // nil: no chat has the turn
	Waiting  []Chat    `json:"waiting"`          // in order of arrival
	Embeds   *Embeds   `json:"embeds,omitempty"` // nil: nothing limits them, and nobody counts
	Affinity Span      `json:"affinity_ms"`      // how long chats for the model that is loaded may overtake others
	Models   []Model   `json:"models"`
	Day
	Chats  []Record `json:"recent"` // that have ended, latest first
	Others []Record `json:"others"` // that were no chats

	Hour            Hour        `json:"-"` // what the host's time was for, as far as it was for chats that have ended
	PastPauses      []PastPause `json:"-"` // the last ones that have ended
	Turn            Span        `json:"-"` // how long turns took lately; 0: none has ended yet
	Embedder        string      `json:"-"` // the model that is kept resident; empty: none
	ResidentUnknown bool        `json:"-"` // which models are resident could not be read
	MayPause        bool        `json:"-"` // whoever reads the page
	Notice          string      `json:"-"` // what to tell whoever has pressed a button; empty: nothing
}

// Of returns what of the page is of one client's chats, and of the models that it may ask for.
func (p *Page) Of(client string, may func(model string) bool) *Page {
	own := &Page{Version: p.Version, Now: p.Now, Host: p.Host, Pause: p.Pause, Turn: p.Turn, ResidentUnknown: p.ResidentUnknown, Notice: p.Notice}
	own.Host.Changes = nil // they are of the hour, which is not its own
	if p.Running != nil && p.Running.Client == client {
		own.Running = p.Running
	}
	own.Waiting = slices.DeleteFunc(slices.Clone(p.Waiting), func(c Chat) bool { return c.Client != client })
	own.Models = slices.DeleteFunc(slices.Clone(p.Models), func(m Model) bool { return !may(m.Name) })
	own.Shares = slices.DeleteFunc(slices.Clone(p.Shares), func(s Share) bool { return s.Client != client })
	for _, share := range own.Shares {
		own.Totals.Sum = share.Sum
	}
	isOthers := func(r Record) bool { return r.Client != client }
	own.Chats, own.Others = slices.DeleteFunc(slices.Clone(p.Chats), isOthers), slices.DeleteFunc(slices.Clone(p.Others), isOthers)
	return own
}

// A Host is the Ollama host.
type Host struct {
	URL      string    // without secrets
	Reason   string    // why it is degraded; empty: it is up
	Slow     bool      // it is up, and slow to tell its models
	Waking   time.Time // since when it is being woken; zero: it is not
	Since    time.Time // when it became, or ceased to be, degraded
	LastPoll time.Time // the last good poll; zero: none yet
	NextPoll time.Time // when the next is due; zero: it is under way
	Changes  []Change  // of Reason, the latest last
}

// States of the host.
const (
	up       = "up"
	slow     = "slow"
	waking   = "waking"
	degraded = "degraded"
)

// State returns the host's.
func (h Host) State() string {
	switch {
	case !h.Waking.IsZero():
		return waking
	case h.Reason != "":
		return degraded
	case h.Slow:
		return slow
	default:
		return up
	}
}

// A Change is when a reason to be degraded came up, or changed, or went.
type Change struct {
	At     time.Time
	Reason string // empty: none
}

// A Pause is why the host is kept for its owner.
type Pause struct {
	By       string    `json:"by,omitempty"`   // who has paused; empty: FOREMAN_QUIET
	Since    time.Time `json:"since"`          // when it was said
	Until    time.Time `json:"until,omitzero"` // zero: until somebody resumes
	Unloaded bool      `json:"unloaded"`       // the chat that ran has ended, and what was resident is unloaded
}

// A PastPause is a pause that has ended.
type PastPause struct{ Since, Until time.Time }

// A Chat is one that has the turn, or waits for it.
type Chat struct {
	ID         string    `json:"id"`
	Model      string    `json:"model"`
	Options    string    `json:"options,omitempty"` // with which its model is loaded; empty: the model's own
	Client     string    `json:"client"`
	Agent      string    `json:"agent,omitempty"`      // User-Agent
	Key        string    `json:"stop"`                 // with which it can be stopped
	Weight     int       `json:"weight,omitempty"`     // of the client; 0: none is set, as if it were 1
	Background string    `json:"background,omitempty"` // who says that it can wait: file, header or tier; empty: nobody
	Since      time.Time `json:"since"`                // when it got the turn, or joined the line
	Joined     time.Time `json:"-"`                    // when it joined the line
	Answering  bool      `json:"answering,omitempty"`  // the target has begun to answer
	Bytes      int64     `json:"bytes,omitempty"`      // of the answer so far
	Silent     bool      `json:"silent,omitempty"`     // no answer has begun for FOREMAN_STALL_TIMEOUT
	Position   int       `json:"position,omitempty"`   // in line, from 1; 0: it has the turn
	Next       bool      `json:"next,omitempty"`       // its turn comes next

	// Estimate is how long it will still wait, if turns take as long as they did
	// lately; nil: it has the turn, or none has ended yet.
	Estimate *Span `json:"estimate_ms,omitempty"`
}

// Embeds counts embeddings, of which no more than FOREMAN_EMBEDS are at the host.
type Embeds struct {
	AtHost  int `json:"at_host"`
	Waiting int `json:"waiting"`
}

// A Model is one that the target holds.
type Model struct {
	Name     string    `json:"name"`
	Size     int64     `json:"size,omitempty"`   // bytes on disk; 0: not known
	Resident *bool     `json:"resident"`         // nil: not known
	Expires  time.Time `json:"expires,omitzero"` // when a resident one is unloaded if nobody uses it; zero: not known
	Embedder bool      `json:"embedder,omitempty"`
	Remote   bool      `json:"remote,omitempty"` // another host runs it
}

// IsResident reports whether a model is known to be resident.
func (m Model) IsResident() bool { return m.Resident != nil && *m.Resident }
