package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"foreman/e2e/lab"
)

// A stoppable is a foreman at which ann's chats stand in line and nothing ends by itself:
// Ollama gets them only in its own time, which does not come.
type stoppable struct {
	*lab.Foreman
	chats []chan answer // of ann: the first runs, the others wait
}

// startStoppable starts one with so many chats. More environment goes in env.
func startStoppable(t *testing.T, chats int, env ...string) *stoppable {
	t.Helper()
	meter, err := lab.NewMeter(ollama.URL, func(r *http.Request) {
		if r.URL.Path == "/api/chat" {
			<-r.Context().Done()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("ann sesame-of-ann\nboss sesame-of-boss\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stoppable{Foreman: startForeman(t, meter.URL, append([]string{"FOREMAN_TOKENS_FILE=" + file}, env...)...)}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	for i := range chats {
		done := make(chan answer, 1)
		go func() {
			r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/api/chat", strings.NewReader(frontPaths[0].body))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := withToken("sesame-of-ann").Do(r)
			if err != nil {
				return // the test is over
			}
			done <- read(t, resp, nil)
		}()
		s.chats = append(s.chats, done)
		eventually(t, func() error { return wantWaiting(s.URL, i) })
	}
	return s
}

// page is the address of the status page with boss's token, by a name of 127.0.0.1.
func (s *stoppable) page(t *testing.T, host string) string {
	t.Helper()
	u, err := url.Parse(strings.Replace(s.URL, "127.0.0.1", host, 1) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("anybody", "sesame-of-boss")
	return u.String()
}

// wantStopped waits until a chat's client has its answer, which is to say who did it.
func (s *stoppable) wantStopped(t *testing.T, chat int) {
	t.Helper()
	select {
	case a := <-s.chats[chat]:
		if want := `{"error":"this chat was stopped on foreman's status page by boss"}` + "\n"; a.StatusCode != http.StatusForbidden || a.body != want {
			t.Errorf("chat %d: got %d %s; want 403 %s", chat, a.StatusCode, a.body, want)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("chat %d was not stopped", chat)
	}
}

// wantRunning fails the test if a chat has ended.
func (s *stoppable) wantRunning(t *testing.T, chat int) {
	t.Helper()
	select {
	case a := <-s.chats[chat]:
		t.Errorf("chat %d has ended: %d %s", chat, a.StatusCode, a.body)
	default:
	}
}

// buttonOf is a script that returns the nth button of the page.
func buttonOf(n int) string { return fmt.Sprintf(`document.querySelectorAll("form button")[%d]`, n) }

// point moves the mouse to the middle of what a script returns, or into a corner of the
// page.
func point(t *testing.T, tab context.Context, element string) (x, y float64) {
	t.Helper()
	at := []float64{1, 1}
	if element != "" {
		at = value[[]float64](t, tab, `(() => { const e = `+element+`; e.scrollIntoView({block: "center"}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] })()`)
	}
	if err := chromedp.Do(tab, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at[0], at[1])); err != nil {
		t.Fatal(err)
	}
	return at[0], at[1]
}

// click presses what a script returns, with the mouse.
func click(t *testing.T, tab context.Context, element string) {
	t.Helper()
	x, y := point(t, tab, element)
	if err := chromedp.Do(tab, chromedp.MouseClickXY(x, y)); err != nil {
		t.Fatal(err)
	}
}

// TestStopButton: by mouse, by keyboard and without script a chat is taken out, waiting or
// running; its client is told by whom, and so is the log.
func TestStopButton(t *testing.T) {
	tab := startBrowser(t)
	s := startStoppable(t, 4)
	navigate(t, tab, s.page(t, "127.0.0.1"))
	shows(t, tab, "#now", lab.ChatModel, "ann", "Stop", "3 waiting")

	click(t, tab, buttonOf(1))
	s.wantStopped(t, 1)
	shows(t, tab, "#now", "2 waiting")

	// With the keyboard: the buttons come in the order of the page, the checkbox first.
	const focused = `document.activeElement.getAttribute("aria-label") ?? document.activeElement.parentElement.textContent.trim()`
	value[bool](t, tab, `document.activeElement.blur(), true`)
	for i, want := range []string{"live", "Stop the chat of ann with tiny-chat:latest", "Stop the chat of ann with tiny-chat:latest"} {
		press(t, tab, "\t")
		if got := value[string](t, tab, focused); got != want {
			t.Fatalf("focus %d: got %q; want %q", i, got, want)
		}
	}
	if outline := value[string](t, tab, `getComputedStyle(document.activeElement).outlineStyle`); outline != "solid" {
		t.Errorf("the focus is not seen: outline %s", outline)
	}
	press(t, tab, "\r")
	s.wantStopped(t, 2)
	s.wantRunning(t, 3)
	shows(t, tab, "#now", "1 waiting")

	if err := chromedp.Do(tab, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
	navigate(t, tab, s.page(t, "127.0.0.1"))
	if err := chromedp.Do(tab, chromedp.Click(".holder button")); err != nil {
		t.Fatal(err)
	}
	s.wantStopped(t, 0)
	eventually(t, func() error {
		if n := strings.Count(s.Log(), `msg="chat stopped" by=boss`); n != 3 {
			return fmt.Errorf("%d stops by boss are in the log; want 3", n)
		}
		return nil
	})
	eventually(t, func() error { return wantWaiting(s.URL, 0) })
	s.wantRunning(t, 3)
}

// TestStopButtonStaysPut: what is under the pointer stays there, and what has the focus
// keeps it, whoever leaves the line meanwhile.
func TestStopButtonStaysPut(t *testing.T) {
	tab := startBrowser(t)
	s := startStoppable(t, 4)
	navigate(t, tab, s.page(t, "127.0.0.1"))
	shows(t, tab, "#now", "3 waiting")
	point(t, tab, buttonOf(2))
	value[bool](t, tab, `const button = `+buttonOf(3)+`; button.focus(); const before = button.form.stop.value; button === document.activeElement`)
	inPage[bool](t, tab, `async () => {
		const form = new FormData(document.querySelectorAll("form")[1]);
		return (await fetch(page, {method: "POST", body: new URLSearchParams(form), headers: {Accept: "application/json"}})).ok;
	}`)
	s.wantStopped(t, 1)
	inPage[bool](t, tab, `ms => new Promise(done => setTimeout(done, ms, true))`, 2500) // two updates
	shows(t, tab, "#now", "3 waiting")
	point(t, tab, "")
	shows(t, tab, "#now", "2 waiting")
	if !value[bool](t, tab, `document.activeElement === button && button.isConnected && button.form.stop.value === before`) {
		t.Error("the button that had the focus is another one now")
	}
	press(t, tab, "\r")
	s.wantStopped(t, 3)
	s.wantRunning(t, 2)
}

// TestStopFromOtherSites: by a name and plain HTTP, where browsers say least, the page's
// own form works, and another site's does not, though the browser has the password.
func TestStopFromOtherSites(t *testing.T) {
	const own, evil = "gpu.example.test", "evil.example.test"
	tab := startBrowser(t, own, evil)
	s := startStoppable(t, 2, "FOREMAN_HOSTS="+own)
	navigate(t, tab, s.page(t, own))
	key := value[string](t, tab, `document.querySelector(".holder form").stop.value`)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><form method=post action="%s/status"><input name=stop value="%s"></form>`, strings.Replace(s.URL, "127.0.0.1", own, 1), key)
	}))
	t.Cleanup(site.Close)
	navigate(t, tab, strings.Replace(site.URL, "127.0.0.1", evil, 1))
	value[bool](t, tab, `document.forms[0].submit(), true`)
	shows(t, tab, "body", "not for other sites")
	s.wantRunning(t, 0)

	navigate(t, tab, s.page(t, own))
	click(t, tab, `document.querySelector(".holder button")`)
	s.wantStopped(t, 0)
	s.wantRunning(t, 1)
	shows(t, tab, "#now", "ann", "Nobody waits.")

	// A button of a chat that has ended meanwhile.
	value[bool](t, tab, `document.querySelector("#live input").click(), document.querySelector(".holder form").stop.value = "gone", true`)
	click(t, tab, `document.querySelector(".holder button")`)
	shows(t, tab, "header", "The chat that you wanted to stop had ended.")
	s.wantRunning(t, 1)
}
