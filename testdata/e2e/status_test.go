package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"foreman/e2e/lab"
)

// A witness remembers what a tab asked for and what it complained of.
type witness struct {
	mu         sync.Mutex // guards what follows
	asked      int        // how often it asked for anything
	origins    []string   // each once
	complaints []string
}

// listenIn begins to witness what happens in the tab.
func listenIn(t *testing.T, tab context.Context) *witness {
	t.Helper()
	w := new(witness)
	if err := chromedp.Listen(tab, w.see); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *witness) see(event any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		w.asked++
		if u, err := url.Parse(e.Request.URL); err != nil {
			w.complaints = append(w.complaints, err.Error())
		} else if origin := u.Scheme + "://" + u.Host; !slices.Contains(w.origins, origin) {
			w.origins = append(w.origins, origin)
		}
	case *log.EventEntryAdded: // the browser's own, broken policies among them
		w.complaints = append(w.complaints, e.Entry.Text)
	case *runtime.EventConsoleAPICalled:
		w.complaints = append(w.complaints, "console."+string(e.Type))
	case *runtime.EventExceptionThrown:
		w.complaints = append(w.complaints, e.ExceptionDetails.Text)
	}
}

// requests returns how often the tab has asked for anything.
func (w *witness) requests() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// expectPeace fails the test if the tab has asked anybody but origin for
// anything, or has complained.
func (w *witness) expectPeace(t *testing.T, origin string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.origins, []string{origin}) {
		t.Errorf("the page asked %q; want %q alone", w.origins, origin)
	}
	if w.complaints != nil {
		t.Errorf("the browser complains: %q", w.complaints)
	}
}

// complained returns an error until the tab has complained of this.
func (w *witness) complained(of string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.complaints, func(c string) bool { return strings.Contains(c, of) }) {
		return fmt.Errorf("the browser's complaints: %q; want one of %s", w.complaints, of)
	}
	return nil
}

// value returns the value of an expression in the tab's page.
func value[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	v, err := runIn(tab, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("in the page: %v", err)
	}
	return v
}

// shows waits until the text of an element of the page, as people see it, has
// all of the wanted in it, in this order.
func shows(t *testing.T, tab context.Context, selector string, want ...string) {
	t.Helper()
	eventually(t, func() error {
		text := inPage[string](t, tab, `selector => document.querySelector(selector).innerText`, selector)
		rest := text
		for _, part := range want {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				return fmt.Errorf("%s of the page: %q; want %q in it, in this order", selector, text, want)
			}
			rest = after
		}
		return nil
	})
}

// titled waits until the page has this title.
func titled(t *testing.T, tab context.Context, want string) {
	t.Helper()
	eventually(t, func() error {
		if got := value[string](t, tab, `document.title`); got != want {
			return fmt.Errorf("title: got %q; want %q", got, want)
		}
		return nil
	})
}

// press types keys in the tab.
func press(t *testing.T, tab context.Context, keys string) {
	t.Helper()
	if err := doIn(tab, chromedp.KeyEvent(keys)); err != nil {
		t.Fatal(err)
	}
}

// mark marks the page, and returns a function that fails the test if it has been
// loaded anew since.
func mark(t *testing.T, tab context.Context) (expectSame func()) {
	t.Helper()
	value[bool](t, tab, `window.marked = true`)
	return func() {
		t.Helper()
		if !value[bool](t, tab, `window.marked === true`) {
			t.Error("the page was loaded anew")
		}
	}
}

// TestStatusPageLives has the page open while chats come, leave and wait, the
// host goes away and comes back, and foreman itself ends.
func TestStatusPageLives(t *testing.T) {
	t.Parallel()
	tab := startBrowser(t)
	ollama := startOllama(t, abortPace.Env()...)
	foreman := startForeman(t, ollama.URL)
	seen := listenIn(t, tab)
	navigate(t, tab, foreman.URL+"/status")
	expectSame := mark(t, tab)
	shows(t, tab, "main", "● up", ollama.URL, "No chat is running.", "Nobody waits.", "None yet.")
	shows(t, tab, "#models", lab.EmbedModel+":latest", "resident embedder stays loaded", lab.ChatModel+":latest")

	line := lineUp(t, foreman.URL, "", 2)
	shows(t, tab, "#now", lab.ChatModel+":latest", "Stop", "for "+line[0].addr+", running for ", "B so far, Go-http-client/1.1",
		"2 waiting", lab.ChatModel+":latest", "next", "for "+line[1].addr+", waiting for ", lab.ChatModel+":latest", "for "+line[2].addr+", waiting for ")
	titled(t, tab, "2 waiting · foreman")
	// Who copies an address is not disturbed by a page that lives.
	value[bool](t, tab, `const address = document.querySelector("#now li code"); getSelection().selectAllChildren(address); address.isConnected`)
	const holder = `document.querySelector("#now .holder").innerText`
	before := value[string](t, tab, holder)
	eventually(t, func() error {
		if value[string](t, tab, holder) == before {
			return fmt.Errorf("the page goes on to show %q", before)
		}
		return nil
	})
	if got := value[string](t, tab, `address.isConnected && getSelection().toString()`); got != line[1].addr {
		t.Errorf("selected: got %q; want still %q", got, line[1].addr)
	}

	// It can be paused, by keyboard too.
	value[bool](t, tab, `const box = document.querySelector("#live input"); box.focus(); document.activeElement === box`)
	press(t, tab, " ")
	asked := seen.requests()
	line[1].leave()
	eventually(t, func() error { return wantWaiting(foreman.URL, 1) })
	inPage[bool](t, tab, `ms => new Promise(done => setTimeout(done, ms, true))`, 2500) // two of its seconds
	if n := seen.requests() - asked; n > 1 {                                            // one may have been under way
		t.Errorf("while it was paused the page asked %d times; want none", n)
	}
	press(t, tab, " ")
	shows(t, tab, "#now", line[0].addr, "1 waiting", line[2].addr)
	shows(t, tab, "#chats tbody tr", "/api/chat", line[1].addr, "client left")
	value[bool](t, tab, `document.querySelector("#chats tbody tr").first = true`)
	line[0].leave()
	shows(t, tab, "#now", line[2].addr, "Nobody waits.")
	shows(t, tab, "#chats tbody tr", line[0].addr, "client left")
	if !value[bool](t, tab, `document.querySelector("#chats tbody tr:nth-child(2)").first === true`) {
		t.Error("a chat that has ended has come into the row of another")
	}
	titled(t, tab, "busy · foreman")

	ollama.Kill()
	shows(t, tab, "#host", "▲ degraded: unreachable", "OLLAMA_HOST=0.0.0.0")
	shows(t, tab, "#host-since", "degraded for ", "last good poll ", " ago, the next ")
	titled(t, tab, "degraded · foreman")
	shows(t, tab, "#models", lab.ChatModel, "cannot be read")
	shows(t, tab, "#now", "No chat is running.")
	if err := ollama.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "#host", "● up")
	titled(t, tab, "foreman")
	seen.expectPeace(t, foreman.URL)

	// The witness does see what a policy forbids.
	value[bool](t, tab, `const s = document.createElement("script"); s.text = "window.broken = true"; document.body.append(s); true`)
	eventually(t, func() error { return seen.complained("Content Security Policy") })
	if value[bool](t, tab, `window.broken === true`) {
		t.Error("a script that is not foreman's has run")
	}

	if stale := value[bool](t, tab, `document.querySelector("#stale").checkVisibility()`); stale {
		t.Error("the page says that foreman does not answer while it does")
	}
	if err := foreman.Stop(); err != nil {
		t.Error(err)
	}
	shows(t, tab, "#stale", "foreman does not answer. What you see is old.")
	titled(t, tab, "no answer · foreman")
	if value[string](t, tab, `getComputedStyle(document.querySelector("main")).filter`) == "none" {
		t.Error("what is old looks as if it were not")
	}
	expectSame()
}

// TestStatusPageTellsLocalTime: the browser's, as the browser's language has it.
func TestStatusPageTellsLocalTime(t *testing.T) {
	t.Parallel()
	tab := startBrowser(t)
	foreman := startForeman(t, ollama.URL)
	if err := doIn(tab, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Pacific/Marquesas"}) // 9 h 30 min behind
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
	navigate(t, tab, foreman.URL+"/status")
	const told = `[...document.querySelectorAll("#foot time")].map(e => e.textContent === new Date(Date.parse(e.dateTime) - 9.5 * 3600e3).toLocaleTimeString(undefined, {timeZone: "UTC"}) ? e.textContent : "not " + e.textContent).join()`
	first := value[string](t, tab, told)
	if first == "" || strings.HasPrefix(first, "not ") {
		t.Errorf("the time on the page is %s", first)
	}
	eventually(t, func() error { // also after an update
		if now := value[string](t, tab, told); now == first || strings.HasPrefix(now, "not ") {
			return fmt.Errorf("the time on the page is %s, after %s", now, first)
		}
		return nil
	})
}

// TestStatusPageWithAToken gives the token as a browser can: as a password.
func TestStatusPageWithAToken(t *testing.T) {
	t.Parallel()
	const token = "lab-token:%&?@/#"
	tab := startBrowser(t)
	foreman := startForeman(t, startLeavable(t).URL, "FOREMAN_TOKEN="+token)
	seen := listenIn(t, tab)
	u, err := url.Parse(foreman.URL + "/status")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("anybody", token)
	navigate(t, tab, u.String())
	expectSame := mark(t, tab)
	shows(t, tab, "#now", "No chat is running.")
	line := lineUp(t, foreman.URL, token, 1)
	shows(t, tab, "#now", line[0].addr, "1 waiting", line[1].addr)
	expectSame()
	seen.expectPeace(t, foreman.URL)
}

// TestStatusPageWithoutScript: the page is whole as it comes, and comes again by
// itself.
func TestStatusPageWithoutScript(t *testing.T) {
	t.Parallel()
	tab := startBrowser(t)
	foreman := startForeman(t, startLeavable(t).URL)
	forbidScripts(t, tab)
	navigate(t, tab, foreman.URL+"/status")
	line := lineUp(t, foreman.URL, "", 1)
	eventually(t, func() error {
		page, err := runIn(tab, chromedp.OuterHTML("html"))
		if err != nil {
			return err
		}
		for _, want := range []string{line[0].addr, "1 waiting", line[1].addr, lab.EmbedModel} {
			if !strings.Contains(page, want) {
				return fmt.Errorf("no %q in the page: %s", want, page)
			}
		}
		return nil
	})
}

// TestStatusPageKnowsWhatIsResident has a model loaded while no poll is due for an
// hour: who looks at the page has foreman ask.
func TestStatusPageKnowsWhatIsResident(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=", "FOREMAN_POLL_INTERVAL=1h")
	if strings.Contains(get(t, foreman.URL+"/status").body, ">resident<") {
		t.Error("resident before anything was loaded")
	}
	if got := post(t, foreman.URL+"/api/chat", `{"model":"tiny-chat"}`); got.StatusCode != http.StatusOK {
		t.Fatalf("got %d %s; want the model to be loaded", got.StatusCode, got.body)
	}
	want := regexp.MustCompile(lab.ChatModel + `:latest</code> <small>[\d.]+ .B</small> <span class="tag on">resident</span> <small>unloads in 4 min</small>`)
	eventually(t, func() error {
		if page := get(t, foreman.URL+"/status").body; !want.MatchString(page) {
			return fmt.Errorf("no %s in the page: %s", want, page)
		}
		return nil
	})
}
