//go:build !386 && !s390x

package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// A client that has sent a byte behind its request is one whose leaving net/http
// does not notice.
func TestFaultClientLeavesUnnoticed(t *testing.T) {
	for _, how := range []string{"FIN", "RST"} {
		t.Run(how, func(t *testing.T) {
			f, target := newHeldFront(t, nil)
			running, ghost, next := connect(t, f), connect(t, f), connect(t, f)
			running.send(t, postOf("/api/chat", marked("running")))
			first := target.next(t, "running")
			for i, c := range []*wire{ghost, next} {
				c.send(t, postOf("/api/chat", marked([]string{"ghost", "next"}[i])))
				await(t, func() bool { n, _ := f.Gate.Len(); return n == i+1 })
			}
			holder, line, _ := f.Gate.Line()
			leave := func(c *wire, x *exchange) {
				c.send(t, "\r\n")
				if how == "RST" {
					reset(c.Conn)
				} else {
					c.Close()
				}
				await(t, x.hungUp) // it has come through
			}
			leave(ghost, line[0].(*exchange))
			leave(running, holder.(*exchange))
			first.gone()
			target.next(t, "next").finish()
			if got := next.status(t); got != http.StatusOK {
				t.Errorf("next chat: status %d; want 200", got)
			}
			target.none(t)
		})
	}
}

// The same in mid-stream. That the client has left is known when something is
// written to it, and the log says so.
func TestFaultClientLeavesUnnoticedInMidStream(t *testing.T) {
	f, target := newHeldFront(t, nil)
	c := connect(t, f)
	c.send(t, postOf("/api/chat", marked("left")))
	answer := target.next(t, "left")
	answer.say(t, "one\n")
	holder, _, _ := f.Gate.Line()
	x := holder.(*exchange)
	c.send(t, "\r\n")
	await(t, func() bool { return !x.conn.watched.Load() })
	reset(c.Conn)
	await(t, x.hungUp)
	answer.lines <- "two\n"
	<-answer.said
	answer.gone()
	if r := f.log.access(1)[0]; r["status"] != 499.0 || r["err"] != context.Canceled.Error() {
		t.Errorf("the log says %v, %v; want 499, %v", r["status"], r["err"], context.Canceled)
	}
	wantSamples(t, f, map[string]string{`foreman_slot_taken_total{reason="client left"}`: "1"})
}

// A client leaves while the target takes nothing of its upload: net/http does not
// look before a body's end.
func TestFaultUploadingClientLeavesUnnoticed(t *testing.T) {
	stub := newStub(t)
	taken := make(chan net.Conn, 1)
	f := newFront(t, stub.URL, func(o *Options) {
		o.MaxBody = 64 << 20
		o.Target.pooled.DialContext = holding(func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			taken <- there
			return here, nil
		})
	})
	c := connect(t, f)
	go io.WriteString(c, "POST /api/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: "+strconv.Itoa(32<<20)+"\r\n\r\n"+
		strings.Repeat("x", 2*replayLimit))
	target := <-taken
	defer target.Close()
	if _, err := http.ReadRequest(bufio.NewReader(target)); err != nil {
		t.Fatal(err)
	}
	reset(c.Conn)
	f.expectIdle(t)
}
