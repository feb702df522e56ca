package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// A crowd stands in for an Ollama with many models, some of long names, and tells where
// the time of a chat went. A chat that has "hold" in it is answered at length and never
// comes to its end.
type crowd struct{ models, resident []string }

func (c crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list := func(names []string, more map[string]any) {
		models := []map[string]any{}
		for _, name := range names {
			model := map[string]any{"name": name, "model": name}
			maps.Copy(model, more)
			models = append(models, model)
		}
		json.NewEncoder(w).Encode(map[string]any{"models": models})
	}
	body, _ := io.ReadAll(r.Body)
	switch {
	case r.URL.Path == "/api/tags":
		list(c.models, map[string]any{"size": 19_851_337_640})
	case r.URL.Path == "/api/ps":
		list(c.resident, map[string]any{"expires_at": time.Now().Add(5 * time.Minute)})
	case strings.Contains(string(body), "hold"):
		io.WriteString(w, strings.Repeat(strings.Repeat("x", 1023)+"\n", 12_345))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case strings.HasPrefix(r.URL.Path, "/v1/"):
		io.WriteString(w, `{"usage":{"prompt_tokens":1234,"completion_tokens":56}}`)
	default: // the times are shares of what the chat takes in foreman's eyes
		time.Sleep(20 * time.Millisecond)
		io.WriteString(w, `{"done":true,"total_duration":20000000,"load_duration":4000000,"prompt_eval_count":20431,"prompt_eval_duration":6000000,"eval_count":160,"eval_duration":8000000}`)
	}
}

var pictures = flag.String("pictures", "", "directory for pictures of the status page; empty: keep none")

// TestStatusPageLooks brings the page into each of its states, checks it in light and
// dark, wide and narrow, and takes pictures of it for whoever wants to look:
//
//	go -C testdata/e2e test -run StatusPageLooks -pictures /tmp/pictures
func TestStatusPageLooks(t *testing.T) {
	const long = "hf.co/bartowski/DeepSeek-R1-Distill-Qwen-32B-abliterated-SomebodysFineTune-v2.1-GGUF:IQ4_XS"
	tab := startBrowser(t)
	host := crowd{
		models: []string{
			"llama3.2:latest", long, "qwen3:30b-a3b-instruct-2507-q4_K_M", "nomic-embed-text:latest",
			"gemma3:27b", "mistral-small3.2:24b", "gpt-oss:20b", "phi4:latest",
		},
		resident: []string{"nomic-embed-text:latest", long},
	}
	target := httptest.NewServer(host)
	t.Cleanup(target.Close)
	t.Cleanup(target.CloseClientConnections)
	foreman := startForeman(t, target.URL, "FOREMAN_EMBED_MODEL=nomic-embed-text")

	album := cmp.Or(*pictures, t.TempDir())
	if err := os.MkdirAll(album, 0o700); err != nil {
		t.Fatal(err)
	}
	look := func(state string, widths ...int64) {
		t.Helper()
		for _, scheme := range []string{"light", "dark"} {
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
			for _, width := range widths {
				name := fmt.Sprint(state, "-", width, "-", scheme)
				if err := chromedp.Do(tab, chromedp.EmulateViewport(width, 900), func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
					_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, media)
					return none, err
				}); err != nil {
					t.Fatal(err)
				}
				for _, problem := range inPage[[]string](t, tab, problems, scheme) {
					t.Errorf("%s: %s", name, problem)
				}
				picture, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(album, name+".png"), picture, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}

	navigate(t, tab, foreman.URL+"/status")
	shows(t, tab, "#chats", "None yet.")
	look("empty", 1200, 800, 390)

	for i := range 5 { // of all kinds
		post(t, foreman.URL+"/api/chat", `{"model":"`+host.models[i]+`"}`)
		post(t, foreman.URL+"/v1/chat/completions", `{"model":"`+long+`"}`)
		post(t, foreman.URL+"/api/chat", `{"model":"absent"}`)
		get(t, foreman.URL+"/v1/models/"+long)
	}
	for range 30 { // which do not wash the chats away
		post(t, foreman.URL+"/api/embed", `{"model":"nomic-embed-text"}`)
	}
	leaver := call(t, foreman.URL+"/api/chat", "", `{"model":"`+long+`","prompt":"hold"}`)
	eventually(t, func() error { return wantWaiting(foreman.URL, 0) })
	leaver.leave()
	shows(t, tab, "#chats", "client left", "absent", "404 unknown model", "20,431 tokens read", "160 written")
	shows(t, tab, "#today", "35 other requests")
	shows(t, tab, "#others", "POST /api/embed")
	if n := value[int](t, tab, `document.querySelectorAll("#chats tbody tr").length`); n != 16 {
		t.Errorf("%d chats are on the page; want 16", n)
	}

	call(t, foreman.URL+"/api/chat", "", `{"model":"`+long+`","prompt":"hold"}`)
	eventually(t, func() error { return wantWaiting(foreman.URL, 0) })
	wait := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			call(t, foreman.URL+"/api/chat", "", `{"model":"`+host.models[i%len(host.models)]+`","options":{"num_ctx":8192}}`)
		}
		shows(t, tab, "#now", long, "12.6 MB so far", fmt.Sprint(to, " waiting"))
		if got, want := value[string](t, tab, `document.title`), fmt.Sprint(to, " waiting · foreman"); got != want {
			t.Errorf("title: got %q; want %q", got, want)
		}
	}
	wait(0, 2)
	look("busy", 1200, 800, 390)
	wait(2, 40)
	look("line", 1200, 800, 390)
	look("line", 320) // 1280 pixels at four times the size: WCAG 1.4.10
	value[bool](t, tab, `document.querySelector("#more summary").click(), true`)
	look("whole-line", 1200, 390)
	inPage[bool](t, tab, `ms => new Promise(done => setTimeout(done, ms, true))`, 2500) // two updates
	if !value[bool](t, tab, `document.querySelector("#more").open`) {
		t.Error("an update has closed the rest of the line")
	}

	target.CloseClientConnections()
	target.Close()
	shows(t, tab, "#host", "degraded: unreachable")
	shows(t, tab, "#host-since", "next poll in", "Is the machine on")
	shows(t, tab, "#now", "No chat is running.", "Nobody waits.")
	look("degraded", 1200, 800, 390)
	if err := foreman.Stop(); err != nil {
		t.Error(err)
	}
	shows(t, tab, "header", "old")
}

// problems is run in the page and returns what keeps people from reading it:
// https://www.w3.org/TR/WCAG22/.
const problems = `async scheme => {
	const found = [], $ = selector => [...document.querySelectorAll(selector)];
	const must = (ok, what) => { if (!ok) found.push(what) };
	const show = e => e.outerHTML.slice(0, 100);

	must(document.documentElement.lang === "en", "no language");
	must(document.title !== "", "no title");
	for (const one of ["body > header", "main", "body > footer", "h1"]) must($(one).length === 1, $(one).length + " of " + one);
	let level = 0;
	for (const h of $("h1, h2, h3, h4, h5, h6")) {
		must(+h.tagName[1] <= level + 1, "a heading is left out before " + show(h));
		level = +h.tagName[1];
	}
	for (const e of $("[aria-labelledby]")) must(document.getElementById(e.getAttribute("aria-labelledby"))?.textContent, "no label: " + show(e));
	must($("section").every(e => e.hasAttribute("aria-labelledby")), "a section has no name");
	must($("table").length === 1 && $("thead th").length > 3 || $("#chats > p").length === 1, "no table of chats");
	must($("th").every(e => ["col", "row"].includes(e.scope)), "a table's header has no scope");
	must($("svg").every(e => e.getAttribute("aria-hidden") === "true"), "a drawing is read out");
	const names = $("button, summary, input:not([type=hidden])").map(e => e.getAttribute("aria-label") ?? e.closest("label")?.textContent.trim() ?? e.textContent.trim());
	must(names.every(name => name), "a control has no name: " + names);
	const stops = $("form button").map(e => e.getAttribute("aria-label"));
	must(stops.every(name => /^Stop the chat of \S+ with \S+$/.test(name)) && stops.length === $(".chats li").length, "not a button for each chat: " + stops);
	must($("form").every(e => e.method === "post" && e.action === location.href), "a form that does not post to the page");
	must(new Set($("[id]").map(e => e.id)).size === $("[id]").length, "an id stands twice");
	must($("[tabindex]").every(e => e.tabIndex === 0), "an order of focus of its own");
	must($("#host[role=status], #stale[role=alert]").length === 2, "changes are not read out");

	// Each cell is read out under its own header, at any width.
	const read = e => e.checkVisibility({ visibilityProperty: true }) && getComputedStyle(e).display !== "none";
	for (const row of $("tr")) {
		const cells = [...row.cells].filter(read).length;
		must(cells === $("thead th").length, cells + " cells are read out of " + $("thead th").length + ": " + show(row));
	}

	// Nothing is out of sight at the right, and what can be scrolled can be by keyboard.
	const width = document.documentElement.clientWidth;
	must(document.documentElement.scrollWidth <= width, "the page scrolls sideways: " + document.documentElement.scrollWidth + " > " + width);
	for (const e of $("body *")) {
		if (!e.checkVisibility() || [e.closest("thead"), e.closest("td")].some(e => e && getComputedStyle(e).position === "absolute")) continue; // only read out
		must(e.getBoundingClientRect().right <= width + 0.5, "beyond the right edge: " + show(e));
		must(e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0 || e.closest("svg") || e.tabIndex === 0, "cut off: " + show(e));
	}

	// Contrast of all text.
	const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = color => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return paint.getImageData(0, 0, 1, 1).data };
	const luminance = color => {
		const [r, g, b] = [...rgba(color)].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const ground = e => { for (; e; e = e.parentElement) if (rgba(getComputedStyle(e).backgroundColor)[3] === 255) return getComputedStyle(e).backgroundColor; return "white" };
	const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let seen = 0;
	while (text.nextNode()) {
		const e = text.currentNode.parentElement;
		if (!text.currentNode.data.trim() || !e.checkVisibility()) continue;
		const [light, dark] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((a, b) => b - a);
		const ratio = (light + 0.05) / (dark + 0.05);
		must(ratio >= 4.5, "contrast " + ratio.toFixed(1) + ": " + show(e));
		seen++;
	}
	must(seen > 25, "only " + seen + " texts");
	const contrast = (a, b) => { const [l, d] = [luminance(a), luminance(b)].sort((a, b) => b - a); return (l + 0.05) / (d + 0.05) };
	for (const e of $("rect")) {
		const ratio = contrast(getComputedStyle(e).fill, getComputedStyle(e.parentElement).backgroundColor);
		must(ratio >= 3, "contrast " + ratio.toFixed(1) + " in a bar: " + show(e));
	}
	for (const e of $("button, .key")) {
		const ratio = contrast(getComputedStyle(e)[e.matches(".key") ? "backgroundColor" : "borderTopColor"], ground(e.parentElement));
		must(ratio >= 3, "contrast " + ratio.toFixed(1) + " of a control or key: " + show(e));
	}
	for (const e of $("button, summary")) must(!e.checkVisibility() || e.getBoundingClientRect().height >= 24, "too small to press: " + show(e)); // WCAG 2.5.8
	must(scheme === "dark" === luminance(ground(document.body)) < 0.1, "the wrong scheme");
	return found;
}`
