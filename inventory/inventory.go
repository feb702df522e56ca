// Package inventory knows which models the target holds and whether the target
// answers.
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
)

const (
	pollTimeout      = 4 * time.Second        // for one poll, from dialling to the last byte
	hurriedInterval  = 250 * time.Millisecond // shortest time between two polls, whoever asks for them
	degradedInterval = 5 * time.Second        // longest time between two polls while degraded
)

// Reasons to be degraded, coarse enough to be told to anybody.
const (
	Starting     = "starting" // no poll has ended yet
	Unreachable  = "unreachable"
	Unauthorized = "unauthorized"
	BadAnswer    = "bad answer"
)

// Errors that a source wraps to tell these failures from every other one.
// ErrUnreachable is a transient failure of the connection: nothing was answered.
var (
	ErrUnreachable  = errors.New("target unreachable")
	ErrUnauthorized = errors.New("target refused foreman")
)

// Errors of [Inventory.Check], beside ErrUnreachable.
var (
	ErrNotFound = errors.New("not found on the target")
	ErrDegraded = errors.New("unknown, and the target's models cannot be read")
)

// A source is the target as the inventory needs it.
type source interface {
	// Tags returns the body of the target's answer to GET /api/tags.
	Tags(context.Context) ([]byte, error)
	// Read returns the body of the target's answer to GET path.
	Read(ctx context.Context, path string) ([]byte, error)
}

// State is what was known at one moment.
type State struct {
	Tags       []byte            // the target's last good answer to GET /api/tags; nil before the first
	Kept       map[string]Answer // its last good answers to GET on the paths of Inventory.Keep
	LastPoll   time.Time         // when Tags was read
	Reason     string            // why the state is degraded; empty: it is not
	Since      time.Time         // when it became, or ceased to be, degraded
	Unanswered int               // polls in a row that ended in ErrUnreachable; those within 4 s of each other count once

	models  models
	err     error     // of the last poll
	counted time.Time // when Unanswered last grew
}

// An Answer is what the target said, and when that was read.
type Answer struct {
	Body []byte
	Read time.Time
}

// Degraded reports whether the last poll failed, or none has ended yet.
func (s State) Degraded() bool { return s.Reason != "" }

// Len returns how many models the target holds.
func (s State) Len() int { return len(s.models.listed) }

// Names returns the models that the target holds, as it tells them and in its
// order. The caller must not change them.
func (s State) Names() []string { return s.models.listed }

// Holds reports whether the target holds the model by that name, spelt in any
// way that Ollama accepts.
func (s State) Holds(name string) bool { return s.models.named(name) != "" }

// An Inventory polls a source while [Inventory.Run] runs. Make one with [New].
type Inventory struct {
	// Polled, if not nil, is called by Run after every poll with the state that
	// the poll led to. It must not block.
	Polled func(State)
	// Keep are further paths that are read after a good poll, to be told while
	// the target is away.
	Keep []string

	source   source
	interval time.Duration
	log      *slog.Logger
	wake     chan struct{} // holds one token while a poll is wanted before its time

	mu    sync.Mutex // guards what follows
	state State
	next  chan struct{} // closed when the next poll that begins has ended; nil: nobody waits for it
}

// New returns an inventory that will poll source every interval, and sooner
// while degraded. It is degraded until the first poll.
func New(source source, interval time.Duration, log *slog.Logger) *Inventory {
	return &Inventory{
		source:   source,
		interval: interval,
		log:      log,
		wake:     make(chan struct{}, 1),
		state:    State{Reason: Starting, Since: time.Now(), err: errors.New("not polled yet")},
	}
}

// Run polls until ctx ends.
func (inv *Inventory) Run(ctx context.Context) {
	var (
		began time.Time // when the last poll did
		timer = time.NewTimer(0)
	)
	defer timer.Stop()
	for {
		hurried := false
		select {
		case <-timer.C:
		case <-inv.wake:
			hurried = true
			if !pause(ctx, hurriedInterval-time.Since(began)) {
				return
			}
		case <-ctx.Done():
			return
		}
		began = time.Now()
		state := inv.poll(ctx)
		if !hurried && !state.Degraded() {
			inv.keep(ctx)
		}
		interval := inv.interval
		if state.Degraded() {
			interval = min(interval, degradedInterval)
		}
		timer.Reset(interval - time.Since(began))
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

// State returns what is known now.
func (inv *Inventory) State() State {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	return inv.state
}

// Check reports whether the target can be asked for a model, spelt in any way that
// Ollama accepts, and returns the model's name as the target tells it: it can if it
// holds the model and was not found unreachable. Before Check says no it polls
// once, in common with everybody who asks at that moment.
//
// The error is ErrNotFound if the target answers and lacks the model; it wraps
// ErrUnreachable if the target does not answer, and ErrDegraded, with the cause, if
// it answers but its models cannot be read and the model was never seen; or it is
// the cause of ctx.
func (inv *Inventory) Check(ctx context.Context, model string) (name string, err error) {
	key, ok := canonical(model)
	if !ok {
		return "", ErrNotFound // no target can hold it: not worth a poll
	}
	state := inv.State()
	if state.models.names[key] == "" || state.Reason == Unreachable {
		if err := inv.Repoll(ctx); err != nil {
			return "", err
		}
		state = inv.State()
	}
	switch name := state.models.names[key]; {
	case state.Reason == Unreachable:
		return "", fmt.Errorf("last poll: %w", state.err)
	case name != "":
		return name, nil
	case state.Degraded():
		return "", fmt.Errorf("%w: %w", ErrDegraded, state.err)
	default:
		return "", ErrNotFound
	}
}

// Reachable reports whether the target can be asked for anything: nil if it was
// not found unreachable. Before it says no it polls once, as Check does. The error
// wraps ErrUnreachable, or is the cause of ctx.
func (inv *Inventory) Reachable(ctx context.Context) error {
	if inv.State().Reason != Unreachable {
		return nil
	}
	if err := inv.Repoll(ctx); err != nil {
		return err
	}
	if state := inv.State(); state.Reason == Unreachable {
		return fmt.Errorf("last poll: %w", state.err)
	}
	return nil
}

// Refresh asks for a poll at once, because a request could not reach the target
// or the target's models were changed. It does not wait for it. While the target
// is known to be unreachable the ordinary polls are frequent enough.
func (inv *Inventory) Refresh() {
	if inv.State().Reason != Unreachable {
		inv.hurry()
	}
}

// Repoll asks for a poll and waits for it: one that begins after this call, so
// that it knows what was changed until now. All who call while a poll is under
// way share the next one. The error is the cause of ctx, if that ended first.
func (inv *Inventory) Repoll(ctx context.Context) error {
	inv.mu.Lock()
	if inv.next == nil {
		inv.next = make(chan struct{})
	}
	ended := inv.next
	inv.mu.Unlock()
	inv.hurry()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (inv *Inventory) hurry() {
	select {
	case inv.wake <- struct{}{}:
	default: // already wanted
	}
}

// poll asks the source once and moves to the state that its answer leads to.
func (inv *Inventory) poll(ctx context.Context) State {
	inv.mu.Lock()
	ended := inv.next
	inv.next = nil
	inv.mu.Unlock()

	limited, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	tags, err := inv.source.Tags(limited)
	var held models
	if err == nil {
		held, err = readModels(tags)
	}
	if ctx.Err() != nil {
		return inv.State() // foreman is stopping: that says nothing of the target, and nothing to those who wait
	}

	inv.mu.Lock()
	before := inv.state
	after := before.next(err)
	if err == nil {
		after.Tags, after.models, after.LastPoll = tags, held, time.Now()
	}
	inv.state = after
	inv.mu.Unlock()

	inv.logChange(before, after, err)
	if inv.Polled != nil {
		inv.Polled(after)
	}
	if ended != nil {
		close(ended)
	}
	return after
}

// keep reads the further paths, after an ordinary poll. What cannot be read now,
// and older versions of Ollama lack some, stays as it was.
func (inv *Inventory) keep(ctx context.Context) {
	if len(inv.Keep) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	kept := maps.Clone(inv.State().Kept)
	if kept == nil {
		kept = map[string]Answer{}
	}
	for _, path := range inv.Keep {
		if body, err := inv.source.Read(ctx, path); err == nil {
			kept[path] = Answer{body, time.Now()}
		}
	}
	inv.mu.Lock()
	defer inv.mu.Unlock()
	inv.state.Kept = kept
}

// next returns s as a poll that ended with err leaves it, but for the models.
func (s State) next(err error) State {
	unanswered, reason := 0, ""
	switch {
	case err == nil:
	case errors.Is(err, ErrUnreachable):
		unanswered, reason = s.Unanswered, Unreachable
		if unanswered == 0 || time.Since(s.counted) >= pollTimeout { // many who ask make many polls
			unanswered, s.counted = unanswered+1, time.Now()
		}
	case errors.Is(err, ErrUnauthorized):
		reason = Unauthorized
	default:
		reason = BadAnswer
	}
	if (reason == "") != (s.Reason == "") {
		s.Since = time.Now()
	}
	s.Reason, s.Unanswered, s.err = reason, unanswered, err
	return s
}

// logChange writes one record when the reason to be degraded changes.
func (inv *Inventory) logChange(before, after State, err error) {
	switch {
	case before.Reason == after.Reason:
	case after.Degraded():
		inv.log.Warn("target degraded", "reason", after.Reason, "err", err, "models_kept", after.Len())
	case before.Reason == Starting:
		inv.log.Info("target ready", "models", after.Len())
	default:
		inv.log.Info("target recovered", "models", after.Len(), "outage", after.Since.Sub(before.Since).Round(time.Millisecond))
	}
}
