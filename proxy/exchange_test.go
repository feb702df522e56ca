package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// large asks for the large answer and returns its header as it is on the wire.
func (h *holder) large(t testing.TB, c *wire) (header string) {
	t.Helper()
	header = readUntil(t, c.chat(t, "large"), "\r\n\r\n")
	synctest.Wait()
	h.begin <- struct{}{}
	return header
}

// readUntil reads no byte more than those that end so.
func readUntil(t testing.TB, c *wire, end string) (got string) {
	t.Helper()
	for b := make([]byte, 1); !strings.HasSuffix(got, end); got += string(b) {
		if _, err := io.ReadFull(c.Conn, b); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestFaultClientStopsReading(t *testing.T) {
	for _, taken := range []int{0, 1, 4096, 10_000} { // nothing, of a Write, of a buffer, of several
		inBubble(t, strconv.Itoa(taken), func(t *testing.T) {
			f, target := newHeldFrontIn(t, nil)
			target.size = 1 << 20
			stuck := connect(t, f)
			target.large(t, stuck)
			if _, err := io.ReadFull(stuck.Conn, make([]byte, taken)); err != nil {
				t.Fatal(err)
			}
			stopped := time.Now()
			connect(t, f).chat(t, "next").expect(t, http.StatusOK, "next chat")
			if took := time.Since(stopped); took < 30*time.Second || took > 32*time.Second {
				t.Errorf("cut after %v; want 30s", took)
			}
			if rest, _ := io.ReadAll(stuck.Conn); bytes.HasSuffix(rest, []byte("0\r\n\r\n")) {
				t.Errorf("the answer that was cut has a proper end")
			}
		})
	}
}

// The target has said all it has to say: the turn does not wait for the client.
func TestFaultClientStopsReadingBehindTheTargetsEnd(t *testing.T) {
	stub := newStubOn(t, newMemory(11434))
	stub.chat = answerWith("application/json", strings.Repeat("{}\n", 1000)) // its length is known
	f := newFrontIn(t, stub, nil)
	readUntil(t, connect(t, f).chat(t, "stuck"), "\r\n\r\n")
	next := connect(t, f).chat(t, "next")
	next.SetDeadline(time.Now().Add(20 * time.Second)) // before the client that is stuck is cut
	next.expect(t, http.StatusOK, "next chat")
}

func TestFaultClientReadsSlowly(t *testing.T) {
	for _, test := range []struct {
		name  string
		pause time.Duration
		reads int
		piece int // bytes
	}{
		{"2 kB a second for 2 minutes", time.Second, 120, 2 << 10},
		{"32 kB in 28 seconds, for longer than FOREMAN_STALL_TIMEOUT", 28 * time.Second, 30, 33 << 10},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			const size = 2 << 20
			f, target := newHeldFrontIn(t, nil)
			target.size = size
			slow := connect(t, f)
			header := target.large(t, slow)
			began := time.Now()
			start := make([]byte, test.reads*test.piece)
			for i := range test.reads {
				if _, err := io.ReadFull(slow.Conn, start[i*test.piece:(i+1)*test.piece]); err != nil {
					t.Fatalf("cut after %v: %v", time.Since(began), err)
				}
				time.Sleep(test.pause)
			}
			slow.in.Reset(io.MultiReader(strings.NewReader(header), bytes.NewReader(start), slow.Conn))
			if _, body, err := slow.answer(t); err != nil || len(body) != size {
				t.Errorf("got %d bytes, %v; want all %d", len(body), err, size)
			}
		})
	}
}

// A client that takes nothing while an answer comes word by word.
func TestFaultClientReadsNoneOfManySmallPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		deaf, next := connect(t, f), connect(t, f)
		deaf.chat(t, "deaf")
		running := target.next(t, "deaf")
		running.say(t, "{}\n")
		// ReverseProxy flushes the header from a goroutine of its own: let that be over.
		readUntil(t, deaf, "{}\n\r\n")
		next.chat(t, "next")
		synctest.Wait()
		stopped := time.Now()
		for gone := false; !gone; {
			select {
			case running.lines <- "word\n":
				<-running.said
				time.Sleep(time.Second)
			case <-running.ctx.Done():
				gone = true
			}
		}
		if took := time.Since(stopped); took < 29*time.Second || took > 32*time.Second {
			t.Errorf("cut after %v; want 30s", took)
		}
		target.next(t, "next").finish()
		next.expect(t, http.StatusOK, "next chat")
		f.log.await(t, "client took no byte for too long")
	})
}

// Half a body on a path that foreman answers without reading it.
func TestFaultHalfABodyForForemanItself(t *testing.T) {
	for _, request := range []string{"GET /healthz", "HEAD /readyz", "GET /status", "GET /metrics", "GET /api/tags", "HEAD /api/tags", "GET /api/version", "HEAD /"} {
		synctest.Test(t, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) {
				o.Inventory = inventory.New(o.Target, 30*time.Second, o.Log, KeptPaths...)
			})
			time.Sleep(time.Second)
			target.sleep(true)
			f.Inventory.Refresh()
			time.Sleep(inventoryMisses)
			c := connect(t, f).send(t, request+" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n")
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
	pause   time.Duration
	expired atomic.Pointer[chan struct{}] // closed by a deadline that is over; nil: there was none
}

func (s *slowBody) Read(b []byte) (int, error) {
	select {
	case <-time.After(s.pause):
		return len(b), nil
	case <-*s.expired.Load():
		return 0, os.ErrDeadlineExceeded
	}
}

func (s *slowBody) Close() error { return nil }

func (s *slowBody) SetReadDeadline(d time.Time) error {
	if d.IsZero() {
		expired := make(chan struct{})
		s.expired.Store(&expired)
	} else if !d.After(time.Now()) {
		close(*s.expired.Load())
	}
	return nil
}
