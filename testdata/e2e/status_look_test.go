package main

import (
	"context"
	_ "embed" // for what is run in the page
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"foreman/e2e/lab"
)

// A crowd stands in for an Ollama with many models, some of long names. A chat that has
// "hold" in it is answered at length and never comes to its end; one whose prompt is an
// ending takes as long as that says, and ends so.
type crowd struct{ models, resident []string }

// An ending is what Ollama says of a chat when it is done.
type ending struct {
	Load             time.Duration `json:"load_duration"`
	Prompt           time.Duration `json:"prompt_eval_duration"`
	Words            time.Duration `json:"eval_duration"`
	PromptTokens     int           `json:"prompt_eval_count"`
	CompletionTokens int           `json:"eval_count"`
	Done             bool          `json:"done"`
}

func (c crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list := func(names []string) {
		models := []map[string]any{}
		for i, name := range names {
			expires := time.Now().Add(5 * time.Minute)
			if name == lab.EmbedModel+":latest" {
				expires = expires.AddDate(290, 0, 0)
			}
			models = append(models, map[string]any{"name": name, "model": name, "size": 274_301_056 * (1 + 9*i), "expires_at": expires})
		}
		json.NewEncoder(w).Encode(map[string]any{"models": models})
	}
	var chat struct{ Prompt string }
	json.NewDecoder(r.Body).Decode(&chat)
	var end ending
	switch {
	case r.URL.Path == "/api/tags":
		list(c.models)
	case r.URL.Path == "/api/ps":
		list(c.resident)
	case chat.Prompt == "hold":
		io.WriteString(w, strings.Repeat(strings.Repeat("x", 1023)+"\n", 12_345))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case chat.Prompt == "stream":
		time.Sleep(60 * time.Millisecond)
		io.WriteString(w, "data: {}\n\n")
		http.NewResponseController(w).Flush()
		time.Sleep(60 * time.Millisecond)
		fallthrough
	case chat.Prompt == "at once":
		time.Sleep(30 * time.Millisecond)
		io.WriteString(w, `{"usage":{"prompt_tokens":1120431,"completion_tokens":20}}`)
	case json.Unmarshal([]byte(chat.Prompt), &end) == nil:
		time.Sleep(end.Load + end.Prompt + end.Words)
		json.NewEncoder(w).Encode(end)
	default:
		io.WriteString(w, "{}")
	}
}

// askAs posts a chat, or anything else, as a program and reads the answer. The agent ends
// in what shows the page's limits.
func askAs(t *testing.T, agent, url string, body any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", agent)
	resp, err := http.DefaultClient.Do(r)
	read(t, resp, err)
}

var pictures = flag.String("pictures", "", "directory for pictures of the status page; empty: keep none")

// looks are the widths and schemes in which the page is looked at. 320 pixels are 1280 at
// four times the size: WCAG 1.4.10.
var looks = []struct {
	width  int64
	scheme string
}{{1200, "light"}, {1200, "dark"}, {800, "light"}, {800, "dark"}, {390, "light"}, {390, "dark"}, {320, "light"}}

//go:embed look.js
var problems string

// A gallery looks at the page in a tab, and keeps pictures.
type gallery struct {
	tab context.Context
	dir string // empty: it keeps none
}

// TestStatusPageLooks fills the page, looks at it in light and dark, wide and narrow, and
// takes pictures of it for whoever wants to look:
//
//	go -C testdata/e2e test -run StatusPageLooks -pictures /tmp/pictures
func TestStatusPageLooks(t *testing.T) {
	const (
		long    = "hf.co/bartowski/DeepSeek-R1-Distill-Qwen-32B-abliterated-SomebodysFineTune-v2.1-GGUF:IQ4_XS"
		node    = "ollama-js/0.6.4 (x64 linux Node.js/v20.20.2)"
		python  = "OpenAI/Python 1.40.0"
		firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
	)
	g := &gallery{startBrowser(t), *pictures}
	if g.dir != "" {
		if err := os.MkdirAll(g.dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tab := g.tab
	empty := startForeman(t, serve(t, crowd{}), "FOREMAN_EMBED_MODEL=")
	navigate(t, tab, empty.URL+"/status")
	shows(t, tab, "main", "● up", "No chat is running.", "Nobody waits.", "None known.", "None yet.", "No chat has had its turn.", "None yet.")
	g.look(t, "empty")

	host := crowd{
		models: []string{"llama3.2:latest", long, "qwen3:30b-a3b-instruct-2507-q4_K_M", lab.EmbedModel + ":latest", "gemma3:27b", "mistral-small3.2:24b", "qwen3:8b", "gpt-oss:20b"},
	}
	host.resident = host.models[1:4:4]
	target := httptest.NewServer(host)
	t.Cleanup(target.Close)
	t.Cleanup(target.CloseClientConnections)
	foreman := startForeman(t, target.URL)

	const ms = time.Millisecond
	for _, end := range []ending{
		{Load: 5 * ms, Prompt: 20 * ms, Words: 600 * ms, PromptTokens: 26, CompletionTokens: 15},
		{Load: 200 * ms, Prompt: 100 * ms, Words: 30 * ms, PromptTokens: 15_000, CompletionTokens: 1},
		{Load: ms, Prompt: 300 * ms, Words: 30 * ms, PromptTokens: 1_120_431, CompletionTokens: 2_500},
	} {
		prompt, err := json.Marshal(end)
		if err != nil {
			t.Fatal(err)
		}
		askAs(t, node, foreman.URL+"/api/generate", map[string]any{"model": host.models[0], "prompt": string(prompt)})
		askAs(t, firefox, foreman.URL+"/api/generate", map[string]any{"model": long, "prompt": string(prompt)})
	}
	askPython := func(prompt string) {
		askAs(t, python, foreman.URL+"/v1/chat/completions", map[string]any{"model": long, "prompt": prompt, "stream": prompt == "stream"})
	}
	askPython("stream")
	atOnce := 0
	eventually(t, func() error { // on a busy machine an answer in one piece may look like a stream
		atOnce++
		askPython("at once")
		if !strings.Contains(get(t, foreman.URL+"/status").body, "1,120,431 tokens read") {
			return errors.New("no answer came at once")
		}
		return nil
	})
	for range 9 - atOnce { // 19 chats, with the next three
		askAs(t, node, foreman.URL+"/api/chat", map[string]any{"model": "absent"})
	}

	const running, few, many = 1, 2, 40
	line := []caller{call(t, foreman.URL+"/api/chat", "", `{"model":"`+long+`","prompt":"hold"}`)}
	eventually(t, func() error { return wantWaiting(foreman.URL, 0) })
	join := func(to int) {
		t.Helper()
		for i := len(line) - running; i < to; i++ {
			line = append(line, call(t, foreman.URL+"/api/chat", "", fmt.Sprintf(`{"model":%q,"options":{"num_ctx":%d}}`, host.models[i%len(host.models)], 8192*(1+i%2))))
			eventually(t, func() error { return wantWaiting(foreman.URL, i+1) })
		}
	}
	leave := func() {
		t.Helper()
		line[len(line)-1].leave()
		line = line[:len(line)-1]
		eventually(t, func() error { return wantWaiting(foreman.URL, len(line)-running) })
	}
	join(few + 3)
	for range 3 {
		leave()
	}
	get(t, foreman.URL+"/v1/modelss/"+long)
	for range 30 { // embeds, which do not wash the chats away
		askAs(t, python, foreman.URL+"/api/embed", map[string]any{"model": lab.EmbedModel})
	}
	stranger, err := http.PostForm(foreman.URL+"/status", map[string][]string{"stop": {"none"}})
	if got := read(t, stranger, err); got.StatusCode != http.StatusNotFound {
		t.Errorf("a chat that is not there was stopped: %d", got.StatusCode)
	}

	navigate(t, tab, foreman.URL+"/status")
	shows(t, tab, "#now", long, "12.6 MB so far", fmt.Sprint(few, " waiting"))
	for _, want := range []string{"full bar = ", "client left", "404 unknown model", "load, prompt and words", "1,120,431 tokens read", "OpenAI/Python 1.40.0", "1 token\n", "25 tokens/s"} {
		shows(t, tab, "#chats", want)
	}
	shows(t, tab, "#others", "POST /api/embed", "OpenAI/Python 1.40.0")
	for part, want := range map[string]int{"#chats tbody tr": 19, "#others tbody tr": 5, "#models li": 8, "#now button": running + few} {
		if got := value[int](t, tab, fmt.Sprintf("document.querySelectorAll(%q).length", part)); got != want {
			t.Errorf("%d of %s; want %d", got, part, want)
		}
	}
	g.look(t, "busy")

	value[bool](t, tab, `(document.querySelector("#live input").click(), document.querySelectorAll("td[data-label]").forEach(cell => {
		if (cell.firstChild) cell.firstChild.data = "47 h 59 min";
	}), document.querySelector("#stale").hidden = false, true)`)
	g.look(t, "slow") // and a busy machine's page that has missed an answer
	value[bool](t, tab, `(document.querySelector("#live input").click(), true)`)

	// A batch is one row, which opens, and stays so over the page's updates.
	const batch = 20
	var chats sync.WaitGroup
	t.Cleanup(chats.Wait)
	for range batch {
		chats.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), "POST", foreman.URL+"/api/chat", strings.NewReader(`{"model":"gemma3:27b"}`))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(r)
			if t.Context().Err() != nil {
				return
			}
			if got := read(t, resp, err); got.StatusCode != http.StatusForbidden {
				t.Errorf("a chat of the batch: got %d %s; want it stopped", got.StatusCode, got.body)
			}
		})
	}
	shows(t, tab, "#now", fmt.Sprint(few+batch, " waiting"), "20 chats with gemma3:27b", "Stop all", "for 127.0.0.1", "one by one")
	g.look(t, "batch")
	if err := doIn(tab, chromedp.Click(`#now li[data-key="127.0.0.1"] summary`)); err != nil {
		t.Fatal(err)
	}
	told := value[string](t, tab, `document.querySelector("#foot").textContent`)
	eventually(t, func() error {
		if value[string](t, tab, `document.querySelector("#foot").textContent`) == told {
			return errors.New("no update")
		}
		return nil
	})
	if got := value[int](t, tab, `[...document.querySelectorAll('#now li[data-key="127.0.0.1"] li button')].filter(e => e.checkVisibility()).length`); got != batch {
		t.Errorf("after an update %d chats of the batch are in sight; want %d", got, batch)
	}
	g.look(t, "batch-open")
	g.walk(t, 390)
	if err := doIn(tab, chromedp.Click(`#now li[data-key="127.0.0.1"] button`)); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "#notice", "Stopped all 20 chats of 127.0.0.1 that wait")
	settle := func() {
		t.Helper()
		pointAt(t, tab, 1, 1)
		eventually(t, func() error {
			if value[bool](t, tab, `document.querySelector("#notice").classList.contains("over")`) {
				return errors.New("the notice lies over the page")
			}
			return nil
		})
	}
	settle()
	shows(t, tab, "#now", fmt.Sprint(few, " waiting"))
	chats.Wait()

	if err := doIn(tab, chromedp.Click("#hour summary")); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "#hour", "127.0.0.1", "loading", "idle", "waiting", "up to ", "0 to 5", "127.0.0.1 ")
	g.look(t, "hour")
	if err := doIn(tab, chromedp.Click("#hour summary")); err != nil {
		t.Fatal(err)
	}

	join(many)
	shows(t, tab, "#now", fmt.Sprint(many, " waiting"), fmt.Sprint(many-10, " more clients"))
	g.look(t, "forty")
	g.walk(t, 1200)
	if err := doIn(tab, chromedp.Click("#more summary")); err != nil {
		t.Fatal(err)
	}
	leave()
	shows(t, tab, "#now", fmt.Sprint(many-1, " waiting"), fmt.Sprint(many-11, " more clients"), line[len(line)-1].addr)
	if !value[bool](t, tab, `document.querySelector("#more").open`) {
		t.Error("an update closes what somebody has opened")
	}
	g.look(t, "forty-open")

	if err := doIn(tab, chromedp.Click("#more summary"), chromedp.Click("#now li:nth-child(2) button")); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "#notice", "Stopped the chat of ", ", number 2 in line")
	settle()
	shows(t, tab, "#now", fmt.Sprint(many-2, " waiting"))
	g.look(t, "stopped")

	target.CloseClientConnections()
	target.Close()
	shows(t, tab, "#host", "degraded: unreachable", "OLLAMA_HOST=0.0.0.0")
	shows(t, tab, "#now", "No chat is running.", "Nobody waits.")
	g.look(t, "degraded")
	if err := foreman.Stop(); err != nil {
		t.Error(err)
	}
	shows(t, tab, "#stale", "old")
	g.look(t, "stale")
}

// TestStatusPageStates looks at the page while the host is paused, in quiet hours, woken or
// slow, and pauses and resumes there.
func TestStatusPageStates(t *testing.T) {
	g := &gallery{startBrowser(t), *pictures}
	if g.dir != "" {
		if err := os.MkdirAll(g.dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tab := g.tab
	open := func(target string, env ...string) *lab.Foreman {
		t.Helper()
		foreman := startForemanAnyhow(t, target, append([]string{"FOREMAN_EMBED_MODEL="}, env...)...)
		navigate(t, tab, foreman.URL+"/status")
		return foreman
	}
	host := serve(t, crowd{models: []string{"llama3.2:latest"}})

	foreman := open(host)
	shows(t, tab, "#host", "● up")
	g.look(t, "pausable")
	value[bool](t, tab, `(document.querySelector("#pause select").focus(), true)`)
	press(t, tab, "u") // until resumed
	shows(t, tab, "#foot", "foreman")
	if err := doIn(tab, chromedp.Click("#pause button")); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "#notice", "Paused foreman")
	pointAt(t, tab, 1, 1)
	shows(t, tab, "#host", "■ paused by 127.0.0.1", "foreman has unloaded the models.")
	shows(t, tab, "#pause", "until somebody resumes", "Resume")
	call(t, foreman.URL+"/api/chat", "", `{"model":"llama3.2"}`)
	shows(t, tab, "#now", "No chat is running.", "1 waiting")
	titled(t, tab, "paused, 1 waiting · foreman")
	shows(t, tab, "#hour", "paused")
	g.look(t, "paused")
	g.walk(t, 390)
	value[bool](t, tab, `(document.querySelector("#pause button").focus(), true)`)
	press(t, tab, "\r")
	shows(t, tab, "#notice", "Resumed foreman")
	shows(t, tab, "#host", "● up")
	shows(t, tab, "#pause", "Pause")
	shows(t, tab, "#now", "Nobody waits.")
	shows(t, tab, "#hour", "paused")

	now := time.Now()
	open(host, "FOREMAN_QUIET="+now.Add(-time.Hour).Format("15:04-")+now.Add(2*time.Hour).Format("15:04"))
	shows(t, tab, "#host", "■ quiet hours")
	shows(t, tab, "#pause", "until ", "1 h ", "to go")
	titled(t, tab, "quiet · foreman")
	g.look(t, "quiet")

	asleep, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	sleepAt(t, asleep)
	foreman = open("http://"+asleep, "FOREMAN_WAKE=a0:b1:c2:d3:e4:f5@127.0.0.1:9")
	call(t, foreman.URL+"/api/chat", "", `{"model":"llama3.2"}`)
	shows(t, tab, "#host", "◆ waking", "magic packet")
	shows(t, tab, "#host-since", "waking for ")
	titled(t, tab, "waking · foreman")
	g.look(t, "waking")

	front, delay := slowFront(t, host)
	delay.Store(int64(5 * time.Second))
	open(front)
	shows(t, tab, "#host", "● up, slow")
	g.look(t, "host-slow")
}

// serve starts a stand-in for Ollama for one test.
func serve(t *testing.T, handler http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// look looks for problems at all widths, and takes pictures.
func (g *gallery) look(t *testing.T, name string) {
	t.Helper()
	value[bool](t, g.tab, `(scrollTo(0, 0), true)`)
	for _, l := range looks {
		name := fmt.Sprintf("%s-%d-%s", name, l.width, l.scheme)
		resize(t, g.tab, l.width, l.scheme)
		for _, problem := range inPage[[]string](t, g.tab, problems, l.scheme) {
			t.Errorf("%s: %s", name, problem)
		}
		g.expectTables(t, name)
		if g.dir == "" {
			continue
		}
		picture, err := runIn(g.tab, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(g.dir, name+".png"), picture, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func resize(t *testing.T, tab context.Context, width int64, scheme string) {
	t.Helper()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if err := doIn(tab, chromedp.EmulateViewport(width, 900), func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, media)
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
}

// expectTables looks at what a screen reader gets: tables are tables, also where their
// rows look like cards.
func (g *gallery) expectTables(t *testing.T, name string) {
	t.Helper()
	tree, err := runIn(g.tab, func(ctx context.Context, target *chromedp.Target) (accessibility.GetFullAXTreeResult, error) {
		return cdp.Call(ctx, target, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	})
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]int{}
	for _, node := range tree.Nodes {
		if !node.Ignored && node.Role != nil {
			roles[strings.Trim(string(node.Role.Value), `"`)]++
		}
	}
	for role, selector := range map[string]string{"table": "table", "columnheader": "thead th", "rowheader": "tbody th", "button": "button", "combobox": "select", "listitem": "li", "time": "time"} {
		want := value[int](t, g.tab, fmt.Sprintf("[...document.querySelectorAll(%q)].filter(e => e.checkVisibility()).length", selector))
		if roles[role] != want {
			t.Errorf("%s: a screen reader gets %d of %s; want %d", name, roles[role], role, want)
		}
	}
}

// walk goes through the page with the Tab key: to everything that can be pressed, from
// top to bottom in each section, and always in sight with a ring.
func (g *gallery) walk(t *testing.T, width int64) {
	t.Helper()
	resize(t, g.tab, width, "light")
	type stop struct {
		What, Section string
		Top, Bottom   float64
		Left, Right   float64 // of its section
		Ring, InSight bool
	}
	const here = `(() => {
		const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e), section = e.closest("section, header");
		return {
			what: e === document.body ? "" : e.tagName + " " + (e.ariaLabel || e.closest("label, summary")?.textContent), section: section?.innerText.split("\n")[0] ?? "",
			top: box.top + scrollY, bottom: box.bottom + scrollY, left: section?.getBoundingClientRect().left ?? 0, right: section?.getBoundingClientRect().right ?? 0,
			ring: style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2, inSight: box.top >= -1 && box.bottom <= innerHeight + 1,
		};
	})()`
	want := value[int](t, g.tab, `(h => (h.tabIndex = -1, h.focus(), h.blur(), h.removeAttribute("tabindex")))(document.querySelector("h1")),
		(getSelection().removeAllRanges(), scrollTo(0, 0),
		[...document.querySelectorAll("button, select, input:not([type=hidden]), summary, a")].filter(e => e.checkVisibility()).length)`)
	var stops []stop
	for range want + 1 {
		press(t, g.tab, "\t")
		s := value[stop](t, g.tab, here)
		if s.What == "" {
			break // out of the page
		}
		stops = append(stops, s)
		if !s.Ring || !s.InSight {
			t.Errorf("%d: at %s: ring %t, in sight %t; want both", width, s.What, s.Ring, s.InSight)
		}
	}
	if len(stops) != want {
		t.Errorf("%d: Tab comes to %d places; want %d: %v", width, len(stops), want, stops)
	}
	for i := range stops[1:] {
		before, after := stops[i], stops[i+1]
		if after.Bottom <= before.Top && after.Left < before.Right { // what stands in one row may be of several heights
			t.Errorf("%d: Tab goes up from %s to %s", width, before.What, after.What)
		}
	}
}
