package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"foreman/proxy/status"
	"foreman/proxy/usage"
)

// A record describes a request that has ended, for the log, the metrics and the
// status page.
type record struct {
	Method    string
	Route     string // path in the route table, or other
	Path      string // that was asked, where it is not the route's
	Class     class
	Status    int    // what it came to, also where the client got an early 200; 499: the client left before the end; 0: nothing was answered
	Reason    string // why foreman itself refused, from a closed set; empty: it did not
	Client    string // who asks; see [Proxy.clientOf]
	Named     bool   // that is the name of a token
	Addr      string // from where, with port
	Agent     string // User-Agent
	ID        string // X-Request-Id
	Model     string // of a chat: as asked, or as the target spells it, once it is known to hold it
	Beside    string // why a chat needed no turn, from a closed set; empty: it did
	Early     bool   // the client got the header of its answer, 200, with a heartbeat
	Began     time.Time
	Arriving  time.Duration // from Began until a chat joined the line: its body came and its model was looked up
	Queued    time.Duration // a chat's wait for its turn, from then on
	Held      time.Duration // for how long it had its turn
	Idle      time.Duration // from when it had its turn until it was sent: the target had nothing to do
	Usage     usage.Usage   // of a chat whose answer came to its end: what the target says of it
	FirstByte time.Duration // from Began to the answer's header; 0: there was none
	Duration  time.Duration
	Bytes     int64  // of the answer's body
	Cut       bool   // the answer did not come to its end
	Revoked   string // why the turn was taken away, from a closed set; empty: it was not
	Unlogged  int    // records before this one that the log has not; see [quota]
	Err       error
}

// Why a turn is taken away before the target has said all.
const (
	revokedLeft    = "client left"
	revokedStalled = "client stalled"
	revokedAsleep  = "host asleep"
	revokedStall   = "stall timeout"
	revokedStopped = "stopped"
	revokedToken   = "token revoked"
)

// Why a chat needs no turn: the target does no work for it.
const (
	besideRemote = "remote model" // another host does
	besideUnload = "unload"       // the model is to leave the memory, no more
)

// level is how severe the record is: a warning where the host or foreman failed and
// nobody wanted the end, nothing to see where something asked only how foreman is.
func (rec *record) level() slog.Level {
	switch {
	case rec.Class == own && rec.Reason == "": // also where /readyz is 503
		return slog.LevelDebug
	case rec.Status >= 500, rec.Cut && rec.Status != statusClientLeft && rec.Revoked != revokedStopped && !errors.Is(rec.Err, errRevoked):
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// write writes the record to the log. It has no token and no body.
func (rec *record) write(ctx context.Context, log *slog.Logger) {
	if !log.Enabled(ctx, rec.level()) {
		return
	}
	attrs := make([]slog.Attr, 0, 20)
	attrs = append(attrs, slog.String("method", rec.Method), slog.String("route", rec.Route))
	if rec.Path != "" {
		attrs = append(attrs, slog.String("path", rec.Path))
	}
	attrs = append(attrs, slog.Int("status", rec.Status))
	if rec.Class == worker {
		attrs = append(attrs, slog.String("model", fmt.Sprintf("%.200s", rec.Model)), slog.Float64("queue_ms", milliseconds(rec.Queued)))
	}
	if rec.Beside != "" {
		attrs = append(attrs, slog.String("beside", rec.Beside))
	}
	attrs = rec.appendUsage(attrs)
	attrs = append(attrs,
		slog.Float64("first_byte_ms", milliseconds(rec.FirstByte)),
		slog.Float64("ms", milliseconds(rec.Duration)),
		slog.Int64("bytes", rec.Bytes),
		slog.String("client", rec.Client),
		slog.String("addr", rec.Addr),
	)
	if rec.Agent != "" {
		attrs = append(attrs, slog.String("agent", rec.Agent))
	}
	attrs = append(attrs, slog.String("id", rec.ID))
	if rec.Early {
		attrs = append(attrs, slog.Bool("early", true))
	}
	if rec.Cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if rec.Unlogged > 0 {
		attrs = append(attrs, slog.Int("unlogged", rec.Unlogged))
	}
	if rec.Err != nil {
		attrs = append(attrs, slog.String("err", rec.Err.Error()))
	}
	log.LogAttrs(ctx, rec.level(), "request", attrs...)
}

// A quota limits how many records are written in a second: whoever has no token must not
// fill the log. What is left out is counted in the next record.
type quota struct {
	mu      sync.Mutex // guards what follows
	since   time.Time  // when the second began
	written int        // in it
	left    int        // out, since one was written
}

const recordsPerSecond = 10

func (q *quota) allow(rec *record) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.Sub(q.since) >= time.Second {
		q.since, q.written = now, 0
	}
	if q.written == recordsPerSecond {
		q.left++
		return false
	}
	q.written++
	rec.Unlogged, q.left = q.left, 0
	return true
}

// appendUsage appends what the target told of a chat.
func (rec *record) appendUsage(attrs []slog.Attr) []slog.Attr {
	u := rec.Usage
	if u.Load > 0 {
		attrs = append(attrs, slog.Float64("load_ms", milliseconds(u.Load)))
	}
	if u.Prompt > 0 {
		attrs = append(attrs, slog.Float64("prompt_ms", milliseconds(u.Prompt)))
	}
	if u.PromptTokens > 0 {
		attrs = append(attrs, slog.Int64("prompt_tokens", u.PromptTokens))
	}
	if u.CompletionTokens > 0 {
		attrs = append(attrs, slog.Int64("completion_tokens", u.CompletionTokens))
	}
	if rate := u.TokensPerSecond(); rate > 0 {
		attrs = append(attrs, slog.Float64("tokens_per_s", math.Round(rate*10)/10))
	}
	return attrs
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

// row is the record as the status page has it.
func (rec *record) row() status.Request {
	row := status.Request{
		ID:        rec.ID,
		Method:    rec.Method,
		Route:     rec.Route,
		IsChat:    rec.Class == worker,
		Model:     rec.Model,
		Client:    rec.Client,
		Agent:     rec.Agent,
		Named:     rec.Named,
		Held:      rec.Held,
		Usage:     rec.Usage,
		Beside:    rec.Beside,
		Status:    rec.Status,
		Early:     rec.Early,
		Cut:       rec.Cut,
		Err:       cmp.Or(rec.Revoked, rec.Reason),
		Ended:     time.Now(), // Began may be from before the clock was set
		Arriving:  rec.Arriving,
		Queued:    rec.Queued,
		FirstByte: rec.FirstByte,
		Duration:  rec.Duration,
	}
	if rec.Path != "" {
		row.Route = rec.Path
	}
	return row
}
