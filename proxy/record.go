package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"foreman/proxy/status"
)

// Why a chat needs no turn: the target does no work for it.
const (
	ungatedRemote = "remote model" // another host does
	ungatedUnload = "unload"       // the model is to leave the memory, no more
)

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
