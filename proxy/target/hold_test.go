package target

import (
	"errors"
	"testing"
	"time"
)

// A request that its hold refuses is never sent, and its connection is closed, which
// the host sees before RoundTrip returns or soon after.
func TestHoldRefuses(t *testing.T) {
	refused := errors.New("refused")
	for range 100 { // Transport itself gives the request up at any moment
		got := make(chan string, 1)
		h := newHost(t, "http", func(c *conn) {
			b := make([]byte, 1)
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := c.Read(b)
			got <- string(b[:n])
			if err == nil {
				c.Close()
			}
		})
		r := h.request(WithHold(t.Context(), func() error { return refused }), "never")
		if _, err := h.RoundTrip(r); err != refused {
			t.Fatalf("got %v; want %v", err, refused)
		}
		select {
		case b := <-got:
			if b != "" {
				t.Fatalf("the host got %q; want nothing", b)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the connection is still open")
		}
	}
}
