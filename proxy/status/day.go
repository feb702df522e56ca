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

// A Share is what a client has had of the host's time in a day.
type Share struct {
	Client string        `json:"client"`
	Chats  int64         `json:"chats"`
	Held   time.Duration `json:"-"`
}

// Totals are what all requests of a day come to.
type Totals struct {
	Chats            int64         `json:"chats"` // that have had their turn
	Held             time.Duration `json:"-"`
	PromptTokens     int64         `json:"prompt_tokens"` // as far as the target said
	CompletionTokens int64         `json:"completion_tokens"`
	Others           int64         `json:"others"` // requests that were no chats
}

const (
	// sharesLimit is how many clients without a name of their own are told apart in a day.
	sharesLimit = 1000
	// others stands for those beyond.
	others = "others"
)

// days sum up what was done today, and since the start.
type days struct {
	today  dated
	before dated                    // another day: the clock may step back to it
	total  map[string]time.Duration // since the start, of clients with a name; "": of all others
}

// A dated is the sum of a day.
type dated struct {
	date   string
	totals Totals
	shares map[string]*Share
}

// of returns the day that a time is in, and begins it if it is a new one. The day before
// is kept: a request may have ended a little before midnight and be added behind it.
func (d *days) of(at time.Time) *dated {
	date := at.Local().Format(time.DateOnly)
	if d.today.date != date {
		d.today, d.before = d.before, d.today
	}
	if d.today.date != date {
		d.today = dated{date: date, shares: map[string]*Share{}}
	}
	return &d.today
}

func (d *days) add(r Record) {
	day := d.of(r.Ended)
	if !r.IsChat {
		day.totals.Others++
		return
	}
	day.totals.PromptTokens += r.Usage.PromptTokens
	day.totals.CompletionTokens += r.Usage.CompletionTokens
	if r.Held == 0 {
		return
	}
	day.totals.Chats++
	day.totals.Held += r.Held
	client, label := r.Client, ""
	if r.Named {
		label = r.Client
	} else if day.shares[client] == nil && len(day.shares) >= sharesLimit {
		client = others
	}
	if d.total == nil {
		d.total = map[string]time.Duration{}
	}
	d.total[label] += r.Held
	if day.shares[client] == nil {
		day.shares[client] = &Share{Client: client}
	}
	day.shares[client].Chats++
	day.shares[client].Held += r.Held
}

// Today returns what was done today.
func (r *Recent) Today(now time.Time) Day {
	r.mu.Lock()
	defer r.mu.Unlock()
	today := r.days.of(now)
	day := Day{Totals: today.totals}
	for _, share := range today.shares {
		day.Shares = append(day.Shares, *share)
	}
	slices.SortFunc(day.Shares, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Held, a.Held), cmp.Compare(a.Client, b.Client))
	})
	return day
}

// Totals returns what each client with a name of its own has had of the host since the
// start, and what all others have had.
func (r *Recent) Totals() (named map[string]time.Duration, other time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named = map[string]time.Duration{}
	for label, total := range r.days.total {
		if label == "" {
			other = total
		} else {
			named[label] = total
		}
	}
	return named, other
}
