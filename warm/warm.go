// Package warm keeps the embedding model resident on the target.
//
// Ollama evicts a model to make room for another, or when its keep_alive has
// passed. With two places (OLLAMA_MAX_LOADED_MODELS=2), a keep_alive of -1 on
// the embedder leaves it one of them and the worker model the other. The package
// has no clock of its own: it looks after every poll of the inventory.
package warm

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"foreman/inventory"
)

const (
	psTimeout = 4 * time.Second
	// embedTimeout is long because the target may load a large model first, and
	// gives a load up when the one who asked for it leaves.
	embedTimeout = 5 * time.Minute
	// underLoad is how long a chat must have been answered before fewer than two
	// resident models are worth a warning.
	underLoad = 10 * time.Second
)

// A target is where the embedder is to be resident.
type target interface {
	// PS returns the names of the resident models.
	PS(context.Context) ([]string, error)
	// Embed embeds a trivial text and asks that the model stay loaded for good.
	Embed(ctx context.Context, model string) error
}

// A Warmer keeps one model resident while [Warmer.Run] runs. Make one with [New].
type Warmer struct {
	// Chat, if not nil, returns the model of the chat that the target is
	// answering and for how long it has been, or "" if there is none.
	Chat func() (model string, answering time.Duration)
	// Warmed, if not nil, is called by Run with the outcome of each attempt.
	Warmed func(err error)

	target target
	model  string
	log    *slog.Logger
	polled chan inventory.State // the latest state that Run has not seen yet
	away   atomic.Bool          // the target was away since the last attempt began; true at first

	isResident atomic.Bool // the model was resident when last looked

	// Run alone uses these.
	failing   bool     // the last attempt failed, and that was logged
	missingIn []string // the models without the embedder, sorted, as last warned of; nil: not warned
	oneSlot   bool     // an episode of too few resident models was warned of
}

// New returns a warmer for a model. It does nothing until Run runs and
// [Warmer.Polled] is called.
func New(target target, model string, log *slog.Logger) *Warmer {
	w := &Warmer{target: target, model: model, log: log, polled: make(chan inventory.State, 1)}
	w.away.Store(true)
	return w
}

// Polled tells the warmer what a poll of the inventory found. It does not block:
// Run sees the latest state only, but learns of each outage.
func (w *Warmer) Polled(state inventory.State) {
	if state.Degraded() {
		w.away.Store(true)
		w.isResident.Store(false)
	}
	select {
	case <-w.polled:
	default:
	}
	w.polled <- state
}

// Run looks after the model until ctx ends.
func (w *Warmer) Run(ctx context.Context) {
	// An attempt may take long: with one place only, the target lets it wait for
	// the running chat. Run goes on looking meanwhile.
	var (
		attempt chan error // receives the outcome; nil: none is under way
		giveUp  context.CancelFunc
	)
	for {
		select {
		case state := <-w.polled:
			switch {
			case attempt != nil && state.Reason == inventory.Unreachable:
				giveUp() // it would hang on a dead connection
			case w.look(ctx, state) && attempt == nil:
				w.away.Store(false)
				attempt, giveUp = w.begin(ctx)
			}
		case err := <-attempt:
			giveUp()
			attempt = nil
			w.ended(ctx, err)
		case <-ctx.Done():
			if attempt != nil {
				<-attempt
				giveUp()
			}
			return
		}
	}
}

// look reports whether the model should be warmed: it is not resident, or the
// target was away and may be another process now.
func (w *Warmer) look(ctx context.Context, state inventory.State) bool {
	if state.Degraded() {
		return false
	}
	if !state.Holds(w.model) {
		// Sorted, for Ollama tells models of the same age in any order.
		if names := slices.Sorted(slices.Values(state.Names())); w.missingIn == nil || !slices.Equal(w.missingIn, names) {
			w.missingIn = append([]string{}, names...)
			w.isResident.Store(false)
			w.log.Warn("embedder not installed on the target: nothing to warm", "model", w.model)
		}
		return false
	}
	w.missingIn = nil

	ctx, cancel := context.WithTimeout(ctx, psTimeout)
	defer cancel()
	resident, err := w.target.PS(ctx)
	if err != nil {
		w.log.Debug("resident models not read", "err", err)
		return false
	}
	w.warnOfOneSlot(len(resident))
	isResident := slices.ContainsFunc(resident, func(name string) bool { return inventory.Same(name, w.model) })
	w.isResident.Store(isResident)
	return w.away.Load() || !isResident
}

// Resident reports whether the model was resident when last looked.
func (w *Warmer) Resident() bool { return w.isResident.Load() }

// begin sends the trivial embedding. Its outcome comes through the channel.
func (w *Warmer) begin(ctx context.Context) (chan error, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, embedTimeout)
	outcome := make(chan error, 1)
	go func() {
		began := time.Now()
		err := w.target.Embed(ctx, w.model)
		if err == nil {
			w.log.Info("embedder warmed", "model", w.model, "took", time.Since(began).Round(time.Millisecond))
		}
		outcome <- err
	}()
	return outcome, cancel
}

// ended notes the outcome of an attempt. One that failed is made again after the
// next poll, and told of once.
func (w *Warmer) ended(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if w.Warmed != nil {
		w.Warmed(err)
	}
	switch {
	case err == nil:
		w.isResident.Store(true)
		w.failing = false
	case !w.failing:
		w.failing = true
		w.away.Store(true)
		w.log.Warn("embedder not warmed; will go on trying", "model", w.model, "err", err)
	default:
		w.away.Store(true)
		w.log.Debug("embedder still not warmed", "model", w.model, "err", err)
	}
}

// warnOfOneSlot warns once per episode if the target keeps fewer than two models
// while it answers a chat with another model than the embedder.
func (w *Warmer) warnOfOneSlot(resident int) {
	if resident >= 2 {
		w.oneSlot = false
		return
	}
	if w.Chat == nil || w.oneSlot {
		return
	}
	model, answering := w.Chat()
	if answering < underLoad || inventory.Same(model, w.model) {
		return
	}
	w.oneSlot = true
	w.log.Warn("only one model resident while a chat runs: is OLLAMA_MAX_LOADED_MODELS=2 set on the target, and is there memory for both?",
		"resident", resident, "chat_model", model, "embedder", w.model)
}
