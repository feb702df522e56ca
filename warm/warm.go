// Package warm keeps the embedding model resident on the target.
//
// Ollama evicts a model when its keep_alive has passed, or to make room for another:
// then the one whose keep_alive ends first, of those that nobody uses. With two places
// (OLLAMA_MAX_LOADED_MODELS=2), a keep_alive of -1 on the embedder leaves it one of
// them and the worker model the other. The package has no clock and asks nothing of
// its own: it follows the states of the inventory.
package warm

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"foreman/inventory"
)

const (
	// embedTimeout is long because the target may load a large model first, and
	// gives a load up when the client that caused it leaves.
	embedTimeout = 5 * time.Minute
	// forGood is how far off the end of a keep_alive of -1 is at least: Ollama has the
	// year 2318 for it.
	forGood = 365 * 24 * time.Hour
	// underLoad is how long a chat must have had the turn before a single
	// resident model is worth a warning.
	underLoad = 10 * time.Second
)

// A target is where the embedder is to be resident.
type target interface {
	// Embed embeds a trivial text and asks that the model stay loaded for good, with the
	// options in a JSON object; nil: with its own.
	Embed(ctx context.Context, model string, options []byte) error
}

// A stateSource reports the target's states; see [inventory.Inventory].
type stateSource interface {
	Next(ctx context.Context, seen uint64) (inventory.State, error)
	Refresh()
}

// A turnHolder knows which chat has the turn.
type turnHolder interface {
	// Holder returns the model of the chat that has the turn, and since when it has it;
	// "" if no chat has.
	Holder() (model string, since time.Time)
}

// A Warmer keeps one model resident while [Warmer.Run] runs. Make one with [New].
type Warmer struct {
	target target
	states stateSource
	line   turnHolder
	model  string
	log    *slog.Logger

	// Run alone uses these.
	missingIn     []string // the models without the embedder, sorted, as last warned of; nil: not warned
	oneSlot       bool     // an episode of a single resident model was warned of
	warnedEvicted bool     // it was warned that another embedder evicts this one

	mu             sync.Mutex              // guards what follows
	resting        bool                    // see [Warmer.Rest]
	attempting     bool                    // an attempt is under way
	giveUp         context.CancelCauseFunc // ends the one that began last
	since          time.Time               // State.Since when the last attempt began; zero: none began yet, or it failed
	repinning      bool                    // when the last attempt began, the model was resident, but not for good
	failing        bool                    // the last attempt failed
	options        []byte                  // with which a client's embedding with the model was made last; nil: with none
	other          string                  // the model of the last embedding that a client got of another one
	foreignEmbedAt time.Time               // when that was; zero: never, or the embedder was resident after it
	ok, failed     uint64                  // attempts that have ended
}

// New returns a warmer that will keep a model of target resident. It learns from
// inv what the target holds, and from line which chat the target works for.
func New(target target, inv stateSource, line turnHolder, model string, log *slog.Logger) *Warmer {
	return &Warmer{target: target, states: inv, line: line, model: model, log: log, giveUp: func(error) {}}
}

// Counts returns how many attempts to warm the model have ended, by result.
func (w *Warmer) Counts() (ok, failed uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ok, w.failed
}

// Embedded notes that the target has made an embedding for a client, which asked for it
// with these load options, a JSON object; nil: with none. From now on the embedder is asked
// for with those of its clients, for the target loads it again where they differ. If it was
// another model, the target may have evicted the embedder for it, however long its
// keep_alive: so it is looked at out of turn.
func (w *Warmer) Embedded(model string, options []byte) {
	w.mu.Lock()
	if inventory.Same(model, w.model) {
		w.options = options
		w.mu.Unlock()
		return
	}
	w.other, w.foreignEmbedAt = model, time.Now()
	w.mu.Unlock()
	w.states.Refresh()
}

// errResting is why an attempt is given up, see [Warmer.Rest].
var errResting = errors.New("the target's memory is for somebody else")

// Rest has the model not be warmed, and an attempt that is under way be given up, until it
// is called with false: the target's memory is for somebody else.
func (w *Warmer) Rest(rest bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resting = rest
	w.foreignEmbedAt = time.Time{} // if the embedder is not resident, this is why
	if rest {
		w.giveUp(errResting)
	} else {
		w.states.Refresh()
	}
}

// Run looks after the model until ctx ends.
func (w *Warmer) Run(ctx context.Context) {
	// An attempt may take minutes: with one place only, the target lets it wait for
	// the running chat. Run follows the states meanwhile.
	var attempt sync.WaitGroup
	for seen := uint64(0); ; {
		state, err := w.states.Next(ctx, seen)
		if err != nil {
			break
		}
		seen = state.Seq
		if state.Reason == inventory.Unreachable {
			w.stop() // the attempt would hang on a dead connection
		}
		if state.Degraded() || !w.isInstalled(state) {
			continue
		}
		w.warnOfOneSlot(state)
		w.warnOfOthers(state)
		if limited, options := w.begin(ctx, state); limited != nil {
			attempt.Go(func() {
				began := time.Now()
				err := w.target.Embed(limited, w.model, options)
				if ctx.Err() == nil { // else foreman is stopping: that says nothing of the target
					w.end(err, time.Since(began))
				}
			})
		}
	}
	attempt.Wait()
}

// isInstalled reports whether the target holds the model. If not, it warns once
// for each set of models that the target holds instead.
func (w *Warmer) isInstalled(state inventory.State) bool {
	if state.Holds(w.model) {
		w.missingIn = nil
		return true
	}
	names := []string{}
	for _, held := range state.Models() {
		names = append(names, held.Name)
	}
	slices.Sort(names) // for Ollama lists models of the same age in any order
	if w.missingIn == nil || !slices.Equal(w.missingIn, names) {
		w.missingIn = names
		w.log.Warn("embedder not installed on the target: nothing to warm", "model", w.model)
	}
	return false
}

// warnOfOneSlot warns, once per episode, if a chat with another model than the
// embedder has had the turn for a while, and the chat's model is the only one
// resident: had the target place for two, the embedder would be there as well.
func (w *Warmer) warnOfOneSlot(state inventory.State) {
	resident := len(state.Resident)
	if resident >= 2 {
		w.oneSlot = false
	}
	if resident != 1 || w.oneSlot {
		return
	}
	model, since := w.line.Holder()
	if !state.IsResident(model) || inventory.Same(model, w.model) || time.Since(since) < underLoad {
		return
	}
	w.oneSlot = true
	w.log.Warn("only one model resident while a chat runs: is OLLAMA_MAX_LOADED_MODELS=2 set on the target, and is there memory for both?",
		"resident", resident, "chat_model", model, "embedder", w.model)
}

// warnOfOthers warns, once, if the embedder is not resident after an embedding with
// another model.
func (w *Warmer) warnOfOthers(state inventory.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.resting, w.foreignEmbedAt.IsZero() || state.ResidentRead.Before(w.foreignEmbedAt): // or not known
	case state.IsResident(w.model):
		w.foreignEmbedAt = time.Time{}
	case w.ok > 0 && !w.warnedEvicted:
		w.warnedEvicted = true
		w.log.Warn("an embedding with another model evicted the embedder: OLLAMA_MAX_LOADED_MODELS=3 on the target has a place for each, if there is memory for three",
			"model", w.other, "embedder", w.model)
	}
}

// stop gives up the attempt that is under way, if there is one.
func (w *Warmer) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveUp(nil)
}

// begin notes that an attempt begins, if one is to: none is under way, the model is not
// resident for good, and the warmer does not rest. It returns the attempt's context, and
// the load options to ask with; nil: none begins.
func (w *Warmer) begin(ctx context.Context, state inventory.State) (attempt context.Context, options []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	expires, resident := state.Expires(w.model)
	pinned := time.Until(expires) > forGood
	if state.ResidentRead.IsZero() || resident && expires.IsZero() {
		pinned = w.since.Equal(state.Since) // the target does not say: one attempt has to do until it was away
	}
	if w.resting || w.attempting || pinned {
		return nil, nil
	}
	w.attempting, w.repinning, w.since = true, !expires.IsZero(), state.Since
	limited, cancel := context.WithTimeout(ctx, embedTimeout)
	attempt, giveUp := context.WithCancelCause(limited)
	w.giveUp = func(why error) {
		giveUp(why)
		cancel()
	}
	return attempt, w.options
}

// end notes the outcome of an attempt, and how long it took. After a failure the
// next good state begins another one; only the first failure in a row is a warning.
func (w *Warmer) end(err error, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempting = false
	w.giveUp(nil) // what is left of its context
	if errors.Is(err, errResting) {
		w.since = time.Time{}
		return
	}
	if err == nil {
		w.ok, w.failing = w.ok+1, false
		if w.repinning { // a client's keep_alive had replaced foreman's, and may do so again and again
			w.log.Debug("embedder pinned again", "model", w.model)
		} else {
			w.log.Info("embedder warmed", "model", w.model, "took", took.Round(time.Millisecond))
		}
		return
	}
	if w.failing {
		w.log.Debug("embedder still not warmed", "model", w.model, "err", err)
	} else {
		w.log.Warn("embedder not warmed; will go on trying", "model", w.model, "err", err)
	}
	w.failed, w.failing, w.since = w.failed+1, true, time.Time{}
}
