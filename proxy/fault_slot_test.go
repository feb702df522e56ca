package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaultClientLeavesWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f, network := newFrontIn(t, target, nil)
		connectIn(t, network).send(t, postOf("/api/chat", marked("first")))
		first := target.next(t, "first")
		leaver := connectIn(t, network)
		leaver.send(t, postOf("/api/chat", marked("leaver")))
		synctest.Wait()
		third := connectIn(t, network)
		third.send(t, postOf("/api/chat", marked("third")))
		synctest.Wait()
		if waiting, _ := f.Gate.Len(); waiting != 2 {
			t.Fatalf("%d wait; want 2", waiting)
		}

		leaver.Close()
		synctest.Wait() // no time passes here
		if waiting, _ := f.Gate.Len(); waiting != 1 {
			t.Errorf("%d wait after one has left; want 1", waiting)
		}
		first.finish()
		target.next(t, "third").finish()
		if got := third.status(t); got != http.StatusOK {
			t.Errorf("third chat: status %d; want 200", got)
		}
		target.none(t)
	})
}

func TestFaultClientLeavesARunningChat(t *testing.T) {
	for _, when := range []string{"waiting for the first byte", "in mid-stream"} {
		for _, how := range []string{"FIN", "RST", "half-close"} {
			t.Run(when+"/"+how, func(t *testing.T) {
				f, target := newHeldFront(t, nil)
				leaver, next := connect(t, f), connect(t, f)
				leaver.send(t, postOf("/api/chat", marked("leaver")))
				running := target.next(t, "leaver")
				next.send(t, postOf("/api/chat", marked("next")))
				if when == "in mid-stream" {
					running.say(t, `{"done":false}`+"\n")
					if _, err := leaver.in.ReadString('}'); err != nil {
						t.Fatal(err)
					}
				}
				switch how {
				case "FIN":
					leaver.Close()
				case "RST":
					reset(leaver.Conn)
				case "half-close": // it can't be told from one who leaves
					leaver.Conn.(*net.TCPConn).CloseWrite()
					if rest, _ := io.ReadAll(leaver.in); when != "in mid-stream" && len(rest) > 0 || bytes.HasSuffix(rest, []byte("0\r\n\r\n")) {
						t.Errorf("answer %q; want none, or a cut one", rest)
					}
				}
				running.gone()
				target.next(t, "next").finish()
				if got := next.status(t); got != http.StatusOK {
					t.Errorf("next chat: status %d; want 200", got)
				}
			})
		}
	}
}

func TestFaultClientUploadsAByteASecond(t *testing.T) {
	for _, path := range []string{"/api/chat", "/api/embed"} {
		for framing, head := range map[string]string{
			"length":  "Content-Length: 100000\r\n\r\n",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n186a0\r\n",
		} {
			t.Run(path[1:]+"/"+framing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					target := newHolder(t)
					f, network := newFrontIn(t, target, nil)
					slow := connectIn(t, network)
					began := time.Now()
					var uploading sync.WaitGroup
					defer uploading.Wait()
					uploading.Go(func() {
						io.WriteString(slow, "POST "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+head)
						for time.Since(began) < time.Hour { // a client that never tires
							if _, err := slow.Write([]byte(" ")); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
						slow.Close()
					})
					time.Sleep(10 * time.Second)
					other := connectIn(t, network)
					other.send(t, postOf("/api/chat", marked("other")))
					for c := range target.arrived {
						if c.body == marked("other") {
							c.finish()
							break
						}
					}
					if got := other.status(t); got != http.StatusOK || time.Since(began) > 11*time.Second {
						t.Errorf("other chat: status %d after %v; want 200 at once", got, time.Since(began))
					}
					resp, err := http.ReadResponse(slow.in, nil)
					if err != nil {
						t.Fatalf("after %v: %v; want 408", time.Since(began), err)
					}
					if got, took := resp.StatusCode, time.Since(began); got != http.StatusRequestTimeout || took > time.Minute {
						t.Errorf("slow upload: status %d after %v; want 408 within a minute", got, took)
					}
					slow.Close()
					synctest.Wait()
					if used := f.bodies.used.Load(); used != 0 {
						t.Errorf("%d bytes of the budget still taken; want 0", used)
					}
				})
			})
		}
	}
}

// A roundTripper stands in for the way to the target.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type panickingBody struct{ io.Reader }

func (panickingBody) Read([]byte) (int, error) { panic("body") }
func (panickingBody) Close() error             { return nil }

func TestFaultPanicInAHandler(t *testing.T) {
	for _, test := range []struct {
		name   string
		broken roundTripper
		want   string // how the answer begins
	}{
		{"before the answer", func(*http.Request) (*http.Response, error) { panic("transport") }, "HTTP/1.1 500 "},
		{"http.ErrAbortHandler", func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }, ""},
		{"in mid-stream", func(r *http.Request) (*http.Response, error) {
			body := io.NopCloser(io.MultiReader(strings.NewReader("{}\n"), panickingBody{}))
			return &http.Response{StatusCode: 200, Body: body, ContentLength: -1, TransferEncoding: []string{"chunked"}, Request: r, Header: http.Header{}}, nil
		}, "HTTP/1.1 200 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, target := newHeldFront(t, nil)
			whole := f.reverse.Transport
			f.reverse.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("X-Broken") != "" {
					return test.broken(r)
				}
				return whole.RoundTrip(r)
			})
			c, next := connect(t, f), connect(t, f)
			c.send(t, postOf("/api/chat", marked("panic"), "X-Broken: yes\r\n", "Connection: close\r\n"))
			b, _ := io.ReadAll(c)
			if got := string(b); !strings.HasPrefix(got, test.want) || test.want == "" && got != "" || strings.HasSuffix(got, "0\r\n\r\n") {
				t.Errorf("got %q; want %q and no proper end", got, test.want)
			}
			next.send(t, postOf("/api/chat", marked("next")))
			target.next(t, "next").finish()
			if got := next.status(t); got != http.StatusOK {
				t.Errorf("next chat: status %d; want 200", got)
			}
		})
	}
}

func TestFaultDoubleRelease(t *testing.T) {
	f, target := newHeldFront(t, nil)
	first, second, third := connect(t, f), connect(t, f), connect(t, f)
	first.send(t, postOf("/api/chat", marked("first")))
	running := target.next(t, "first")
	turn := f.running.Load()
	second.send(t, postOf("/api/chat", marked("second")))
	turn.finish() // the first release; ReverseProxy is still at it
	held := target.next(t, "second")
	third.send(t, postOf("/api/chat", marked("third")))
	var ending sync.WaitGroup
	for range 20 {
		ending.Go(turn.finish)
	}
	ending.Wait()
	running.finish() // and one more, by the handler's end
	if got := first.status(t); got != http.StatusOK {
		t.Errorf("first chat: status %d; want 200", got)
	}
	if _, busy := f.Gate.Len(); !busy {
		t.Errorf("the gate is free while the second chat runs")
	}
	target.none(t)
	held.finish()
	target.next(t, "third").finish()
	for _, c := range []*wire{second, third} {
		if got := c.status(t); got != http.StatusOK {
			t.Errorf("chat: status %d; want 200", got)
		}
	}
}

func TestFaultCancellationRacesWithTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f, network := newFrontIn(t, target, nil)
		for round := range 300 {
			first, leaver, next := connectIn(t, network), connectIn(t, network), connectIn(t, network)
			first.send(t, postOf("/api/chat", marked("first")))
			running := target.next(t, "first")
			leaver.send(t, postOf("/api/chat", marked("leaver")))
			synctest.Wait()
			next.send(t, postOf("/api/chat", marked("next")))
			synctest.Wait()

			var racing sync.WaitGroup
			racing.Go(func() { leaver.Close() })
			racing.Go(running.finish)
			racing.Wait()

			c := <-target.arrived
			if c.body != marked("next") { // the leaver was let in first
				c.gone()
				c = <-target.arrived
			}
			if c.body != marked("next") {
				t.Fatalf("round %d: target got %q; want the next chat", round, c.body)
			}
			c.finish()
			if a, b := first.status(t), next.status(t); a != http.StatusOK || b != http.StatusOK {
				t.Fatalf("round %d: statuses %d and %d; want 200", round, a, b)
			}
			synctest.Wait()
			if waiting, busy := f.Gate.Len(); waiting != 0 || busy {
				t.Fatalf("round %d: %d wait, busy %v; want an idle gate", round, waiting, busy)
			}
			for len(target.arrived) > 0 { // the leaver, overtaken by the next chat on its way
				(<-target.arrived).gone()
			}
			first.Close()
			next.Close()
		}
	})
}

// The same at the seam of gate and proxy, where the race is closer: the context
// ends while the turn is handed over.
func TestFaultCancellationRacesWithTheTurn(t *testing.T) {
	f, _ := newHeldFront(t, nil)
	for round := range 2000 {
		x := &exchange{request: new(http.Request)}
		turn, err := f.enter(x, t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first := f.newTurn(t.Context(), x, turn)
		turn.Start(func(err error) { f.beginTurn(first, err) })
		ctx, cancel := context.WithCancel(t.Context())
		var racing sync.WaitGroup
		racing.Go(func() {
			x := &exchange{request: new(http.Request)}
			turn, err := f.enter(x, ctx)
			if err == nil {
				j := f.newTurn(ctx, x, turn)
				turn.Start(func(err error) { f.beginTurn(j, err) })
				j.end()
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("round %d: %v; want %v", round, err, context.Canceled)
			}
		})
		racing.Go(cancel)
		racing.Go(first.end)
		racing.Wait()
		if waiting, busy := f.Gate.Len(); waiting != 0 || busy {
			t.Fatalf("round %d: %d wait, busy %v; want an idle gate", round, waiting, busy)
		}
		if f.running.Load() != nil {
			t.Fatalf("round %d: a chat counts as running; want none", round)
		}
	}
}
