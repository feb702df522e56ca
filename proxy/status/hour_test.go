package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"foreman/proxy/usage"
)

// The strip of the last hour, as text: of each lane what it comes to, and how many minutes
// ago its level changed. The half of the last minute is over.
func TestHour(t *testing.T) {
	const second, minute = time.Second, time.Minute
	now := time.Date(2026, 11, 26, 12, 0, 30, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	var crowd, throng []Record
	for i := range 30 {
		throng = append(throng, Record{Client: fmt.Sprint("client ", i), Ended: ago(minute), Held: second, Duration: second})
	}
	for i := range 8 {
		crowd = append(crowd, Record{Client: fmt.Sprint("client ", i), Ended: ago(time.Duration(i) * minute), Held: time.Duration(10+i) * second, Duration: time.Duration(10+i) * second})
	}
	up := Host{Changes: []Change{{ago(3 * minute), ""}}}
	for _, test := range []struct {
		name  string
		page  Page
		ended []Record
		want  string
	}{
		{"nothing is known", Page{}, nil, ""},
		{"idle", Page{Host: up}, nil, "idle 3 min: 3=0.50 2=1.00"},
		{"away", Page{Host: Host{Changes: []Change{{ago(3 * minute), "unreachable"}, {ago(2 * minute), "bad answer"}, {ago(minute), ""}}}}, nil,
			"away 2 min: 3=0.50 2=1.00 1=0.50 0=0.00; idle 1 min: 1=0.50 0=1.00"},
		{"a chat", Page{Host: up}, []Record{{
			Client: "ann", Ended: now, Duration: 110 * second, Arriving: 10 * second, Queued: 30 * second, Held: minute, Idle: 30 * second,
			Usage: usage.Usage{Load: 20 * second},
		}}, "ann 1 min: 1=0.67; loading 20 s: 1=0.17 0=0.33; idle 2 min: 3=0.50 2=1.00 1=0.33; waiting up to 1: 2=0.17 1=0.33 0=0.00"},
		{"a chat of hours, and a load longer than it", Page{}, []Record{{
			Client: "192.0.2.1:1001", Ended: now, Queued: 90 * minute, Duration: 4 * time.Hour, Held: 149 * minute, Usage: usage.Usage{Load: 4 * time.Hour},
		}}, "192.0.2.1 58 min: 59=1.00 1=0.50 0=0.00; loading 58 min: 59=1.00 1=0.50 0=0.00"},
		{"a chat for which the host was woken in its turn", Page{}, []Record{{Client: "ann", Ended: ago(30 * second), Queued: 50 * second, Held: minute, Duration: minute}},
			"ann 10 s: 1=0.17 0=0.00; waiting up to 1: 1=0.83 0=0.00"},
		{"a chat that waited and left", Page{}, []Record{{Client: "ann", Ended: ago(30 * second), Duration: minute, Queued: minute}}, "waiting up to 1: 1=1.00 0=0.00"},
		{"now", Page{
			Host: up, Running: &Chat{Client: "192.0.2.1:1001", Joined: ago(150 * second), Since: ago(90 * second)},
			Waiting: []Chat{{Since: ago(minute), Position: 1}, {Since: ago(minute), Position: 2}, {Since: ago(15 * second), Position: 3}},
		}, []Record{{Client: "192.0.2.1:1002", Ended: ago(90 * second), Duration: 30 * second, Held: 30 * second}},
			"192.0.2.1 2 min: 2=0.50 1=1.00; idle 1 min: 3=0.50 1=0.00; waiting up to 3: 2=1.00 0=2.50"},
		{"many clients", Page{}, crowd, "client 7 10 s: 7=0.28 6=0.00; client 6 10 s: 6=0.27 5=0.00; client 5 10 s: 5=0.25 4=0.00; client 4 10 s: 4=0.23 3=0.00; client 3 10 s: 3=0.22 2=0.00; 3 others 30 s: 2=0.20 1=0.18 0=0.33"},
		{"very many clients in one minute", Page{}, throng,
			"others 6 s: 1=0.10 0=0.00; client 0 1 s: 1=0.02 0=0.00; client 1 1 s: 1=0.02 0=0.00; client 10 1 s: 1=0.02 0=0.00; client 11 1 s: 1=0.02 0=0.00; 20 others 20 s: 1=0.33 0=0.00"},
		{"pauses that have ended", Page{Host: up, PastPauses: []PastPause{{ago(3 * time.Hour), ago(2 * time.Hour)}, {ago(150 * second), ago(90 * second)}, {ago(30 * second), ago(15 * second)}}}, nil,
			"paused 1 min: 2=1.00 1=0.00 0=0.50; idle 1 min: 3=0.50 2=0.00 1=1.00 0=0.50"},
		{"a pause", Page{Host: up, Pause: &Pause{Since: ago(minute)}}, nil, "paused 1 min: 1=0.50 0=1.00; idle 2 min: 3=0.50 2=1.00 1=0.50 0=0.00"},
		{"what was before the hour is not in it", Page{
			Host: Host{Changes: []Change{{ago(150 * minute), "unreachable"}, {ago(50 * minute), ""}}}, Running: &Chat{Client: "ann", Joined: ago(120 * minute), Since: ago(58 * minute)},
		}, []Record{{Client: "bob", Ended: ago(2 * minute), Duration: minute, Held: minute}},
			"ann 58 min: 58=0.50 57=1.00; bob 1 min: 3=0.50 1=0.00; away 9 min: 59=1.00 50=0.50 49=0.00; waiting up to 1: 59=1.00 58=0.50 57=0.00"},
		{"a minute of another hour in the same place", Page{}, []Record{{Client: "ann", Ended: ago(slots * minute), Held: second, Duration: second}, {Client: "bob", Ended: now, Held: second, Duration: second}},
			"bob 1 s: 0=0.03"},
		{"another hour", Page{}, []Record{{Client: "ann", Ended: ago(time.Hour), Held: second, Duration: second}, {Client: "bob", Ended: now.Add(2 * time.Hour), Held: second, Duration: second}}, ""},
	} {
		var r Recent
		for _, record := range test.ended {
			record.IsChat = true
			r.Add(record)
		}
		test.page.Now, test.page.Hour = now, r.hour.clone()
		var lanes []string
		for _, l := range test.page.lanes() {
			lane := l.Name() + " " + l.Total() + ":"
			for i := range l.times {
				if level := l.level(i); i == 0 && level > 0 || i > 0 && level != l.level(i-1) {
					lane += fmt.Sprintf(" %d=%.2f", minutes-1-i, level)
				}
			}
			lanes = append(lanes, lane)
		}
		if got := strings.Join(lanes, "; "); got != test.want {
			t.Errorf("%s:\n got %q\nwant %q", test.name, got, test.want)
		}
	}

	p := Page{Now: now, Waiting: []Chat{{Since: ago(minute)}, {Since: ago(minute)}, {Since: ago(15 * second)}}}
	if got, want := p.lanes()[0].Path(), "M58 100v-40h1V100zM59 100v-100h1V100z"; got != want {
		t.Errorf("drawn as %s; want %s", got, want)
	}
}
