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
	Waker       waker         // nil: the target is not woken
	WakeTimeout time.Duration // how long to wake the target before it is given up

	source   source
	interval time.Duration
	log      *slog.Logger
	keep     []string
	beside   sync.WaitGroup // what runs beside the polls
	unsent   bool           // the last packet could not be sent; Run alone uses it

	mu      sync.Mutex // guards what follows
	state   State
	changed chan struct{} // closed, and replaced, when the state changes
}

// New returns an inventory that will poll source every interval, and sooner
// while degraded. The paths in keep are read after a good poll as well, to be
// served while the target is away. The inventory is degraded until the first poll.
func New(source source, interval time.Duration, log *slog.Logger, keep ...string) *Inventory {
	return &Inventory{
		source:   source,
		interval: interval,
		log:      log,
		keep:     keep,
		state:    State{Reason: Starting, Since: time.Now(), err: errors.New("not polled yet")},
		changed:  make(chan struct{}),
	}
}

// State returns what is known now.
func (inv *Inventory) State() State {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.state
}

// change changes the state, tells the log, and wakes all who wait for a change.
func (inv *Inventory) change(change func(s *State)) {
	inv.mu.Lock()
	before := inv.state
	change(&inv.state)
	after := inv.state
	inv.wakeLocked()
	inv.mu.Unlock()
	inv.logChange(before, after)
}

// wakeLocked has all who wait in until look at the state.
func (inv *Inventory) wakeLocked() {
	close(inv.changed)
	inv.changed = make(chan struct{})
}

// until waits for a state that will do, and returns it. The error is the cause of ctx, if
// that ended first.
func (inv *Inventory) until(ctx context.Context, willDo func(State) bool) (State, error) {
	for {
		inv.mu.Lock()
		state, changed := inv.state, inv.changed
		inv.mu.Unlock()
		if willDo(state) {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return State{}, context.Cause(ctx)
		}
	}
}

// Next waits until State().Seq is greater than seen, and returns the state at that
// time: the latest, whatever lay between. A change is a poll that failed, a target that is
// found alive again before a poll has ended or, after a good poll, the end of the attempt
// to read the resident models. The error is the cause of ctx, if that ended first.
func (inv *Inventory) Next(ctx context.Context, seen uint64) (State, error) {
	return inv.until(ctx, func(s State) bool { return s.Seq > seen })
}

// Check reports whether the target can be asked for a model, spelt in any way that
// Ollama accepts, and returns the model: it can if it lists the model, which is among
// those in only, and was not found unreachable. Before Check says no it polls once, in
// common with everybody who asks at that moment. A target that is away, and would be woken
// for the model (see [Inventory.Awake]), can be asked for it; if its models were never read,
// that is one of the name that was asked.
//
// The error is ErrNotFound, or ErrCloud, if the target answers and lacks the model; it
// wraps target.ErrUnreachable if the target does not answer, target.ErrLocal if foreman
// could not poll, and ErrDegraded, with the cause, if the target answers but its models
// cannot be read and the model was never seen; or it is the cause of ctx.
func (inv *Inventory) Check(ctx context.Context, asked string, only Patterns) (Model, error) {
	name, cloud, ok := reference(asked)
	notFound := ErrNotFound
	if cloud {
		notFound = ErrCloud
	}
	if !ok {
		return Model{}, notFound // no target can hold it: not worth a poll
	}
	came := time.Now()
	state, err := inv.ask(ctx, func(s State) bool {
		_, ok := s.models.find(asked, only)
		return ok && (s.reachable() || inv.wakes(s, asked, came))
	})
	if err != nil {
		return Model{}, err
	}
	model, ok := state.models.find(asked, only)
	wakes := inv.wakes(state, asked, came) && (ok || state.Tags == nil && only.Match(shortest(name)))
	switch {
	case !state.reachable() && !wakes:
		return Model{}, fmt.Errorf("last poll: %w", state.err)
	case ok:
		return model, nil
	case wakes:
		return Model{Name: shortest(name)}, nil
	case state.Degraded():
		return Model{}, fmt.Errorf("%w: %w", ErrDegraded, state.err)
	default:
		return Model{}, notFound
	}
}

// Reachable reports whether the target can be asked for anything: nil if it was
// not found unreachable. Before it says no it polls once, as Check does, and its errors
// are of those of Check.
func (inv *Inventory) Reachable(ctx context.Context) error {
	state, err := inv.ask(ctx, State.reachable)
	if err == nil && !state.reachable() {
		err = fmt.Errorf("last poll: %w", state.err)
	}
	return err
}

// Repoll requests a poll and waits for its end: of one that begins after this call, so
// that it knows what was changed until now. All who call while a poll is under
// way share the next one. The error is the cause of ctx, if that ended first, or why
// foreman could not poll.
func (inv *Inventory) Repoll(ctx context.Context) error {
	_, err := inv.ask(ctx, func(State) bool { return false })
	return err
}

// ask returns the state if that will do. Else it requests a poll, and waits until that has
// ended or the state will do: the poll before it may be under way, and take long. The
// error is the cause of ctx, if that ended first, or why foreman could not poll.
func (inv *Inventory) ask(ctx context.Context, willDo func(State) bool) (State, error) {
	if state := inv.State(); willDo(state) {
		return state, nil
	}
	poll := inv.request()
	state, err := inv.until(ctx, func(s State) bool { return willDo(s) || s.ended >= poll })
	if err == nil && !willDo(state) {
		err = state.local
	}
	return state, err
}

// request requests the poll after the one that is under way or was the last, and returns
// its number.
func (inv *Inventory) request() (poll int) {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.state.requested <= inv.state.begun {
		inv.state.requested = inv.state.begun + 1
		inv.wakeLocked()
	}
	return inv.state.requested
}

// Refresh requests a poll at once, because a request could not reach the target
// or the target's models were changed. It does not wait for it. While the target
// is known to be unreachable the ordinary polls are frequent enough.
func (inv *Inventory) Refresh() {
	if inv.State().reachable() {
		inv.request()
	}
}

// Suspect requests a poll, as Refresh does, of a target that is silent, unless one
// began in the last 5 s: many requests may find it silent.
func (inv *Inventory) Suspect() {
	if time.Since(inv.State().beganAt) >= degradedInterval {
		inv.Refresh()
	}
}

// Run polls until ctx ends.
func (inv *Inventory) Run(ctx context.Context) {
	defer inv.beside.Wait()
	inv.beside.Go(func() { inv.readAfterPolls(ctx) })
	inv.beside.Go(func() { inv.wakeWhenAsked(ctx) })
	for {
		due, cancel := context.WithDeadline(ctx, inv.State().NextPoll)
		state, err := inv.until(due, func(s State) bool { return s.requested > s.begun })
		cancel()
		if err == nil { // requested
			pause(ctx, minInterval-time.Since(state.beganAt))
		}
		if ctx.Err() != nil {
			return
		}
		inv.poll(ctx)
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

// poll reads the models of the source once and changes the state accordingly.
func (inv *Inventory) poll(ctx context.Context) {
	inv.change(func(s *State) {
		s.begun++
		s.beganAt = time.Now()
	})
	reading, giveUp := context.WithCancelCause(ctx)
	inv.beside.Go(func() { inv.watch(ctx, reading, giveUp) })
	tags, err := inv.source.Read(reading, "/api/tags")
	giveUp(nil)
	var held models
	if err == nil {
		held, err = readModels(tags)
	}
	if reasonFor(err) == BadAnswer && inv.isCircle(ctx) {
		err = fmt.Errorf("GET /api/version: %w", target.ErrLoop)
	}
	if ctx.Err() != nil {
		return // foreman is stopping: that says nothing of the target, and nothing to those who wait
	}
	inv.change(func(s *State) {
		s.endPoll(err)
		interval := min(inv.interval, degradedInterval)
		if err == nil {
			s.Tags, s.models, s.LastPoll = tags, held, time.Now()
			interval = inv.interval
		}
		if s.Slow {
			interval += time.Since(s.beganAt) // or it would never have done
		}
		s.NextPoll = s.beganAt.Add(interval)
	})
}

// isCircle reports whether the target, which has given a bad answer to a poll, is a
// foreman whose target is this one. Each answers polls from what it has read itself, which
// is nothing, and passes this.
func (inv *Inventory) isCircle(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	_, err := inv.source.Read(ctx, "/api/version")
	return errors.Is(err, target.ErrLoop)
}

// watch asks HEAD / beside a poll that takes long, until reading has ended: one that is
// answered late is of a slow target, which may take its time. It gives the poll up when
// that time is over or HEAD / is not answered either.
func (inv *Inventory) watch(ctx, reading context.Context, giveUp context.CancelCauseFunc) {
	began, patience := time.Now(), pollTimeout
	if !inv.State().reachable() {
		patience = time.Second // requests wait to hear if it is back
	}
	for pause(reading, patience) && time.Since(began) < slowTimeout {
		answered := make(chan error, 1)
		inv.beside.Go(func() { answered <- inv.head(ctx, reading) })
		select {
		case err := <-answered:
			if err != nil {
				giveUp(fmt.Errorf("no answer, nor to %w", err))
			}
		case <-time.After(pollTimeout):
			giveUp(fmt.Errorf("no answer, nor to HEAD /: %w: no answer within %v", target.ErrUnreachable, pollTimeout))
		case <-reading.Done():
		}
	}
	giveUp(errLate)
}

// head asks the source if it is alive, while a poll is read. An answer that comes later
// than that is a sign of life nevertheless.
func (inv *Inventory) head(ctx, reading context.Context) error {
	limited, cancel := context.WithTimeout(ctx, slowTimeout)
	defer cancel()
	err := inv.source.Alive(limited)
	if err == nil {
		inv.change(func(s *State) {
			s.answered()
			if reading.Err() == nil { // or what the poll has found stands, or is about to
				s.becomeSlow()
			}
		})
	}
	return err
}

// readAfterPolls reads what is of use after a good poll, until ctx ends. Nobody waits for
// that, so the polls must not either.
func (inv *Inventory) readAfterPolls(ctx context.Context) {
	var after uint64   // how many good polls the last reading was
	var kept time.Time // when the kept paths were read
	for {
		state, err := inv.until(ctx, func(s State) bool { return s.Polls.OK > after && !s.Degraded() })
		if err != nil {
			return
		}
		after = state.Polls.OK
		inv.readResident(ctx, state.Since)
		if time.Since(kept) >= inv.interval/2 { // polls before their time may be many
			kept = time.Now()
			inv.readKept(ctx)
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
		ps = nil
		inv.log.Debug("resident models not read", "err", err)
	}
	inv.change(func(s *State) {
		if s.Since.Equal(since) { // else an outage began meanwhile; after it they are read anew
			s.Resident, s.ResidentRead, s.PS = resident, read, ps
			s.Seq++
		}
	})
}

// readKept reads the kept paths. What cannot be read now, and older versions of
// Ollama lack some, stays as it was.
func (inv *Inventory) readKept(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	kept := make(map[string]Answer)
	maps.Copy(kept, inv.State().Kept)
	for _, path := range inv.keep {
		if body, err := inv.source.Read(ctx, path); err == nil {
			kept[path] = Answer{body, time.Now()}
		}
	}
	inv.change(func(s *State) { s.Kept = kept })
}

// logChange writes a record of what has changed for those who run foreman.
func (inv *Inventory) logChange(before, after State) {
	switch {
	case before.Reason == after.Reason && errors.Is(before.err, target.ErrLoop) == errors.Is(after.err, target.ErrLoop):
	case after.Degraded():
		inv.log.Warn("target degraded", "reason", after.Reason, "err", after.err, "models_kept", after.Len())
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
	switch {
	case before.Waking.IsZero() || !after.Waking.IsZero():
	case after.reachable():
		inv.log.Info("target woken", "took", time.Since(before.Waking).Round(time.Millisecond))
	default:
		inv.log.Warn("target not woken: does its machine sleep where packets reach it, and may they wake it?", "err", after.err)
	}
	if before.local == nil && after.local != nil {
		inv.log.Warn("not polled", "err", after.local)
	}
}
