package status

import (
	"cmp"
	"slices"
	"time"
)

// A Usage is what a client has had of the host's time.
type Usage struct {
	Client string
	Chats  int // today
	Today  time.Duration
}

const (
	// usageLimit is how many clients without a name of their own are told apart in a day.
	usageLimit = 1000
	// others stands for those beyond.
	others = "others"
)

// usages are by client. Their day is that of the machine's time zone.
type usages struct {
	day   string
	today map[string]*Usage
	total map[string]time.Duration // since the start, of clients with a name; "": of all others
}

func (u *usages) add(r Request) {
	if r.Held == 0 {
		return
	}
	u.turn(r.Ended)
	client, label := r.Client, ""
	if r.Named {
		label = r.Client
	} else if u.today[client] == nil && len(u.today) >= usageLimit {
		client = others
	}
	if u.total == nil {
		u.total = map[string]time.Duration{}
	}
	u.total[label] += r.Held
	if u.today[client] == nil {
		u.today[client] = &Usage{Client: client}
	}
	u.today[client].Chats++
	u.today[client].Today += r.Held
}

// turn begins a new day, if at is in one.
func (u *usages) turn(at time.Time) {
	if day := at.Local().Format(time.DateOnly); day != u.day {
		u.day, u.today = day, map[string]*Usage{}
	}
}

// Today returns what clients have had of the host today, most first.
func (r *Recent) Today(now time.Time) []Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.usages.turn(now)
	var all []Usage
	for _, u := range r.usages.today {
		all = append(all, *u)
	}
	slices.SortFunc(all, func(a, b Usage) int {
		return cmp.Or(cmp.Compare(b.Today, a.Today), cmp.Compare(a.Client, b.Client))
	})
	return all
}

// Totals returns what each client with a name of its own has had of the host since the
// start, and what all others have had.
func (r *Recent) Totals() (named map[string]time.Duration, other time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	named = map[string]time.Duration{}
	for label, total := range r.usages.total {
		if label == "" {
			other = total
		} else {
			named[label] = total
		}
	}
	return named, other
}
