package proxy

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// heap returns how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestFaultQueueOfLargeChats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const chats, size = 600, 1 << 20
		target := newHolder(t)
		f, network := newFrontIn(t, target, func(o *Options) { o.MaxBody = 64 << 20 })
		body := marked("large") // and what is not looked at, or the race detector would take its time
		body += strings.Repeat("x", size-len(body))
		request := postOf("/api/chat", body)
		running := connectIn(t, network)
		running.send(t, postOf("/api/chat", marked("first")))
		first := target.next(t, "first")
		before := heap()

		var clients sync.WaitGroup
		var mu sync.Mutex // guards answers
		answers := map[int]int{}
		for range chats {
			clients.Go(func() {
				c := connectIn(t, network)
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
		if used, limit := f.bodies.used.Load(), int64(256<<20); used > limit || used < int64(waiting)*size {
			t.Errorf("%d chats wait and %d bytes count as taken; want at most %d, and no fewer than wait", waiting, used, limit)
		}
		if grown := heap() - before; grown > 384<<20 {
			t.Errorf("the heap has grown by %d MiB; want little more than 256", grown>>20)
		}
		if waiting < 250 || answers[503] != chats-waiting {
			t.Errorf("%d chats wait, answers %v; want 250 to wait and 503 for the others", waiting, answers)
		}

		go func() {
			for range waiting {
				(<-target.arrived).finish()
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
		{"chats of chunks", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n", 1000, 64 << 20, http.StatusRequestTimeout},
		{"chats of more than FOREMAN_MAX_BODY", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000000\r\n\r\n", 1000, 64 << 20, http.StatusRequestEntityTooLarge},
		{"chats of 64 KiB", "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 65536\r\n\r\n", 1000, 64 << 20, http.StatusRequestTimeout},
		{"embeds of 100 MB", "POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000000\r\n\r\n", 1000, 64 << 20, http.StatusRequestTimeout},
		{"embeds of 1 MiB", "POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1048576\r\n\r\n", 100, 25 << 20, http.StatusRequestTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := newHolder(t)
				f, network := newFrontIn(t, target, func(o *Options) { o.MaxBody = 128 << 20 })
				before := heap()
				began := time.Now()
				var answering sync.WaitGroup
				for range test.connections {
					answering.Go(func() {
						c := connectIn(t, network)
						c.send(t, test.head)
						c.SetReadDeadline(began.Add(time.Hour))
						resp, err := http.ReadResponse(c.in, nil)
						if err != nil || resp.StatusCode != test.want {
							t.Errorf("%+v, %v; want %d", resp, err, test.want)
						}
						c.Close()
					})
				}
				synctest.Wait()
				if used := f.bodies.used.Load(); used > int64(test.connections)*4<<10 {
					t.Errorf("%d bytes of the budget are taken; want 4 KiB for each at most", used)
				}
				if grown := heap() - before; grown > test.heap {
					t.Errorf("the heap has grown by %d MiB; want less than %d", grown>>20, test.heap>>20)
				}
				other := connectIn(t, network)
				other.send(t, postOf("/api/chat", marked("other")))
				target.next(t, "other").finish()
				if got := other.status(t); got != http.StatusOK {
					t.Errorf("other chat: status %d; want 200", got)
				}

				answering.Wait()
				if took := time.Since(began); took > time.Minute {
					t.Errorf("the last answer came after %v; want a minute at most", took)
				}
				synctest.Wait()
				f.expectIdle(t)
				target.none(t)
			})
		})
	}
}

// What is held of embeddings, so that they can be sent twice, is of the same budget
// as what waits of chats. What has no room goes on all the same.
func TestFaultManyLargeEmbeds(t *testing.T) {
	const embeds, size = 20, 1 << 20
	stub := newStub(t)
	barrier := newBarrier()
	stub.embed = barrier.then(stub.embed)
	f := newFront(t, stub.URL, func(o *Options) { o.MaxBody = 2 << 20 })
	f.bodies.limit = 8 << 20
	body := embedBody + strings.Repeat(" ", size-len(embedBody))
	var clients sync.WaitGroup
	for range embeds {
		clients.Go(func() {
			if a := f.do(t, "POST", "/api/embed", body); a.status != 200 || a.err != nil {
				t.Errorf("got %d %s, %v; want 200", a.status, a.body, a.err)
			}
		})
	}
	for range embeds {
		<-barrier.arrived
	}
	if used := f.bodies.used.Load(); used < 6<<20 || used > 8<<20 {
		t.Errorf("%d bytes of the budget are taken by %d MiB; want most of 8 MiB", used, embeds)
	}
	close(barrier.release)
	clients.Wait()
	f.expectIdle(t)
}

// Looking for the model does not copy what is looked at, whatever stands behind it.
func TestFaultLargeBodyWithMoreBehindIt(t *testing.T) {
	for _, tail := range []string{"", " ", "x", "{}"} {
		body := []byte(`{"model":"chat","prompt":"` + strings.Repeat("x", 1<<20) + `"}` + tail)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if model, err := readModel(body); model != "chat" || err != nil {
			t.Errorf("%q behind it: got %q, %v; want chat", tail, model, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
			t.Errorf("%q behind it: %d KiB allocated; want a few", tail, got>>10)
		}
	}
}
