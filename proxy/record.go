package proxy

import (
	"log/slog"
	"time"
)

// A record is what is told of a request when it has ended: in the log, in the
// metrics and on the status page.
type record struct {
	Method    string
	Route     string // path in the route table, or other
	Class     class
	Status    int    // 499: the client left before the end
	Reason    string // why foreman itself refused, from a closed set; empty: it did not
	Client    string // address
	ID        string // X-Request-Id
	Model     string // of a chat, once the target is known to hold it
	Began     time.Time
	Arriving  time.Duration // from Began until a chat stood in line: its body came and its model was looked up
	Queued    time.Duration // a chat's wait for its turn, from then on
	FirstByte time.Duration // from Began to the answer's header; 0: there was none
	Duration  time.Duration
	Bytes     int64  // of the answer's body
	Cut       bool   // the answer did not come to its end
	Taken     string // why the turn was taken away; empty: it was not
	Err       error
}

// appendTo appends the record as the log has it. It has no token and no body.
func (rec *record) appendTo(attrs []slog.Attr) []slog.Attr {
	attrs = append(attrs,
		slog.String("method", rec.Method),
		slog.String("route", rec.Route),
		slog.Int("status", rec.Status),
		slog.String("client", rec.Client),
		slog.String("id", rec.ID),
		slog.Float64("ms", milliseconds(rec.Duration)),
		slog.Float64("first_byte_ms", milliseconds(rec.FirstByte)),
		slog.Int64("bytes", rec.Bytes),
	)
	if rec.Class == worker {
		attrs = append(attrs, slog.String("model", rec.Model), slog.Float64("queue_ms", milliseconds(rec.Queued)))
	}
	if rec.Cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if rec.Err != nil {
		attrs = append(attrs, slog.String("err", rec.Err.Error()))
	}
	return attrs
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
