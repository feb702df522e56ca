package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"foreman/proxy/cors"
	"foreman/proxy/dialect"
	"foreman/proxy/target"
	"foreman/proxy/usage"
)

// Most clients give up when they have heard nothing for some time. One that asked for
// a stream, and waits in line, for the target's first byte or for the next chunk, hears
// every Options.Heartbeat that its request is alive. The first beat before the answer sends
// the header, 200, and the answer's own can no longer be told; see [exchange.WriteHeader].
// Without a stream there is no safe way to tell an error after that, so there are no
// beats.

// heartbeats are the heartbeats of one answer, which a timer writes. They run while its
// handler waits. Until they are stopped that must not touch the ResponseWriter. A nil one
// has none.
type heartbeats struct {
	x        *exchange
	every    time.Duration
	since    time.Time  // when the wait began
	position func() int // in line; 0: the request waits for the target
	cancel   context.CancelCauseFunc
	cors     *cors.Memory
	target   *target.Target
	log      *slog.Logger

	// x.mu guards what follows, and is held while a beat is written.
	timer  *time.Timer // of the next one
	due    time.Time   // when that is to be written; zero: they are stopped
	begun  bool        // one was written
	answer *usage.Tail // what the target has said of its answer; nil: it has not begun
}

// start lets the client hear from foreman from now on. One that does not take a beat is
// gone: its request is cancelled.
func (b *heartbeats) start() {
	if b == nil {
		return
	}
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	if b.timer == nil {
		b.timer = time.AfterFunc(b.every, b.beat)
	}
	b.next(time.Now())
}

// next has the next beat come when the client will have heard nothing for long enough.
func (b *heartbeats) next(now time.Time) {
	b.due = now.Add(b.every)
	b.timer.Reset(b.every)
}

// stop ends the beats until they are started again. None is being written any more when
// it returns.
func (b *heartbeats) stop() {
	if b == nil {
		return
	}
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	b.timer.Stop()
	b.due = time.Time{}
}

// follow has the beats to come stand behind what the target has said of its answer.
func (b *heartbeats) follow(answer *usage.Tail) {
	if b != nil {
		b.answer = answer
	}
}

// beat writes one heartbeat, on the timer's goroutine.
func (b *heartbeats) beat() {
	defer func() {
		if e := recover(); e != nil { // here it would end the process, and not one request
			b.log.Error("panic", "err", e, "id", b.x.ID, "stack", string(debug.Stack()))
			b.cancel(fmt.Errorf("%w: %v", errDefect, e))
		}
	}()
	b.x.mu.Lock()
	early := !b.due.IsZero() && !b.x.begun()
	b.x.mu.Unlock()
	if early { // nobody waits for it but the beat
		askGrant(b.x, b.cors, b.target)
	}
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	now := time.Now()
	if b.due.IsZero() || now.Before(b.due) {
		return
	}
	if err := b.write(now); err != nil {
		b.cancel(fmt.Errorf("%w: heartbeat not taken: %w", context.Canceled, err))
		return
	}
	b.next(time.Now())
}

// grantTimeout is how long an answer of foreman's own waits for the target to say what a
// page may read.
const grantTimeout = time.Second

// askGrant asks the target what it lets a page read that foreman itself is to answer, if it
// has not said so yet: a browser that remembers its preflight from before foreman started
// asks no more.
func askGrant(x *exchange, memory *cors.Memory, t *target.Target) {
	origin := x.request.Header.Get("Origin")
	if origin == "" || memory.Knows(origin) {
		return
	}
	ctx, cancel := context.WithTimeout(x.request.Context(), grantTimeout)
	defer cancel()
	if answer, err := t.Preflight(ctx, x.request.URL.Path, origin); err == nil {
		memory.Note(origin, answer, false)
	}
}

// write writes a heartbeat, unless the answer is within a chunk, or at its end.
func (b *heartbeats) write(now time.Time) error {
	x, d := b.x, dialect.Of(b.x.Route)
	beat := dialect.Beat{
		Path: x.Route, Model: x.Model, Now: now, First: !b.begun,
		Events: dialect.CountsEvents(x.request.Header), FirstID: dialect.KeepsFirstID(x.request.Header), Waited: now.Sub(b.since), Position: b.position(),
	}
	if b.answer != nil {
		last, ok := b.answer.LastChunk(d.Separator())
		if !ok {
			return nil
		}
		beat.Last, beat.First = last, beat.First && len(last) == 0
	}
	text := d.Heartbeat(beat)
	if text == nil {
		return nil
	}
	b.begun = true
	if !x.begun() {
		x.Early = true
		h := x.Header()
		h.Set("Content-Type", d.ContentType())
		h.Set("X-Request-Id", x.ID)
		h.Set("Cache-Control", "no-transform") // RFC 9111, section 5.2.2.6: a proxy that compresses would hold the beats back
		h.Set("X-Accel-Buffering", "no")       // nginx: pass them on as they come
		b.cors.Apply(x.request.Header.Get("Origin"), h)
		x.ResponseWriter.WriteHeader(http.StatusOK)
	}
	if _, err := x.ResponseWriter.Write(text); err != nil {
		x.note(err)
		return err
	}
	return x.flush()
}
