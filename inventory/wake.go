package inventory

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"foreman/proxy/target"
)

// wakeInterval is the time between two packets that are to wake the target.
const wakeInterval = 5 * time.Second

// A waker is the way to wake the machine of the target.
type waker interface {
	// Wake sends it one packet.
	Wake(ctx context.Context) error
}

// Wakes counts attempts to wake the target that have ended, by result.
type Wakes struct {
	OK, Failed uint64
}

// Awake waits until the target can be asked for anything by a request that came at a time,
// and wakes it for that if need be. A target is woken that does not answer, unless its
// machine refuses the connection and so is up, or the last attempt ended in vain after the
// request came; and only for a model that it lists, or for any where its models were never
// read. All who ask meanwhile share the one attempt, which goes on for WakeTimeout though
// nobody waits any more. The errors are those of [Inventory.Reachable].
//
// Lost is why the request could not reach a target that was found to be awake; nil: it has
// not tried. It is the error unless the target was woken since.
func (inv *Inventory) Awake(ctx context.Context, model string, came time.Time, lost error) error {
	if lost != nil {
		if inv.Waker == nil {
			return lost
		}
		if _, err := inv.ask(ctx, func(s State) bool { return !s.reachable() }); err != nil {
			return err
		}
	}
	if inv.beginWake(model, came) {
		return inv.awaitWake(ctx, came)
	}
	if state := inv.State(); state.Asleep() && came.Before(state.beganAt) { // else each of a long line would ask if it is back
		return fmt.Errorf("last poll: %w", state.err)
	}
	return cmp.Or(inv.Reachable(ctx), lost)
}

// Rest has no attempt to wake the target begin until it is called with false: its machine
// is kept for its owner. Then those who have waited meanwhile may have it woken, whatever
// was in vain before.
func (inv *Inventory) Rest(rest bool) {
	inv.change(func(s *State) {
		if s.resting = rest; !rest {
			s.gaveUp = time.Time{}
		}
	})
}

// awaitWake waits for the end of the attempt to wake the target that is under way.
func (inv *Inventory) awaitWake(ctx context.Context, came time.Time) error {
	state, err := inv.until(ctx, func(s State) bool { return s.Waking.IsZero() || !s.gaveUp.Before(came) })
	if err == nil && !state.reachable() {
		err = fmt.Errorf("not woken; last poll: %w", state.err)
	}
	return err
}

// wakes reports whether a request for a model, which came at a time, is one for which the
// target is to be woken, or is being woken.
func (inv *Inventory) wakes(s State, model string, came time.Time) bool {
	mayBegin := !target.IsRefused(s.err) && s.gaveUp.Before(came)
	return inv.Waker != nil && !s.reachable() && (s.Tags == nil || s.Holds(model)) && (!s.Waking.IsZero() || mayBegin)
}

// beginWake begins to wake the target if it is to be woken for a request, and reports
// whether it is being woken.
func (inv *Inventory) beginWake(model string, came time.Time) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	if inv.state.resting && inv.state.Waking.IsZero() || !inv.wakes(inv.state, model, came) {
		return false
	}
	if inv.state.Waking.IsZero() {
		inv.state.Waking = time.Now()
		inv.wakeLocked()
	}
	return true
}

// wakeWhenAsked has the target woken whenever it is to be, until ctx ends.
func (inv *Inventory) wakeWhenAsked(ctx context.Context) {
	for ctx.Err() == nil {
		state, err := inv.until(ctx, func(s State) bool { return !s.Waking.IsZero() })
		if err != nil {
			return
		}
		inv.log.Info("waking the target", "timeout", inv.WakeTimeout.String())
		inv.request() // it may be awake by now
		inv.wake(ctx, state.Waking.Add(inv.WakeTimeout))
	}
}

// wake sends packets until the target is awake, or it is time to give up.
func (inv *Inventory) wake(ctx context.Context, giveUp time.Time) {
	for state := inv.State(); !state.Waking.IsZero() && ctx.Err() == nil; state = inv.State() {
		next := time.Now().Add(wakeInterval)
		if next.After(giveUp) {
			next = giveUp
		}
		limited, cancel := context.WithDeadline(ctx, next)
		if !target.IsRefused(state.err) { // else its machine is up by now
			inv.sendPacket(limited)
		}
		_, err := inv.until(limited, func(s State) bool { return s.Waking.IsZero() })
		cancel()
		if err != nil && ctx.Err() == nil && next == giveUp {
			inv.change((*State).giveUpWaking)
		}
	}
}

// sendPacket sends a packet. Of packets that cannot be sent only the first in a row is worth a warning.
func (inv *Inventory) sendPacket(ctx context.Context) {
	err := inv.Waker.Wake(ctx)
	switch {
	case err == nil:
	case inv.unsent:
		inv.log.Debug("still no packet sent that would wake the target", "err", err)
	default:
		inv.log.Warn("no packet sent that would wake the target; will go on trying", "err", err)
	}
	inv.unsent = err != nil
}

// giveUpWaking ends an attempt to wake the target that was in vain.
func (s *State) giveUpWaking() {
	if !s.Waking.IsZero() {
		s.Waking, s.gaveUp = time.Time{}, time.Now()
		s.Wakes.Failed++
	}
}
