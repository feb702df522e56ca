package proxy

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"log/slog"

	"foreman/proxy/cors"
	"foreman/proxy/dialect"
)

// Most clients give up when they have heard nothing for some time. One that asked for
// a stream, and waits in line or for the target's first byte, hears every
// Options.Heartbeat that its request is alive. The first beat sends the header of the
// answer, 200, and the answer's own can no longer be told; see [exchange.WriteHeader].
// Without a stream there is no safe way to tell an error after that, so there are no
// beats.

// heartbeats are the heartbeats of one answer, which a timer writes. Until they are stopped the
// handler must not touch the ResponseWriter.
type heartbeats struct {
	x        *exchange
	every    time.Duration
	since    time.Time  // when the wait began
	position func() int // in line; 0: the request waits for the target
	cancel   context.CancelCauseFunc
	cors     *cors.Memory
	log      *slog.Logger

	mu    sync.Mutex  // held while one is written
	timer *time.Timer // of the next one; nil: there is none
}

// start lets the client hear from foreman from now on. One that does not take a beat is
// gone: its request is cancelled.
func (b *heartbeats) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer = time.AfterFunc(b.every, b.beat)
}

// stop ends the beats. None is being written any more when it returns.
func (b *heartbeats) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
}

// beat writes one heartbeat, on the timer's goroutine.
func (b *heartbeats) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer == nil {
		return
	}
	defer func() {
		if e := recover(); e != nil { // here it would end the process, and not one request
			b.log.Error("panic", "err", e, "id", b.x.ID, "stack", string(debug.Stack()))
			b.cancel(fmt.Errorf("%w: %v", errDefect, e))
		}
	}()
	if err := b.write(); err != nil {
		b.cancel(fmt.Errorf("%w: heartbeat not taken: %w", context.Canceled, err))
		return
	}
	b.timer.Reset(b.every)
}

func (b *heartbeats) write() error {
	x, d, now := b.x, dialect.Of(b.x.Route), time.Now()
	beat := dialect.Beat{
		Path: x.Route, Model: x.Model, Now: now, First: !x.Early,
		Events: dialect.CountsEvents(x.request.Header), Waited: now.Sub(b.since), Position: b.position(),
	}
	if !x.Early {
		x.Early = true
		h := x.Header()
		h.Set("Content-Type", d.ContentType())
		h.Set("X-Request-Id", x.ID)
		h.Set("Cache-Control", "no-transform") // RFC 9111, section 5.2.2.6: a proxy that compresses would hold the beats back
		h.Set("X-Accel-Buffering", "no")       // nginx: pass them on as they come
		b.cors.Apply(x.request.Header.Get("Origin"), h)
		x.ResponseWriter.WriteHeader(http.StatusOK)
	}
	if _, err := x.ResponseWriter.Write(d.Heartbeat(beat)); err != nil {
		x.note(err)
		return err
	}
	return x.FlushError()
}
