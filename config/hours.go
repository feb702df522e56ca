package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	dayMinutes  = 24 * 60
	weekMinutes = 7 * dayMinutes
)

// hours are times of the week, by the minutes that a clock on the wall shows. So a time
// that the clock leaves out, when summer time begins, is none, and one that it shows twice
// is there twice.
type hours struct {
	week [weekMinutes]bool // from Sunday, 00:00
}

// until is what [Config.Quiet] is.
func (h *hours) until(now time.Time) (end time.Time) {
	if !h.has(now) {
		return time.Time{}
	}
	end = now.Truncate(time.Minute)
	for h.has(end) { // it ends: see parseHours
		end = end.Add(time.Minute)
	}
	return end
}

func (h *hours) has(t time.Time) bool {
	return h.week[int(t.Weekday())*dayMinutes+t.Hour()*60+t.Minute()]
}

// parseHours reads hours: HH:MM-HH:MM, or the same behind a day or two with - between,
// several with commas between. Times whose end is before their beginning end on the next
// day. The error says what in particular is wrong.
func parseHours(s string) (*hours, error) {
	h := new(hours)
	for part := range strings.SplitSeq(s, ",") {
		if err := h.add(strings.Fields(part)); err != nil {
			return nil, fmt.Errorf("%q: %w", strings.TrimSpace(part), err)
		}
	}
	if !slices.Contains(h.week[:], false) {
		return nil, fmt.Errorf("that is all of the week")
	}
	return h, nil
}

// add adds the hours of a part: an optional word of days, and one of times.
func (h *hours) add(words []string) error {
	first, last := 0, 6
	if len(words) == 2 {
		from, to, isRange := strings.Cut(words[0], "-")
		if !isRange {
			to = from
		}
		first, last = day(from), day(to)
		if first < 0 || last < 0 {
			return fmt.Errorf("the days are Sun, Mon, Tue, Wed, Thu, Fri and Sat, one or two with - between")
		}
		words = words[1:]
	}
	if len(words) != 1 {
		return fmt.Errorf("want times behind the days, if any, and no more")
	}
	from, to, isRange := strings.Cut(words[0], "-")
	begin, end := minute(from), minute(to)
	switch {
	case !isRange || begin < 0 || end < 0 || begin == dayMinutes:
		return fmt.Errorf("want two times from 00:00 to 24:00 with - between")
	case begin == end:
		return fmt.Errorf("the two times are the same; the whole day is 00:00-24:00")
	case end < begin:
		end += dayMinutes
	}
	for d := first; ; d = (d + 1) % 7 {
		for m := begin; m < end; m++ {
			h.week[(d*dayMinutes+m)%weekMinutes] = true
		}
		if d == last {
			return nil
		}
	}
}

// day returns the number of a day by its three letters, as time.Weekday has it; -1: it is none.
func day(s string) int {
	return slices.IndexFunc([]time.Weekday{0, 1, 2, 3, 4, 5, 6}, func(d time.Weekday) bool {
		return strings.EqualFold(d.String()[:3], s)
	})
}

// minute returns the minute of the day that HH:MM is; -1: it is none.
func minute(s string) int {
	hours, minutes, _ := strings.Cut(s, ":")
	h, errH := strconv.ParseUint(hours, 10, 8)
	m, errM := strconv.ParseUint(minutes, 10, 8)
	if errH != nil || errM != nil || len(minutes) != 2 || m > 59 || h*60+m > dayMinutes {
		return -1
	}
	return int(h*60 + m)
}
