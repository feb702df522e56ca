package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func get(t *testing.T, url string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestStatusShowsWhoHoldsTheTurnAndWhoWaits(t *testing.T) {
	stub := newStub(t)
	inside, proceed := make(chan struct{}), make(chan struct{})
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-proceed
	}
	f := newFront(t, stub.URL, func(o *Options) { o.EmbedModel = "embed" })
	done := make(chan struct{}, 3)
	for i := range 3 {
		go func() {
			defer func() { done <- struct{}{} }()
			if resp, err := http.Post(f.URL+"/api/chat", "", strings.NewReader(`{"model":"chat"}`)); err == nil {
				resp.Body.Close()
			}
		}()
		if i == 0 {
			<-inside
		}
	}
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 2 })
	post(t, f.URL+"/api/chat", `{"model":"<script>alert(1)</script>"}`)

	resp, page := get(t, f.URL+"/status", nil)
	for _, want := range []string{"up</p>", "2 waiting", "<strong>chat:latest</strong>", "no byte yet", "embed:latest</code> <span class=\"tag\">resident</span> <span class=\"tag\">embedder", "/api/chat"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in:\n%s", want, page)
		}
	}
	if strings.Contains(page, "alert(1)") {
		t.Error("a client's model name is on the page")
	}
	if got := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; style-src 'sha256-") || strings.Contains(got, "unsafe") {
		t.Errorf("Content-Security-Policy %q", got)
	}
	for range 2 {
		proceed <- struct{}{}
		<-inside
	}
	proceed <- struct{}{}
	for range 3 {
		<-done
	}
}

// TestStatusTellsTheWaitInLine: who took long to send a chat has not waited for
// the host meanwhile.
func TestStatusTellsTheWaitInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f, network := newFrontIn(t, target, nil)
		holder, slow := connectIn(t, network), connectIn(t, network)
		holder.send(t, postOf("/api/chat", marked("first")))
		first := target.next(t, "first")
		request := postOf("/api/chat", marked("slow"))
		slow.send(t, request[:len(request)-1])
		time.Sleep(20 * time.Second)
		slow.send(t, request[len(request)-1:])
		synctest.Wait()
		time.Sleep(1500 * time.Millisecond)
		if got := f.status(t.Context()).Waiting; len(got) != 1 || got[0].Since != "1.5 s" || !got[0].Next {
			t.Errorf("waiting: %+v; want one for 1.5 s, the next", got)
		}
		first.finish()
		holder.status(t)
		target.next(t, "slow").finish()
		slow.status(t)
		synctest.Wait()
		if !slices.ContainsFunc(f.recent.bars(time.Now()), func(b bar) bool {
			return b.Arriving == 20*time.Second && b.Queued == 1500*time.Millisecond
		}) {
			t.Errorf("last requests: %+v; want one that arrived for 20 s and waited for 1.5 s", f.recent.bars(time.Now()))
		}
	})
}

// TestStatusTellsWhoIsNext: the first in line is not, while it is overtaken.
func TestStatusTellsWhoIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f, network := newFrontIn(t, target, func(o *Options) { o.Gate.Affinity = time.Minute })
		var clients []*wire
		for _, body := range []string{marked("first"), `{"model":"embed"}`, marked("third")} {
			c := connectIn(t, network)
			c.send(t, postOf("/api/chat", body))
			clients = append(clients, c)
			synctest.Wait()
		}
		next := func() string {
			var next []string
			s := f.status(t.Context())
			for _, seat := range s.Waiting {
				if seat.Next {
					next = append(next, seat.Model)
				}
			}
			return fmt.Sprint(next, s.Overtaking)
		}
		if got, want := next(), "[chat:latest] true"; got != want {
			t.Errorf("next, overtaking: %s; want %s", got, want)
		}
		time.Sleep(time.Minute)
		if got, want := next(), "[embed:latest] false"; got != want {
			t.Errorf("next, overtaking after a minute: %s; want %s", got, want)
		}
		for _, c := range clients { // first come, first served again
			(<-target.arrived).finish()
			c.status(t)
		}
	})
}

func TestStatusNeedsTheTokenAsPassword(t *testing.T) {
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Token = "sesame" })
	basic := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("anybody", password) }
	}
	bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer sesame") }
	for _, test := range []struct {
		name, path string
		change     func(*http.Request)
		want       int
	}{
		{"nothing", "/status", nil, 401},
		{"wrong password", "/status", basic("open"), 401},
		{"password", "/status", basic("sesame"), 200},
		{"bearer", "/status", bearer, 200},
		{"password elsewhere", "/metrics", basic("sesame"), 401},
		{"password at the target's", "/api/ps", basic("sesame"), 401},
		{"bearer for metrics", "/metrics", bearer, 200},
		{"health is open", "/healthz", nil, 200},
		{"readiness is open", "/readyz", nil, 200},
	} {
		resp, _ := get(t, f.URL+test.path, test.change)
		if resp.StatusCode != test.want {
			t.Errorf("%s: status %d; want %d", test.name, resp.StatusCode, test.want)
		}
		if challenge := resp.Header.Get("WWW-Authenticate"); test.path == "/status" && test.want == 401 && !strings.HasPrefix(challenge, "Basic ") {
			t.Errorf("%s: WWW-Authenticate %q; want Basic", test.name, challenge)
		}
	}
}

func TestStatusOfATargetThatIsAway(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	stub.answerPolls(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	f.Inventory.Refresh()
	await(t, func() bool { return f.Inventory.State().Degraded() })
	_, page := get(t, f.URL+"/status", nil)
	for _, want := range []string{"degraded: unreachable", "degraded for ", "chat:latest"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in:\n%s", want, page)
		}
	}
}

func TestBarsAreDrawnToTheLongest(t *testing.T) {
	var r recent
	for i := range 30 {
		s := time.Duration(i) * time.Second
		r.add(record{Status: 200, Arriving: s, Queued: s, FirstByte: 4 * s, Duration: 10 * s})
	}
	r.add(record{Status: 404, FirstByte: 145 * time.Second, Duration: 145 * time.Second}) // refused, never in line
	bars := r.bars(time.Now())
	if got, want := len(bars), recentLimit; got != want {
		t.Fatalf("%d bars; want %d", got, want)
	}
	for i, want := range [][]part{
		{{"first", 0, 500}},
		{{"arriving", 0, 100}, {"queue", 100, 100}, {"first", 200, 200}, {"rest", 400, 600}},
	} {
		if got := bars[i].Parts; !slices.Equal(got, want) {
			t.Errorf("bar %d: %v; want %v", i, got, want)
		}
	}
	if got, want := bars[len(bars)-1].Queued, 11*time.Second; got != want {
		t.Errorf("the oldest kept waited %v; want %v", got, want)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 0: "0 ms", 400 * time.Microsecond: "< 1 ms", 999 * time.Millisecond: "999 ms", 1500 * time.Millisecond: "1.5 s",
		90 * time.Second: "1 min 30 s", 3*time.Hour + 5*time.Minute: "3 h 5 min", 72 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q; want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 999: "999 bytes", 1000: "1.0 kB", 12_641_280: "12.6 MB", 5e12: "5000.0 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q; want %q", n, got, want)
		}
	}
}

// TestResidentsAreReadForAll: many who look cost one question, and one of them
// who leaves does not spoil the answer for the others.
func TestResidentsAreReadForAll(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	gone, leave := context.WithCancel(t.Context())
	leave()
	for range 3 {
		if s := f.status(gone); s.PSFailed || !s.Models[1].Resident {
			t.Errorf("got %+v, failed: %v; want the embedder resident", s.Models, s.PSFailed)
		}
	}
	if got, want := stub.seen(), []string{"GET /api/ps"}; !slices.Equal(got, want) {
		t.Errorf("at the target: %q; want %q", got, want)
	}
}
