package proxy

import (
	"fmt"
	"net/http"
	"testing"
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
		if r.Header.Get("Origin") == mine {
			w.Header().Set("Access-Control-Allow-Origin", mine)
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
