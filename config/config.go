// Package config reads foreman's settings from environment variables.
//
// [Load] reports every problem at once and never puts a default in the place of
// a value that it cannot read. [Usage] explains the variables to people. The
// table of the variables is in variables.go.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config holds the settings in force. The zero value is not useful; see [Load].
type Config struct {
	Addr         string        // listen address, host:port; port 0 picks a free one
	OllamaURL    *url.URL      // the target; no user info, query, fragment or trailing slash
	OllamaToken  string        // bearer token sent to the target; empty: none
	EmbedModel   string        // embedder to keep resident; empty: none
	PollInterval time.Duration // between two polls of the inventory
	Token        string        // bearer token that clients must send; empty: none
	TokensFile   string        // file of tokens of named clients; empty: none
	ClientHeader string        // header field that names the client, in canonical form; empty: none
	Hosts        []string      // accepted Host names, lower case, beside IP literals and localhost
	Manage       bool          // let model management through
	MaxQueue     int           // chats that may wait
	Fair         bool          // clients share the host's time
	Affinity     time.Duration // how long one model may go before others; 0: not at all; negative: as its loads make worthwhile
	QueueTimeout time.Duration // longest wait at the gate; 0: as long as the client waits
	MaxBody      int64         // bytes in one request's body
	Heartbeat    time.Duration // how long the client of a stream hears nothing while it waits; 0: for ever
	StallTimeout time.Duration // longest silence in an answer that has begun, of a target that is otherwise alive
	MaxTurn      time.Duration // longest turn of a chat; 0: as long as it takes
	Embeds       int           // embeddings at the target at once; 0: any number
	WakeMAC      []byte        // of the target's machine; nil: it is not woken
	WakeAddr     string        // where packets that wake it go, host:port; empty: to the broadcast address of each interface
	WakeTimeout  time.Duration // how long to wake the target before it is given up
	DrainTimeout time.Duration // how long the running chat may go on after SIGTERM
	LogLevel     slog.Level
	LogJSON      bool

	// Quiet returns when the hours end, in which the target is not for clients, that a clock
	// on the wall shows now, in the zone of that time; zero: it shows none. nil: there are none.
	Quiet func(now time.Time) (end time.Time)

	inForce []string // value of each variable as it may be shown, in the order of variables
}

// Load reads the variables through getenv, os.Getenv as a rule; an empty value
// is an unset one. The error joins one error per variable that cannot be used,
// each naming the variable, its value and what was expected. The Config that
// comes with an error must not be used.
func Load(getenv func(string) string) (Config, error) {
	c, problems := load(getenv)
	return c, errors.Join(problems...)
}

// load is Load with the problems apart.
func load(getenv func(string) string) (c Config, problems []error) {
	for _, v := range variables {
		value := getenv(v.name)
		if value == "" {
			value = v.fallback
		}
		shown := value
		if v.mask != nil {
			shown = v.mask(value)
		}
		if value != "" && !v.set(&c, value) {
			problems = append(problems, v.problem(value, shown))
			shown = "not usable: see below"
		}
		c.inForce = append(c.inForce, shown)
	}
	if c.Quiet != nil && !isZone(getenv("TZ")) { // package time would take it for UTC without a word
		problems = append(problems, fmt.Errorf("TZ=%q: expected, for FOREMAN_QUIET, a time zone's name, such as Europe/Berlin", getenv("TZ")))
	}
	return c, problems
}

// isZone reports whether package time knows a zone that is not empty.
func isZone(tz string) bool {
	_, err := time.LoadLocation(strings.TrimPrefix(tz, ":"))
	return err == nil || filepath.IsAbs(tz)
}

// problem is the error for a value that cannot be used.
func (v variable) problem(value, shown string) error {
	hint := ""
	if v.hint != nil {
		hint = v.hint(value)
	}
	if hint != "" {
		hint = "; " + hint
	}
	return fmt.Errorf("%s=%q: expected %s%s", v.name, shown, v.expected, hint)
}

// LogValue is the values in force under the variables' names without their
// common prefix. Secrets are masked.
func (c Config) LogValue() slog.Value {
	var attrs []slog.Attr
	for i, v := range variables {
		if c.inForce[i] != "" {
			attrs = append(attrs, slog.String(strings.ToLower(strings.TrimPrefix(v.name, prefix)), c.inForce[i]))
		}
	}
	return slog.GroupValue(attrs...)
}

// Usage writes the variables with their values in force, their defaults and
// meanings, and then what is wrong with the environment, which is read through
// getenv and environ (os.Getenv and os.Environ as a rule). Secrets are masked.
// The error is w's.
func Usage(w io.Writer, getenv func(string) string, environ []string) error {
	c, problems := load(getenv)
	var b strings.Builder
	fmt.Fprintf(&b, row, "VARIABLE", "IN FORCE", "DEFAULT")
	for i, v := range variables {
		fmt.Fprintf(&b, row, v.name, cmp.Or(c.inForce[i], "-"), cmp.Or(v.fallback, "-"))
		writeWrapped(&b, v.meaning)
	}
	if len(problems) > 0 {
		b.WriteString("\nNot usable, so that foreman does not start:\n")
		for _, err := range problems {
			writeWrapped(&b, err.Error())
		}
	}
	if unknown := Unknown(environ); len(unknown) > 0 {
		b.WriteString("\nUnknown to foreman, so that they have no effect (misspelt?):\n")
		for _, name := range unknown {
			writeWrapped(&b, name)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// row is a line of Usage: 80 columns hold it, unless a value in force is long.
const row = "%-21s  %-22s  %s\n"

// writeWrapped writes text indented, broken between words where a line would have
// more than 80 columns.
func writeWrapped(b *strings.Builder, text string) {
	const indent, width = "    ", 76
	for len(text) > width {
		i := strings.LastIndexByte(text[:width+1], ' ')
		if i <= 0 { // a word longer than a line
			break
		}
		b.WriteString(indent + text[:i] + "\n")
		text = text[i+1:]
	}
	b.WriteString(indent + text + "\n")
}

// Unknown returns the names in environ, os.Environ as a rule, that begin as
// foreman's variables do and are none of them. They are worth a warning and no
// more: Kubernetes sets such variables for a service called foreman
// (FOREMAN_SERVICE_HOST).
func Unknown(environ []string) []string {
	var unknown []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		known := slices.ContainsFunc(variables, func(v variable) bool { return v.name == name })
		if strings.HasPrefix(name, prefix) && !known {
			unknown = append(unknown, name)
		}
	}
	return unknown
}
