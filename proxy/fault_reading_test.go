package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A streamer is a target whose large chats come as fast as they are taken, once
// the test has seen their header: ReverseProxy flushes that from a goroutine of
// its own, and while this waits for a mutex a bubble's time stands still.
type streamer struct {
	*holder
	size  int
	fixed bool // the answer tells its length
	begin chan struct{}
}

func newStreamer(t testing.TB, size int) *streamer {
	return &streamer{holder: newHolder(t), size: size, begin: make(chan struct{})}
}

func (s *streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/tags" {
		s.tags(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	if string(body) != marked("large") {
		return
	}
	if s.fixed {
		w.Header().Set("Content-Length", strconv.Itoa(s.size))
	}
	http.NewResponseController(w).Flush()
	<-s.begin
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range s.size / len(line) {
		if _, err := w.Write(line); err != nil {
			return
		}
	}
}

// large asks for the large answer and returns its header as it is on the wire.
func (s *streamer) large(t testing.TB, c *wire) (header string) {
	t.Helper()
	c.send(t, postOf("/api/chat", marked("large")))
	var b [1]byte
	for !strings.HasSuffix(header, "\r\n\r\n") {
		if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
			t.Fatal(err)
		}
		header += string(b[:])
	}
	synctest.Wait()
	s.begin <- struct{}{}
	return header
}

func TestFaultClientStopsReading(t *testing.T) {
	for _, taken := range []int{0, 1, 4096, 10_000} { // nothing, of a Write, of a buffer, of several
		t.Run(strconv.Itoa(taken), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := newStreamer(t, 1<<20)
				_, network := newFrontIn(t, target, nil)
				stuck, next := connectIn(t, network), connectIn(t, network)
				target.large(t, stuck)
				if _, err := io.ReadFull(stuck.Conn, make([]byte, taken)); err != nil {
					t.Fatal(err)
				}
				stopped := time.Now()
				next.send(t, postOf("/api/chat", marked("next")))
				if got := next.status(t); got != http.StatusOK {
					t.Errorf("next chat: status %d; want 200", got)
				}
				if took := time.Since(stopped); took < 30*time.Second || took > 32*time.Second {
					t.Errorf("cut after %v; want 30s", took)
				}
				if rest, _ := io.ReadAll(stuck.Conn); bytes.HasSuffix(rest, []byte("0\r\n\r\n")) {
					t.Errorf("the answer that was cut has a proper end")
				}
			})
		})
	}
}

// The target has said all it has to say: the turn does not wait for the client.
func TestFaultClientStopsReadingBehindTheTargetsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newStreamer(t, 2048)
		target.fixed = true
		_, network := newFrontIn(t, target, nil)
		stuck, next := connectIn(t, network), connectIn(t, network)
		target.large(t, stuck)
		stopped := time.Now()
		next.send(t, postOf("/api/chat", marked("next")))
		if got, took := next.status(t), time.Since(stopped); got != http.StatusOK || took != 0 {
			t.Errorf("next chat: status %d after %v; want 200 at once", got, took)
		}
	})
}

func TestFaultClientReadsSlowly(t *testing.T) {
	for _, test := range []struct {
		name  string
		pause time.Duration
		reads int
	}{
		{"a byte a second for 5 minutes", time.Second, 300},
		{"a byte a second for longer than FOREMAN_STALL_TIMEOUT", time.Second, 1000},
		{"a byte in 29 seconds", 29 * time.Second, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 256 << 10
				target := newStreamer(t, size)
				_, network := newFrontIn(t, target, nil)
				slow := connectIn(t, network)
				header := target.large(t, slow)
				began := time.Now()
				start := make([]byte, test.reads)
				for i := range start {
					if _, err := io.ReadFull(slow.Conn, start[i:i+1]); err != nil {
						t.Fatalf("cut after %v: %v", time.Since(began), err)
					}
					time.Sleep(test.pause)
				}
				slow.in.Reset(io.MultiReader(strings.NewReader(header), bytes.NewReader(start), slow.Conn))
				if _, body, err := slow.answer(t); err != nil || len(body) != size {
					t.Errorf("got %d bytes, %v; want all %d", len(body), err, size)
				}
			})
		})
	}
}
