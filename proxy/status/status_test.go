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
	estimate := 61 * time.Second
	return &Page{
		Version:  "v1.2.3",
		Now:      now,
		Target:   "http://ollama:11434",
		Since:    ago(90 * time.Second),
		LastPoll: ago(2 * time.Second),
		NextPoll: now.Add(3 * time.Second),
		Running:  &Chat{Key: "K1", Model: "chat:latest", Client: "192.0.2.1", Agent: "curl/8", Since: ago(3 * time.Second), Bytes: 12_345_678, Answering: true},
		Waiting: []Chat{
			{Key: "K2", Model: "chat:latest", Options: "num_ctx=1", Client: "ann", Agent: "Mozilla/5.0 (X11)", Since: ago(2 * time.Second), Next: true, Estimate: &estimate},
			{Key: "K3", Model: "other:latest", Client: "192.0.2.3", Since: ago(time.Second)},
		},
		Embedder: "embed:latest",
		Models: []Model{
			{Name: "chat:latest", Size: 2e9, Resident: true, Expires: now.Add(4 * time.Minute)},
			{Name: "embed:latest", Resident: true, Embedder: true, Expires: now.Add(200 * 365 * 24 * time.Hour)},
			{Name: "far:cloud", Remote: true},
		},
		Chats: []Request{
			{
				ID: "5MZD", Route: "/api/chat", Model: "chat:latest", Client: "192.0.2.4:1004", Agent: "ollama-js/0.6.4 (x64 linux)", Status: 200, Ended: ago(5 * time.Second),
				Arriving: 2 * time.Second, Queued: 50 * time.Second, FirstByte: 65 * time.Second, Duration: 70 * time.Second, Held: 18 * time.Second,
				Usage: usage.Usage{PromptTokens: 20431, CompletionTokens: 160, Load: 10 * time.Second, Prompt: 2 * time.Second, Completion: 4 * time.Second},
			},
			{
				Route: "/v1/chat/completions", Model: "openai", Client: "192.0.2.4:1004", Status: 200, Ended: now, FirstByte: 4 * time.Second, Duration: 10 * time.Second, Held: 9 * time.Second,
				Usage: usage.Usage{CompletionTokens: 3, Completion: 6 * time.Second},
			},
			{Route: "/api/chat", Model: "chat:latest", Client: "[2001:db8::5]:1005", Status: 499, Ended: now, Queued: time.Second, Duration: time.Second},
			{Route: "/api/chat", Model: "chat:latest", Client: "ann", Status: 403, Err: "stopped", Ended: now, Queued: time.Second, Duration: time.Second},
			{Route: "/api/chat", Model: "chat:latest", Client: "ann", Status: 200, Cut: true, Err: "host asleep", Ended: now, FirstByte: time.Second, Duration: 2 * time.Second, Held: 1},
			{Route: "/api/chat", Model: "chat:latest", Client: "ann", Status: 200, Cut: true, Ended: now, FirstByte: time.Second, Duration: 2 * time.Second, Held: 1},
			{Route: "/api/chat", Model: "chat:latest", Client: "ann", Status: 503, Early: true, Err: "queue timeout", Ended: now, Queued: time.Minute, FirstByte: 20 * time.Second, Duration: time.Minute},
			{Route: "/api/chat", Model: "absent", Client: "@", Status: 404, Err: "unknown model", Ended: now, FirstByte: time.Millisecond, Duration: time.Millisecond},
			{Route: "/api/chat", Client: "@", Status: 400, Err: "bad request", Ended: now, FirstByte: 1, Duration: time.Microsecond},
			{Route: "/api/chat", Model: "far:cloud", Beside: "remote model", Client: "ann", Status: 200, Ended: now, FirstByte: time.Second, Duration: 2 * time.Second},
		},
		Others: []Request{
			{Method: "GET", Route: "/" + strings.Repeat("é", 99), Client: "192.0.2.6:1006", Agent: "curl/8", Status: 404, Ended: now, Duration: time.Microsecond},
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

var (
	tag       = regexp.MustCompile(`<[^>]*>`)
	attribute = regexp.MustCompile(`="[^"]*"`) // its value: a quote in it is escaped
)

// text returns the text of HTML with single spaces and " | " after each table cell.
func text(fragment string) string {
	fragment = strings.NewReplacer("</th>", " ", "</td>", " | ", "</p>", " ", "</li>", " ", "</h3>", " ", "</strong>", " ", "<button", " <button", "</svg>", " ", "</summary>", " ").Replace(fragment)
	return strings.Join(strings.Fields(html.UnescapeString(tag.ReplaceAllString(fragment, ""))), " ")
}

// live maps the id of each part that the page updates to its start and end.
var live = map[string][2]string{
	"host":       {`<div id="host" role="status" data-live>`, "</div>"},
	"host-since": {`<div id="host-since" data-live>`, "</div>"},
	"now":        {`<div id="now" data-live>`, "</section>"},
	"models":     {`<div id="models" data-live>`, "</div>"},
	"today":      {`<div id="today" data-live>`, "</div>"},
	"chats":      {`<div id="chats" data-live>`, "</div>"},
	"others":     {`<div id="others" data-live>`, "</div>"},
	"foot":       {`<p id="foot" data-live>`, "</p>"},
}

func TestPageShows(t *testing.T) {
	const (
		running = "chat:latest 192.0.2.1 curl/8 runs for 3.0 s, 12.3 MB so far Stop "
		first   = "chat:latest num_ctx=1 ann browser waits for 2.0 s, about 1 min to go"
		second  = "other:latest 192.0.2.3 waits for 1.0 s"
		legend  = "upload in line load prompt both, not told apart words other "
		header  = "ended chat where the time went (full bar: 1 min 10 s) in all result "
	)
	waiting := "2 waiting In order of arrival. " + first + " next Stop " + second + " Stop"
	for _, test := range []struct {
		name, part string
		change     func(*Page)
		want       string
	}{
		{"up", "host", nil, "● up"},
		{"up", "host-since", nil, "http://ollama:11434 up for 1 min 30 s, last good poll 2.0 s ago"},
		{"degraded", "host", func(p *Page) { p.Reason = "unreachable" }, "▲ degraded: unreachable"},
		{"degraded", "host-since", func(p *Page) { p.Reason = "unreachable" }, "http://ollama:11434 degraded for 1 min 30 s, last good poll 2.0 s ago, next poll in 3.0 s " + hints["unreachable"]},
		{"polling", "host-since", func(p *Page) { p.Reason, p.NextPoll = "bad answer", now }, "http://ollama:11434 degraded for 1 min 30 s, last good poll 2.0 s ago, polling now " + hints["bad answer"]},
		{"never polled", "host-since", func(p *Page) { p.LastPoll = time.Time{} }, "http://ollama:11434 up for 1 min 30 s, last good poll never"},

		{"answering", "now", nil, running + waiting},
		{"an empty answer", "now", func(p *Page) { p.Running.Bytes = 0 }, strings.Replace(running, "12.3 MB", "0 bytes", 1) + waiting},
		{"no answer", "now", func(p *Page) { p.Running.Answering, p.Running.Bytes = false, 0 }, strings.Replace(running, "12.3 MB so far", "no byte yet", 1) + waiting},
		{"overtaking", "now", func(p *Page) { p.Waiting[0].Next, p.Waiting[1].Next = false, true },
			running + "2 waiting In order of arrival. The next one goes first because its model is loaded, or its client has had less. " + first + " Stop " + second + " next Stop"},
		{"a long line", "now", func(p *Page) {
			p.Waiting = nil
			for range 12 {
				p.Waiting = append(p.Waiting, Chat{Model: "m", Client: "c", Since: now})
			}
		}, running + "12 waiting In order of arrival. The next one goes first because its model is loaded, or its client has had less. " +
			strings.Repeat("m c waits for 0 ms Stop ", 10) + "2 more m c waits for 0 ms Stop m c waits for 0 ms Stop"},
		{"idle", "now", func(p *Page) { p.Running, p.Waiting = nil, nil }, "No chat is running. Nobody waits."},

		{"resident", "models", nil, "chat:latest 2.0 GB loaded unloads in 4 min 0 s embed:latest loaded embedder stays loaded far:cloud remote"},
		{"embedder not resident", "models", func(p *Page) { p.Models = p.Models[1:2]; p.Models[0].Resident = false }, "embed:latest embedder ▲ The embedder embed:latest is not loaded."},
		{"embedder absent", "models", func(p *Page) { p.Models = p.Models[2:] }, "far:cloud remote ▲ The embedder embed:latest is not loaded."},
		{"no embedder", "models", func(p *Page) { p.Embedder, p.Models = "", p.Models[2:] }, "far:cloud remote"},
		{"resident unknown", "models", func(p *Page) { p.ResidentUnknown, p.Models = true, p.Models[2:] },
			"far:cloud remote Which of them are loaded cannot be read now."},
		{"no models", "models", func(p *Page) { p.Embedder, p.Models = "", nil }, "None known."},

		{"nothing today", "today", nil, "Nothing yet."},
		{"embeddings only", "today", func(p *Page) { p.Today.Others = 1 }, "0 chats, 0 ms of the host; 0 tokens read, 0 written; 1 other request."},

		{"chats", "chats", nil, legend + header +
			"12:29:55 | chat:latest 192.0.2.4 ollama-js/0.6.4 5MZD upload 2.0 s in line 50.0 s load 10.0 s prompt 2.0 s words 4.0 s other 2.0 s 40 tokens/s 20,431 tokens read 160 written | 1 min 10 s | 200 | " +
			"12:30:00 | openai 192.0.2.4 load and prompt 4.0 s words 6.0 s 0.5 tokens/s 3 written | 10.0 s | 200 | " +
			"12:30:00 | chat:latest 2001:db8::5 in line 1.0 s | 1.0 s | client left | " +
			"12:30:00 | chat:latest ann in line 1.0 s | 1.0 s | stopped | " +
			"12:30:00 | chat:latest ann load and prompt 1.0 s words 1.0 s | 2.0 s | cut: host asleep | " +
			"12:30:00 | chat:latest ann load and prompt 1.0 s words 1.0 s | 2.0 s | cut: the host broke off | " +
			"12:30:00 | chat:latest ann in line 1 min 0 s | 1 min 0 s | 503 after an early 200 queue timeout | " +
			"12:30:00 | absent @ foreman 1 ms | 1 ms | 404 unknown model | " +
			"12:30:00 | /api/chat @ foreman < 1 ms | < 1 ms | 400 bad request | " +
			"12:30:00 | far:cloud remote model ann load and prompt 1.0 s words 1.0 s | 2.0 s | 200 |"},
		{"no chats", "chats", func(p *Page) { p.Chats = nil }, "None yet."},
		{"others", "others", nil, "12:30:00 GET /" + strings.Repeat("é", 59) + "… 192.0.2.6 curl/8 < 1 ms 404"},
		{"no others", "others", func(p *Page) { p.Others = nil }, "None yet."},
		{"time", "foot", nil, "foreman v1.2.3, 12:30:00"},
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

// TestTitle: a tab in the background tells what goes on.
func TestTitle(t *testing.T) {
	for want, p := range map[string]*Page{
		"foreman":                       {},
		"running · foreman":             {Running: &Chat{}},
		"2 waiting · foreman":           {Running: &Chat{}, Waiting: make([]Chat, 2)},
		"degraded · foreman":            {Running: &Chat{}, Reason: "unreachable"},
		"degraded, 1 waiting · foreman": {Waiting: make([]Chat, 1), Reason: "unreachable"},
	} {
		if got := between(t, render(t, p), "<title>", "</title>"); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// TestNotice: who has pressed a button for nothing is told so.
func TestNotice(t *testing.T) {
	p := busyPage()
	if strings.Contains(render(t, p), `id="notice"`) {
		t.Error("a notice of nothing")
	}
	p.Notice = "It had <ended>."
	if got := between(t, render(t, p), `<p id="notice" role="status">`, "</p>"); got != "It had &lt;ended&gt;." {
		t.Errorf("got %q", got)
	}
}

// TestStopButtons: each chat has a form with its key and a button that names it.
func TestStopButtons(t *testing.T) {
	page := render(t, busyPage())
	for _, want := range []string{
		`<li id="chat-K1" class="holder">`, `<input type="hidden" name="stop" value="K1"><button aria-label="Stop the chat of 192.0.2.1 with chat:latest">Stop</button></form>`,
		`<li id="chat-K2">`, `<input type="hidden" name="stop" value="K2"><button aria-label="Stop the chat of ann with chat:latest">Stop</button></form>`,
	} {
		if strings.Count(page, want) != 1 {
			t.Errorf("not once %s in:\n%s", want, page)
		}
	}
	if got := strings.Count(page, `<form method="post"><input type="hidden"`); got != 3 {
		t.Errorf("%d forms; want 3", got)
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
		for _, want := range []string{`<label id="live" hidden><input type="checkbox" checked>`, `<p id="stale" role="alert" hidden>`, `<meta http-equiv="refresh" content="10">`} {
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
	const usual = "a harmless text of forty characters or so"
	harmless := pageOf(usual)
	tags := func(page string) []string {
		return tag.FindAllString(attribute.ReplaceAllString(page, `=""`), -1)
	}
	for _, hostile := range []string{
		"<script>alert(1)</script>", "</script><script>alert(1)</script>", "</style><b>", `"><img src=x onerror="alert(1)">`, "' onload='alert(1)",
		"<!--", "]]>", "&lt;b&gt;", "{{.Script}}",
	} {
		page := pageOf(hostile)
		if got, want := tags(page), tags(harmless); !slices.Equal(got, want) {
			t.Errorf("%q changes the tags of the page: %q; want %q", hostile, got, want)
		}
		if got, want := strings.Count(html.UnescapeString(page), hostile), strings.Count(harmless, usual); got < want {
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
		{Duration: 100 * second, FirstByte: 40 * second, Queued: 20 * second, Arriving: 10 * second, Held: 70 * second},
		{Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second}, // no answer
		{Duration: 10 * second, Queued: 10 * second},                         // left while in line
		{Duration: second / 10}, // too short to see, and shown all the same
		{Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second, FirstByte: 70 * second, Usage: usage.Usage{Load: 20 * second, Prompt: 10 * second, Completion: 30 * second}},
		{Duration: 10 * second, FirstByte: second, Usage: usage.Usage{Load: 20 * second, Prompt: 10 * second}}, // by a clock that is wrong
	}}
	want := []string{
		"first 0 1000",
		"upload 0 50, line 50 100, first 150 50, words 200 300",
		"upload 0 50, line 50 100, first 150 350",
		"line 0 50",
		"first 0 4",
		"upload 0 50, line 50 100, load 150 100, prompt 250 50, words 300 150, other 450 50",
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
	wantTexts(t, formatCount, map[int64]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567"})
	wantTexts(t, formatRate, map[float64]string{0.04: "0.0 tokens/s", 9.94: "9.9 tokens/s", 25.4: "25 tokens/s", 12_345.6: "12,346 tokens/s"})
	wantTexts(t, formatAgent, map[string]string{
		"": "", "curl/8.1": "curl/8.1", "ollama-js/0.6.4 (x64)": "ollama-js/0.6.4", "Mozilla/5.0 (X11) Chrome/1": "browser",
		strings.Repeat("x", 31): strings.Repeat("x", 30) + "…",
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
