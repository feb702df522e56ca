package proxy

import (
	"context"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestAccessRecords: one record for each request, of these fields and no more.
// That no log has a token or a prompt in it is seen to at the end of every test.
func TestAccessRecords(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token = clientToken })
	token := []string{"Authorization", "Bearer " + clientToken}
	for i, test := range []struct {
		method, path, body string
		header             []string
		want               map[string]any
	}{
		{"POST", "/api/chat", chatBody, token, map[string]any{"route": "/api/chat", "status": 200., "model": "chat:latest"}},
		{"POST", "/v1/messages", chatBody, token, map[string]any{"route": "/v1/messages", "status": 200., "model": "chat:latest"}},
		{"POST", "/api/embed", embedBody, token, map[string]any{"route": "/api/embed", "status": 200.}},
		{"GET", "/v1/models/" + secret, "", token, map[string]any{"route": "/v1/models/{model...}", "status": 200.}},
		{"GET", "/unknown?" + secret, "", token, map[string]any{"route": "other", "status": 404., "err": `no such path: "/unknown"`}},
		{"PUT", "/api/chat", chatBody, token, map[string]any{"route": "/api/chat", "status": 405., "err": "method not allowed; allowed: POST"}},
		{"POST", "/api/chat", `{"model":"unknown"}`, token, map[string]any{"route": "/api/chat", "status": 404., "model": "", "err": `model "unknown": not found on the target`}},
		{"POST", "/api/chat", `{"model":"` + strings.Repeat("x", 5000) + `"}`, token, map[string]any{"route": "/api/chat", "status": 404., "model": "", "err": `model "` + strings.Repeat("x", 100) + `": not found on the target`}},
		{"POST", "/api/chat", "", token, map[string]any{"route": "/api/chat", "status": 400., "model": "", "err": "missing request body"}},
		{"POST", "/api/chat", chatBody, nil, map[string]any{"route": "/api/chat", "status": 401., "model": "", "err": "token missing or wrong"}},
		{"POST", "/api/chat", chatBody, []string{"Authorization", secret}, map[string]any{"route": "/api/chat", "status": 401., "model": "", "err": "token missing or wrong"}},
		{"POST", "/api/chat", chatBody, []string{"Host", "evil.example"}, map[string]any{"route": "/api/chat", "status": 403., "model": "", "err": "host not accepted"}},
		{"GET", "/healthz", "", nil, map[string]any{"route": "/healthz", "status": 200., "level": "DEBUG"}},
		{"GET", "/metrics", "", token, map[string]any{"route": "/metrics", "status": 200., "level": "DEBUG"}},
		{"GET", "/metrics", "", nil, map[string]any{"route": "/metrics", "status": 401., "err": "token missing or wrong"}},
		{"GET", "/status", "", nil, map[string]any{"route": "/status", "status": 401., "err": "token missing or wrong"}},
		{"GET", "/healthz", "", []string{"Host", "evil.example"}, map[string]any{"route": "/healthz", "status": 403., "err": "host not accepted"}},
	} {
		a := f.do(t, test.method, test.path, test.body, append([]string{"X-Request-Id", "id-7"}, test.header...)...)
		got := f.log.access(i + 1)[i]
		want := map[string]any{"level": "INFO", "msg": "request", "method": test.method, "id": "id-7", "bytes": float64(len(a.body))}
		maps.Copy(want, test.want)
		for _, name := range []string{"time", "client", "ms", "first_byte_ms", "queue_ms"} {
			value, ok := got[name]
			if wants := name != "queue_ms" || want["model"] != nil; ok != wants {
				t.Errorf("%s %s: %s is there: %v; want %v", test.method, test.path, name, ok, wants)
			}
			if ms, isNumber := value.(float64); isNumber && ms < 0 {
				t.Errorf("%s %s: %s=%v", test.method, test.path, name, ms)
			}
			delete(got, name)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s %.50s:\n got %v\nwant %v", test.method, test.path, got, want)
		}
	}
	f.expectIdle(t)
}

// expectOne waits for the only record and checks some of its fields; nil means
// that a field is not there.
func (f *front) expectOne(t *testing.T, want map[string]any) {
	t.Helper()
	records := f.log.access(1)
	if len(records) != 1 {
		t.Errorf("%d records; want 1", len(records))
	}
	for name, value := range want {
		if got := records[0][name]; got != value {
			t.Errorf("%s=%v; want %v (%v)", name, got, value, records[0])
		}
	}
}

func TestRecordOfAClientThatLeft(t *testing.T) {
	for _, path := range []string{"/api/chat", "/v1/chat/completions", "/api/embed", "/api/show"} {
		t.Run("before the first byte"+path, func(t *testing.T) {
			stub := newStub(t)
			barrier := newBarrier()
			stub.chat, stub.embed, stub.anything = barrier.then(stub.chat), barrier.then(stub.embed), barrier.then(stub.anything)
			f := newFront(t, stub.URL, nil)
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan error)
			go func() { left <- f.send(ctx, path) }()
			<-barrier.arrived
			leave()
			if err := <-left; err == nil {
				t.Error("the client that left got an answer")
			}
			f.expectOne(t, map[string]any{"status": 499., "cut": nil, "bytes": 0., "first_byte_ms": 0., "err": context.Canceled.Error()})
			f.expectIdle(t)
		})
		t.Run("in mid-stream"+path, func(t *testing.T) {
			stub := newStub(t)
			barrier := newBarrier()
			handler := func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, "{}\n")
				w.(http.Flusher).Flush()
				barrier.then(refuseWith(200))(w, r)
			}
			stub.chat, stub.embed, stub.anything = handler, handler, handler
			f := newFront(t, stub.URL, nil)
			ctx, leave := context.WithCancel(t.Context())
			r, err := http.NewRequestWithContext(ctx, "POST", f.URL+path, strings.NewReader(chatBody))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := f.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			<-barrier.arrived
			leave()
			f.expectOne(t, map[string]any{"status": 499., "cut": true, "bytes": 3., "err": context.Canceled.Error()})
			f.expectIdle(t)
		})
	}
	t.Run("in line", func(t *testing.T) {
		stub := newStub(t)
		f := newFront(t, stub.URL, nil)
		turn, err := f.Gate.Enter(t.Context(), &exchange{request: new(http.Request)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- f.send(ctx, "/api/chat") }()
		for waiting := 0; waiting == 0; waiting, _ = f.Gate.Len() {
			runtime.Gosched() // the gate tells nobody who comes
		}
		leave()
		<-left
		f.expectOne(t, map[string]any{"status": 499., "cut": nil, "bytes": 0., "model": "chat:latest", "err": context.Canceled.Error()})
		if got := stub.seen(); len(got) > 0 {
			t.Errorf("at the target: %q; want nothing", got)
		}
		turn.Leave()
		f.expectIdle(t)
	})
}

// send posts a chat and returns what went wrong.
func (f *front) send(ctx context.Context, path string) error {
	r, err := http.NewRequestWithContext(ctx, "POST", f.URL+path, strings.NewReader(chatBody))
	if err != nil {
		return err
	}
	resp, err := f.client.Do(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func TestRecordOfACutAnswer(t *testing.T) {
	for _, path := range []string{"/api/chat", "/v1/messages", "/api/embed"} {
		stub := newStub(t)
		stub.chat = hijacked("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}\n")
		stub.embed = stub.chat
		f := newFront(t, stub.URL, nil)
		if a := f.do(t, "POST", path, chatBody); a.err != io.ErrUnexpectedEOF {
			t.Errorf("%s: ended with %v; want %v", path, a.err, io.ErrUnexpectedEOF)
		}
		f.expectOne(t, map[string]any{"status": 200., "cut": true, "bytes": 3.})
		if path == "/api/embed" {
			continue // nobody follows its body
		}
		f.expectOne(t, map[string]any{"err": "target unreachable: unexpected EOF"})
	}
}

// TestInformationalAnswersEndHere: a 103 of the target is no answer yet, and is
// not the status in the record either.
func TestInformationalAnswersEndHere(t *testing.T) {
	stub := newStub(t)
	next := stub.chat
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		next(w, r)
	}
	f := newFront(t, stub.URL, nil)
	a := f.do(t, "POST", "/api/chat", chatBody)
	if got, ok := a.header["Link"]; a.status != 200 || ok {
		t.Errorf("got %d, Link %q; want 200 and none", a.status, got)
	}
	f.expectOne(t, map[string]any{"status": 200., "cut": nil, "err": nil})
}

// TestPanicIsAnswered: a defect of foreman's own is a 500, not a dead process or
// a turn that is never over.
func TestPanicIsAnswered(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	f.reverse.ModifyResponse = func(*http.Response) error { panic("a defect") }
	want := refusal{500, "foreman failed; its log says why", failed}
	for _, path := range dialects {
		a := f.do(t, "POST", path, chatBody)
		if a.status != 500 || a.body != want.in(path) {
			t.Errorf("%s: %d %q; want 500 %q", path, a.status, a.body, want.in(path))
		}
		f.expectIdle(t)
	}
	if records := f.log.access(3); !slices.ContainsFunc(records, func(r map[string]any) bool { return r["err"] == "panic: a defect" }) {
		t.Errorf("no record of the panic: %v", records)
	}
	if !strings.Contains(f.log.String(), "goroutine") {
		t.Error("the log has no stack")
	}
}
