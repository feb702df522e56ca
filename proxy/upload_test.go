package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
		w = s
	}
	return &upload{body: body, rc: http.NewResponseController(w), patience: uploadPatience}
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
	if _, err := uploadOf(&closing{closed: true}).Read(nil); !errors.Is(err, errUpload) || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("got %v; want it to be both %v and the cause", err, errUpload)
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
