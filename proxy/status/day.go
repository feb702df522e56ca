package status

import (
	"cmp"
	"slices"
	"time"
)

// A Day is what was done since midnight, in the time zone of the machine.
type Day struct {
	Shares []Share `json:"today"` // of clients, most first
	Totals Totals  `json:"totals"`
}

// A Sum is what chats come to.
type Sum struct {
	Chats            int64 `json:"chats"` // that have had their turn
	Held             Span  `json:"held_ms"`
	PromptTokens     int64 `json:"prompt_tokens"` // as far as the target said, as all tokens
	CachedTokens     int64 `json:"cached_tokens"` // of those of prompts: the target had read them before
	CompletionTokens int64 `json:"completion_tokens"`
}

func (s *Sum) add(more Sum) {
	s.Chats += more.Chats
	s.Held += more.Held
	s.PromptTokens += more.PromptTokens
	s.CachedTokens += more.CachedTokens
	s.CompletionTokens += more.CompletionTokens
}

// A Share is what a client's chats come to in a day.
type Share struct {
	Client string `json:"client"`
	Sum
}

// Totals are what all requests of a day come to.
type Totals struct {
	Sum
	Others int64 `json:"others"` // requests that were no chats
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
	shares map[string]*Sum // by client
}

// dayOf returns the day that a time is in, and begins it if it is a new one. The day
// before is kept: a request may have ended a little before midnight and be added behind it.
func (r *Recent) dayOf(at time.Time) *day {
	date := at.Local().Format(time.DateOnly)
	if r.today.date != date {
		r.today, r.before = r.before, r.today
	}
	if r.today.date != date {
		r.today = day{date: date, shares: map[string]*Sum{}}
	}
	return &r.today
}

// count adds what a request took to its day, and to what its client has had.
func (r *Recent) count(record Record) {
	day := r.dayOf(record.Ended)
	if !record.IsChat {
		day.totals.Others++
		return
	}
	took := Sum{
		Held:         Span(record.Held),
		PromptTokens: record.Usage.PromptTokens, CachedTokens: record.Usage.CachedTokens, CompletionTokens: record.Usage.CompletionTokens,
	}
	if record.Held > 0 {
		took.Chats = 1
	}
	if took == (Sum{}) {
		return
	}
	day.totals.add(took)
	client, name := record.Client, ""
	if record.Named {
		name = record.Client
	} else if day.shares[client] == nil && len(day.shares) >= sharesLimit {
		client = others
	}
	if r.named == nil {
		r.named = map[string]*Sum{}
	}
	addTo(day.shares, client, took)
	addTo(r.named, name, took)
}

func addTo(sums map[string]*Sum, key string, took Sum) {
	if sums[key] == nil {
		sums[key] = new(Sum)
	}
	sums[key].add(took)
}

// dayAt returns what was done on the day that a time is in.
func (r *Recent) dayAt(at time.Time) Day {
	today := r.dayOf(at)
	var shares []Share
	for client, sum := range today.shares {
		shares = append(shares, Share{client, *sum})
	}
	slices.SortFunc(shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Held, a.Held), cmp.Compare(a.Client, b.Client))
	})
	return Day{shares, today.totals}
}

// Named returns what the chats of each client with a name of its own come to since the
// start, and under no name, those of all others.
func (r *Recent) Named() map[string]Sum {
	named := map[string]Sum{"": {}}
	for name, sum := range r.named {
		named[name] = *sum
	}
	return named
}
