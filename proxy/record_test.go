package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// all returns the records of the last requests, oldest first.
func (r *recent) all() []record {
	all := r.latest()
	slices.Reverse(all)
	return all
}

// TestRecords: a chat waits 3 s behind another, its answer begins 2 s later and
// takes 4 s; one that leaves, one that is refused and an embedding are beside it.
func TestRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f, network := newFrontIn(t, target, nil)
		began := time.Now()
		send := func(path, body, id string) *wire {
			c := connectIn(t, network)
			c.send(t, postOf(path, body, "X-Request-Id: "+id+"\r\n"))
			synctest.Wait()
			return c
		}
		answered := func(c *wire, want int) {
			t.Helper()
			if got := c.status(t); got != want {
				t.Errorf("status %d; want %d", got, want)
			}
			synctest.Wait()
		}
		first := send("/api/chat", marked("first"), "1")
		holding := target.next(t, "first")
		second := send("/v1/chat/completions", marked("second"), "2")
		leaver := send("/api/chat", marked("leaver"), "3")
		time.Sleep(time.Second)
		leaver.Close()
		synctest.Wait()
		answered(send("/api/chat", `{"model":"unknown"}`, "4"), http.StatusNotFound)
		embedding := send("/api/embed", marked("embed"), "5")
		target.next(t, "embed").finish()
		answered(embedding, http.StatusOK)
		time.Sleep(2 * time.Second)
		holding.finish()
		answered(first, http.StatusOK)
		running := target.next(t, "second")
		time.AfterFunc(2*time.Second, func() { running.say(t, "12345") })
		time.AfterFunc(6*time.Second, running.finish)
		answered(second, http.StatusOK) // reads all the while

		const s = time.Second
		want := []record{
			{Route: "/api/chat", Class: worker, Status: 499, ID: "3", Model: "chat:latest", Queued: s, Duration: s, Err: context.Canceled},
			{Route: "/api/chat", Class: worker, Status: 404, ID: "4", Began: began.Add(s), Reason: "unknown model", Bytes: 38, Err: inventory.ErrNotFound},
			{Route: "/api/embed", Class: embed, Status: 200, ID: "5", Began: began.Add(s)},
			{Route: "/api/chat", Class: worker, Status: 200, ID: "1", Model: "chat:latest", FirstByte: 3 * s, Duration: 3 * s},
			{Route: "/v1/chat/completions", Class: worker, Status: 200, ID: "2", Model: "chat:latest", Queued: 3 * s, FirstByte: 5 * s, Duration: 9 * s, Bytes: 5},
		}
		got := f.recent.all()
		if len(got) != len(want) {
			t.Fatalf("%d records; want %d: %v", len(got), len(want), got)
		}
		for i := range want {
			want[i].Method, want[i].Client = "POST", "pipe"
			if want[i].Began.IsZero() {
				want[i].Began = began
			}
			if !errors.Is(got[i].Err, want[i].Err) {
				t.Errorf("record %d: error %v; want %v", i, got[i].Err, want[i].Err)
			}
			got[i].Err, want[i].Err = nil, nil
			if got[i] != want[i] {
				t.Errorf("record %d:\n got %+v\nwant %+v", i, got[i], want[i])
			}
		}
		wantSamples(t, f, map[string]string{
			`foreman_queue_wait_seconds_count`:                                             "3",
			`foreman_queue_wait_seconds_sum`:                                               "4",
			`foreman_queue_wait_seconds_bucket{le="0.001"}`:                                "1",
			`foreman_queue_wait_seconds_bucket{le="2.5"}`:                                  "2",
			`foreman_first_byte_seconds_sum{route="/v1/chat/completions"}`:                 "5",
			`foreman_request_duration_seconds_sum{route="/v1/chat/completions"}`:           "9",
			`foreman_slot_taken_total{reason="client left"}`:                               "0",
			`foreman_requests_total{route="/api/chat",code="499"}`:                         "1",
			`foreman_first_byte_seconds_bucket{route="/v1/chat/completions",le="5"}`:       "1",
			`foreman_request_duration_seconds_bucket{route="/v1/chat/completions",le="5"}`: "0",
		})
	})
}

// TestTurnsTaken: a turn can be taken away for four reasons, each of which is
// counted as itself and once.
func TestTurnsTaken(t *testing.T) {
	for _, test := range []struct {
		reason string
		target func(testing.TB) http.Handler
		status int
		take   func(t *testing.T, target http.Handler, c *wire)
	}{
		{takenLeft, func(t testing.TB) http.Handler { return newHolder(t) }, 499, func(t *testing.T, target http.Handler, c *wire) {
			c.send(t, postOf("/api/chat", marked("large")))
			running := target.(*holder).next(t, "large")
			c.Close()
			running.gone()
		}},
		{takenStalled, func(t testing.TB) http.Handler { return newStreamer(t, 1<<20) }, 200, func(t *testing.T, target http.Handler, c *wire) {
			target.(*streamer).large(t, c)
			time.Sleep(time.Minute)
		}},
		{takenAsleep, func(t testing.TB) http.Handler { return newSleeper(t) }, 504, func(t *testing.T, target http.Handler, c *wire) {
			c.send(t, postOf("/api/chat", marked("large")))
			target.(*sleeper).next(t, "large")
			target.(*sleeper).sleep(true)
			c.status(t)
		}},
		{takenStall, func(t testing.TB) http.Handler { return newHolder(t) }, 504, func(t *testing.T, target http.Handler, c *wire) {
			c.send(t, postOf("/api/chat", marked("large")))
			target.(*holder).next(t, "large")
			c.status(t)
		}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := test.target(t)
				f, network := newFrontIn(t, target, nil)
				c := connectIn(t, network)
				test.take(t, target, c)
				synctest.Wait()
				got := f.recent.all()
				if len(got) != 1 || got[0].Taken != test.reason || got[0].Status != test.status {
					t.Errorf("got %+v; want one record of a turn taken for %q, status %d", got, test.reason, test.status)
				}
				for _, reason := range []string{takenLeft, takenStalled, takenAsleep, takenStall} {
					want := "0"
					if reason == test.reason {
						want = "1"
					}
					wantSamples(t, f, map[string]string{`foreman_slot_taken_total{reason="` + reason + `"}`: want})
				}
			})
		})
	}
}

// TestRetriesAreCounted: a request that met a dead connection is one more, one
// that fails on a new connection is none.
func TestRetriesAreCounted(t *testing.T) {
	for _, test := range []struct{ plays, status int }{{1, 200}, {0, 503}} {
		s := newScript(t, func(a *act) {
			if a.name == "A" && test.plays == 0 {
				return // hangs up at once
			}
			for ok := true; ok; ok = a.next() {
				a.say(200, "{}")
				if a.name == "A" {
					a.next()
					return // has read one more, and hangs up
				}
			}
		})
		f := newFront(t, s.URL, nil)
		for range test.plays {
			f.do(t, "POST", "/api/embed", embedBody)
		}
		if a := f.do(t, "POST", "/api/chat", chatBody); a.status != test.status {
			t.Errorf("status %d %s; want %d", a.status, a.body, test.status)
		}
		wantSamples(t, f, map[string]string{"foreman_retries_total": map[bool]string{true: "1", false: "0"}[test.status == 200]})
	}
}

// TestAttrs: what is told in the log is what the record has.
func TestAttrs(t *testing.T) {
	rec := record{
		Method: "POST", Route: "/api/chat", Class: worker, Status: 200, Client: "[fe80::1]:7", ID: "id", Model: "m",
		Queued: 1500 * time.Microsecond, FirstByte: 2 * time.Second, Duration: time.Minute, Bytes: 1 << 40, Cut: true, Err: io.ErrUnexpectedEOF,
	}
	var got []string
	for _, a := range rec.appendTo(nil) {
		got = append(got, a.String())
	}
	const want = "method=POST route=/api/chat status=200 client=[fe80::1]:7 id=id ms=60000 first_byte_ms=2000 bytes=1099511627776 model=m queue_ms=1.5 cut=true err=unexpected EOF"
	if got := strings.Join(got, " "); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
