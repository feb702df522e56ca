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
// first tab. All names in hosts are names of 127.0.0.1 to it.
func startBrowser(t *testing.T, hosts ...string) context.Context {
	t.Helper()
	binary := need(t, "the browser tests need Chromium (Debian: apt-get install chromium)",
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
	browser, err := lab.StartBrowser(t.Context(), binary, t.TempDir(), hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(browser.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = remote.NewAllocator(ctx, browser.URL, remote.NoModifyURL)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return ctx
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
	if err := chromedp.Do(tab, chromedp.Navigate(url)); err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
}

// inPage calls an async JavaScript function in the tab's page with the arguments
// and reads what it returns into a T.
func inPage[T any](t *testing.T, tab context.Context, function string, args ...any) T {
	t.Helper()
	list, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	result, err := chromedp.Run(tab, chromedp.Evaluate[T](
		fmt.Sprintf("(%s)(...%s)", function, list), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("in the page: %v", err)
	}
	return result
}
