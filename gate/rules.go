package gate

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// An account is what a client has had of the gate's time.
type account struct {
	spent time.Duration
	chats int // of the client, in line or with the turn
}

// nextLocked returns whose turn is next; nil: nobody waits. That is the first by share,
// unless another of the kind that had the turn last may go before it.
func (g *Gate) nextLocked() *Turn {
	first := g.firstLocked(anyKind)
	if first == nil || first.request.Kind == g.kind || first.isOvertakenLocked() {
		return first
	}
	if same := g.firstLocked(func(kind Kind) bool { return kind == g.kind }); same != nil {
		return same
	}
	return first
}

// firstLocked returns whoever goes first by share of those in line with such a kind:
// whose client's account is the smallest, and of these the one that came first.
func (g *Gate) firstLocked(kind func(Kind) bool) *Turn {
	var first *Turn
	var least time.Duration
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		if !kind(t.request.Kind) {
			continue
		}
		if spent := g.spentLocked(t.account); first == nil || spent < least {
			first, least = t, spent
		}
	}
	return first
}

func anyKind(Kind) bool { return true }

// isOvertakenLocked reports whether nobody may go before a request any more that is
// first by share.
func (t *Turn) isOvertakenLocked() bool {
	affinity := t.gate.Affinity
	return affinity == 0 || !t.overtaken.IsZero() && time.Since(t.overtaken) >= affinity
}

// spentLocked returns how long a client's requests have had the turn, with the one that
// has it now.
func (g *Gate) spentLocked(a *account) time.Duration {
	if g.holder != nil && g.holder.account == a {
		return a.spent + time.Since(g.holder.began)
	}
	return a.spent
}

// openAccountLocked returns the account of a client that joins the line. One that had
// nobody here starts at the smallest account of those who have: nobody saves up.
func (g *Gate) openAccountLocked(client string) *account {
	if !g.Fair {
		client = ""
	}
	a := g.accounts[client]
	if a == nil {
		a = new(account)
		g.accounts[client] = a
	}
	if a.chats == 0 {
		a.spent = max(a.spent, g.smallestLocked())
	}
	a.chats++
	return a
}

// smallestLocked returns the smallest account of the clients that have somebody in line
// or with the turn; 0 if none has.
func (g *Gate) smallestLocked() time.Duration {
	smallest := time.Duration(-1)
	for _, a := range g.accounts {
		if a.chats > 0 && (smallest < 0 || g.spentLocked(a) < smallest) {
			smallest = g.spentLocked(a)
		}
	}
	return max(smallest, 0)
}

// chargeLocked charges a client for its turn, which has ended, and forgets the accounts
// that do not matter any more: of clients that are not here and would start anew, as
// all do when nobody is.
func (g *Gate) chargeLocked(t *Turn) {
	took := time.Since(t.began)
	t.held = took
	t.account.spent += took
	t.account.chats--
	if g.meanTurn == 0 {
		g.meanTurn = took
	}
	g.meanTurn += (took - g.meanTurn) / 4

	smallest := g.smallestLocked()
	maps.DeleteFunc(g.accounts, func(_ string, a *account) bool {
		return a.chats == 0 && (g.line.Len() == 0 || a.spent <= smallest)
	})
}

// rankLocked reckons in which order those in line go, if nobody else comes, turns take
// as long as they did lately, and none goes before another by affinity.
func (g *Gate) rankLocked() {
	g.ranked = time.Now()
	type start struct {
		*Turn
		at time.Duration // what its client will have had by then
	}
	var starts []start
	ahead := map[*account]time.Duration{} // of those before it of the same client
	for e := g.line.Front(); e != nil; e = e.Next() {
		t := e.Value.(*Turn)
		starts = append(starts, start{t, g.spentLocked(t.account) + ahead[t.account]})
		ahead[t.account] += g.meanTurn
	}
	slices.SortStableFunc(starts, func(a, b start) int { return cmp.Compare(a.at, b.at) })
	for i, s := range starts {
		s.rank = i + 1
	}
}
