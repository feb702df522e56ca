package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A barrier stops requests at the stub, after their body was read, until
// the test or the client lets them go.
type barrier struct {
	arrived chan struct{} // one for each request that came
	release chan struct{} // one for each that may go on; closed: all
}

func newBarrier() barrier { return barrier{make(chan struct{}, 1000), make(chan struct{})} }

func (b barrier) then(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		b.arrived <- struct{}{}
		select {
		case <-b.release:
			next(w, r)
		case <-r.Context().Done():
		}
	}
}

func TestTagsAndPSProxied(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	for _, path := range []string{"tags", "ps"} {
		a := f.do(t, "GET", "/api/"+path, "")
		if want := string(fixture(t, path+".json")); a.status != 200 || a.body != want {
			t.Errorf("GET /api/%s: %d %q; want 200 and %q", path, a.status, a.body, want)
		}
		if got, want := a.header.Get("Content-Type"), "application/json; charset=utf-8"; got != want {
			t.Errorf("GET /api/%s: Content-Type %q; want %q", path, got, want)
		}
	}
	if got, want := stub.seen(), []string{"GET /api/ps"}; !slices.Equal(got, want) {
		t.Errorf("at the target: %q; want %q: tags come from the inventory", got, want)
	}
}

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
			stub := newStub(t)
			next := make(chan struct{})
			pieces := slices.Collect(strings.Lines(test.stream))
			handler := func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", test.contentType)
				for _, piece := range pieces {
					io.WriteString(w, piece)
					w.(http.Flusher).Flush()
					select {
					case <-next: // not before the client has this one
					case <-r.Context().Done():
						return
					}
				}
			}
			stub.chat, stub.embed, stub.anything = handler, handler, handler
			f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
			resp, err := f.client.Post(f.URL+test.path, "application/json", strings.NewReader(chatBody))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := resp.Header.Get("Content-Type"); got != test.contentType {
				t.Errorf("Content-Type %q; want %q", got, test.contentType)
			}
			for i, want := range pieces {
				got := make([]byte, len(want))
				if _, err := io.ReadFull(resp.Body, got); err != nil {
					t.Fatalf("piece %d: %v", i, err)
				}
				if string(got) != want {
					t.Fatalf("piece %d: got %q; want %q", i, got, want)
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
				t.Errorf("after the last piece: %q, %v; want a clean end", rest, err)
			}
			f.expectIdle(t)
		})
	}
}

func TestEmbedsRunInParallel(t *testing.T) {
	const n = 20
	for _, path := range embedPaths {
		stub := newStub(t)
		barrier := newBarrier()
		stub.embed = barrier.then(stub.embed)
		f := newFront(t, stub.URL, nil)
		var clients sync.WaitGroup
		for range n {
			clients.Go(func() {
				if a := f.do(t, "POST", path, embedBody); a.status != 200 {
					t.Errorf("%s: %d %s; want 200", path, a.status, a.body)
				}
			})
		}
		for range n {
			<-barrier.arrived // none is let go before all are there
		}
		close(barrier.release)
		clients.Wait()
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

func TestUnknownModelRejectedAfterOnePoll(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	before := stub.polled()
	a := f.do(t, "POST", "/api/chat", `{"model":"no-such"}`)
	if want := `{"error":"model 'no-such' not found"}` + "\n"; a.status != 404 || a.body != want {
		t.Errorf("got %d %q; want 404 %q", a.status, a.body, want)
	}
	if got := stub.polled() - before; got != 1 {
		t.Errorf("%d polls for an unknown model; want 1", got)
	}
	if a := f.do(t, "POST", "/api/chat", chatBody); a.status != 200 {
		t.Errorf("known model: %d; want 200", a.status)
	}
	if got := stub.polled() - before; got != 1 {
		t.Errorf("%d polls after a known model; want 1: known models need none", got)
	}
}

func TestModelInstalledMeanwhileIsFound(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	stub.answerPolls(answerWith("application/json", `{"models":[{"name":"new:latest"}]}`))
	if a := f.do(t, "POST", "/api/chat", `{"model":"NEW"}`); a.status != 200 {
		t.Errorf("got %d %s; want 200", a.status, a.body)
	}
}

func TestBodyReachesTheTargetUnchanged(t *testing.T) {
	odd := " {\"stream\":false,\"MODEL\":\"x\",\"model\":\"chat\",\"n\":1e400,\"s\":\"\\ud800\"} trailing \xff"
	for _, framing := range []string{"Content-Length", "chunked"} {
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
		var header []string
		if framing == "chunked" {
			header = []string{"Transfer-Encoding", "chunked"}
		}
		if a := f.do(t, "POST", "/api/chat", odd, header...); a.status != 200 {
			t.Fatalf("%s: %d %s; want 200", framing, a.status, a.body)
		}
		if got := <-got; got != odd {
			t.Errorf("%s: the target got %q; want %q", framing, got, odd)
		}
	}
}

func TestServerTimingTellsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f := timedFront(t, nil)
		turn, err := f.Gate.Enter(t.Context(), &exchange{request: new(http.Request)})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(3*time.Second+250*time.Microsecond, turn.Leave)
		a := f.do(t, "POST", "/api/chat", chatBody)
		if got, want := a.header.Get("Server-Timing"), "queue;dur=3000.250"; got != want {
			t.Errorf("Server-Timing of a chat that waited %q; want %q", got, want)
		}
		a = f.do(t, "POST", "/api/embed", embedBody)
		if got, ok := a.header["Server-Timing"]; ok {
			t.Errorf("Server-Timing of an embed %q; want none", got)
		}
	})
}

// TestTurnEndsWithTheTargetsLastByte: while a client takes its time over the
// rest, the target works for the next.
func TestTurnEndsWithTheTargetsLastByte(t *testing.T) {
	stub := newStub(t)
	came := make(chan struct{}, 2)
	whole := answerWith("application/json", strings.Repeat("{}\n", 1000)) // its length is known
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		whole(w, r)
	}
	clients := newMemory(8080) // a pipe holds nothing for a client who does not read
	f := newFrontOn(t, clients, stub.URL, nil)
	c, err := clients.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request := "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: slow\r\nContent-Length: 16\r\n\r\n" + `{"model":"chat"}`
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	<-came
	if a := f.do(t, "POST", "/api/chat", chatBody, "X-Request-Id", "next"); a.status != 200 {
		t.Errorf("next chat: %d %s; want 200", a.status, a.body)
	}
	if got := f.log.access(1)[0]["id"]; got != "next" {
		t.Errorf("the first to be done is %v; want next: the slow client has not read a byte", got)
	}
}

// A panic on another goroutine would end the process; the handler's is caught.
func TestOnOtherStackPanics(t *testing.T) {
	defer func() {
		got := fmt.Sprint(recover())
		if !strings.HasPrefix(got, "a defect\n") || !strings.Contains(got, "defective") {
			t.Errorf("recovered %v; want what the function panicked with, and where", got)
		}
	}()
	onOtherStack(defective)
}

func defective() { panic("a defect") }
