package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
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
	if s.fixed { // the header comes with the first of the body
		synctest.Wait()
		s.begin <- struct{}{}
	}
	var b [1]byte
	for !strings.HasSuffix(header, "\r\n\r\n") {
		if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
			t.Fatal(err)
		}
		header += string(b[:])
	}
	if !s.fixed {
		synctest.Wait()
		s.begin <- struct{}{}
	}
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

// A client that takes nothing while an answer comes word by word: each word finds
// room in the kernel for a long time.
func TestFaultClientReadsNoneOfManySmallPieces(t *testing.T) {
	f, target := newImpatientFront(t, 2*time.Second)
	c := connect(t, f)
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	next := connect(t, f)
	c.send(t, postOf("/api/chat", marked("deaf")))
	running := target.next(t, "deaf")
	next.send(t, postOf("/api/chat", marked("next")))
	word := strings.Repeat("x", 1199) + "\n"
	for gone := false; !gone; {
		select {
		case running.lines <- word:
			<-running.said
		case <-running.ctx.Done():
			gone = true
		}
	}
	target.next(t, "next").finish()
	if got := next.status(t); got != http.StatusOK {
		t.Errorf("next chat: status %d; want 200", got)
	}
	f.log.await(t, "client took no byte for too long")
}

// A pipe whose far end has taken what the test says it has.
type gauge struct {
	net.Conn
	left int
}

func (g *gauge) Write(b []byte) (int, error) { return len(b), nil }

func TestLookAtWhatTheClientTakes(t *testing.T) {
	const stall = 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		here, _ := net.Pipe()
		defer here.Close()
		g := &gauge{Conn: here}
		c := &conn{Conn: g, listener: &listener{stall: stall}, left: func(net.Conn) int { return g.left }}
		write := func(left int, want error) {
			t.Helper()
			g.left = left
			if _, err := c.Write(make([]byte, 100)); !errors.Is(err, want) {
				t.Errorf("after %v, %d not taken: %v; want %v", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), left, err, want)
			}
		}
		for range 100 { // one who takes it all, now and then
			write(0, nil)
			time.Sleep(20 * time.Second)
		}
		for i := range 100 { // one who is always behind, but takes something
			write(50*(i+1), nil)
			time.Sleep(20 * time.Second)
		}
		time.Sleep(time.Hour) // the target says nothing, and the client has taken the rest
		write(0, nil)
		time.Sleep(time.Hour)
		write(0, nil)
		for i := range 29 { // one who takes no more
			time.Sleep(time.Second)
			write(100*(i+1), nil)
		}
		time.Sleep(time.Second)
		write(3000, os.ErrDeadlineExceeded)
	})
}

// Half a body on a path that foreman answers without reading it.
func TestFaultHalfABodyForForemanItself(t *testing.T) {
	for _, request := range []string{"GET /healthz", "HEAD /readyz", "GET /status", "GET /metrics", "GET /api/tags", "HEAD /api/tags", "GET /api/version", "HEAD /"} {
		synctest.Test(t, func(t *testing.T) {
			target := newSleeper(t)
			f, network := newFrontIn(t, target, func(o *Options) { o.Inventory.Keep = KeptPaths })
			go func() { // for /api/version
				(<-target.arrived).finish()
				(<-target.arrived).finish()
			}()
			time.Sleep(time.Second)
			target.sleep(true)
			f.Inventory.Refresh()
			time.Sleep(inventoryMisses)
			c := connectIn(t, network)
			c.SetDeadline(time.Time{})
			c.send(t, request+" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n")
			began := time.Now()
			resp, err := http.ReadResponse(c.in, nil)
			if took := time.Since(began); err != nil || took > 2*time.Second || !resp.Close {
				t.Errorf("%s: %+v, %v after %v; want an answer at once, and the end of the connection", request, resp, err, took)
			}
			c.Close()
			synctest.Wait()
			f.expectIdle(t)
		})
	}
}

// Only the time in which a client lets foreman wait is counted, and what it sent
// long ago does not buy it hours.
func TestFaultUploadPatience(t *testing.T) {
	for _, test := range []struct {
		name string
		read func(*upload)
		want error
	}{
		{"a fast client of a slow target", func(u *upload) { time.Sleep(time.Hour) }, nil},
		{"a gigabyte, then nothing", func(u *upload) { u.body.(*slowBody).pause = 31 * time.Second }, errSlowUpload},
		{"29 seconds", func(u *upload) { u.body.(*slowBody).pause = 29 * time.Second }, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			u := uploadOf(new(slowBody))
			b := make([]byte, 1<<20)
			for range 1 << 10 {
				if _, err := u.Read(b); err != nil {
					t.Fatalf("%s: %v at once", test.name, err)
				}
			}
			test.read(u)
			if _, err := u.Read(b); !errors.Is(err, test.want) {
				t.Errorf("%s: %v; want %v", test.name, err, test.want)
			}
		})
	}
}

// A slowBody gives as much as is asked for after a pause. Its deadline is that of a
// connection.
type slowBody struct {
	http.ResponseWriter
	pause    time.Duration
	deadline time.Time
}

func (s *slowBody) Read(b []byte) (int, error) {
	if left := time.Until(s.deadline); s.pause > left {
		time.Sleep(left)
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(s.pause)
	return len(b), nil
}

func (s *slowBody) Close() error { return nil }

func (s *slowBody) SetReadDeadline(d time.Time) error { s.deadline = d; return nil }
