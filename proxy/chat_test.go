package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsPassThroughAsTheyCome(t *testing.T) {
	ndjson := string(fixture(t, "chat.ndjson"))
	sse := "data: {\"choices\":[{\"delta\":{\"content\":\"The\"}}]}\n\ndata: {\"choices\":[]}\n\ndata: [DONE]\n\n"
	for _, test := range []struct{ path, contentType, stream string }{
		{"/api/chat", "application/x-ndjson", ndjson},
		{"/api/generate", "application/x-ndjson", ndjson},
		{"/v1/chat/completions", "text/event-stream", sse},
		{"/v1/messages", "text/event-stream", sse},
		{"/api/embed", "application/x-ndjson", ndjson},
		{"/api/pull", "application/x-ndjson", "{\"status\":\"pulling\"}\n{\"status\":\"success\"}\n"},
	} {
		t.Run(test.path[1:], func(t *testing.T) {
			f, target := newHeldFront(t, func(o *Options) { o.Manage = true })
			c := connect(t, f).post(t, test.path, "stream")
			running := target.next(t, "stream")
			running.say(t, "") // the header alone
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("Content-Type"); got != test.contentType {
				t.Errorf("Content-Type %q; want %q", got, test.contentType)
			}
			for want := range strings.Lines(test.stream) {
				running.say(t, want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
					t.Fatalf("got %q, %v; want %q", got, err, want)
				}
			}
			running.finish()
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
				t.Errorf("after the last piece: %q, %v; want a clean end", rest, err)
			}
			f.expectIdle(t)
		})
	}
}

func TestChatsAreSerialised(t *testing.T) {
	stub := newStub(t)
	chats := newBarrier()
	stub.chat = chats.then(stub.chat)
	f := newFront(t, stub.URL, nil)
	paths := slices.Concat(workerPaths, workerPaths)
	want := string(fixture(t, "chat.ndjson"))
	var clients sync.WaitGroup
	for _, path := range paths {
		clients.Go(func() {
			if a := f.do(t, "POST", path, chatBody); a.status != 200 || a.body != want || a.err != nil {
				t.Errorf("%s: %d %q, %v; want 200 and the whole stream", path, a.status, a.body, a.err)
			}
		})
	}
	for range paths {
		<-chats.arrived
		// One chat is held at the target, the others wait, and these pass.
		for _, path := range []string{"/api/embed", "/api/show"} {
			if a := f.do(t, "POST", path, embedBody); a.status != 200 {
				t.Errorf("%s beside a chat: %d; want 200", path, a.status)
			}
		}
		if a := f.do(t, "GET", "/api/tags", ""); a.status != 200 {
			t.Errorf("/api/tags beside a chat: %d; want 200", a.status)
		}
		if _, busy := f.Gate.Len(); !busy {
			t.Error("a chat is at the target and the gate is free")
		}
		chats.release <- struct{}{}
	}
	clients.Wait()
	if got := stub.mostOpen(); got != 1 {
		t.Errorf("%d chats open at once at the target; want 1", got)
	}
	f.expectIdle(t)
}

func TestBodyReachesTheTargetUnchanged(t *testing.T) {
	odd := " {\"stream\":false,\"MODEL\":\"chat\",\"model\":\"chat\",\"n\":1e400,\"s\":\"\\ud800\"} trailing \xff"
	for framing, header := range map[string][]string{"Content-Length": nil, "chunked": {"Transfer-Encoding", "chunked"}} {
		stub := newStub(t)
		got := make(chan string, 1)
		stub.chat = func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil || r.ContentLength != int64(len(b)) {
				t.Errorf("%d bytes of %d, %v; want a whole body with its length", len(b), r.ContentLength, err)
			}
			got <- string(b)
		}
		f := newFront(t, stub.URL, nil)
		if a := f.do(t, "POST", "/api/chat", odd, header...); a.status != 200 {
			t.Fatalf("%s: %d %s; want 200", framing, a.status, a.body)
		}
		if got := <-got; got != odd {
			t.Errorf("%s: the target got %q; want %q", framing, got, odd)
		}
	}
}

// The wait that is told is the wait for the turn, not for a connection.
func TestServerTimingTellsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialling time.Duration
		_, f := timedFront(t, func(o *Options) {
			dialBy(o, func(dial func() (net.Conn, error)) (net.Conn, error) {
				time.Sleep(dialling)
				return dial()
			})
		})
		synctest.Wait()
		dialling = 3 * time.Second
		want := func(a answer, timing ...string) {
			t.Helper()
			if got := a.header["Server-Timing"]; a.status != 200 || !slices.Equal(got, timing) {
				t.Errorf("status %d, Server-Timing %q; want 200, %q", a.status, got, timing)
			}
		}
		want(f.do(t, "POST", "/api/chat", chatBody), "queue;dur=0.000")
		time.AfterFunc(3*time.Second+250*time.Microsecond, f.enter(t).Leave)
		want(f.do(t, "POST", "/api/chat", chatBody), "queue;dur=3000.250")
		want(f.do(t, "POST", "/api/embed", embedBody))
	})
}

func TestFaultClientLeavesWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		connect(t, f).chat(t, "first")
		first := target.next(t, "first")
		leaver := connect(t, f).chat(t, "leaver")
		synctest.Wait()
		third := connect(t, f).chat(t, "third")
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
		third.expect(t, http.StatusOK, "third chat")
		target.none(t)
	})
}

func TestFaultClientLeavesARunningChat(t *testing.T) {
	for _, when := range []string{"waiting for the first byte", "in mid-stream"} {
		for _, how := range []string{"FIN", "RST", "half-close"} {
			t.Run(when+"/"+how, func(t *testing.T) {
				f, target := newHeldFront(t, nil)
				leaver, next := connect(t, f), connect(t, f)
				leaver.chat(t, "leaver")
				running := target.next(t, "leaver")
				next.chat(t, "next")
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
					resetTCP(leaver.Conn.(*net.TCPConn))
				case "half-close": // it can't be told from one who leaves
					leaver.Conn.(*net.TCPConn).CloseWrite()
					if rest, _ := io.ReadAll(leaver.in); when != "in mid-stream" && len(rest) > 0 || bytes.HasSuffix(rest, []byte("0\r\n\r\n")) {
						t.Errorf("answer %q; want none, or a cut one", rest)
					}
				}
				running.gone()
				target.next(t, "next").finish()
				next.expect(t, http.StatusOK, "next chat")
			})
		}
	}
}

func TestFaultClientUploadsAByteASecond(t *testing.T) {
	for _, path := range append(dialects, "/api/embed") {
		for framing, head := range map[string]string{
			"length":  "Content-Length: 100000\r\n\r\n",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n186a0\r\n",
		} {
			inBubble(t, path[1:]+"/"+framing, func(t *testing.T) {
				f, target := newHeldFrontIn(t, nil)
				slow := connect(t, f)
				began := time.Now()
				var uploading sync.WaitGroup
				defer uploading.Wait()
				defer slow.Close()
				uploading.Go(func() {
					io.WriteString(slow, "POST "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+head)
					for time.Since(began) < time.Hour { // a client that never tires
						if _, err := slow.Write([]byte(" ")); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				time.Sleep(10 * time.Second)
				target.serves(t, f, "other")
				if took := time.Since(began); took > 11*time.Second {
					t.Errorf("other chat: answered after %v; want it at once", took)
				}
				errorSeen{408, "the request body came too slowly", invalid}.check(t, path, readAnswer(t, slow.in))
				if took := time.Since(began); took < uploadCredit || took > uploadCredit+time.Second {
					t.Errorf("slow upload: 408 after %v; want %v", took, uploadCredit)
				}
				slow.Close()
				if path != "/api/embed" { // which passes as it comes
					target.none(t)
				}
				f.expectIdle(t)
			})
		}
	}
}

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
		{"in mid-stream", func(r *http.Request) (*http.Response, error) {
			body := io.NopCloser(io.MultiReader(strings.NewReader("{}\n"), panickingBody{}))
			return &http.Response{StatusCode: 200, Body: body, ContentLength: -1, TransferEncoding: []string{"chunked"}, Request: r, Header: http.Header{}}, nil
		}, "HTTP/1.1 200 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, target := newHeldFront(t, nil)
			whole := f.passes.forwarder.reverse.Transport
			f.passes.forwarder.reverse.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("X-Broken") != "" {
					return test.broken(r)
				}
				return whole.RoundTrip(r)
			})
			c, next := connect(t, f), connect(t, f)
			old := connect(t, f) // to a client that speaks HTTP/1.0 an end is no error, but a reset is
			old.send(t, strings.Replace(postOf("/api/chat", marked("panic"), "X-Broken: yes\r\n"), "HTTP/1.1", "HTTP/1.0", 1))
			if b, err := io.ReadAll(old); test.name != "before the answer" && err == nil {
				t.Errorf("HTTP/1.0: got %q and a clean end", b)
			}
			c.send(t, postOf("/api/chat", marked("panic"), "X-Broken: yes\r\n", "Connection: close\r\n"))
			b, _ := io.ReadAll(c)
			if got := string(b); !strings.HasPrefix(got, test.want) || test.want == "" && got != "" || strings.HasSuffix(got, "0\r\n\r\n") {
				t.Errorf("got %q; want %q and no proper end", got, test.want)
			}
			f.log.await(t, `"stack":"goroutine `)
			f.log.await(t, `"err":"panic: `)
			next.chat(t, "next")
			target.next(t, "next").finish()
			next.expect(t, http.StatusOK, "next chat")
		})
	}
}

func TestFaultDoubleRelease(t *testing.T) {
	f, target := newHeldFront(t, nil)
	first, second, third := connect(t, f), connect(t, f), connect(t, f)
	first.chat(t, "first")
	running := target.next(t, "first")
	c := f.page.find(f.page.read().Running.Key)[0]
	second.chat(t, "second")
	c.upstream.leave() // the first release; ReverseProxy is still at it
	held := target.next(t, "second")
	third.chat(t, "third")
	var ending sync.WaitGroup
	for range 20 {
		ending.Go(func() { c.upstream.leave() })
	}
	ending.Wait()
	running.finish() // and one more, by the handler's end
	first.expect(t, http.StatusOK, "first chat")
	if _, busy := f.Gate.Len(); !busy {
		t.Errorf("the gate is free while the second chat runs")
	}
	target.none(t)
	held.finish()
	target.next(t, "third").finish()
	for _, c := range []*wire{second, third} {
		c.expect(t, http.StatusOK, "chat")
	}
}

func TestFaultCancellationRacesWithTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		for round := range 300 {
			first, leaver, next := connect(t, f), connect(t, f), connect(t, f)
			first.chat(t, "first")
			running := target.next(t, "first")
			leaver.chat(t, "leaver")
			synctest.Wait()
			next.chat(t, "next")
			synctest.Wait()

			var racing sync.WaitGroup
			racing.Go(func() { leaver.Close() })
			racing.Go(running.finish)
			racing.Wait()

			c := target.any(t)
			if c.body != marked("next") { // the leaver was let in first
				c.gone()
				c = target.any(t)
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
				target.any(t).gone()
			}
			first.Close()
			next.Close()
		}
	})
}

// Chats that the target would load a model again for are kinds of their own: ten of one
// model with two num_ctx in turn make it load that once more, and not nine times. Where
// they do alternate, the log says so once.
func TestLoadOptionsAreAKind(t *testing.T) {
	for affinity, want := range map[time.Duration]int{time.Minute: 1, 0: 9} {
		synctest.Test(t, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) { o.Gate.Affinity = affinity })
			first := connect(t, f).send(t, postOf("/api/chat", `{"model":"embed"}`))
			holding := target.any(t)
			var clients []*wire
			for i := range 10 {
				body := fmt.Sprintf(`{"model":"chat","options":{"num_ctx":%d}}`, 2048*(1+i%2))
				clients = append(clients, connect(t, f).send(t, postOf("/api/chat", body)))
				synctest.Wait()
			}
			if got := f.page.read().Waiting[1]; got.Model != "chat:latest" || got.Options != "num_ctx=4096" {
				t.Errorf("the page has %q, %q; want the model and its options", got.Model, got.Options)
			}
			answers := make(chan int)
			for _, c := range append(clients, first) {
				go func() { answers <- c.status(t) }()
			}
			holding.finish()
			changes, last := 0, ""
			for i := range clients {
				chat := target.any(t)
				if i > 0 && chat.body != last {
					changes++
				}
				last = chat.body
				chat.finish()
			}
			for range 11 {
				if got := <-answers; got != 200 {
					t.Errorf("got %d; want 200", got)
				}
			}
			if changes != want {
				t.Errorf("affinity %v: the options changed %d times at the target; want %d", affinity, changes, want)
			}
			said := strings.Count(f.log.String(), "load options of a model keep changing")
			if wantSaid := min(want-1, 1); said != wantSaid {
				t.Errorf("affinity %v: said %d times that they change; want %d", affinity, said, wantSaid)
			}
			if said > 0 && !strings.Contains(f.log.String(), `"options":"num_ctx=2048","before":"num_ctx=4096"`) {
				t.Errorf("got log %s; want both values", f.log)
			}
		})
	}
}
