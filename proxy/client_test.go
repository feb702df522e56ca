package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

// targetAt returns the small client to a target at rawURL.
func targetAt(t *testing.T, rawURL, token string) *Target {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return NewTarget(u, token)
}

func TestClientAsks(t *testing.T) {
	type request struct {
		line, authorization, agent, contentType, body string
	}
	requests := make(chan request, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests <- request{r.Method + " " + r.RequestURI, r.Header.Get("Authorization"), r.UserAgent(), r.Header.Get("Content-Type"), string(body)}
		w.Write(fixture(t, "ps.json"))
	}))
	defer srv.Close()
	target := targetAt(t, srv.URL, targetToken)
	const bearer = "Bearer " + targetToken

	tags, err := target.Tags(t.Context())
	if want := string(fixture(t, "ps.json")); err != nil || string(tags) != want {
		t.Errorf("Tags: %q, %v; want the target's bytes", tags, err)
	}
	if got, want := <-requests, (request{"GET /api/tags", bearer, "foreman", "", ""}); got != want {
		t.Errorf("Tags asked %+v; want %+v", got, want)
	}

	names, err := target.PS(t.Context())
	if want := []string{"embed:latest", "chat:latest"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("PS: %q, %v; want %q", names, err, want)
	}
	if got, want := <-requests, (request{"GET /api/ps", bearer, "foreman", "", ""}); got != want {
		t.Errorf("PS asked %+v; want %+v", got, want)
	}

	if err := target.Embed(t.Context(), "embed"); err != nil {
		t.Errorf("Embed: %v", err)
	}
	got := <-requests
	var body map[string]any
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || body["model"] != "embed" || body["keep_alive"] != -1. || body["input"] == "" {
		t.Errorf("Embed sent %q; want the model, an input and keep_alive -1", got.body)
	}
	got.body = ""
	if want := (request{"POST /api/embed", bearer, "foreman", "application/json", ""}); got != want {
		t.Errorf("Embed asked %+v; want %+v", got, want)
	}
}

// TestClientErrors: every failure is wrapped, and told apart from a failure of
// the connection.
func TestClientErrors(t *testing.T) {
	redirected := false
	for _, test := range []struct {
		name         string
		handler      http.HandlerFunc
		unreachable  bool
		unauthorized bool
		text         string
	}{
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				redirected = true
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, false, false, "answered 302 Found"},
		{"401", refuseWith(401), false, true, "401 Unauthorized"},
		{"403", refuseWith(403), false, true, "403 Forbidden"},
		{"404", refuseWith(404), false, false, "answered 404 Not Found"},
		{"500", refuseWith(500), false, false, "answered 500 Internal Server Error"},
		{"503", refuseWith(503), false, false, "answered 503 Service Unavailable"},
		{"204", refuseWith(204), false, false, "answered 204 No Content"},
		{"508", refuseWith(508), false, false, errLoop.Error()},
		{"not HTTP", hijacked("220 smtp.example ESMTP\r\n"), false, false, "malformed"},
		{"hangs up", hijacked(""), true, false, "EOF"},
		{"cut", hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), true, false, "unexpected EOF"},
		{"broken chunk", hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"), false, false, "invalid"},
		{"too large", func(w http.ResponseWriter, r *http.Request) {
			for range answerLimit >> 20 {
				w.Write(make([]byte, 1<<20))
			}
			w.Write([]byte{0})
		}, false, false, "larger than 32 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewServer(test.handler)
			defer srv.Close()
			target := targetAt(t, srv.URL, targetToken)
			_, tags := target.Tags(t.Context())
			_, ps := target.PS(t.Context())
			embed := target.Embed(t.Context(), "embed")
			for what, err := range map[string]error{"GET /api/tags": tags, "GET /api/ps": ps, "POST /api/embed": embed} {
				if err == nil {
					t.Errorf("%s: no error", what)
					continue
				}
				if got := errors.Is(err, inventory.ErrUnreachable); got != test.unreachable {
					t.Errorf("%v: unreachable %v; want %v", err, got, test.unreachable)
				}
				if got := errors.Is(err, inventory.ErrUnauthorized); got != test.unauthorized {
					t.Errorf("%v: unauthorized %v; want %v", err, got, test.unauthorized)
				}
				if got := err.Error(); !strings.HasPrefix(got, what+": ") || !strings.Contains(got, test.text) || strings.Contains(got, secret) {
					t.Errorf("error %q; want %s: … %s", got, what, test.text)
				}
			}
		})
	}
	if redirected {
		t.Error("a redirect was followed")
	}
}

func TestClientReadsTheLargestAnswer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range answerLimit >> 20 {
			w.Write(make([]byte, 1<<20))
		}
	}))
	defer srv.Close()
	if got, err := targetAt(t, srv.URL, "").Tags(t.Context()); err != nil || len(got) != answerLimit {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, answerLimit)
	}
}

func TestPSThatIsNoJSON(t *testing.T) {
	for _, body := range []string{"", "<html>", "[]", `{"models":{}}`, `{"models":[{"name":1}]}`} {
		srv := httptest.NewServer(answerWith("application/json", body))
		if got, err := targetAt(t, srv.URL, "").PS(t.Context()); err == nil || errors.Is(err, inventory.ErrUnreachable) {
			t.Errorf("%q: %q, %v; want an error that is no failure of the connection", body, got, err)
		}
		srv.Close()
	}
}

func TestClientWithoutAConnection(t *testing.T) {
	ln := listen(t)
	ln.Close()
	refused := targetAt(t, "http://"+ln.Addr().String(), targetToken)
	if _, err := refused.Tags(t.Context()); !errors.Is(err, inventory.ErrUnreachable) {
		t.Errorf("refused: %v; want %v", err, inventory.ErrUnreachable)
	}

	left := errors.New("left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(left)
	if _, err := refused.Tags(ctx); !errors.Is(err, left) || errors.Is(err, inventory.ErrUnreachable) {
		t.Errorf("cancelled: %v; want %v", err, left)
	}

	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	defer srv.Close()
	for name, target := range map[string]*Target{
		"certificate of nobody": targetAt(t, srv.URL, ""),
		"http to https":         targetAt(t, strings.Replace(srv.URL, "https", "http", 1), ""),
	} {
		if _, err := target.Tags(t.Context()); err == nil || errors.Is(err, inventory.ErrUnreachable) {
			t.Errorf("%s: %v; want an error that is not %v: it will not pass", name, err, inventory.ErrUnreachable)
		}
	}
}

// TestClientsTimeLimit: a host that takes the connection and says nothing.
func TestClientsTimeLimit(t *testing.T) {
	for name, says := range map[string]string{"nothing": "", "half an answer": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"} {
		synctest.Test(t, func(t *testing.T) {
			host := newMemory(11434)
			stub := newStubOn(t, host)
			stub.tags = func(w http.ResponseWriter, r *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				io.WriteString(c, says)
				io.Copy(io.Discard, c) // until foreman hangs up
			}
			target := targetAt(t, stub.URL, "")
			host.through(target)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			defer cancel()
			began := time.Now()
			_, err := target.Tags(ctx)
			if got := time.Since(began); !errors.Is(err, inventory.ErrUnreachable) || got != 4*time.Second {
				t.Errorf("%s: %v after %v; want %v after 4s", name, err, got, inventory.ErrUnreachable)
			}
		})
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
		{fmt.Errorf("%w: %w", errUpload, io.ErrUnexpectedEOF), false},
		{errSlowUpload, false},
	} {
		got := classify(t.Context(), test.err)
		if errors.Is(got, inventory.ErrUnreachable) != test.unreachable || !errors.Is(got, test.err) {
			t.Errorf("%v: got %v; want unreachable: %v", test.err, got, test.unreachable)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStall)
	if got := classify(ctx, &net.OpError{Op: "read", Err: net.ErrClosed}); got != errStall {
		t.Errorf("of a request that was cancelled: %v; want the cause, %v", got, errStall)
	}
}
