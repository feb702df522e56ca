//go:build !386 && !s390x

package proxy

import (
	"net/http"
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
