package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"foreman/e2e/lab"
)

// Whoever has the token "sesame-ann" is ann.
const stopTokens = "ann sesame-ann\nbob1 sesame-bob1\nbob2 sesame-bob2\nbob3 sesame-bob3\nbob4 sesame-bob4\nbob5 sesame-bob5\n"

// A stopStage is a foreman whose Ollama gets no chat until it is released, and the tab
// of a browser. Nobody leaves in the middle of an answer: after that, Ollama v0.34.4 may
// never answer again.
type stopStage struct {
	*lab.Foreman
	tab     context.Context
	meter   *lab.Meter
	release func()
	bobs    int // that have begun a chat
}

func newStopStage(t *testing.T, tab context.Context, env ...string) *stopStage {
	t.Helper()
	released := make(chan struct{})
	meter := startMeter(t, func(r *http.Request) {
		if r.URL.Path != "/api/chat" {
			return
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(stopTokens), 0o600); err != nil {
		t.Fatal(err)
	}
	foreman := startForeman(t, meter.URL, append([]string{"FOREMAN_TOKENS_FILE=" + file}, env...)...)
	return &stopStage{foreman, tab, meter, sync.OnceFunc(func() { close(released) }), 0}
}

// A chatting is a chat and, when it has ended, its answer.
type chatting struct {
	key    string // with which it can be stopped
	answer chan answer
}

// chat has another bob begin a chat, and returns when the page has it.
func (s *stopStage) chat(t *testing.T) *chatting {
	t.Helper()
	known := s.keys(t)
	c := &chatting{answer: make(chan answer, 1)}
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/api/chat", strings.NewReader(
		`{"model":"`+lab.ChatModel+`","messages":[{"role":"user","content":"Who are you?"}],"stream":false}`))
	if err != nil {
		t.Fatal(err)
	}
	s.bobs++
	bob := withToken(fmt.Sprint("sesame-bob", s.bobs))
	var asking sync.WaitGroup
	asking.Go(func() {
		resp, err := bob.Do(r)
		if t.Context().Err() != nil {
			return
		}
		c.answer <- read(t, resp, err)
	})
	t.Cleanup(asking.Wait)
	eventually(t, func() error {
		now := s.keys(t)
		if len(now) != len(known)+1 {
			return fmt.Errorf("chats on the page: %v; want one more than %v", now, known)
		}
		c.key = now[len(now)-1]
		return nil
	})
	return c
}

// keys returns those of the running chat and of those that wait.
func (s *stopStage) keys(t *testing.T) []string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := withToken("sesame-ann").Do(r)
	got := read(t, resp, err)
	var page struct {
		Running *struct{ Stop string }
		Waiting []struct{ Stop string }
	}
	if err := json.Unmarshal([]byte(got.body), &page); err != nil {
		t.Fatalf("%v: %s", err, got.body)
	}
	var keys []string
	if page.Running != nil {
		keys = append(keys, page.Running.Stop)
	}
	for _, chat := range page.Waiting {
		keys = append(keys, chat.Stop)
	}
	return keys
}

// open opens the page with ann's token as the password, under a name of foreman's host.
func (s *stopStage) open(t *testing.T, host string) {
	t.Helper()
	u, err := url.Parse(s.under(host) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("anybody", "sesame-ann")
	navigate(t, s.tab, u.String())
}

// under returns foreman's origin under another name.
func (s *stopStage) under(host string) string { return strings.Replace(s.URL, "127.0.0.1", host, 1) }

// expectStopped waits for the end of a chat that ann has stopped.
func (c *chatting) expectStopped(t *testing.T) {
	t.Helper()
	select {
	case got := <-c.answer:
		const want = `{"error":"this chat was stopped on foreman's status page by ann"}` + "\n"
		if got.StatusCode != http.StatusForbidden || got.body != want {
			t.Errorf("the chat that was stopped: got %d %s; want 403 %s", got.StatusCode, got.body, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("the chat goes on; want it stopped")
	}
}

// expectServed waits for the end of a chat that nobody has stopped.
func (c *chatting) expectServed(t *testing.T) {
	t.Helper()
	select {
	case got := <-c.answer:
		if got.StatusCode != http.StatusOK {
			t.Errorf("a chat that nobody stopped: got %d %s; want 200", got.StatusCode, got.body)
		}
	case <-time.After(time.Minute):
		t.Fatal("the chat goes on; want it served")
	}
}

// button selects the button of a chat.
func (c *chatting) button() string { return "#chat-" + c.key + " button" }

// byMouse presses a chat's button.
func byMouse(t *testing.T, tab context.Context, c *chatting) {
	t.Helper()
	if err := doIn(tab, chromedp.Click(c.button())); err != nil {
		t.Fatalf("click %s: %v", c.button(), err)
	}
}

// byKeyboard presses a chat's button. It asks the browser, not the page, where the focus
// is: scripts may be off.
func byKeyboard(t *testing.T, tab context.Context, c *chatting) {
	t.Helper()
	for range 20 {
		press(t, tab, "\t")
		here, err := runIn(tab, chromedp.Nodes(c.button()+":focus-visible", chromedp.AtLeast(0)))
		if err != nil {
			t.Fatal(err)
		}
		if len(here) == 1 {
			press(t, tab, "\r")
			return
		}
	}
	t.Fatalf("Tab does not come to %s", c.button())
}

// pageHas waits until the page has all of this, whether or not scripts may run.
func pageHas(t *testing.T, tab context.Context, wants ...string) {
	t.Helper()
	eventually(t, func() error {
		html, err := runIn(tab, chromedp.OuterHTML("html"))
		if err != nil {
			return err
		}
		for _, want := range wants {
			if !strings.Contains(html, want) {
				return fmt.Errorf("no %q in the page: %s", want, html)
			}
		}
		return nil
	})
}

// TestStop stops a chat that waits, and the one that runs, on the page: by mouse and by
// keyboard, with and without scripts.
func TestStop(t *testing.T) {
	t.Parallel()
	for _, way := range []struct {
		name    string
		scripts bool
		press   func(*testing.T, context.Context, *chatting)
	}{
		{"mouse", true, byMouse}, {"keyboard", true, byKeyboard},
		{"mouse, no scripts", false, byMouse}, {"keyboard, no scripts", false, byKeyboard},
	} {
		t.Run(way.name, func(t *testing.T) {
			s := newStopStage(t, startBrowser(t))
			first, second, third := s.chat(t), s.chat(t), s.chat(t)
			if !way.scripts {
				forbidScripts(t, s.tab)
			}
			s.open(t, "127.0.0.1")
			var expectSame func()
			if way.scripts {
				expectSame = mark(t, s.tab)
			}
			pageHas(t, s.tab, "2 waiting", `aria-label="Stop the chat of bob2 with `+lab.ChatModel+`:latest, number 1 in line"`)
			way.press(t, s.tab, second)
			second.expectStopped(t)
			if way.scripts { // away, so that the page goes on
				pageHas(t, s.tab, ">Stopped the chat of bob2 with "+lab.ChatModel+":latest, number 1 in line</p>")
				pointAt(t, s.tab, 1, 1)
			}
			pageHas(t, s.tab, "1 waiting", `<td class="outcome soft">stopped on this page</td>`)
			way.press(t, s.tab, first)
			first.expectStopped(t)
			if way.scripts {
				pointAt(t, s.tab, 1, 1)
				expectSame()
			}
			pageHas(t, s.tab, "Nobody waits.", `aria-label="Stop the chat of bob3 with `+lab.ChatModel+`:latest, which is running"`)
			s.release()
			third.expectServed(t)
			if got := s.meter.Total("/api/chat"); got != 2 {
				t.Errorf("%d chats came to Ollama's door; want the first and the third", got)
			}
		})
	}
}

// TestStopTooLate: who presses the button of a chat that has ended is told, with and
// without scripts.
func TestStopTooLate(t *testing.T) {
	t.Parallel()
	for _, scripts := range []bool{true, false} {
		t.Run(fmt.Sprint("scripts ", scripts), func(t *testing.T) {
			s := newStopStage(t, startBrowser(t))
			first := s.chat(t)
			if !scripts {
				forbidScripts(t, s.tab)
			}
			s.open(t, "127.0.0.1")
			live := func() {
				t.Helper()
				if !scripts {
					return
				}
				if err := doIn(s.tab, chromedp.Click("#live input")); err != nil {
					t.Fatal(err)
				}
			}
			live() // no more: what the page has is old from now on
			s.release()
			first.expectServed(t)
			byMouse(t, s.tab, first)
			pageHas(t, s.tab, `>What you wanted to stop had ended.</p>`)
			live()
			pageHas(t, s.tab, "No chat is running.", `role="status" tabindex="-1"`)
		})
	}
}

// forbidScripts has the tab run no scripts of pages.
func forbidScripts(t *testing.T, tab context.Context) {
	t.Helper()
	if err := doIn(tab, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
}

// pointAt moves the pointer.
func pointAt(t *testing.T, tab context.Context, x, y float64) {
	t.Helper()
	if err := doIn(tab, chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x, y)); err != nil {
		t.Fatal(err)
	}
}

// touch taps on a place with a finger.
func touch(t *testing.T, tab context.Context, x, y float64) {
	t.Helper()
	if err := doIn(tab, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		if _, err := cdp.Call(ctx, target, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: true}); err != nil {
			return none, err
		}
		if _, err = cdp.Call(ctx, target, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: input.DispatchTouchEventTypeTouchStart, TouchPoints: []*input.TouchPoint{{X: x, Y: y}}}); err != nil {
			return none, err
		}
		_, err = cdp.Call(ctx, target, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: input.DispatchTouchEventTypeTouchEnd, TouchPoints: []*input.TouchPoint{}})
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestStopButtonHoldsStill: while the pointer is on a button, or the focus, or right after
// a finger has touched one, no update has another chat's button come there, though the
// chat before it has left the line.
func TestStopButtonHoldsStill(t *testing.T) {
	t.Parallel()
	for _, hand := range []string{"pointer", "focus", "finger"} {
		t.Run(hand, func(t *testing.T) {
			s := newStopStage(t, startBrowser(t))
			s.chat(t)
			first, second, third, fourth := s.chat(t), s.chat(t), s.chat(t), s.chat(t)
			seen := listenIn(t, s.tab)
			s.open(t, "127.0.0.1")
			shows(t, s.tab, "#now", "4 waiting")
			type place struct{ X, Y float64 }
			at := inPage[place](t, s.tab, `selector => {
				const box = document.querySelector(selector).getBoundingClientRect();
				return {x: box.x + box.width / 2, y: box.y + box.height / 2};
			}`, second.button())
			said := "visible"
			switch hand {
			case "pointer":
				pointAt(t, s.tab, at.X, at.Y)
			case "focus":
				inPage[bool](t, s.tab, `selector => { document.querySelector(selector).focus(); return true }`, second.button())
			case "finger":
				said = "hidden"
				value[bool](t, s.tab, `Date.now = () => 0, true`) // the second after it does not end
				touch(t, s.tab, at.X, at.Y)
				second.expectStopped(t)
			}
			eventually(t, func() error {
				if got := value[string](t, s.tab, `getComputedStyle(document.querySelector(".held")).visibility`); got != said {
					return fmt.Errorf("that the page holds still is %s; want %s", got, said)
				}
				return nil
			})
			stop := func(c *chatting) {
				t.Helper()
				resp, err := withToken("sesame-ann").PostForm(s.URL+"/status", url.Values{"stop": {c.key}})
				read(t, resp, err)
				c.expectStopped(t)
			}
			updated := func() {
				t.Helper()
				asked := seen.requests()
				eventually(t, func() error {
					if seen.requests() < asked+3 { // the first may have come before the change
						return errors.New("the page has not asked again")
					}
					return nil
				})
			}
			here := func() string {
				t.Helper()
				if hand == "focus" {
					return value[string](t, s.tab, `document.activeElement.closest("[id^=chat-]")?.id ?? ""`)
				}
				return inPage[string](t, s.tab, `(x, y) => document.elementFromPoint(x, y)?.closest("[id^=chat-]")?.id ?? ""`, at.X, at.Y)
			}
			stop(first)
			updated()
			if got, want := here(), "chat-"+second.key; got != want {
				t.Fatalf("under the %s is %q; want %q still", hand, got, want)
			}
			switch hand {
			case "pointer": // also after a press, where a second may follow at once
				for range 2 {
					if err := doIn(s.tab, chromedp.MouseClickXY(at.X, at.Y)); err != nil {
						t.Fatal(err)
					}
					updated()
				}
				second.expectStopped(t)
				if got, want := here(), "chat-"+second.key; got != want {
					t.Fatalf("under the pointer is %q; want %q still", got, want)
				}
				pointAt(t, s.tab, 1, 1)
			case "focus":
				press(t, s.tab, "\r")
				second.expectStopped(t)
				press(t, s.tab, "\r") // the focus is on what was said of it
			case "finger":
				touch(t, s.tab, at.X, at.Y)
				updated()
				value[bool](t, s.tab, `Date.now = () => 1000, true`)
			}
			shows(t, s.tab, "#now", "2 waiting")
			s.release()
			third.expectServed(t)
			fourth.expectServed(t)
		})
	}
}

// TestStopFromAnotherSite has a page of another site post the form, by somebody who has
// the token in the browser; and foreman's own page, under a name for which Chromium does
// not say where requests come from.
func TestStopFromAnotherSite(t *testing.T) {
	t.Parallel()
	const name, strange = "foreman.example.test", "evil.example.test"
	tab := startBrowser(t, name, strange)
	for _, host := range []string{"127.0.0.1", name} {
		t.Run(host, func(t *testing.T) {
			s := newStopStage(t, tab, "FOREMAN_HOSTS="+name)
			first, second := s.chat(t), s.chat(t)
			s.open(t, host) // now the browser has the password
			pageHas(t, tab, "1 waiting")

			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprintf(w, `<!doctype html><form method="post" action="%s/status"><input name="stop" value="%s"><button>Free cookies</button></form>`, s.under(host), first.key)
			}))
			t.Cleanup(page.Close)
			posted := listenForPosts(t, tab)
			navigate(t, tab, strings.Replace(page.URL, "127.0.0.1", strange, 1))
			if err := doIn(tab, chromedp.Click("button")); err != nil {
				t.Fatal(err)
			}
			pageHas(t, tab, "cross-site form rejected")
			header := posted()
			if site := header["Sec-Fetch-Site"]; site != "cross-site" && (site != nil || host == "127.0.0.1") || header["Authorization"] == nil {
				t.Errorf("%s: the browser sent %v; want the password, and cross-site where it says that", host, header)
			}
			if err := wantWaiting(s.URL, 1); err != nil {
				t.Error(err)
			}

			s.open(t, host)
			pageHas(t, tab, "1 waiting")
			posted = listenForPosts(t, tab)
			byMouse(t, tab, first)
			first.expectStopped(t)
			header = posted()
			if site := header["Sec-Fetch-Site"]; header["Origin"] != s.under(host) || host == name && site != nil || host != name && site != "same-origin" {
				t.Errorf("%s: foreman's own page sent %v", host, header)
			}
			s.release()
			second.expectServed(t)
		})
	}
}

// listenForPosts returns a function that waits for the next POST in the tab, and returns
// its header as it was sent.
func listenForPosts(t *testing.T, tab context.Context) func() map[string]any {
	t.Helper()
	var (
		mu    sync.Mutex // guards what follows
		posts = map[network.RequestID]bool{}
		sent  = map[network.RequestID]map[string]any{} // the last of each with an origin: the first may lack the password, and a GET may follow
	)
	if err := chromedp.Listen(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if e.Request.Method == "POST" {
				posts[e.RequestID] = true
			}
		case *network.EventRequestWillBeSentExtraInfo:
			if e.Headers["Origin"] != nil {
				sent[e.RequestID] = e.Headers
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	return func() (header map[string]any) {
		t.Helper()
		eventually(t, func() error {
			mu.Lock()
			defer mu.Unlock()
			for id := range posts {
				if header = sent[id]; header != nil {
					return nil
				}
			}
			return errors.New("no POST was sent")
		})
		return header
	}
}
