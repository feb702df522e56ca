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
	date   string // of today
	today  Day    // but for Shares
	shares map[string]*Share
	total  map[string]time.Duration // since the start, of clients with a name; "": of all others
}

func (d *days) add(r Request) {
	d.turn(r.Ended)
	if !r.IsChat {
		d.today.Others++
		return
	}
	d.today.PromptTokens += r.Usage.PromptTokens
	d.today.CompletionTokens += r.Usage.CompletionTokens
	if r.Held == 0 {
		return
	}
	d.today.Chats++
	d.today.Held += r.Held
	client, label := r.Client, ""
	if r.Named {
		label = r.Client
	} else if d.shares[client] == nil && len(d.shares) >= sharesLimit {
		client = others
	}
	if d.total == nil {
		d.total = map[string]time.Duration{}
	}
	d.total[label] += r.Held
	if d.shares[client] == nil {
		d.shares[client] = &Share{Client: client}
	}
	d.shares[client].Chats++
	d.shares[client].Held += r.Held
}

// turn begins a new day, if at is in one.
func (d *days) turn(at time.Time) {
	if date := at.Local().Format(time.DateOnly); date != d.date {
		d.date, d.today, d.shares = date, Day{}, map[string]*Share{}
	}
}

// Today returns what was done today.
func (r *Recent) Today(now time.Time) Day {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.days.turn(now)
	day := r.days.today
	for _, share := range r.days.shares {
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
