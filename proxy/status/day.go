package status

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// A Day is what was done since midnight, in the time zone of the machine.
type Day struct {
	Shares []Share `json:"today"` // of clients, most first
	Totals Totals  `json:"totals"`
}

// A Share is what a client has had of the host's time in a day.
type Share struct {
	Client string `json:"client"`
	Chats  int64  `json:"chats"`
	Held   Span   `json:"held_ms"`
}

// Totals are what all requests of a day come to.
type Totals struct {
	Chats            int64 `json:"chats"` // that have had their turn
	Held             Span  `json:"held_ms"`
	PromptTokens     int64 `json:"prompt_tokens"` // as far as the target said
	CompletionTokens int64 `json:"completion_tokens"`
	Others           int64 `json:"others"` // requests that were no chats
}

const (
	// sharesLimit is how many clients without a name of their own are told apart in a day.
	sharesLimit = 1000
	// others stands for those beyond.
	others = "others"
)

// A day is the sum of one.
type day struct {
	date   string
	totals Totals
	shares map[string]*Share
}

// dayLocked returns the day that a time is in, and begins it if it is a new one. The day
// before is kept: a request may have ended a little before midnight and be added behind it.
func (r *Recent) dayLocked(at time.Time) *day {
	date := at.Local().Format(time.DateOnly)
	if r.today.date != date {
		r.today, r.before = r.before, r.today
	}
	if r.today.date != date {
		r.today = day{date: date, shares: map[string]*Share{}}
	}
	return &r.today
}

// countLocked adds what a request took to its day, and to what its client has had.
func (r *Recent) countLocked(record Record) {
	day := r.dayLocked(record.Ended)
	if !record.IsChat {
		day.totals.Others++
		return
	}
	day.totals.PromptTokens += record.Usage.PromptTokens
	day.totals.CompletionTokens += record.Usage.CompletionTokens
	if record.Held == 0 {
		return
	}
	day.totals.Chats++
	day.totals.Held += Span(record.Held)
	client, name := record.Client, ""
	if record.Named {
		name = record.Client
	} else if day.shares[client] == nil && len(day.shares) >= sharesLimit {
		client = others
	}
	if day.shares[client] == nil {
		day.shares[client] = &Share{Client: client}
	}
	day.shares[client].Chats++
	day.shares[client].Held += Span(record.Held)
	if r.held == nil {
		r.held = map[string]time.Duration{}
	}
	r.held[name] += record.Held
}

// Today returns what was done today.
func (r *Recent) Today(now time.Time) Day {
	r.mu.Lock()
	defer r.mu.Unlock()
	today := r.dayLocked(now)
	var shares []Share
	for _, share := range today.shares {
		shares = append(shares, *share)
	}
	slices.SortFunc(shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Held, a.Held), cmp.Compare(a.Client, b.Client))
	})
	return Day{shares, today.totals}
}

// Held returns for how long each client with a name of its own has had the host since the
// start, and under no name, all others.
func (r *Recent) Held() map[string]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.held)
}
