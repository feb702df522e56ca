package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/ask"
)

// TestUploadEndsOnce: Transport reads once more behind a body's declared end,
// after the target has it all. By then the target may have answered and net/http
// have closed the client's body; that must not cut the answer
// (golang.org/issue/40747).
func TestUploadEndsOnce(t *testing.T) {
	body := &closing{}
	u := uploadOf(body)
	b := make([]byte, 10)
	if n, err := u.Read(b); n != 4 || err != io.EOF {
		t.Fatalf("first read: %d, %v; want 4, EOF", n, err)
	}
	body.closed = true
	if n, err := u.Read(b); n != 0 || err != io.EOF {
		t.Errorf("second read: %d, %v; want 0, EOF", n, err)
	}
}

func uploadOf(body io.ReadCloser) *upload {
	var w http.ResponseWriter = httptest.NewRecorder()
	if s, ok := body.(*slowBody); ok {
		s.SetReadDeadline(time.Time{})
		w = s
	}
	return newUpload(w, &http.Request{Body: body})
}

// closing is a body as net/http's server has it: it tells its end with the last
// bytes.
type closing struct{ closed bool }

func (c *closing) Read(b []byte) (int, error) {
	if c.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return copy(b, "body"), io.EOF
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestUploadMarksItsErrors(t *testing.T) {
	if _, err := uploadOf(&closing{closed: true}).Read(nil); !errors.Is(err, errBadUpload) || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("got %v; want it to be both %v and the cause", err, errBadUpload)
	}
}

// TestBodyThatEndsLate: net/http tells a body's end with its last bytes, but no
// Reader has to.
func TestBodyThatEndsLate(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	for _, n := range []int{len(chatBody), 4 << 10, 64 << 10, 64<<10 + 1, 100_000} {
		w := httptest.NewRecorder()
		body := chatBody + strings.Repeat(" ", n-len(chatBody))
		f.ServeHTTP(w, httptest.NewRequest("POST", "http://localhost/api/chat", strings.NewReader(body)))
		if w.Code != 200 {
			t.Errorf("%d bytes: %d %s; want 200", n, w.Code, w.Body)
		}
	}
	f.expectIdle(t)
}

// The target may answer before it has read a large body, as a proxy in front of it
// does that refuses. The answer comes whole, and at once, also while the client is
// still sending.
func TestFaultAnswerBeforeTheEndOfALargeBody(t *testing.T) {
	const size, late, answerSize = 1300 << 10, 10 << 10, 300 << 10
	stub := newStub(t)
	early := func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", strconv.Itoa(answerSize))
		w.WriteHeader(http.StatusUnauthorized)
		w.Write(bytes.Repeat([]byte("x"), answerSize))
		w.(http.Flusher).Flush()
	}
	stub.anything = early
	f := newFront(t, stub.URL, func(o *Options) { o.Manage, o.MaxBody = true, 64<<20 })
	for _, framing := range []string{"length", "chunked"} {
		c := connect(t, f)
		head := "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n"
		if framing == "chunked" {
			head = "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(size, 16) + "\r\n"
		}
		c.send(t, "POST /api/blobs/sha256:0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"+head)
		go c.Write(bytes.Repeat([]byte("y"), size-late)) // the rest never comes
		resp, body, err := c.answer(t)
		if resp.StatusCode != http.StatusUnauthorized || err != nil || len(body) != answerSize {
			t.Errorf("%s: %d, %d bytes, %v; want 401 and %d bytes", framing, resp.StatusCode, len(body), err, answerSize)
		}
		c.Close()
	}
	f.expectIdle(t)
}

// heap returns how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestFaultQueueOfLargeChats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chats, size, budget = 150, 256 << 10, 16 << 20
		f, target := newHeldFrontIn(t, func(o *Options) { o.MaxBody = 64 << 20 })
		if got := f.chats.bodies.limit; got != 256<<20 {
			t.Errorf("a budget of %d bytes; want 256 MiB", got)
		}
		f.chats.bodies.limit = budget // or the race detector would take its time
		body := marked("large")       // and what is not looked at, for the same reason
		body += strings.Repeat("x", size-len(body))
		request := postOf("/api/chat", body)
		running := connect(t, f).send(t, postOf("/api/chat", marked("first")))
		first := target.next(t, "first")
		before := heap()

		var clients sync.WaitGroup
		var mu sync.Mutex // guards answers
		answers := map[int]int{}
		for range chats {
			clients.Go(func() {
				c := connect(t, f)
				go io.WriteString(c, request) // a refused one is not read to its end
				resp, text, _ := c.answer(t)
				c.Close()
				if resp.StatusCode == http.StatusServiceUnavailable && (resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "too many bytes")) {
					t.Errorf("503 %q; want one for too many bytes, with Retry-After", text)
				}
				mu.Lock()
				defer mu.Unlock()
				answers[resp.StatusCode]++
			})
		}
		synctest.Wait()
		waiting, _ := f.Gate.Len()
		if used := f.held(); used > budget || used < int64(waiting)*size {
			t.Errorf("%d chats wait and %d bytes count as taken; want at most %d, and no fewer than wait", waiting, used, budget)
		}
		if grown := heap() - before; grown > 2*budget {
			t.Errorf("the heap has grown by %d MiB; want little more than %d", grown>>20, budget>>20)
		}
		if waiting < 60 || answers[503] != chats-waiting {
			t.Errorf("%d chats wait, answers %v; want 60 to wait and 503 for the others", waiting, answers)
		}

		go func() {
			for range waiting {
				target.any(t).finish()
			}
		}()
		first.finish()
		running.answer(t)
		clients.Wait()
		if answers[200] != waiting || answers[200]+answers[503] != chats {
			t.Errorf("answers %v; want 200 for the %d that waited, 503 for the others", answers, waiting)
		}
		synctest.Wait()
		f.expectIdle(t)
	})
}

func TestFaultSilentUploads(t *testing.T) {
	for _, test := range []struct {
		name, head  string
		connections int
		heap        int64 // how much it may grow
		want        int
	}{
		{"chats of 100 MB", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n", 1000, 64 << 20, http.StatusRequestTimeout},
		{"chats of chunks", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n", 250, 16 << 20, http.StatusRequestTimeout},
		{"chats of more than FOREMAN_MAX_BODY", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000000\r\n\r\n", 250, 16 << 20, http.StatusRequestEntityTooLarge},
		{"chats of 64 KiB", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 65536\r\n\r\n", 250, 16 << 20, http.StatusRequestTimeout},
		{"embeds of 100 MB", "POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n", 250, 16 << 20, http.StatusRequestTimeout},
		{"embeds of 1 MiB", "POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1048576\r\n\r\n", 100, 25 << 20, http.StatusRequestTimeout},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) { o.MaxBody = 128 << 20 })
			before := heap()
			began := time.Now()
			var answering sync.WaitGroup
			for range test.connections {
				answering.Go(func() {
					c := connect(t, f).send(t, test.head)
					c.SetReadDeadline(began.Add(time.Hour))
					resp, err := http.ReadResponse(c.in, nil)
					if err != nil || resp.StatusCode != test.want {
						t.Errorf("%+v, %v; want %d", resp, err, test.want)
					}
					c.Close()
				})
			}
			synctest.Wait()
			if used := f.held(); used > int64(test.connections)*4<<10 {
				t.Errorf("%d bytes of the budget are taken; want 4 KiB for each at most", used)
			}
			if grown := heap() - before; grown > test.heap {
				t.Errorf("the heap has grown by %d MiB; want less than %d", grown>>20, test.heap>>20)
			}
			target.serves(t, f, "other")

			answering.Wait()
			if took := time.Since(began); took > time.Minute {
				t.Errorf("the last answer came after %v; want a minute at most", took)
			}
			synctest.Wait()
			f.expectIdle(t)
			target.none(t)
		})
	}
}

// Embeddings have a budget of their own: a full line turns none of them away, and many
// large ones turn no chat away. Of more than there is room for, some get 503.
func TestFaultManyLargeEmbeds(t *testing.T) {
	const room, size = 20, 1 << 20
	stub := newStub(t)
	barrier := newBarrier()
	stub.embed = barrier.then(stub.embed)
	f := newFront(t, stub.URL, func(o *Options) { o.MaxBody = 2 << 20 })
	f.passes.bodies.limit = room * (size + 1)
	chats := f.chats.bodies.open("others", func(error) {})
	chats.take(f.chats.bodies.limit)
	body := embedBody + strings.Repeat(" ", size-len(embedBody))
	var clients sync.WaitGroup
	for range room {
		clients.Go(func() {
			if a := f.do(t, "POST", "/api/embed", body); a.status != 200 || a.err != nil {
				t.Errorf("got %d %s, %v; want 200", a.status, a.body, a.err)
			}
		})
	}
	for range room {
		<-barrier.arrived
	}
	if a := f.do(t, "POST", "/api/embed", body); a.status != 503 {
		t.Errorf("one more: got %d; want 503", a.status)
	}
	chats.give()
	if a := f.do(t, "POST", "/api/chat", chatBody); a.status != 200 {
		t.Errorf("a chat: got %d; want 200", a.status)
	}
	close(barrier.release)
	clients.Wait()
	f.expectIdle(t)
}

// Of a body that names two models nothing reaches the target, whichever of them the target
// would read on that path, nor does it stand in line.
func TestTwoModels(t *testing.T) {
	stub := newStub(t)
	stub.tags = answerWith("application/json", `{"models":[{"name":"chat:latest"},{"name":"gpt-oss:120b-cloud","remote_host":"https://ollama.com:443"}]}`)
	f := newFront(t, stub.URL, func(o *Options) { o.MaxBody = 4 << 20 })
	defer f.enter(t).Leave()
	for _, path := range slices.Concat(workerPaths, embedPaths) {
		for _, models := range []string{
			`"model":"chat","Model":"gpt-oss:120b-cloud"`,
			`"Model":"chat","model":"gpt-oss:120b-cloud"`,
			`"model":"chat","model":"x:cloud"`,
			`"\u006dodel":"x:cloud","model":"chat"`,
			`"model":"gpt-oss:120b-cloud","x":"` + strings.Repeat("x", 2<<20) + `","MODEL":"chat"`,
		} {
			a := f.do(t, "POST", path, `{`+models+`,"messages":[],"input":"x","keep_alive":0}`)
			if a.status != http.StatusBadRequest || !strings.Contains(a.body, "the request names more than one model") {
				t.Errorf("%s: %.100s: got %d %s; want 400", path, models, a.status, a.body)
			}
		}
	}
	if seen := stub.seen(); len(seen) != 0 {
		t.Errorf("the target has got %q; want nothing", seen)
	}
}

// form is a multipart form of parts, each a header and a value.
func form(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteString("--b0undary\r\nContent-Disposition: form-data; " + part + "\r\n")
	}
	return b.String() + "--b0undary--\r\n"
}

const (
	multipartForm = "multipart/form-data; boundary=b0undary"
	audio         = "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF" + secret
	formModel     = "name=\"model\"\r\n\r\n"
)

// A transcription that is refused takes no turn, waits for none, and the target sees
// nothing of it. The errors are OpenAI's.
func TestTranscriptions(t *testing.T) {
	stub := newStub(t)
	var got atomic.Pointer[string]
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen := r.Header.Get("Content-Type") + " " + string(body)
		got.Store(&seen)
		io.WriteString(w, `{"text":"hello"}`)
	}
	f := newFront(t, stub.URL, func(o *Options) { o.MaxBody = 4 << 20 })
	turn := f.enter(t)
	large := audio + strings.Repeat("x", 3<<20)
	for _, test := range []struct {
		name, contentType, body string
		status                  int
		want                    string
	}{
		{"no model", multipartForm, form(audio), 400, "model is required"},
		{"unknown model behind a large file", multipartForm, form(large, formModel+"other"), 404, "model 'other' not found"},
		{"larger than FOREMAN_MAX_BODY", multipartForm, form(large+large, formModel+"chat"), 413, "request body larger than 4194304 bytes"},
		{"cut", multipartForm, form(formModel+"chat", audio)[:100], 400, "the form is cut off: its closing boundary does not come"},
		{"no form", "application/json", `{"model":"chat"}`, 400, "the request body must be multipart/form-data, with a boundary"},
	} {
		a := f.do(t, "POST", ask.TranscriptionsPath, test.body, "Content-Type", test.contentType)
		if a.status != test.status || !strings.HasPrefix(a.body, `{"error":{"message":"`+test.want+`","type":"invalid_request_error"`) {
			t.Errorf("%s: got %d %s; want %d %s", test.name, a.status, a.body, test.status, test.want)
		}
	}
	half := postOf(ask.TranscriptionsPath, form(formModel+"chat", audio), "Content-Type: "+multipartForm+"\r\n")
	if a := f.raw(t, half[:len(half)-20], true); a.status != 400 || !strings.Contains(a.body, "broken off or badly framed") {
		t.Errorf("cut in the middle of the request: got %d %s; want 400", a.status, a.body)
	}
	if waiting, _ := f.Gate.Len(); waiting != 0 || len(stub.seen()) != 0 {
		t.Errorf("%d wait, at the target %q; want nobody and nothing", waiting, stub.seen())
	}
	turn.Leave()

	whole := form(large, formModel+"chat")
	if a := f.do(t, "POST", ask.TranscriptionsPath, whole, "Content-Type", multipartForm); a.status != 200 || a.body != `{"text":"hello"}` || a.header.Get("Server-Timing") == "" {
		t.Errorf("got %d %s; want the target's answer, after a turn", a.status, a.body)
	}
	if seen := got.Load(); seen == nil || *seen != multipartForm+" "+whole {
		t.Error("the target has not got the form as it was sent")
	}
	f.expectIdle(t)
}

// The connection of a request that is ended as its body ends is of no more use: net/http may
// have met the deadline that was to end the body. That is set before the handler goes on,
// which sets one of its own, however late its goroutine is.
func TestBodyEndsAsItsRequestIsEnded(t *testing.T) {
	for read, want := range map[error]error{io.EOF: nil, os.ErrDeadlineExceeded: errNoRoom} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			r := httptest.NewRequestWithContext(ctx, "POST", "/api/chat", ending{func() { cancel(errNoRoom) }, read})
			began, x := time.Now(), newExchange(slowDeadlines{httptest.NewRecorder()}, r, &routes[0], worker)
			x.admitted = true
			_, room, err := newBodies(1<<20, 1<<20).read(x, r, cancel)
			room.give()
			if took := time.Since(began); err != want || took != time.Second {
				t.Errorf("%v: got %v after %v; want %v when the deadline is set, after 1s", read, err, took, want)
			}
			if x.refuse(errNoRoom); x.Header().Get("Connection") != "close" {
				t.Errorf("%v: the connection stays open; want it closed", read)
			}
		})
	}
}

// slowDeadlines takes a second to set a deadline.
type slowDeadlines struct{ http.ResponseWriter }

func (slowDeadlines) SetReadDeadline(time.Time) error { time.Sleep(time.Second); return nil }

// ending is a body that calls a function at its end.
type ending struct {
	end func()
	err error
}

func (e ending) Read([]byte) (int, error) { e.end(); return 0, e.err }
