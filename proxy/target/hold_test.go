package target

import (
	"errors"
	"testing"
)

// A request that its hold refuses is never sent, and its connection is closed, which
// the host sees before RoundTrip returns or soon after.
func TestHoldRefuses(t *testing.T) {
	refused := errors.New("refused")
	for n := 0; n < 100 && !t.Failed(); n++ { // Transport itself gives the request up at any moment
		ended := make(chan struct{})
		h := newHost(t, "http", func(c *conn) {
			if n, _ := c.Read(make([]byte, 1)); n > 0 {
				t.Error("the host got something; want nothing")
			}
			close(ended)
		})
		r := h.request(WithHold(t.Context(), Hold{Wait: func() error { return refused }}), "never")
		if _, err := h.RoundTrip(r); err != refused {
			t.Errorf("got %v; want %v", err, refused)
		}
		wait(t, ended)
	}
}
