// Package config reads foreman's settings from environment variables.
//
// [Load] reports every problem at once and never puts a default in the place of
// a value that it cannot read. The table of the variables is in variables.go.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"text/tabwriter"
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
	Hosts        []string      // accepted Host names, lower case, beside IP literals and localhost
	Manage       bool          // let model management through
	MaxQueue     int           // chats that may wait
	Affinity     time.Duration // how long one model may go before others; 0: strict order of arrival
	QueueTimeout time.Duration // longest wait at the gate; 0: as long as the client waits
	MaxBody      int64         // bytes in one request's body
	StallTimeout time.Duration // longest silence of a target that is otherwise alive
	DrainTimeout time.Duration // how long the running chat may go on after SIGTERM
	LogLevel     slog.Level
	LogJSON      bool
	inForce      []string // shown value per variable, in the order of variables
}

// Load reads the variables through getenv, os.Getenv as a rule; an empty value
// is an unset one. The error joins one error per variable that cannot be used,
// each naming the variable, its value and what was expected. A Config that
// comes with an error is good for [Config.WriteTable] only.
func Load(getenv func(string) string) (Config, error) {
	var c Config
	var problems []error
	for _, v := range variables {
		value := getenv(v.name)
		if value == "" {
			value = v.fallback
		}
		shown := value
		if v.mask != nil {
			shown = v.mask(value)
		}
		c.inForce = append(c.inForce, shown)
		if value == "" {
			continue
		}
		if !v.set(&c, value) {
			problems = append(problems, fmt.Errorf("%s=%q: expected %s", v.name, shown, v.expected))
		}
	}
	return c, errors.Join(problems...)
}

// WriteTable writes the variables with their values in force, defaults and
// meanings, a line each. Secrets are masked.
func (c Config) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "VARIABLE\tIN FORCE\tDEFAULT\tMEANING")
	for i, v := range variables {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", v.name, c.inForce[i], v.fallback, v.meaning)
	}
	return tw.Flush()
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

// Unknown returns the names in environ, os.Environ as a rule, that begin as
// foreman's variables do and are none of them, each with what was probably
// meant. They are worth a warning and no more: Kubernetes sets such variables
// for a service called foreman (FOREMAN_SERVICE_HOST).
func Unknown(environ []string) []string {
	var unknown []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		nearest, distance := "", 3 // farther than this is another word
		for _, v := range variables {
			if d := editDistance(name, v.name); d < distance {
				nearest, distance = v.name, d
			}
		}
		switch {
		case distance == 0:
		case nearest == "":
			unknown = append(unknown, name)
		default:
			unknown = append(unknown, name+" (did you mean "+nearest+"?)")
		}
	}
	return unknown
}

// editDistance is the Levenshtein distance between two ASCII strings.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
