package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"syscall"
	"testing"
)

// net/http reads these once, and leaves out 127.0.0.1.
func TestMain(m *testing.M) {
	os.Setenv("HTTP_PROXY", "http://proxy.example:3128")
	os.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	os.Exit(m.Run())
}

func TestAddress(t *testing.T) {
	const clients = "Bearer of the client"
	for _, test := range []struct{ target, token, uri, want, authorization string }{
		{"http://host:11434", "", "/api/chat", "http://host:11434/api/chat", clients},
		{"http://host:11434", "t", "/api/chat", "http://host:11434/api/chat", "Bearer t"},
		{"https://host/base", "t", "/api/tags?a=b&c=%2F", "https://host/base/api/tags?a=b&c=%2F", "Bearer t"},
		{"http://[::1]:1/a/b", "", "/v1/models/x%20y", "http://[::1]:1/a/b/v1/models/x%20y", clients},
		{"http://host", "", "/v1/models/a%2Fb", "http://host/v1/models/a/b", clients},
	} {
		u, _ := url.Parse(test.target)
		r := httptest.NewRequest(http.MethodGet, "http://foreman.example"+test.uri, nil)
		r.Header = http.Header{"Authorization": {clients}, "Via": {"1.1 other"}}
		target := New(u, test.token)
		target.Address(r)
		header := http.Header{"Authorization": {test.authorization}, "Via": {"1.1 other", target.via}}
		if got, want := fmt.Sprint(r.URL, r.Host, r.Header), fmt.Sprint(test.want, u.Host, header); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestIsLoop(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: "host"}
	own, other := New(u, ""), New(u, "")
	for _, test := range []struct {
		via  []string
		want bool
	}{
		{nil, false},
		{[]string{other.via, "1.1 foreman", "1.1 foreman-"}, false},
		{[]string{other.via, own.via}, true},
		{[]string{"1.0 a, " + own.via + ", 1.1 b"}, true},
	} {
		if got := own.IsLoop(&http.Request{Header: http.Header{"Via": test.via}}); got != test.want {
			t.Errorf("%q, of %q: %v; want %v", test.via, own.via, got, test.want)
		}
	}
}

// No environment leads prompts and token elsewhere.
func TestNoProxy(t *testing.T) {
	for _, u := range []url.URL{{Scheme: "http", Host: "target.example:80"}, {Scheme: "https", Host: "target.example:443"}} {
		var dialled []string
		target := New(&u, "")
		target.Dial = func(_ context.Context, _, addr string) (net.Conn, error) {
			dialled = append(dialled, addr)
			return nil, errors.New("never")
		}
		_, _, err := target.RoundTrip(&http.Request{URL: &u, Header: http.Header{}})
		_, read := target.Read(t.Context(), "/")
		if want := []string{u.Host, u.Host}; err == nil || read == nil || !slices.Equal(dialled, want) {
			t.Errorf("dialled %q, %v, %v; want %q", dialled, err, read, want)
		}
	}
}

// TestClassify: what net/http says when a connection fails, in the forms that no
// test can bring about when it wants.
func TestClassify(t *testing.T) {
	for _, test := range []struct {
		err         error
		unreachable bool
	}{
		{errors.New("http: server closed idle connection"), true},
		{&url.Error{Op: "Get", Err: io.EOF}, true},
		{fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", io.ErrUnexpectedEOF), true},
		{&net.DNSError{Err: "no such host", IsTimeout: true}, true},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, true},
		{os.ErrDeadlineExceeded, true},
		{context.DeadlineExceeded, true},
		{errors.New("malformed HTTP response"), false},
		{http.ErrSchemeMismatch, false},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, false},
	} {
		got := Classify(t.Context(), test.err)
		if errors.Is(got, ErrUnreachable) != test.unreachable || !errors.Is(got, test.err) {
			t.Errorf("%v: got %v; want unreachable: %v", test.err, got, test.unreachable)
		}
	}
	for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL} {
		got := Classify(t.Context(), &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", lack)})
		if !errors.Is(got, ErrLocal) || errors.Is(got, ErrUnreachable) {
			t.Errorf("%v: got %v; want %v", lack, got, ErrLocal)
		}
	}
	stalled := errors.New("stalled")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stalled)
	if got := Classify(ctx, &net.OpError{Op: "read", Err: net.ErrClosed}); got != stalled {
		t.Errorf("of a request that was cancelled: %v; want the cause, %v", got, stalled)
	}
}
