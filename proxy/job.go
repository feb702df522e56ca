package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"foreman/inventory"
)

// A job is a request that the target works on: from when it may be sent to the
// last byte that the target has to say, to a client that reads. A chat's job is its
// turn at the worker model. The watch (watch.go) takes a job away, by cancelling
// its request, when the target goes silent.
//
// It is the context of that request.
type job struct {
	context.Context
	x      *exchange
	cancel context.CancelCauseFunc
	stall  time.Duration // longest silence of a target that is otherwise alive; 0: any
	launch *launch       // of a chat; nil: it need not wait for its turn
	began  time.Time
	end    func() // lets the next chat in; may be called twice

	// Nanoseconds from began, as counted by elapsed.
	waiting  atomic.Int64 // since when the target's next byte is waited for; or notWaiting
	answered atomic.Int64 // when its first byte came; 0: not yet

	received atomic.Int64 // bytes of the answer's body
	complete atomic.Bool  // the target's last byte has come
}

// notWaiting is for a job while the client is to take what the target has said.
const notWaiting = -1

// newJob returns a job that has not begun.
func newJob(ctx context.Context, x *exchange) *job {
	j := &job{x: x}
	j.Context, j.cancel = context.WithCancelCause(ctx)
	return j
}

type jobKey struct{}

// Value lets jobOf find the job.
func (j *job) Value(key any) any {
	if key == (jobKey{}) {
		return j
	}
	return j.Context.Value(key)
}

// jobOf returns the job that a request on its way to the target, or back, belongs
// to.
func jobOf(r *http.Request) *job {
	return r.Context().Value(jobKey{}).(*job)
}

// beginPass begins the job of a request that passes, beside any number of others.
func (p *Proxy) beginPass(j *job) {
	j.end = func() { p.jobs.remove(j) }
	p.begin(j)
}

func (p *Proxy) begin(j *job) {
	j.began = time.Now()
	j.x.job = j
	p.jobs.add(j)
}

// finish ends the job: the target has said all.
func (j *job) finish() {
	j.complete.Store(true)
	j.end()
}

func (j *job) elapsed() time.Duration { return time.Since(j.began) }

// silence is for how long the target's next byte has been waited for.
func (j *job) silence() time.Duration {
	if waiting := j.waiting.Load(); waiting != notWaiting {
		return j.elapsed() - time.Duration(waiting)
	}
	return 0
}

// Answering returns the model of the chat that the target is answering and for
// how long it has been; "" if it answers none.
func (p *Proxy) Answering() (model string, d time.Duration) {
	j := p.running.Load()
	if j == nil || j.answered.Load() == 0 {
		return "", 0
	}
	return j.x.model, j.elapsed() - time.Duration(j.answered.Load())
}

// follow returns the body of the target's answer to a job.
func (p *Proxy) follow(j *job, resp *http.Response) io.ReadCloser {
	j.answered.Store(int64(j.elapsed()))
	return &followed{resp.Body, p, j}
}

// A followed body tells when the target is waited for, and ends the job with the
// target's last byte: while the client takes the rest, the target can work for the
// next.
type followed struct {
	io.ReadCloser
	p *Proxy
	j *job
}

func (f *followed) Read(b []byte) (int, error) {
	f.j.waiting.Store(int64(f.j.elapsed()))
	n, err := f.ReadCloser.Read(b)
	f.j.waiting.Store(notWaiting)
	f.j.received.Add(int64(n))
	switch err {
	case nil:
	case io.EOF:
		f.j.finish()
	default:
		f.p.brokeOff(f.j.x, classify(f.j, err))
	}
	return n, err
}

// brokeOff notes why an answer that had begun came to no end. If that was the
// connection, a poll at once tells what to think of the target.
func (p *Proxy) brokeOff(x *exchange, cause error) {
	x.cause = cause
	if errors.Is(cause, inventory.ErrUnreachable) {
		p.Inventory.Refresh()
	}
}
