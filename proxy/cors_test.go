package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGrantsGoOnWhileTheTargetIsAway: a web page that may read the target's
// answers may read what foreman answers in its place, and no other page may.
func TestGrantsGoOnWhileTheTargetIsAway(t *testing.T) {
	const mine, other = "http://mine.example", "http://other.example"
	stub := newStub(t)
	granting := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Origin") == mine {
				w.Header().Set("Access-Control-Allow-Origin", mine)
				w.Header().Set("Vary", "Origin")
			}
			next(w, r)
		}
	}
	stub.chat, stub.anything = granting(stub.chat), granting(stub.anything)
	f := newFront(t, stub.URL, nil)
	for _, origin := range []string{mine, other} {
		f.do(t, "POST", "/api/chat", chatBody, "Origin", origin)
	}
	want := func(when, method, path, body, origin string, status int, granted string) {
		t.Helper()
		a := f.do(t, method, path, body, "Origin", origin)
		if got := a.header.Get("Access-Control-Allow-Origin"); a.status != status || got != granted {
			t.Errorf("%s: %s from %q: %d, granted %q; want %d, %q", when, path, origin, a.status, got, status, granted)
		}
	}
	want("up", "POST", "/api/chat", `{"model":"absent"}`, mine, 404, mine)
	want("up", "POST", "/api/chat", `{"model":"absent"}`, other, 404, "")

	stub.answerPolls(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	f.Inventory.Refresh()
	await(t, func() bool { return f.Inventory.State().Degraded() })
	seen := len(stub.seen())
	for origin, granted := range map[string]string{mine: mine, other: "", "": ""} {
		want("away", "GET", "/api/tags", "", origin, 200, granted)
		want("away", "POST", "/api/chat", chatBody, origin, 503, granted)
	}
	if n := len(stub.seen()) - seen; n > 0 {
		t.Errorf("the target that is away was asked %d times", n)
	}
}

// A page that the target lets read can read why it is not let in, and no other page can:
// however many there are, it is not forgotten for them.
func TestPagesReadRefusals(t *testing.T) {
	const mine = "http://mine.example"
	stub := newStub(t)
	stub.anything = func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin == mine || strings.HasSuffix(origin, ".granted.example") {
			w.Header().Set("Access-Control-Allow-Origin", origin)
		}
		w.WriteHeader(http.StatusNoContent)
	}
	f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
	asks := func(origin string) {
		t.Helper()
		if a := f.do(t, "OPTIONS", "/api/tags", "", "Origin", origin, "Access-Control-Request-Method", "GET"); a.status != http.StatusNoContent {
			t.Fatalf("preflight: got %d; want the target's 204", a.status)
		}
	}
	asks(mine)
	for i := range 300 {
		asks(fmt.Sprintf("http://%d.example", i))
		asks(fmt.Sprintf("http://%d.granted.example", i))
	}
	for origin, want := range map[string]string{mine: mine, "http://7.example": "", "": ""} {
		for path, status := range map[string]int{"/api/chat": 401, "/api/pull": 403, "/api/embed": 401} {
			var header []string
			if status == 403 {
				header = []string{"Authorization", "Bearer " + clientToken}
			}
			a := f.do(t, "POST", path, chatBody, append(header, "Origin", origin)...)
			if got := a.header.Get("Access-Control-Allow-Origin"); a.status != status || got != want {
				t.Errorf("%s from %q: %d, granted %q; want %d, %q", path, origin, a.status, got, status, want)
			}
		}
	}
}

// A page that foreman knows nothing of, for its browser remembers a preflight from before
// foreman started, can read an early answer if the target lets it. The target is asked for
// no other, and no longer than for a second.
func TestEarlyAnswersAskWhatAPageMayRead(t *testing.T) {
	const page = "http://page.example" // of what hear sends
	for _, test := range []struct {
		name    string
		granted string
		takes   time.Duration // to answer the question
		known   bool          // what the page may do
		beat    time.Duration // when the first one comes
	}{
		{"granted", page, 0, false, 20 * time.Second},
		{"slowly", page, time.Second / 2, false, 20*time.Second + time.Second/2},
		{"not granted", "", 0, false, 20 * time.Second},
		{"never", "", time.Hour, false, 21 * time.Second},
		{"known", page, time.Hour, true, 20 * time.Second},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			target, asked := newHolder(t), make(chan string, 10)
			f, leave := newBeatFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodOptions {
					target.ServeHTTP(w, r)
					return
				}
				asked <- r.URL.Path + " " + r.Header.Get("Origin") + " " + r.Header.Get("Access-Control-Request-Method")
				select {
				case <-time.After(test.takes):
				case <-r.Context().Done():
				}
				if test.granted != "" {
					w.Header().Set("Access-Control-Allow-Origin", test.granted)
				}
			}), nil)
			if test.known {
				f.cors.Note(page, http.Header{"Access-Control-Allow-Origin": {page}}, true)
			}
			h := f.hear(t.Context(), t, "/v1/messages", `{"model":"Chat","stream":true}`)
			time.Sleep(test.beat - 1)
			h.want(t, false)
			time.Sleep(time.Nanosecond)
			h.want(t, false, "event: ping", `data: {"type":"ping"}`, "")
			if got := h.header.Get("Access-Control-Allow-Origin"); got != test.granted {
				t.Errorf("granted %q; want %q", got, test.granted)
			}
			time.Sleep(20 * time.Second)
			h.want(t, false, strings.Split(strings.Repeat("event: ping\ndata: {\"type\":\"ping\"}\n\n", 2), "\n")[:6]...)
			want := 1
			if test.known {
				want = 0
			}
			if n := len(asked); n != want || n > 0 && <-asked != "/v1/messages "+page+" POST" {
				t.Errorf("the target was asked %d times; want %d, as a browser does", n, want)
			}
			leave()
			target.any(t).finish()
			f.expectIdle(t)
		})
	}
}

// While the target is asked what a page may read, its answer does not wait for that.
func TestNothingWaitsForWhatAPageMayRead(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		f := newFrontIn(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodOptions:
				<-r.Context().Done()
			case r.URL.Path == "/api/tags":
				w.Write(fixture(t, "tags.json"))
			case r.Method == http.MethodPost:
				io.Copy(io.Discard, r.Body)
				time.Sleep(20*time.Second + time.Second/2)
				w.Header().Set("Content-Type", "application/x-ndjson")
				w.Header().Set("Location", "/here") // which an early answer would not have
				io.WriteString(w, "{}\n")
				http.NewResponseController(w).Flush()
				time.Sleep(15 * time.Second)
			}
		}), func(o *Options) { o.Heartbeat = 20 * time.Second })
		h := f.hear(t.Context(), t, "/api/chat", chatBody)
		time.Sleep(20*time.Second + time.Second/2)
		h.want(t, false, "{}")
		if h.header.Get("Location") == "" {
			t.Errorf("got %v; want the target's header", h.header)
		}
		time.Sleep(20 * time.Second) // nor does a beat come sooner for that
		h.want(t, true, "{}")
		synctest.Wait()
		f.expectIdle(t)
	})
}
