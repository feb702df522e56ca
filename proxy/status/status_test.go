package status

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"foreman/inventory"
	"foreman/proxy/usage"
)

var now = time.Date(2026, 7, 14, 12, 30, 0, 0, time.FixedZone("", 2*60*60))

// ago returns the time d before now.
func ago(d time.Duration) time.Time { return now.Add(-d) }

// busyPage returns a page that has something in each part.
func busyPage() *Page {
	return &Page{
		Version: "v1.2.3",
		Now:     now,
		Host:    Host{URL: "http://ollama:11434", Since: ago(90 * time.Second), LastPoll: ago(2 * time.Second), NextPoll: now.Add(28*time.Second - 1)},
		Running: &Chat{Key: "1", Model: "chat:latest", Client: "192.0.2.1:1001", Agent: "curl/8.5.0", Joined: ago(4 * time.Second), Since: ago(3 * time.Second), Bytes: 12_345_678, Answering: true},
		Waiting: []Chat{
			{Key: "2", Model: "chat:latest", Client: "192.0.2.2:1002", Since: ago(2 * time.Second), Position: 1, Next: true},
			{Key: "3", Model: "other:latest", Options: "num_ctx=8192", Client: "[2001:db8::3]:1003", Since: ago(time.Second), Position: 2},
		},
		Embedder: "embed:latest",
		Models:   []Model{{Name: "chat:latest", Size: 2_019_393_189}, {Name: "embed:latest", Resident: new(true), Embedder: true, Expires: now.AddDate(300, 0, 0)}},
		Chats: []Record{
			{
				ID: "2ZQGJ7XSWMBQY4RU5WUGCKTYLR", Route: "/api/chat", Model: "chat:latest", Client: "192.0.2.4:1004", Agent: "ollama-js/0.6.4 (x64 linux Node.js/v20)",
				Status: 200, Ended: ago(5 * time.Second), Held: 67 * time.Second,
				Arriving: time.Second, Queued: 2 * time.Second, FirstByte: 64 * time.Second, Duration: 70 * time.Second,
				Usage: usage.Usage{PromptTokens: 1812, CompletionTokens: 150, Load: 59 * time.Second, Prompt: time.Second, Completion: 6 * time.Second},
			},
			{Route: "/api/chat", Model: "chat:latest", Client: "[2001:db8::5]:1005", Status: 499, Cut: true, Reason: "client left", Ended: now, Queued: time.Second, Duration: time.Second},
			{Route: "/api/chat", Model: "absent", Client: "@", Status: 404, Reason: "unknown model", Ended: now, FirstByte: time.Millisecond, Duration: time.Millisecond},
		},
		Others: []Record{
			{ID: "mine", Method: "GET", Route: "/" + strings.Repeat("é", 99), Client: "192.0.2.6:1006", Status: 404, Reason: "path", Ended: now, Duration: time.Microsecond},
		},
		Day: Day{
			Shares: []Share{{"192.0.2.4", Sum{2, Span(90 * time.Second), 19000, 11000, 3500}}, {"ann", Sum{1, Span(30 * time.Second), 1431, 0, 370}}},
			Totals: Totals{Sum{3, Span(2 * time.Minute), 20431, 11000, 3870}, 1512},
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
	fragment = strings.NewReplacer("</th>", " ", "</td>", " | ", "</dt>", " ", "</summary>", " ").Replace(fragment)
	return strings.Join(strings.Fields(html.UnescapeString(tag.ReplaceAllString(fragment, ""))), " ")
}

// live maps the id of each part that the page updates to its start and end.
var live = map[string][2]string{
	"host":       {`<div id="host" role="status" data-live>`, "</div>"},
	"host-since": {`<p id="host-since" data-live>`, "</p>"},
	"pause":      {`<div id="pause" data-live>`, "</div>"},
	"now":        {`<div id="now" data-live>`, "</section>"},
	"models":     {`<div id="models" data-live>`, "</div>"},
	"hour":       {`<div id="hour" data-live>`, "</section>"},
	"today":      {`<div id="today" data-live>`, "</section>"},
	"chats":      {`<div id="chats" data-live>`, "</div>"},
	"others":     {`<div id="others" data-live>`, "</div>"},
	"foot":       {`<p id="foot" data-live>`, "</p>"},
}

func TestPageShows(t *testing.T) {
	const (
		running = "chat:latest Stop for 192.0.2.1, running for 3.0 s, 12.3 MB so far, curl/8.5.0"
		first   = " chat:latest next Stop for 192.0.2.2, waiting for 2.0 s"
		second  = " other:latest num_ctx=8192 Stop for 2001:db8::3, waiting for 1.0 s"
		line    = " 2 waiting, in the order of their turns:"
		inPause = " Chats wait in line, embeddings are turned away."
		poll    = "last good poll 2.0 s ago, the next in 28 s"
	)
	estimate := Span(95 * time.Second)
	batch := func(p *Page) {
		soon, late := Span(time.Second), Span(5*time.Minute)
		p.Turn = Span(time.Minute)
		p.Waiting = []Chat{
			{Key: "2", Model: "other:latest", Client: "nightly", Background: "file", Since: ago(3 * time.Second), Position: 4},
			{Key: "3", Model: "chat:latest", Client: "ann", Weight: 3, Since: ago(2 * time.Second), Position: 1, Next: true, Estimate: &soon},
			{Key: "4", Model: "chat:latest", Client: "ann", Weight: 3, Background: "header", Since: ago(time.Second), Position: 2},
			{Key: "5", Model: "other:latest", Client: "ann", Weight: 3, Background: "tier", Since: now, Position: 3, Estimate: &late},
		}
	}
	waking := func(p *Page) { p.Host.Reason, p.Host.Waking = "unreachable", ago(12*time.Second) }
	for _, test := range []struct {
		name, part string
		change     func(*Page)
		want       string
	}{
		{"up", "host", nil, "● up"},
		{"slow", "host", func(p *Page) { p.Host.Slow = true }, "● up, slow " + hints["slow"]},
		{"waking", "host", waking, "◆ waking " + hints["waking"]},
		{"waking", "host-since", waking, "http://ollama:11434, waking for 12 s, degraded for 90 s, " + poll},
		{"up", "host-since", nil, "http://ollama:11434, up for 90 s, " + poll},
		{"unreachable", "host", func(p *Page) { p.Host.Reason = "unreachable" }, "▲ degraded: unreachable " + hints["unreachable"]},
		{"a reason without a hint", "host", func(p *Page) { p.Host.Reason = "new" }, "▲ degraded: new"},
		{"degraded", "host-since", func(p *Page) { p.Host.Reason = "unreachable" }, "http://ollama:11434, degraded for 90 s, " + poll},
		{"never polled", "host-since", func(p *Page) { p.Host.LastPoll, p.Host.NextPoll = time.Time{}, time.Time{} },
			"http://ollama:11434, up for 90 s, last good poll never, the next is under way"},

		{"paused", "host", func(p *Page) { p.Pause = &Pause{By: "192.0.2.1:1001"} },
			"■ paused by 192.0.2.1 When the running chat has ended, foreman unloads the models." + inPause},
		{"paused, and unloading", "host", func(p *Page) { p.Pause, p.Running = &Pause{By: "ann"}, nil }, "■ paused by ann foreman unloads the models." + inPause},
		{"quiet", "host", func(p *Page) { p.Pause = &Pause{Unloaded: true} }, "■ quiet hours foreman has unloaded the models." + inPause},
		{"quiet, and the host is away", "host", func(p *Page) { p.Pause, p.Host.Reason = &Pause{Unloaded: true}, "new" },
			"■ quiet hours foreman has unloaded the models." + inPause + " ▲ degraded: new"},
		{"to pause", "pause", func(p *Page) { p.MayPause = true },
			"Keep the host for yourself for 15 minutesfor an houruntil resumed stop the running chat Pause"},
		{"for others to pause", "pause", nil, ""},
		{"paused for a time", "pause", func(p *Page) { p.Pause, p.MayPause = &Pause{By: "ann", Until: now.Add(time.Hour)}, true },
			"until " + clock(-time.Hour) + ", 1 h 0 min to go Resume"},
		{"paused by others", "pause", func(p *Page) { p.Pause = &Pause{By: "ann"} }, "until somebody resumes"},

		{"answering", "now", nil, running + line + first + second},
		{"an empty answer", "now", func(p *Page) { p.Running.Bytes = 0 }, strings.Replace(running, "12.3 MB", "0 bytes", 1) + line + first + second},
		{"no answer", "now", func(p *Page) { p.Running.Answering, p.Running.Bytes = false, 0 },
			strings.Replace(running, "12.3 MB so far", "no byte yet", 1) + line + first + second},
		{"no answer for long", "now", func(p *Page) { p.Running.Answering, p.Running.Bytes, p.Running.Silent = false, 0, true },
			strings.Replace(running, "12.3 MB so far", "no byte yet, for longer than FOREMAN_STALL_TIMEOUT", 1) + line + first + second},
		{"overtaking", "now", func(p *Page) { p.Waiting[0].Next, p.Waiting[1].Next = false, true },
			running + line + strings.Replace(first, " next", "", 1) + strings.Replace(second, " Stop", " next: its model is loaded Stop", 1)},
		{"not in order of arrival", "now", func(p *Page) { p.Waiting[0].Position, p.Waiting[1].Position = 2, 1 },
			running + line + second + strings.Replace(first, " next", " next: its model is loaded", 1)},
		{"estimates", "now", func(p *Page) { p.Waiting[1].Estimate = &estimate }, running + line + first + second + ", about 1 min to go"},
		{"a batch", "now", batch, running + " 4 waiting, in the order of their turns:" +
			" 3 chats with 2 models weight 3 2 can wait next Stop all for ann, first in a few seconds, all done in about 6 min one by one" +
			" chat:latest weight 3 next Stop for ann, waiting for 2.0 s, a few seconds to go" +
			" chat:latest weight 3 can wait: header Stop for ann, waiting for 1.0 s" +
			" other:latest weight 3 can wait: tier Stop for ann, waiting for 0 s, about 5 min to go" +
			" other:latest can wait: file Stop for nightly, waiting for 3.0 s"},
		{"a batch that can wait", "now", func(p *Page) {
			for i := range p.Waiting {
				p.Waiting[i].Model, p.Waiting[i].Background, p.Waiting[i].Position, p.Waiting[i].Estimate, p.Waiting[i].Next = "one", "header", i+1, nil, false
				p.Waiting[i].Client, p.Waiting[i].Options = "ann", ""
			}
		}, running + line + " 2 chats with one can wait Stop all for ann one by one" +
			" one can wait: header Stop for ann, waiting for 2.0 s one can wait: header Stop for ann, waiting for 1.0 s"},
		{"affinity", "now", func(p *Page) { p.Running, p.Waiting, p.Affinity = nil, nil, Span(24*time.Second) },
			"No chat is running. Nobody waits. Chats for the model that is loaded may overtake others for 24 s."},
		{"idle", "now", func(p *Page) { p.Running, p.Waiting = nil, nil }, "No chat is running. Nobody waits."},

		{"the last hour", "hour", func(p *Page) {
			p.Host.Changes = []Change{{ago(8 * time.Minute), "unreachable"}, {ago(5 * time.Minute), ""}}
		},
			"who had the host 60 min ago now in all 192.0.2.1 | 3 s | away | 3 min | idle | 4 min | waiting | up to 1 | as a table minutes ago the host waiting " +
				"0 to 5 192.0.2.1 3.0 s, idle 3 min 57 s | up to 1 | 5 to 10 away 3 min 0 s, idle 60 s | nobody |"},
		{"nothing is known", "hour", func(p *Page) { p.Running, p.Waiting = nil, nil }, "Nothing is known yet."},

		{"resident", "models", nil, "embed:latest resident embedder stays loaded chat:latest 2.0 GB"},
		{"unloads", "models", func(p *Page) { p.Models[1].Expires = now.Add(299 * time.Second) }, "embed:latest resident embedder unloads in 4 min chat:latest 2.0 GB"},
		{"overdue", "models", func(p *Page) { p.Models[1].Expires = ago(time.Second) }, "embed:latest resident embedder chat:latest 2.0 GB"},
		{"embedder not resident", "models", func(p *Page) { p.Models[1].Resident = new(false) }, "chat:latest 2.0 GB embed:latest embedder ▲ The embedder embed:latest is not resident."},
		{"embedder absent", "models", func(p *Page) { p.Models = p.Models[:1] }, "chat:latest 2.0 GB ▲ The embedder embed:latest is not resident."},
		{"no embedder", "models", func(p *Page) { p.Embedder, p.Models = "", p.Models[:1] }, "chat:latest 2.0 GB"},
		{"resident unknown", "models", func(p *Page) { p.ResidentUnknown, p.Models[1].Resident = true, nil },
			"chat:latest 2.0 GB embed:latest embedder Which of them are resident cannot be read now."},
		{"remote", "models", func(p *Page) { p.Embedder, p.Models = "", []Model{{Name: "cloud", Remote: true}} }, "cloud remote"},
		{"no models", "models", func(p *Page) { p.Embedder, p.Models = "", nil }, "None known."},

		{"today", "today", nil, "chats 3 of the host 2 min 0 s tokens read 20,431 11,000 cached tokens written 3,870 other requests 1,512 " +
			"client of the host chats tokens 192.0.2.4 90 s 75 % | 2 | 19,000 read 11,000 cached 3,500 written | ann 30 s 25 % | 1 | 1,431 read 370 written |"},
		{"nothing today", "today", func(p *Page) { p.Day = Day{} }, "chats 0 of the host 0 s tokens read 0 tokens written 0 other requests 0 No chat has had its turn."},

		{"chats", "chats", nil, "upload in line load prompt words the host's time, not told apart other full bar = 70 s, half a bar = 17 s " +
			"chat client outcome in line load prompt words in all ended " +
			"chat:latest /api/chat 192.0.2.4 ollama-js/0.6.4, 2ZQGJ7XS… ollama-js/0.6.4 (x64 linux Node.js/v20) id 2ZQGJ7XSWMBQY4RU5WUGCKTYLR | 200 | " +
			"2.0 s upload 1.0 s | 59 s | 1.0 s 1,812 tokens | 6.0 s 150 tokens 25 tokens/s | 70 s mostly load | " + clock(5*time.Second) + " 5 s ago | " +
			"chat:latest /api/chat 2001:db8::5 id | client left | 1.0 s | | | | 1.0 s | " + clock(0) + " just now | " +
			"absent /api/chat @ id | 404 unknown model | | | | | 1 ms | " + clock(0) + " just now |"},
		{"no chats", "chats", func(p *Page) { p.Chats = nil }, "None yet."},
		{"others", "others", nil, "request client outcome in all ended " +
			"GET /" + strings.Repeat("é", 59) + "… 192.0.2.6 mine id mine | 404 unknown path | < 1 ms | " + clock(0) + " just now |"},
		{"no others", "others", func(p *Page) { p.Others = nil }, "None yet."},
		{"now", "foot", nil, "foreman v1.2.3, " + clock(0)},
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

// clock returns the time of day, here, of d before now.
func clock(d time.Duration) string { return ago(d).Local().Format("15:04:05") }

// TestPageTellsOneTime: whatever zone it is written in, the script can tell the time in
// the browser's.
func TestPageTellsOneTime(t *testing.T) {
	if page := render(t, busyPage()); !strings.Contains(page, `<time datetime="2026-07-14T10:30:00Z">`+clock(0)+`</time>`) {
		t.Errorf("no time in UTC in:\n%s", page)
	}
}

func TestTitle(t *testing.T) {
	for want, change := range map[string]func(*Page){
		"foreman":                       func(p *Page) { p.Running, p.Waiting = nil, nil },
		"busy · foreman":                func(p *Page) { p.Waiting = nil },
		"2 waiting · foreman":           func(*Page) {},
		"degraded · foreman":            func(p *Page) { p.Host.Reason, p.Running, p.Waiting = "starting", nil, nil },
		"waking, 2 waiting · foreman":   func(p *Page) { p.Host.Reason, p.Host.Waking = "unreachable", now },
		"paused, 2 waiting · foreman":   func(p *Page) { p.Host.Reason, p.Pause = "unreachable", &Pause{By: "ann"} },
		"quiet · foreman":               func(p *Page) { p.Pause, p.Waiting = new(Pause), nil },
		"degraded, 2 waiting · foreman": func(p *Page) { p.Host.Reason = "unreachable" },
	} {
		p := busyPage()
		change(p)
		if got := between(t, render(t, p), "<title>", "</title>"); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// TestDegradedHasHints: for each of the reasons that the inventory knows.
func TestDegradedHasHints(t *testing.T) {
	for _, reason := range []string{inventory.Starting, inventory.Unreachable, inventory.Unauthorized, inventory.BadAnswer} {
		if hints[reason] == "" {
			t.Errorf("no hint for %s", reason)
		}
	}
}

// TestNotice: what a press of a button came to stands on the page once.
func TestNotice(t *testing.T) {
	p := busyPage()
	for _, want := range []string{"", "It had ended."} {
		p.Notice = want
		if got := between(t, render(t, p), `<p id="notice" role="status" tabindex="-1">`, "</p>"); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// TestStopButtons: each chat that runs or waits has a form with its key, in an element
// of its own, and no two buttons have one name.
func TestStopButtons(t *testing.T) {
	form := regexp.MustCompile(`(?s)<(?:li|div) (?:id="chat|data-key)[-=]"?([^"]*)"[^>]*>(?:[^<]|<[^l])*?<form method="post">(?:<input type="hidden" name="stop-all"[^>]*>)*<input type="hidden" name="(stop|stop-all)" value="([^"]*)"><button aria-label="([^"]*)">Stop(?: all)?</button></form>`)
	p := busyPage()
	p.Waiting = append(p.Waiting, Chat{Key: "6", Model: "chat:latest", Client: "ann", Position: 5},
		Chat{Key: "4", Model: "chat:latest", Client: "ann", Position: 3}, Chat{Key: "5", Model: "chat:latest", Client: "ann", Position: 4})
	var got []string
	for _, m := range form.FindAllStringSubmatch(render(t, p), -1) {
		got = append(got, strings.Join(m[1:], " "))
	}
	want := []string{
		"1 stop 1 Stop the chat of 192.0.2.1 with chat:latest, which is running",
		"2 stop 2 Stop the chat of 192.0.2.2 with chat:latest, number 1 in line",
		"3 stop 3 Stop the chat of 2001:db8::3 with other:latest, number 2 in line",
		"ann stop-all 5 Stop all 3 chats of ann that wait", // 5 came last
		"4 stop 4 Stop the chat of ann with chat:latest, number 3 in line",
		"5 stop 5 Stop the chat of ann with chat:latest, number 4 in line",
		"6 stop 6 Stop the chat of ann with chat:latest, number 5 in line",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
	p.Running, p.Waiting = nil, nil
	if page := render(t, p); strings.Contains(page, "<form") {
		t.Errorf("there is a form though there is no chat:\n%s", page)
	}
}

// TestLongLists: of a line, and of many models and clients, the page shows ten.
func TestLongLists(t *testing.T) {
	p := busyPage()
	p.Waiting, p.Models, p.Shares = nil, nil, nil
	for i := range 40 {
		p.Waiting = append(p.Waiting, Chat{Key: fmt.Sprint(i), Client: fmt.Sprint(i), Model: fmt.Sprint("line", i), Position: i + 1})
		p.Models = append(p.Models, Model{Name: fmt.Sprint("model", i), Resident: new(i == 39)})
		p.Shares = append(p.Shares, Share{Client: fmt.Sprint("client", i)})
	}
	page := render(t, p)
	shown, more, ok := strings.Cut(between(t, page, live["now"][0], live["now"][1]), `<details id="more">`)
	if !ok || !strings.Contains(shown, "40 waiting") || !strings.Contains(shown, "line9<") || strings.Contains(shown, "line10<") {
		t.Errorf("of 40 in line the page shows %s; want ten and all others as details", shown)
	}
	if want := "30 more clients line10 Stop"; !strings.HasPrefix(text("<"+more), want) || !strings.Contains(more, ` value="11">`) || !strings.Contains(more, "line39<") {
		t.Errorf("behind them: %s; want %s and so on", more, want)
	}
	shown, more, ok = strings.Cut(between(t, page, live["models"][0], "</section>"), `<details id="more-models">`)
	if !ok || !strings.HasPrefix(text(shown), "model39 resident model0 ") || !strings.Contains(shown, "model8<") || !strings.Contains(text(more), "30 more model9 model10") {
		t.Errorf("models: %s and %s; want the resident one, nine others, and 30 more", shown, more)
	}
	if got := text(between(t, page, live["today"][0], live["today"][1])); !strings.Contains(got, "client9 ") || strings.Contains(got, "client10 ") || !strings.HasSuffix(got, "and 30 more") {
		t.Errorf("today: %s; want ten clients and 30 more", got)
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
		for _, want := range []string{`<label id="live" hidden><input type="checkbox" checked>`, `<p id="stale" role="alert" hidden>`, `<meta http-equiv="refresh" content="`} {
			between(t, page, want, ">")
		}
	}
}

// TestPageEscapesTexts: whatever clients and the host send, the tags are those of a
// page with harmless texts, and people see each text as it is.
func TestPageEscapesTexts(t *testing.T) {
	pageOf := func(s string) string {
		chat := Chat{ID: s, Key: s, Agent: "x/1 " + s, Options: s, Model: s, Client: s, Position: 1, Next: true}
		request := Record{ID: s, Method: s, Route: s, Model: s, Agent: "x/1 " + s, Client: s, Ungated: s, Status: 404, Reason: s}
		return render(t, &Page{
			Version: s, Now: now, Host: Host{URL: s, Reason: s}, Running: &chat, Waiting: []Chat{chat}, Embedder: s, Models: []Model{{Name: s}}, Notice: s,
			Chats: []Record{request}, Others: []Record{request}, Day: Day{Shares: []Share{{Client: s}}},
		})
	}
	const text = "a harmless text"
	harmless := pageOf(text)
	for _, hostile := range []string{
		"<script>alert(1)</script>", "</script><script>alert(1)</script>", "</style><b>", `"><img src=x onerror="alert(1)">`, "' onload='alert(1)",
		"<!-- a comment", "]]>]]>]]>]]>]]>", "&lt;b&gt; &lt;b&gt;", "{{.Script}} {{.Script}}",
	} {
		page := pageOf(hostile)
		want, got := tag.FindAllString(harmless, -1), tag.FindAllString(page, -1)
		if len(got) < len(want) {
			t.Errorf("%q takes tags from the page: %d; want %d", hostile, len(got), len(want))
		}
		for i, tag := range got {
			if tag = strings.ReplaceAll(html.UnescapeString(tag), hostile, text); i >= len(want) || tag != want[i] {
				t.Errorf("%q changes the tags of the page: %q", hostile, tag)
				break
			}
		}
		if got, want := strings.Count(html.UnescapeString(page), hostile), strings.Count(harmless, text); got < want || want < 30 {
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

// TestBars: a bar's length is the root of its part of the longest, in which each part of
// the time has its part of the bar.
func TestBars(t *testing.T) {
	rect := regexp.MustCompile(`<rect class="(\w+)" x="(\d+)" width="(\d+)" height="10"/>`)
	const second = time.Second
	told := usage.Usage{Load: 20 * second, Prompt: 10 * second, Completion: 30 * second}
	for _, test := range []struct {
		name, want string
		r          Record
	}{
		{"the longest", "other 0 1000", Record{Duration: 400 * second}},
		{"never in line", "other 0 500", Record{Duration: 100 * second, FirstByte: 100 * second}},
		{"streamed", "arriving 0 50, queue 50 100, first 150 50, words 200 300", Record{Held: 1, Duration: 100 * second, FirstByte: 40 * second, Queued: 20 * second, Arriving: 10 * second}},
		{"in one piece", "arriving 0 50, queue 50 100, first 150 350", Record{Held: 1, Duration: 100 * second, FirstByte: 100*second - 1, Queued: 20 * second, Arriving: 10 * second}},
		{"nobody knows when the host began", "queue 0 400, first 400 100", Record{Held: 1, Duration: 100 * second, Early: true, FirstByte: 20 * second, Queued: 80 * second}},
		{"no answer", "arriving 0 50, queue 50 100, first 150 350", Record{Held: 1, Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second}},
		{"left while in line", "queue 0 500", Record{Duration: 100 * second, Queued: 100 * second}},
		{"beside the line", "first 0 100, words 100 400", Record{Ungated: "remote model", Duration: 100 * second, FirstByte: 20 * second}},
		{"the host tells", "arriving 0 50, queue 50 100, load 150 100, prompt 250 50, words 300 150, other 450 50",
			Record{Held: 1, Duration: 100 * second, Arriving: 10 * second, Queued: 20 * second, FirstByte: 70 * second, Usage: told}},
		{"foreman has seen the words", "queue 0 250, first 250 125, words 375 125",
			Record{Held: 1, Duration: 100 * second, Queued: 50 * second, Early: true, FirstByte: second, Usage: usage.Usage{Completion: 25 * second}}},
		{"the host's clock is wrong", "load 0 250", Record{Held: 1, Duration: 25 * second, FirstByte: second, Usage: usage.Usage{Load: 40 * second, Prompt: second}}},
		{"too short to see", "", Record{Duration: 1}},
		{"no time at all", "", Record{}},
	} {
		page := render(t, &Page{Now: now, Chats: []Record{{Duration: 400 * second}, test.r}})
		var parts []string
		for _, m := range rect.FindAllStringSubmatch(strings.Split(page, `<svg viewBox="0 0 1000 10"`)[2], -1) {
			parts = append(parts, strings.Join(m[1:], " "))
		}
		if got := strings.Join(parts, ", "); got != test.want {
			t.Errorf("%s: %q; want %q", test.name, got, test.want)
		}
	}
	for class := range strings.FieldsSeq("arriving queue load prompt words first other") {
		if !strings.Contains(pageHTML, `<span class="key `+class+`">`) || !strings.Contains(string(style), "\n."+class+" { fill:") {
			t.Errorf("%s has no legend, or no colour", class)
		}
	}
	render(t, &Page{Chats: []Record{{}}}) // a scale of nothing
}

// TestTimesInWords: what the bars show is in the cells, too, and what took most of a
// slow chat's time.
func TestTimesInWords(t *testing.T) {
	const second = time.Second
	tokens := usage.Usage{PromptTokens: 812, CompletionTokens: 1}
	for _, test := range []struct {
		name, want string
		r          Record
	}{
		{"streamed, no word of the host's", "2.0 s | 3.0 s load and prompt 812 tokens | 15 s 1 token | 20 s mostly words |",
			Record{Held: 1, Queued: 2 * second, FirstByte: 5 * second, Duration: 20 * second, Usage: tokens}},
		{"in one piece", "2.0 s | 18 s load, prompt and words 812 tokens read 1 token written | 20 s mostly load, prompt and words |",
			Record{Held: 1, Queued: 2 * second, FirstByte: 20 * second, Duration: 20 * second, Usage: tokens}},
		{"streamed, behind heartbeats", "10 s | 3.0 s load and prompt 812 tokens | 7.0 s 140 tokens 20 tokens/s | 20 s mostly in line, words |",
			Record{Held: 1, Early: true, Queued: 10 * second, FirstByte: 5 * second, Duration: 20 * second, Usage: usage.Usage{PromptTokens: 812, CompletionTokens: 140, Completion: 7 * second}}},
		{"behind heartbeats, and nobody tells", "10 s | 10 s load, prompt and words | 20 s mostly in line, load, prompt and words |",
			Record{Held: 1, Early: true, Queued: 10 * second, FirstByte: 5 * second, Duration: 20 * second}},
		{"no answer", "| 20 s no answer | | 20 s mostly no answer |", Record{Held: 1, Duration: 20 * second}},
		{"foreman's answer", "| 20 s no answer | | 20 s mostly no answer |", Record{Held: 1, FirstByte: 20 * second, Duration: 20 * second, Status: 504, Reason: "host asleep"}},
		{"a cut", "| 5.0 s load and prompt | 15 s | 20 s mostly words |", Record{Held: 1, FirstByte: 5 * second, Duration: 20 * second, Status: 200, Cut: true, Reason: "host asleep"}},
		{"several parts", "4.0 s | 5.0 s | 6.0 s | 500 ms | 16 s mostly prompt, load |",
			Record{Held: 1, Queued: 4 * second, Duration: 16 * second, Usage: usage.Usage{Load: 5 * second, Prompt: 6 * second, Completion: second / 2}}},
		{"not slow", "4.9 s | | | | 4.9 s |", Record{Queued: 4900 * time.Millisecond, Duration: 4900 * time.Millisecond}},
		{"a fast host", "| | 100 ms | 1.0 s 1,234 tokens 1,234 tokens/s | 2.0 s |",
			Record{Held: 1, Duration: 2 * second, Usage: usage.Usage{Prompt: second / 10, Completion: second, CompletionTokens: 1234}}},
		{"a slow host", "| | 100 ms | 1.0 s 3 tokens 3.0 tokens/s | 2.0 s |",
			Record{Held: 1, Duration: 2 * second, Usage: usage.Usage{Prompt: second / 10, Completion: second, CompletionTokens: 3}}},
	} {
		page := text(between(t, render(t, &Page{Now: now, Chats: []Record{test.r}}), `<td class="num" data-label="in line">`, `<td class="num ended">`))
		if page != test.want {
			t.Errorf("%s:\n got %q\nwant %q", test.name, page, test.want)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for _, test := range []struct {
		r           Record
		text, class string
	}{
		{Record{Status: 200}, "200", "fine"},
		{Record{Status: 200, Early: true}, "200", "fine"},
		{Record{Status: 200, Cut: true, Reason: "host asleep"}, "200 host asleep, cut", "bad"},
		{Record{Status: 499, Cut: true, Reason: "client left"}, "client left", "soft"},
		{Record{Status: 403, Reason: "stopped"}, "stopped on this page", "soft"},
		{Record{Status: 200, Cut: true, Reason: "stopped"}, "stopped on this page", "soft"},
		{Record{Status: 200, Cut: true, Reason: "token revoked"}, "token revoked", "soft"},
		{Record{Status: 503, Early: true, Reason: "queue timeout"}, "503 queue timeout, after an early 200", "bad"},
		{Record{Status: 404, Reason: "path"}, "404 unknown path", "bad"},
		{Record{Status: 500}, "500", "bad"},
	} {
		page := render(t, &Page{Chats: []Record{test.r}})
		if got, want := between(t, page, `<td class="outcome `, "</td>"), test.class+`">`+test.text; got != want {
			t.Errorf("%+v: got %s; want %s", test.r, got, want)
		}
	}
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
		-time.Second: "0 s", 0: "0 s", 1: "< 1 ms", time.Millisecond - 1: "< 1 ms",
		time.Millisecond: "1 ms", time.Second - 1: "999 ms", time.Second: "1.0 s", 1500 * time.Millisecond: "1.5 s", 10*time.Second - 1: "9.9 s",
		10 * time.Second: "10 s", 67900 * time.Millisecond: "67 s", 100*time.Second - 1: "99 s",
		100 * time.Second: "1 min 40 s", time.Hour - 1: "59 min 59 s",
		time.Hour: "1 h 0 min", 3*time.Hour + 5*time.Minute: "3 h 5 min", 2*day - 1: "47 h 59 min", 2 * day: "2 days", 4*day - 1: "3 days",
	})
	wantTexts(t, func(d time.Duration) string { return formatEstimate(Span(d)) }, map[time.Duration]string{
		10*time.Second - 1: "a few seconds", 10 * time.Second: "about 10 s", time.Minute - 1: "about 50 s", time.Minute: "about 1 min",
	})
	wantTexts(t, formatCountdown, map[time.Duration]string{1: "1 s", 10*time.Second - 1: "10 s", 99*time.Second - 1: "99 s", 100 * time.Second: "1 min 41 s"})
	wantTexts(t, formatAgo, map[time.Duration]string{
		-1: "just now", time.Second - 1: "just now", time.Second: "1 s ago", 10*time.Second - 1: "9 s ago", time.Minute - 1: "50 s ago",
		time.Minute: "1 min ago", time.Hour - 1: "59 min ago", 2*time.Hour - 1: "1 h ago", 2*day - 1: "47 h ago", 2 * day: "2 days ago",
	})
	wantTexts(t, formatCount, map[int64]string{0: "0", 999: "999", 1000: "1,000", 999_999: "999,999", 1_234_567: "1,234,567"})
	wantTexts(t, shortID, map[string]string{"": "", "batch-000017": "batch-000017", "2ZQGJ7XSWMBQY4RU5WUGCKTYLR": "2ZQGJ7XS…"})
	wantTexts(t, shortAgent, map[string]string{
		"": "", " ": "", "curl/8.5.0": "curl/8.5.0", "ollama-js/0.6.4 (x64 linux Node.js/v20)": "ollama-js/0.6.4", "OpenAI/Python 1.40.0": "OpenAI/Python 1.40.0",
		"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0":                                                        "Firefox/128.0",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36":                         "Chrome/126.0.0.0",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0": "Edg/126.0.0.0",
		"Mozilla/4.0": "Mozilla/4.0", strings.Repeat("x", 50): strings.Repeat("x", 40) + "…",
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

// Chats of many programs at one address may be those of many users. The page says so, and
// not where anything speaks against it.
func TestStatusOfOneAddress(t *testing.T) {
	chats := func(clients ...string) (records []Record) {
		for i, client := range clients {
			records = append(records, Record{Client: client, Agent: fmt.Sprintf("program/%d", i), Duration: 1})
		}
		return records
	}
	const a = "192.0.2.7"
	for _, test := range []struct {
		name string
		page Page
		want string
	}{
		{"many", Page{Chats: chats(a, a, a)}, a},
		{"many, in line and running", Page{Running: &Chat{Client: a + ":1", Agent: "x"}, Waiting: []Chat{{Client: a + ":2", Agent: "y", Position: 1}}, Chats: chats(a)}, a},
		{"of IPv6", Page{Chats: chats("2001:db8:1:2::/64", "2001:db8:1:2::/64", "2001:db8:1:2::/64")}, "2001:db8:1:2::/64"},
		{"two", Page{Chats: chats(a, a)}, ""},
		{"some that do not say what they are", Page{Chats: append(chats(a, a), Record{Client: a}, Record{Client: a})}, ""},
		{"two addresses", Page{Chats: chats(a, a, a, "192.0.2.8")}, ""},
		{"another in line", Page{Waiting: []Chat{{Client: "ann", Position: 1}}, Chats: chats(a, a, a)}, ""},
		{"a token", Page{Chats: chats("ann", "ann", "ann")}, ""},
		{"a header", Page{Chats: chats(a+" (header)", a+" (header)", a+" (header)")}, ""},
		{"none", Page{}, ""},
	} {
		page := render(t, &test.page)
		if got := strings.Contains(page, "All chats come from <code>"+test.want+"</code>"); got != (test.want != "") || strings.Contains(page, "one-address") != got {
			t.Errorf("%s: said %t; want %q", test.name, got, test.want)
		}
	}
}

// Only addresses have ports: names keep what they have.
func TestWithoutPort(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[2001:db8::3]:1003": "2001:db8::3", "2001:db8::/64": "2001:db8::/64", "192.0.2.1": "192.0.2.1",
		"ann": "ann", "team:ann": "team:ann", "ann:1 (header)": "ann:1 (header)", ":x": ":x",
	} {
		if got := withoutPort(client); got != want {
			t.Errorf("%s: got %s; want %s", client, got, want)
		}
	}
}
