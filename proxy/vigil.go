package proxy

import (
	"context"
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"
)

// A vigil gives a passed request up if its host is found asleep while a byte of
// the answer is waited for, as a turn's watch does for a chat. There may be many,
// so it costs no goroutine.
type vigil struct {
	ctx     context.Context // of the request to the target
	timer   *time.Timer
	waiting atomic.Bool // Stop does not undo a Reset that comes behind it
}

// keepVigil begins one, for the first byte, and returns the request that it can
// give up.
func (p *Proxy) keepVigil(r *http.Request) (*http.Request, *vigil) {
	ctx, cancel := context.WithCancelCause(r.Context())
	v := &vigil{ctx: ctx}
	v.timer = time.AfterFunc(math.MaxInt64, func() {
		switch {
		case !v.waiting.Load():
			return
		case p.Inventory.State().Unanswered >= asleepAfter:
			cancel(errAsleep)
			return
		}
		p.Inventory.Refresh()
		v.timer.Reset(suspicious)
	})
	v.wait()
	return r.WithContext(ctx), v
}

func (v *vigil) wait() {
	v.waiting.Store(true)
	v.timer.Reset(suspicious)
}

func (v *vigil) pause() {
	v.waiting.Store(false)
	v.timer.Stop()
}

// A watched body keeps the vigil while the target is waited for, and not while the
// client is to take what came.
type watched struct {
	io.ReadCloser
	p *Proxy
	x *exchange
}

func (w *watched) Read(b []byte) (int, error) {
	w.x.vigil.wait()
	n, err := w.ReadCloser.Read(b)
	w.x.vigil.pause()
	if err != nil && err != io.EOF {
		w.p.brokeOff(w.x, classify(w.x.vigil.ctx, err))
	}
	return n, err
}
