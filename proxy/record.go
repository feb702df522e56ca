package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"foreman/proxy/status"
)

// Why a chat needs no turn: the target does no work for it.
const (
	ungatedRemote = "remote model" // another host does
	ungatedUnload = "unload"       // the model is to leave the memory, no more
)

// sumUp completes the record.
func (x *exchange) sumUp() {
	x.Ended = time.Now()
	x.Duration = x.Ended.Sub(x.Began)
	x.Cut = x.cut && x.begun()
	if x.stalled {
		x.Err = errClientStalled
	}
	if x.Status == 0 || x.Err == context.Canceled {
		x.Status = statusClientLeft
	}
}

// severity is how severe a record is: a warning where the host or foreman failed and
// nobody wanted the end, nothing to see where something asked only how foreman is.
func severity(rec *status.Record, class class) slog.Level {
	switch {
	case class == own && rec.Reason == "": // also where /readyz is 503
		return slog.LevelDebug
	case rec.Status >= 500, rec.Cut && rec.Status != statusClientLeft && rec.Revoked != revokedStopped && !errors.Is(rec.Err, errRevoked):
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}

// logRecord writes a record to the log. It has no token and no body.
func logRecord(log *slog.Logger, rec *status.Record, class class) {
	ctx, level := context.Background(), severity(rec, class)
	if !log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 24)
	attrs = append(attrs,
		slog.String("method", rec.Method),
		slog.String("route", rec.Route),
		unlessZero("path", rec.Path),
		slog.Int("status", rec.Status),
	)
	if rec.IsChat {
		attrs = append(attrs,
			slog.String("model", fmt.Sprintf("%.200s", rec.Model)),
			slog.Float64("queue_ms", milliseconds(rec.Queued)),
			unlessZero("ungated", rec.Ungated),
			unlessZero("weight", rec.Weight),
			unlessZero("background", rec.Background),
			unlessZero("load_ms", milliseconds(rec.Usage.Load)),
			unlessZero("prompt_ms", milliseconds(rec.Usage.Prompt)),
			unlessZero("prompt_tokens", rec.Usage.PromptTokens),
			unlessZero("cached_tokens", rec.Usage.CachedTokens),
			unlessZero("completion_tokens", rec.Usage.CompletionTokens),
			unlessZero("tokens_per_s", math.Round(rec.Usage.TokensPerSecond()*10)/10),
		)
	} else if class == embed {
		attrs = append(attrs, unlessZero("queue_ms", milliseconds(rec.Queued)))
	}
	attrs = append(attrs,
		slog.Float64("first_byte_ms", milliseconds(rec.FirstByte)),
		slog.Float64("ms", milliseconds(rec.Duration)),
		slog.Int64("bytes", rec.Bytes),
		slog.String("client", rec.Client),
		slog.String("addr", rec.Addr),
		unlessZero("agent", rec.Agent),
		slog.String("id", rec.ID),
		unlessZero("early", rec.Early),
		unlessZero("cut", rec.Cut),
	)
	attrs = append(attrs, unlessZero("unlogged", rec.Unlogged))
	if rec.Err != nil {
		attrs = append(attrs, slog.String("err", fmt.Sprintf("%.500s", rec.Err.Error())))
	}
	log.LogAttrs(ctx, level, "request", attrs...)
}

// unlessZero returns an attribute, or where its value is zero an empty one, which
// handlers ignore.
func unlessZero[T comparable](key string, value T) slog.Attr {
	var zero T
	if value == zero {
		return slog.Attr{}
	}
	return slog.Any(key, value)
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

// The books have what is kept of requests that have ended: the metrics, the last of them,
// and when each was of a kind that matters later.
type books struct {
	mu       sync.Mutex // guards what follows
	metrics  *instruments
	recent   status.Recent
	unlogged quota     // of records of requests that needed no token, or had none
	probed   time.Time // when /readyz was asked for last; zero: it never was
}

// newBooks returns books whose metrics tell of the present state, too.
func newBooks(o Options, embeds *embeds, pauser *pauser) *books {
	b := new(books)
	b.metrics = newInstruments(o, &b.recent, embeds, pauser)
	return b
}

// add adds the record of a request, which was admitted or not. It reports whether it is to be logged.
func (b *books) add(rec *status.Record, class class, admitted bool) (toLog bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.metrics.ended(rec)
	if rec.Route == readyPath {
		b.probed = rec.Ended
	}
	if admitted && class != own && class != preflight {
		b.recent.Add(*rec)
	}
	return admitted && class != preflight && rec.Route != rootPath || b.unlogged.allow(rec)
}

// show has a page show them.
func (b *books) show(page *status.Page) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent.Show(page)
}

// writeMetrics writes the metrics in the text format, or those of a client's chats alone.
func (b *books) writeMetrics(w io.Writer, client string, alone bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if alone {
		return ofClient(&b.recent, client).Write(w)
	}
	return b.metrics.set.Write(w)
}

// lastProbe returns when /readyz was asked for last; zero: it never was.
func (b *books) lastProbe() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.probed
}

// A quota limits how many records are written in a second: whoever has no token must not
// fill the log. What is left out is counted in the next record.
type quota struct {
	since   time.Time // when the second began
	written int       // in it
	left    int       // out, since one was written
}

const recordsPerSecond = 10

func (q *quota) allow(rec *status.Record) bool {
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
