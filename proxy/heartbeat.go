package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"foreman/proxy/dialect"
)

// Most clients give up when they have heard nothing for some time. One that asked for
// a stream, and waits in line or for the target's first byte, hears every
// Options.Heartbeat that its request is alive. The first beat sends the header of the
// answer, 200, and the answer's own can no longer be told; see [exchange.WriteHeader].
// Without a stream there is no safe way to tell an error after that, so there are no
// beats.

// Beats are the heartbeats of one answer, which a timer writes.
type beats struct {
	mu    sync.Mutex  // held while one is written
	timer *time.Timer // of the next one; nil: there is none
}

// startBeats lets the client of a stream hear from foreman until its beats are stopped.
// A client that does not take one is gone. Until then the chat's own goroutine must not
// touch the ResponseWriter, nor change what [Proxy.beat] reads.
func (p *Proxy) startBeats(x *exchange) {
	if p.Heartbeat == 0 || !x.asked.Stream {
		return
	}
	delete(x.request.Header, "Accept-Encoding") // the header that goes out with a beat could not tell the coding
	x.beats.mu.Lock()
	defer x.beats.mu.Unlock()
	x.beats.timer = time.AfterFunc(p.Heartbeat, func() {
		x.beats.mu.Lock()
		defer x.beats.mu.Unlock()
		if x.beats.timer == nil {
			return
		}
		defer func() {
			if e := recover(); e != nil { // here it would end the process, and not one request
				x.cancel(p.panicked(x, e))
			}
		}()
		if err := p.beat(x); err != nil {
			x.cancel(fmt.Errorf("%w: heartbeat not taken: %w", context.Canceled, err))
			return
		}
		x.beats.timer.Reset(p.Heartbeat)
	})
}

// stop ends the beats, of which none is being written any more when it returns.
func (b *beats) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
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
	b := dialect.Beat{Path: x.Route, Model: x.Model, Now: now, Waited: now.Sub(x.joined)}
	if x.turn != nil {
		b.Position = x.turn.Position()
	}
	if _, err := x.ResponseWriter.Write(words.Heartbeat(b)); err != nil {
		x.note(err)
		return err
	}
	return x.FlushError()
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

// readTargetError reads an answer that is no success, in the shape of any API. It always
// has a text: clients take an error without one for none.
func readTargetError(resp *http.Response) *targetError {
	e := &targetError{status: resp.StatusCode}
	e.text = strings.TrimSpace(fmt.Sprintf("the Ollama host answered %d %s", e.status, http.StatusText(e.status)))
	body, _ := io.ReadAll(io.LimitReader(resp.Body, targetErrorLimit)) // what has come has to do
	var (
		text   string
		answer struct {
			Error json.RawMessage `json:"error"`
		}
		inner struct {
			Message any `json:"message"`
			Code    any `json:"code"` // a number in some
		}
	)
	json.Unmarshal(body, &answer) // what cannot be read has no text
	if json.Unmarshal(answer.Error, &text) != nil && json.Unmarshal(answer.Error, &inner) == nil {
		text, _ = inner.Message.(string)
		e.code, _ = inner.Code.(string)
	}
	if strings.TrimSpace(text) != "" {
		e.text = text
	}
	return e
}
