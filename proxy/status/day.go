package status

import (
	"cmp"
	"slices"
	"time"
)

// A Day is what was done since midnight, in the time zone of the machine.
type Day struct {
	Shares           []Share // of clients, most first
	Chats            int     // that have had their turn
	Held             time.Duration
	PromptTokens     int64 // as far as the target said
	CompletionTokens int64
	Others           int // requests that were no chats
}

// A Share is what a client has had of the host's time in a day.
type Share struct {
	Client string
	Chats  int
	Held   time.Duration
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
	sum    Day // but for Shares
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
		day.sum.Others++
		return
	}
	day.sum.PromptTokens += r.Usage.PromptTokens
	day.sum.CompletionTokens += r.Usage.CompletionTokens
	if r.Held == 0 {
		return
	}
	day.sum.Chats++
	day.sum.Held += r.Held
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
	day := today.sum
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
