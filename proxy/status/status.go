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
	Slow     bool      // it is up, and slow to tell its models
	Since    time.Time // when it became, or ceased to be, degraded
	LastPoll time.Time // the last good poll; zero: none yet
	NextPoll time.Time // when the next is due; zero: it is under way

	Running *Chat  // nil: no chat has the turn
	Waiting []Chat // in order of arrival

	Embedder        string // the model that is kept resident; empty: none
	Models          []Model
	ResidentUnknown bool // which models are resident could not be read

	Notice string // what to tell whoever has pressed a button; empty: nothing

	Chats  []Record // that have ended, latest first
	Others []Record // that were no chats
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

// Write writes the page as HTML. When it returns an error, it may have written a
// part of the page.
func (p *Page) Write(w io.Writer) error {
	return pageTemplate.Execute(w, p.view())
}
