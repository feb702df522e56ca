package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	"foreman/proxy/dialect"
)

// Most clients give up when they have heard nothing for some time. One that asked for
// a stream, and waits in line or for the target's first byte, hears every
// Options.Heartbeat that its request is alive. The first beat sends the header of the
// answer, 200, and the answer's own can no longer be told; see [exchange.WriteHeader].
// Without a stream there is no safe way to tell an error after that, so there are no
// beats.

// startBeats lets the client of a stream hear from foreman while it waits.
func (p *Proxy) startBeats(x *exchange) (stop func()) {
	if p.Heartbeat == 0 || !x.asked.Stream {
		return func() {}
	}
	x.beats = time.NewTimer(p.Heartbeat)
	return func() { x.beats.Stop() }
}

// await waits until done is closed, and lets the client hear from foreman meanwhile, if
// it is to. The error is the cause of ctx if that ended first, or says that the client
// is gone.
func (p *Proxy) await(ctx context.Context, x *exchange, done <-chan struct{}) error {
	var due <-chan time.Time // never
	if x.beats != nil {
		due = x.beats.C
	}
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-due:
			if err := p.beat(x); err != nil {
				return fmt.Errorf("%w: heartbeat not taken: %w", context.Canceled, err)
			}
			x.beats.Reset(p.Heartbeat)
		}
	}
}

// beat writes one heartbeat.
func (p *Proxy) beat(x *exchange) error {
	words, now := dialect.Of(x.Route), time.Now()
	if !x.Early {
		x.Early = true
		h := x.Header()
		h.Set("Content-Type", words.ContentType())
		h.Set("X-Request-Id", x.ID)
		h.Set("Cache-Control", "no-transform") // RFC 9111, section 5.2.2.6: a proxy that compresses would hold the beats back
		h.Set("X-Accel-Buffering", "no")       // nginx: pass them on as they come
		p.cors.Apply(x.request.Header.Get("Origin"), h)
		x.ResponseWriter.WriteHeader(http.StatusOK)
	}
	b := dialect.Beat{Path: x.Route, Model: x.asked.Model, Now: now, Waited: now.Sub(x.joined)}
	if x.turn != nil {
		b.Position = x.turn.Position()
	}
	if _, err := x.ResponseWriter.Write(words.Heartbeat(b)); err != nil {
		x.note(err)
		return err
	}
	return x.FlushError()
}

// meanwhile calls send on a goroutine of its own, which nothing of the chat runs beside
// but its heartbeats, and returns what send does.
func (p *Proxy) meanwhile(c *call, send func() (*http.Response, error)) (resp *http.Response, err error) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if panicked = recover(); panicked != nil {
				panicked = fmt.Sprintf("%v\n%s", panicked, debug.Stack())
			}
		}()
		resp, err = send()
	}()
	gone := p.await(c.ctx, c.x, done)
	if gone != nil {
		c.cancel(gone)
		<-done
	}
	switch {
	case panicked != nil:
		panic(panicked)
	case gone != nil && err == nil:
		resp.Body.Close()
		return nil, gone
	}
	return resp, err
}

// A targetError is an error that the target answered with, for a client that has the
// header of its answer already.
type targetError struct {
	status int
	code   string // OpenAI's; empty: none
	text   string
}

func (e *targetError) Error() string { return fmt.Sprintf("target answered %d: %s", e.status, e.text) }

// targetErrorLimit is how many bytes of such an answer are read.
const targetErrorLimit = 64 << 10

// readTargetError reads an answer that is no success, in the shape of any API.
func readTargetError(resp *http.Response) *targetError {
	e := &targetError{status: resp.StatusCode, text: http.StatusText(resp.StatusCode)}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, targetErrorLimit)) // what has come has to do
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	var inner struct {
		Message string `json:"message"`
		Code    string `json:"code"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return e
	}
	switch {
	case json.Unmarshal(answer.Error, &e.text) == nil:
	case json.Unmarshal(answer.Error, &inner) == nil:
		e.text, e.code = inner.Message, inner.Code
	}
	return e
}
