// Package inventory knows which models the target holds, which of them are in its
// memory, and whether the target answers.
//
// It polls the target, keeps the last good answer through outages and marks
// itself degraded meanwhile. It never forgets a model because the target went
// away: only a good answer without that model does so.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"foreman/proxy/target"
)

const (
	pollTimeout      = 4 * time.Second        // for one poll, from dialling to the last byte, or the target is slow; for HEAD /, and for what is read after a poll
	slowTimeout      = 45 * time.Second       // for one poll of a target that answers HEAD / meanwhile
	minInterval      = 250 * time.Millisecond // shortest time between the beginnings of two polls, whoever asks
	degradedInterval = 5 * time.Second        // longest time between the beginnings of two polls while degraded

	// See [State.Asleep]. A target that is silent to a client is polled within 5 s, so
	// that it is known as asleep within 45 s.
	asleepAfter = 3
	asleepTime  = 40 * time.Second
)

// errLate is why a poll failed, or has not ended, if the target answers HEAD / meanwhile.
var errLate = errors.New("GET /api/tags: no answer, though HEAD / is answered")

// Errors of [Inventory.Check], beside [target.ErrUnreachable].
var (
	ErrNotFound = errors.New("not found on the target")
	ErrCloud    = errors.New("a model of Ollama's cloud that was not pulled: it would run on the account of the target's owner")
	ErrDegraded = errors.New("unknown, and the target's models cannot be read")
)

// A source is the target as the inventory needs it.
type source interface {
	// Read returns the body of the target's answer to GET path.
	Read(ctx context.Context, path string) ([]byte, error)
	// Alive asks HEAD / on a new connection. Any answer to it is none of its errors.
	Alive(ctx context.Context) error
}

// An Inventory polls a source while [Inventory.Run] runs. Make one with [New].
type Inventory struct {
	source   source
	interval time.Duration
	log      *slog.Logger
	keep     []string
	early    chan struct{}  // holds one token while a poll is requested before its time
	heads    sync.WaitGroup // HEAD / that are under way
	lacking  bool           // the last poll could not be made; Run alone uses it

	mu      sync.Mutex // guards what follows
	state   State
	changed chan struct{} // closed, and replaced, when state.Seq grows
	next    *poll         // that begins next
	begun   time.Time     // when the last poll began
}

// A poll is one reading of the models.
type poll struct {
	done chan struct{} // closed when the poll has ended
	err  error         // why foreman could not poll; set before done is closed
}

func newPoll() *poll { return &poll{done: make(chan struct{})} }

// New returns an inventory that will poll source every interval, and sooner
// while degraded. The paths in keep are read after a good poll as well, to be
// served while the target is away. The inventory is degraded until the first poll.
func New(source source, interval time.Duration, log *slog.Logger, keep ...string) *Inventory {
	return &Inventory{
		source:   source,
		interval: interval,
		log:      log,
		keep:     keep,
		early:    make(chan struct{}, 1),
		state:    State{Reason: Starting, Since: time.Now(), err: errors.New("not polled yet")},
		changed:  make(chan struct{}),
		next:     newPoll(),
	}
}

// State returns what is known now.
func (inv *Inventory) State() State {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.state
}

// Next waits until State().Seq is greater than seen, and returns the state at that
// time: the latest, whatever lay between. A change is a poll that failed, a target that is
// found alive again before a poll has ended or, after a good poll, the end of the attempt
// to read the resident models. The error is the cause of ctx, if that ended first.
func (inv *Inventory) Next(ctx context.Context, seen uint64) (State, error) {
	for {
		inv.mu.Lock()
		state, changed := inv.state, inv.changed
		inv.mu.Unlock()
		if state.Seq > seen {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return State{}, context.Cause(ctx)
		}
	}
}

// Check reports whether the target can be asked for a model, spelt in any way that
// Ollama accepts, and returns the model: it can if it lists the model and was not
// found unreachable. Before Check says no it polls once, in common with everybody who
// asks at that moment.
//
// The error is ErrNotFound, or ErrCloud, if the target answers and lacks the model; it
// wraps target.ErrUnreachable if the target does not answer, and ErrDegraded, with the cause, if
// it answers but its models cannot be read and the model was never seen; or it is
// the cause of ctx.
func (inv *Inventory) Check(ctx context.Context, asked string) (Model, error) {
	_, cloud, ok := reference(asked)
	notFound := ErrNotFound
	if cloud {
		notFound = ErrCloud
	}
	if !ok {
		return Model{}, notFound // no target can hold it: not worth a poll
	}
	state := inv.State()
	if !state.Holds(asked) || state.Reason == Unreachable {
		poll := inv.request()
		if err := inv.await(ctx, poll, State.reachable); err != nil {
			return Model{}, err
		}
		if inv.State().Reason != Unreachable {
			if err := inv.await(ctx, poll, func(s State) bool { return s.Holds(asked) }); err != nil {
				return Model{}, err
			}
		}
		state = inv.State()
	}
	switch model, ok := state.models.find(asked); {
	case state.Reason == Unreachable:
		return Model{}, fmt.Errorf("last poll: %w", state.err)
	case ok:
		return model, nil
	case state.Degraded():
		return Model{}, fmt.Errorf("%w: %w", ErrDegraded, state.err)
	default:
		return Model{}, notFound
	}
}

// Reachable reports whether the target can be asked for anything: nil if it was
// not found unreachable. Before it says no it polls once, as Check does. The error
// wraps target.ErrUnreachable, or is the cause of ctx.
func (inv *Inventory) Reachable(ctx context.Context) error {
	if inv.State().Reason != Unreachable {
		return nil
	}
	if err := inv.await(ctx, inv.request(), State.reachable); err != nil {
		return err
	}
	if state := inv.State(); state.Reason == Unreachable {
		return fmt.Errorf("last poll: %w", state.err)
	}
	return nil
}

// Refresh requests a poll at once, because a request could not reach the target
// or the target's models were changed. It does not wait for it. While the target
// is known to be unreachable the ordinary polls are frequent enough.
func (inv *Inventory) Refresh() {
	if inv.State().Reason != Unreachable {
		inv.request()
	}
}

// Suspect requests a poll, as Refresh does, of a target that is silent, unless one
// began in the last 5 s: many requests may find it silent.
func (inv *Inventory) Suspect() {
	inv.mu.Lock()
	recent := time.Since(inv.begun) < degradedInterval
	inv.mu.Unlock()
	if !recent {
		inv.Refresh()
	}
}

// Repoll requests a poll and waits for its end: of one that begins after this call, so
// that it knows what was changed until now. All who call while a poll is under
// way share the next one. The error is the cause of ctx, if that ended first, or why
// foreman could not poll.
func (inv *Inventory) Repoll(ctx context.Context) error {
	return inv.await(ctx, inv.request(), func(State) bool { return false })
}

// await waits until the poll has ended, or the state is good enough: the poll before it
// may be under way, and take long. The error is the cause of ctx, if that ended first, or
// why foreman could not poll.
func (inv *Inventory) await(ctx context.Context, poll *poll, enough func(State) bool) error {
	for {
		inv.mu.Lock()
		state, changed := inv.state, inv.changed
		inv.mu.Unlock()
		if enough(state) {
			return nil
		}
		select {
		case <-changed:
		case <-poll.done:
			return poll.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// request requests a poll, and returns it.
func (inv *Inventory) request() *poll {
	inv.mu.Lock()
	poll := inv.next // before the token is there: it may be taken at once
	inv.mu.Unlock()
	select {
	case inv.early <- struct{}{}:
	default: // already requested
	}
	return poll
}

// Run polls until ctx ends.
func (inv *Inventory) Run(ctx context.Context) {
	// Nobody waits for what is read after a poll, so the polls must not either.
	good := make(chan bool, 1) // holds a token after a good poll; true: read the kept paths as well
	var reader sync.WaitGroup
	reader.Go(func() { inv.readAfterPolls(ctx, good) })
	inv.runPolls(ctx, good)
	reader.Wait()
	inv.heads.Wait()
}

// runPolls polls until ctx ends, and puts a token into good after each good poll.
func (inv *Inventory) runPolls(ctx context.Context, good chan bool) {
	var began time.Time // when the last poll did
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ordinary := true
		select {
		case <-timer.C:
		case <-inv.early:
			ordinary = false
			if !pause(ctx, minInterval-time.Since(began)) {
				return
			}
		case <-ctx.Done():
			return
		}
		began = time.Now()
		interval := inv.interval
		if inv.poll(ctx) {
			if inv.State().Slow {
				interval += time.Since(began) // or it would never have done
			}
			keep := ordinary
			select {
			case before := <-good: // not taken yet
				keep = keep || before
			default:
			}
			good <- keep
		} else {
			interval = min(interval, degradedInterval)
		}
		timer.Reset(interval - time.Since(began))
		inv.mu.Lock()
		inv.state.NextPoll = began.Add(interval)
		inv.mu.Unlock()
	}
}

// pause waits for d, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// poll reads the models of the source once, changes the state accordingly and
// reports whether the poll was good.
func (inv *Inventory) poll(ctx context.Context) bool {
	began := time.Now()
	inv.mu.Lock()
	poll := inv.next
	inv.next, inv.begun = newPoll(), began
	inv.mu.Unlock()

	reading, giveUp := context.WithCancelCause(ctx)
	asked := began // of what the target has not answered
	var beside sync.WaitGroup
	beside.Go(func() { asked = inv.watch(ctx, reading, giveUp) })
	tags, err := inv.source.Read(reading, "/api/tags")
	giveUp(nil)
	beside.Wait()
	var held models
	if err == nil {
		held, err = readModels(tags)
	}
	if err != nil && inv.isCircle(ctx, err) {
		err = fmt.Errorf("GET /api/version: %w", target.ErrLoop)
	}
	if ctx.Err() != nil {
		return false // foreman is stopping: that says nothing of the target, and nothing to those who wait
	}
	defer close(poll.done)
	if errors.Is(err, target.ErrLocal) {
		if poll.err = err; !inv.lacking {
			inv.log.Warn("not polled", "err", err)
		}
		inv.lacking = true
		return false
	}
	inv.lacking = false

	inv.mu.Lock()
	before := inv.state
	after := before.after(err, time.Since(began) >= pollTimeout, asked)
	if err == nil {
		after.Tags, after.models, after.LastPoll = tags, held, time.Now()
	}
	inv.state = after
	if err != nil {
		inv.tellLocked()
	}
	inv.mu.Unlock()
	inv.logChange(before, after, err)
	return err == nil
}

// isCircle reports whether a poll was answered with err because the target is a foreman
// whose target is this one. Each answers polls from what it has read itself, which is
// nothing, and passes this.
func (inv *Inventory) isCircle(ctx context.Context, err error) bool {
	for _, other := range []error{target.ErrUnreachable, target.ErrUnauthorized, target.ErrLocal, errLate} {
		if errors.Is(err, other) {
			return false
		}
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	_, err = inv.source.Read(ctx, "/api/version")
	return errors.Is(err, target.ErrLoop)
}

// watch asks HEAD / beside a poll that takes long: one that is answered late is of a
// slow target, which may take its time. It gives the poll up when that time is over or
// nothing is answered, and returns when reading has ended. Asked is when that was asked
// which the target has not answered.
func (inv *Inventory) watch(ctx, reading context.Context, giveUp context.CancelCauseFunc) (asked time.Time) {
	asked = time.Now()
	end := asked.Add(slowTimeout)
	after := pollTimeout
	if inv.State().Reason == Unreachable {
		after = time.Second // requests wait to hear if it is back
	}
	for pause(reading, after) {
		if time.Now().After(end) {
			giveUp(errLate)
			break
		}
		now := time.Now()
		err := inv.head(ctx, reading)
		if reading.Err() != nil {
			break
		}
		if err != nil {
			giveUp(fmt.Errorf("no answer, nor to %w", err))
			break
		}
		asked = now
		inv.mu.Lock()
		before := inv.state
		inv.state = before.alive()
		if inv.state.Reason != before.Reason {
			inv.tellLocked()
		}
		after := inv.state
		inv.mu.Unlock()
		inv.logChange(before, after, errLate)
	}
	return asked
}

// head asks the source if it is alive, for 4 s or until enough ends. An answer that comes
// later is a sign of life nevertheless.
func (inv *Inventory) head(ctx, enough context.Context) error {
	answer := make(chan error, 1)
	inv.heads.Go(func() {
		limited, cancel := context.WithTimeout(ctx, slowTimeout)
		defer cancel()
		err := inv.source.Alive(limited)
		if err == nil {
			inv.mu.Lock()
			inv.state.unanswered, inv.state.unconnected = time.Time{}, 0
			inv.mu.Unlock()
		}
		answer <- err
	})
	select {
	case err := <-answer:
		return err
	case <-time.After(pollTimeout):
		return fmt.Errorf("HEAD /: %w: no answer within %v", target.ErrUnreachable, pollTimeout)
	case <-enough.Done():
		return nil
	}
}

// tellLocked lets Next return the state.
func (inv *Inventory) tellLocked() {
	inv.state.Seq++
	close(inv.changed)
	inv.changed = make(chan struct{})
}

// readAfterPolls reads, for each token in good, what is of use after a good poll,
// until ctx ends.
func (inv *Inventory) readAfterPolls(ctx context.Context, good <-chan bool) {
	for {
		select {
		case keep := <-good:
			state := inv.State()
			if state.Degraded() {
				continue // since the token came; the next good poll brings another
			}
			inv.readResident(ctx, state.Since)
			if keep {
				inv.readKept(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// readResident reads which models are resident. since is the State.Since of the
// state that the answer is for.
func (inv *Inventory) readResident(ctx context.Context, since time.Time) {
	limited, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	ps, err := inv.source.Read(limited, "/api/ps")
	var resident []Resident
	if err == nil {
		resident, err = readResident(ps)
	}
	if ctx.Err() != nil {
		return
	}
	var read time.Time
	if err == nil {
		read = time.Now()
	} else {
		inv.log.Debug("resident models not read", "err", err)
	}

	inv.mu.Lock()
	defer inv.mu.Unlock()
	if !inv.state.Since.Equal(since) {
		return // an outage began meanwhile; after it they are read anew
	}
	inv.state.Resident, inv.state.ResidentRead = resident, read
	inv.tellLocked()
}

// readKept reads the kept paths. What cannot be read now, and older versions of
// Ollama lack some, stays as it was.
func (inv *Inventory) readKept(ctx context.Context) {
	if len(inv.keep) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	kept := make(map[string]Answer)
	maps.Copy(kept, inv.State().Kept)
	for _, path := range inv.keep {
		if body, err := inv.source.Read(ctx, path); err == nil {
			kept[path] = Answer{body, time.Now()}
		}
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.state.Kept = kept
}

// logChange writes one record when the reason to be degraded changes.
func (inv *Inventory) logChange(before, after State, err error) {
	switch {
	case before.Reason == after.Reason && errors.Is(before.err, target.ErrLoop) == errors.Is(after.err, target.ErrLoop):
	case after.Degraded():
		inv.log.Warn("target degraded", "reason", after.Reason, "err", err, "models_kept", after.Len())
	case before.Reason == Starting:
		inv.log.Info("target ready", "models", after.Len())
	default:
		inv.log.Info("target recovered", "models", after.Len(), "outage", after.Since.Sub(before.Since).Round(time.Millisecond))
	}
	switch {
	case before.Slow == after.Slow:
	case after.Slow:
		inv.log.Warn("target slow to tell its models", "models_kept", after.Len())
	case !after.Degraded():
		inv.log.Info("target slow no more")
	}
}
