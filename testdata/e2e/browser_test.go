package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"foreman/e2e/lab"
)

// startBrowser starts a Chromium for one test and returns the context of its
// first tab. All names in hosts are names of 127.0.0.1 to it, see lab.StartBrowser.
func startBrowser(t *testing.T, hosts ...string) context.Context {
	t.Helper()
	binary := need(t, "the browser tests need Chromium (Debian: apt-get install chromium)",
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	browser, err := lab.StartBrowser(t.Context(), binary, t.TempDir(), hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(browser.Stop)
	ctx, cancel := remote.NewAllocator(t.Context(), browser.URL, remote.NoModifyURL)
	t.Cleanup(cancel)
	tab, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	timer := time.AfterFunc(actLimit, cancel) // not a deadline: the tab lives as long as the context with which it is opened
	defer timer.Stop()
	if err := chromedp.Do(tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

// actLimit is how long one act in a tab may take, while a test does something there. A
// test has no limit for all of its acts: how many there are is its own business, and how
// long that takes the machine's.
const actLimit = 2 * time.Minute

// runIn runs an action in the tab.
func runIn[T any](tab context.Context, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(tab, actLimit)
	defer cancel()
	return chromedp.Run(ctx, action)
}

// doIn runs actions in the tab, one after the other.
func doIn(tab context.Context, actions ...chromedp.Action[chromedp.Void]) error {
	_, err := runIn(tab, chromedp.Steps(actions...))
	return err
}

// openPage serves an empty page on a free port and opens it in the tab, under
// one of the names that the browser was told. It returns the page's origin.
func openPage(t *testing.T, tab context.Context, host string) (origin string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!doctype html><title>A page of somebody else's</title>")
	}))
	t.Cleanup(server.Close)
	origin = strings.Replace(server.URL, "127.0.0.1", host, 1)
	navigate(t, tab, origin)
	return origin
}

func navigate(t *testing.T, tab context.Context, url string) {
	t.Helper()
	if err := doIn(tab, chromedp.Navigate(url)); err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
}

// inPage calls an async JavaScript function in the tab's page with the arguments
// and reads what it returns into a T.
func inPage[T any](t *testing.T, tab context.Context, function string, args ...any) T {
	t.Helper()
	list, err := json.Marshal(append([]any{}, args...)) // no arguments are [] and not null
	if err != nil {
		t.Fatal(err)
	}
	result, err := runIn(tab, chromedp.Evaluate[T](
		fmt.Sprintf("(%s)(...%s)", function, list), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("in the page: %v", err)
	}
	return result
}

// startChat is run in the page: it begins a long chat and returns, of a streamed one
// when the first piece is there. leaveChat ends it and returns how fetch tells that.
const (
	startChat = `async (url, token, stream) => {
	window.leave = new AbortController();
	const answer = fetch(url, {
		method: "POST",
		signal: window.leave.signal,
		headers: {"Content-Type": "application/json", Authorization: "Bearer " + token},
		body: JSON.stringify({model: "tiny-chat", stream, messages: [{role: "user", content: "Tell me all."}], options: {num_predict: 80000}}),
	});
	let rest;
	if (stream) {
		const reader = (await answer).body.getReader();
		const piece = await reader.read();
		if (piece.done) throw new Error("nothing came");
		rest = (async () => { while (!(await reader.read()).done); })();
	} else {
		rest = answer.then(answer => answer.text());
	}
	window.end = rest.then(() => "whole", err => err.name);
	return true;
}`
	leaveChat = `async () => { window.leave.abort(); return await window.end; }`
	shortChat = `async (url, token) => {
	const answer = await fetch(url, {
		method: "POST",
		signal: AbortSignal.timeout(30000), // the chat before it would hold the line for longer
		headers: {"Content-Type": "application/json", Authorization: "Bearer " + token},
		body: JSON.stringify({model: "tiny-chat", stream: false, messages: [{role: "user", content: "Who are you?"}]}),
	});
	return (await answer.json()).message.content;
}`
)

// TestPageAborts has a page of another origin leave its chats with an AbortController.
func TestPageAborts(t *testing.T) {
	t.Parallel()
	const host = "app.example.test"
	tab := startBrowser(t, host)
	own := startOllama(t, append(abortPace.Env(), "OLLAMA_ORIGINS="+openPage(t, tab, host))...)
	foreman := startForeman(t, own.URL, "FOREMAN_TOKEN=sesame")
	for _, stream := range []bool{false, true} {
		if stream && !mayLeaveStreams() {
			continue
		}
		inPage[bool](t, tab, startChat, foreman.URL+"/api/chat", "sesame", stream)
		waitRunning(t, foreman.URL)
		if got := inPage[string](t, tab, leaveChat); got != "AbortError" {
			t.Errorf("stream %t: got %s; want AbortError", stream, got)
		}
		if said := inPage[string](t, tab, shortChat, foreman.URL+"/api/chat", "sesame"); said == "" {
			t.Errorf("stream %t: the next chat said nothing", stream)
		}
	}
}
