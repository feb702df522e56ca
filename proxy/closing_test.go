package proxy

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestClosing: who waits and who comes is turned away, on a connection that is closed
// behind the answer, and what runs is not.
func TestClosing(t *testing.T) {
	f, h := newHeldFront(t, nil)
	running := connect(t, f).chat(t, "running")
	at := h.next(t, "running")
	waits := connect(t, f).chat(t, "waiting")
	await(t, func() bool { waiting, _ := f.Gate.Len(); return waiting == 1 })

	f.Close()
	waits.expect(t, 503, "who waits")
	for _, r := range [][3]string{
		{"POST", "/api/chat", marked("late")},
		{"POST", "/api/embed", embedBody},
		{"POST", "/api/show", `{"model":"chat"}`},
		{"GET", "/api/tags", ""},
		{"GET", "/api/ps", ""},
		{"GET", "/v1/models", ""},
		{"GET", "/readyz", ""},
	} {
		w := connect(t, f).send(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s", r[0], r[1], len(r[2]), r[2]))
		a, body, err := w.answer(t)
		if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(body, "shutting down") || err != nil {
			t.Errorf("%s: %d %v %s, %v; want 503 with Retry-After, that says why", r[1], a.StatusCode, a.Header, body, err)
		}
		if wantClose := r[1] != "/readyz"; a.Close != wantClose {
			t.Errorf("%s: says that the connection is closed: %t; want %t", r[1], a.Close, wantClose)
		}
	}
	for path, want := range map[string]int{"/healthz": 200, "/metrics": 200, "/status": 200, "/nowhere": 404, "/api/tags/": 301} {
		if a := f.do(t, "GET", path, ""); a.status != want {
			t.Errorf("%s: %d %s; want %d", path, a.status, a.body, want)
		}
	}
	if a := f.do(t, "GET", "/healthz", ""); !strings.HasPrefix(a.body, `{"status":"shutting down","since"`) {
		t.Errorf("/healthz: %s; want it to say that foreman is shutting down", a.body)
	}

	at.say(t, "one\n")
	at.finish()
	if resp, body, err := running.answer(t); resp.StatusCode != 200 || body != "one\n" || err != nil {
		t.Errorf("the running chat: %d %q, %v; want it whole", resp.StatusCode, body, err)
	}
	f.expectIdle(t)
	h.none(t)
}

// TestAwaitBalancer: the listener is kept open for whoever asks for /readyz, and for
// nobody else.
func TestAwaitBalancer(t *testing.T) {
	for _, test := range []struct {
		name   string
		method string // empty: GET
		path   string // that was asked for
		ago    time.Duration
		limit  time.Duration
		want   time.Duration
	}{
		{name: "nobody has asked", path: "/healthz", limit: time.Minute},
		{name: "somebody asks, and gets no answer", method: "POST", path: "/readyz", limit: time.Minute},
		{name: "somebody asks", path: "/readyz", limit: time.Minute, want: 3 * time.Second},
		{name: "somebody asks now and then", path: "/readyz", ago: 15 * time.Second, limit: time.Minute, want: 3 * time.Second},
		{name: "somebody has asked", path: "/readyz", ago: 15*time.Second + 1, limit: time.Minute},
		{name: "there is less time", path: "/readyz", limit: time.Second, want: time.Second},
		{name: "there is no time", path: "/readyz"},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			_, f := timedFront(t, nil)
			time.Sleep(time.Minute)
			f.do(t, cmp.Or(test.method, "GET"), test.path, "")
			synctest.Wait()
			time.Sleep(test.ago)
			f.Close()
			ctx, cancel := context.WithTimeout(t.Context(), test.limit)
			defer cancel()
			began := time.Now()
			f.AwaitBalancer(ctx)
			if got := time.Since(began); got != test.want {
				t.Errorf("waited for %v; want %v", got, test.want)
			}
		})
	}
}
