package status

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"foreman/proxy/usage"
)

var now = time.Date(2026, 7, 14, 12, 30, 0, 0, time.FixedZone("", 2*60*60))

// ago returns the time d before now.
func ago(d time.Duration) time.Time { return now.Add(-d) }

// busyPage returns a page that has something in each part.
func busyPage() *Page {
	return &Page{
		Version:  "v1.2.3",
		Now:      now,
		Target:   "http://ollama:11434",
		Since:    ago(90 * time.Second),
		LastPoll: ago(2 * time.Second),
		Running:  &Chat{Model: "chat:latest", Client: "192.0.2.1:1001", Since: ago(3 * time.Second), Bytes: 12_345_678, Answering: true},
		Waiting: []Chat{
			{Model: "chat:latest", Client: "192.0.2.2:1002", Since: ago(2 * time.Second), Next: true},
			{Model: "other:latest", Client: "[2001:db8::3]:1003", Since: ago(time.Second)},
		},
		Embedder: "embed:latest",
		Models:   []Model{{Name: "chat:latest"}, {Name: "embed:latest", Resident: true, Embedder: true}},
		Chats: []Request{
			{
				Route: "/api/chat", Model: "chat:latest", Client: "192.0.2.4:1004", Status: 200, Ended: ago(5 * time.Second),
				Arriving: time.Second, Queued: 2 * time.Second, FirstByte: 4 * time.Second, Duration: 70 * time.Second,
			},
			{Route: "/api/chat", Model: "chat:latest", Client: "[2001:db8::5]:1005", Status: 499, Cut: true, Err: "client left", Ended: now, Queued: time.Second, Duration: time.Second},
			{Route: "/api/chat", Model: "absent", Client: "@", Status: 404, Err: "unknown model", Ended: now, FirstByte: time.Millisecond, Duration: time.Millisecond},
			{Route: "/" + strings.Repeat("é", 99), Client: "192.0.2.6:1006", Status: 404, Ended: now, Duration: time.Microsecond},
		},
	}
}

func render(t *testing.T, p *Page) string {
	t.Helper()
	var b strings.Builder
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// between returns what is between the only two of these in the page.
func between(t *testing.T, page, start, end string) string {
	t.Helper()
	if n := strings.Count(page, start); n != 1 {
		t.Fatalf("%d times %q; want once, in:\n%s", n, start, page)
	}
	_, rest, _ := strings.Cut(page, start)
	inside, _, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("no %q after %q in:\n%s", end, start, page)
	}
	return inside
}

var tag = regexp.MustCompile(`<[^>]*>`)

// text returns the text of HTML with single spaces and " | " after each table cell.
func text(fragment string) string {
	fragment = strings.NewReplacer("</th>", " ", "</td>", " | ").Replace(fragment)
	return strings.Join(strings.Fields(html.UnescapeString(tag.ReplaceAllString(fragment, ""))), " ")
}

// live maps the id of each part that the page updates to its start and end.
var live = map[string][2]string{
	"host":       {`<div id="host" role="status" data-live>`, "</div>"},
	"host-since": {`<p id="host-since" data-live>`, "</p>"},
	"now":        {`<div id="now" data-live>`, "</div>"},
	"models":     {`<div id="models" data-live>`, "</div>"},
	"today":      {`<div id="today" data-live>`, "</div>"},
	"recent":     {`<div id="recent" data-live>`, "</div>"},
	"foot":       {`<p id="foot" data-live>`, "</p>"},
}

func TestPageShows(t *testing.T) {
	const running = "chat:latest for 192.0.2.1:1001, running for 3.0 s, "
	const waiting = "2 waiting, in order of arrival: chat:latest for 192.0.2.2:1002, waiting for 2.0 s next other:latest for [2001:db8::3]:1003, waiting for 1.0 s"
	for _, test := range []struct {
		name, part string
		change     func(*Page)
		want       string
	}{
		{"up", "host", nil, "● up"},
		{"up", "host-since", nil, "http://ollama:11434, up for 1 min 30 s, last good poll 2.0 s ago"},
		{"degraded", "host", func(p *Page) { p.Reason = "unreachable" }, "▲ degraded: unreachable"},
		{"degraded", "host-since", func(p *Page) { p.Reason = "unreachable" }, "http://ollama:11434, degraded for 1 min 30 s, last good poll 2.0 s ago"},
		{"never polled", "host-since", func(p *Page) { p.LastPoll = time.Time{} }, "http://ollama:11434, up for 1 min 30 s, last good poll never"},

		{"answering", "now", nil, running + "12.3 MB so far " + waiting},
		{"an empty answer", "now", func(p *Page) { p.Running.Bytes = 0 }, running + "0 bytes so far " + waiting},
		{"no answer", "now", func(p *Page) { p.Running.Answering, p.Running.Bytes = false, 0 }, running + "no byte yet " + waiting},
		{"overtaking", "now", func(p *Page) { p.Waiting[0].Next, p.Waiting[1].Next = false, true },
			running + "12.3 MB so far " + strings.Replace(waiting, " next", "", 1) + " next: its model is loaded"},
		{"idle", "now", func(p *Page) { p.Running, p.Waiting = nil, nil }, "No chat is running. Nobody waits."},

		{"resident", "models", nil, "chat:latest embed:latest resident embedder"},
		{"embedder not resident", "models", func(p *Page) { p.Models[1].Resident = false }, "chat:latest embed:latest embedder ▲ The embedder embed:latest is not resident."},
		{"embedder absent", "models", func(p *Page) { p.Models = p.Models[:1] }, "chat:latest ▲ The embedder embed:latest is not resident."},
		{"no embedder", "models", func(p *Page) { p.Embedder, p.Models = "", p.Models[:1] }, "chat:latest"},
		{"resident unknown", "models", func(p *Page) { p.ResidentUnknown, p.Models[1].Resident = true, false },
			"chat:latest embed:latest embedder Which of them are resident cannot be read now."},
		{"no models", "models", func(p *Page) { p.Embedder, p.Models = "", nil }, "None known."},

		{"requests", "recent", nil, "request status in line first byte in all to one scale ended " +
			"/api/chat chat:latest 192.0.2.4 200 | 2.0 s | 4.0 s | 1 min 10 s | | 5.0 s ago | " +
			"/api/chat chat:latest 2001:db8::5 499 cut client left | 1.0 s | | 1.0 s | | 0 ms ago | " +
			"/api/chat absent @ 404 unknown model | | 1 ms | 1 ms | | 0 ms ago | " +
			"/" + strings.Repeat("é", 59) + "… 192.0.2.6 404 | | | < 1 ms | | 0 ms ago |"},
		{"no requests", "recent", func(p *Page) { p.Chats = nil }, "None yet."},
		{"UTC", "foot", nil, "foreman v1.2.3, 2026-07-14 10:30:00 UTC"},
	} {
		p := busyPage()
		if test.change != nil {
			test.change(p)
		}
		limits := live[test.part]
		if got := text(between(t, render(t, p), limits[0], limits[1])); got != test.want {
			t.Errorf("%s: #%s\n got %q\nwant %q", test.name, test.part, got, test.want)
		}
	}
}

// TestPageHasAllPartsAlways: the script updates the parts by their ids.
func TestPageHasAllPartsAlways(t *testing.T) {
	for _, p := range []*Page{{}, busyPage()} {
		page := render(t, p)
		for _, limits := range live {
			between(t, page, limits[0], limits[1])
		}
		if got, want := strings.Count(page, " data-live>"), len(live); got != want {
			t.Errorf("%d parts are live; want %d", got, want)
		}
		for _, want := range []string{`<label id="live" hidden><input type="checkbox" checked>`, `<p id="stale" role="alert" hidden>`, `<meta http-equiv="refresh" content="5">`} {
			between(t, page, want, ">")
		}
	}
}

// TestPageEscapesTexts: whatever clients and the host send, the tags are those of a
// page with harmless texts, and people see each text as it is.
func TestPageEscapesTexts(t *testing.T) {
	pageOf := func(s string) string {
		chat := Chat{ID: s, Key: s, Agent: s, Options: s, Model: s, Client: s, Next: true}
		return render(t, &Page{
			Version: s, Now: now, Target: s, Reason: s, Running: &chat, Waiting: []Chat{chat}, Embedder: s, Models: []Model{{Name: s}},
			Chats: []Request{{ID: s, Method: s, Route: s, Model: s, Agent: s, Client: s, Status: 404, Err: s}},
		})
	}
	harmless := pageOf("harmless")
	for _, hostile := range []string{
		"<script>alert(1)</script>", "</script><script>alert(1)</script>", "</style><b>", `"><img src=x onerror="alert(1)">`, "' onload='alert(1)",
		"<!--", "]]>", "&lt;b&gt;", "{{.Script}}",
	} {
		page := pageOf(hostile)
		if got, want := tag.FindAllString(page, -1), tag.FindAllString(harmless, -1); !slices.Equal(got, want) {
			t.Errorf("%q changes the tags of the page: %q; want %q", hostile, got, want)
		}
		if got, want := strings.Count(html.UnescapeString(page), hostile), strings.Count(harmless, "harmless"); got < want {
			t.Errorf("%q is on the page %d times; want %d", hostile, got, want)
		}
	}
}

func TestPolicyAllowsTheInlineScriptAndStyle(t *testing.T) {
	page := render(t, busyPage())
	hash := func(source string) string {
		sum := sha256.Sum256([]byte(source))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	want := "default-src 'none'; style-src " + hash(between(t, page, "<style>", "</style>")) + "; script-src " + hash(between(t, page, "<script>", "</script>")) +
		"; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
	if ContentSecurityPolicy != want {
		t.Errorf("got  %s\nwant %s", ContentSecurityPolicy, want)
	}
	if inline := regexp.MustCompile(`<[^>]* (style|on\w+)=`).FindString(page); inline != "" {
		t.Errorf("the policy forbids %s", inline)
	}
}

func TestBarsHaveOneScale(t *testing.T) {
	rect := regexp.MustCompile(`<rect class="(\w+)" x="(\d+)" width="(\d+)" height="10"/>`)
	const second = time.Second
	p := &Page{Now: now, Chats: []Request{
		{Duration: 200 * second, FirstByte: 200 * second}, // refused, never in line
		{Duration: 100 * second, FirstByte: 40 * second, Queued: 20 * second, Arriving: 10 * second},
		{Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second}, // no answer
		{Duration: 10 * second, Queued: 10 * second},                         // left while in line
		{Duration: second / 10}, // too short to see
		{Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second, FirstByte: 70 * second, Usage: usage.Usage{Load: 20 * second, Prompt: 10 * second, Completion: 30 * second}},
		{Duration: 10 * second, FirstByte: second, Usage: usage.Usage{Load: 20 * second, Prompt: 10 * second}}, // by a clock that is wrong
	}}
	want := []string{
		"first 0 1000",
		"arriving 0 50, queue 50 100, first 150 50, words 200 300",
		"arriving 0 50, queue 50 100, first 150 350",
		"queue 0 50",
		"",
		"arriving 0 50, queue 50 100, load 150 100, prompt 250 50, words 300 150, other 450 50",
		"load 0 50",
	}
	bars := strings.Split(render(t, p), `<svg viewBox="0 0 1000 10"`)[1:]
	if len(bars) != len(want) {
		t.Fatalf("%d bars; want %d", len(bars), len(want))
	}
	for i, bar := range bars {
		var parts []string
		for _, m := range rect.FindAllStringSubmatch(bar, -1) {
			parts = append(parts, strings.Join(m[1:], " "))
		}
		if got := strings.Join(parts, ", "); got != want[i] {
			t.Errorf("bar %d: %q; want %q", i, got, want[i])
		}
	}
	render(t, &Page{Chats: []Request{{}}}) // a scale of nothing
}

func TestWriteReturnsTheWritersError(t *testing.T) {
	r, w := io.Pipe()
	broken := errors.New("broken")
	r.CloseWithError(broken)
	if err := busyPage().Write(w); !errors.Is(err, broken) {
		t.Errorf("got %v; want %v", err, broken)
	}
}

func TestTextsForPeople(t *testing.T) {
	const day = 24 * time.Hour
	wantTexts(t, formatDuration, map[time.Duration]string{
		-time.Second: "0 ms", 0: "0 ms", 1: "< 1 ms", time.Millisecond - 1: "< 1 ms",
		time.Millisecond: "1 ms", time.Second - 1: "999 ms", time.Second: "1.0 s", 1500 * time.Millisecond: "1.5 s", time.Minute - 1: "59.9 s",
		time.Minute: "1 min 0 s", 90 * time.Second: "1 min 30 s", time.Hour - 1: "59 min 59 s",
		time.Hour: "1 h 0 min", 3*time.Hour + 5*time.Minute: "3 h 5 min", 2*day - 1: "47 h 59 min", 2 * day: "2 days", 4*day - 1: "3 days",
	})
	wantTexts(t, formatEstimate, map[time.Duration]string{
		10*time.Second - 1: "a few seconds", 10 * time.Second: "10 s", time.Minute - 1: "50 s",
		time.Minute: "1 min", time.Hour - 1: "59 min", 2*time.Hour - 1: "1 h",
	})
	wantTexts(t, formatSize, map[int64]string{
		0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 1950: "1.9 kB", 999_999: "999.9 kB",
		1e6: "1.0 MB", 12_641_280: "12.6 MB", 1e9 - 1: "999.9 MB", 1e9: "1.0 GB", 5e12: "5000.0 GB",
	})
	wantTexts(t, func(text string) string { return shorten(text, 3) }, map[string]string{
		"": "", "äöü": "äöü", "äöüß": "äöü…", "a\xff\xfeb": "a\xff\xfe…",
	})
}

func wantTexts[T comparable](t *testing.T, format func(T) string, texts map[T]string) {
	t.Helper()
	for value, want := range texts {
		if got := format(value); got != want {
			t.Errorf("%v: got %q; want %q", value, got, want)
		}
	}
}
