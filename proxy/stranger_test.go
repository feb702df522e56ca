package proxy

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// asks are the fields of a preflight.
var asks = []string{"Origin", "http://page.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type"}

// TestFaultPreflightWithMore: nothing but the question goes on, and no path that means
// another one to some servers.
func TestFaultPreflightWithMore(t *testing.T) {
	stub := newStub(t)
	seen := observe(stub)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.Target = clientToken, stub.target(targetToken) })
	a := f.do(t, "OPTIONS", "/v1/models/a/b:c?x=y", "", append([]string{"Cookie", "a=b", "X-Odd", "1", "User-Agent", "odd", "Authorization", "Basic eDp5", "Content-Type", "text/plain"}, asks...)...)
	got := <-seen
	names := slices.Sorted(maps.Keys(got.header))
	want := []string{"Access-Control-Request-Headers", "Access-Control-Request-Method", "Origin", "Via", "X-Request-Id"}
	if a.status != 200 || !slices.Equal(names, want) || got.uri != "/v1/models/a/b:c" {
		t.Errorf("%d; the host saw %s with %q; want /v1/models/a/b:c with %q", a.status, got.uri, names, want)
	}
	for _, path := range []string{"/v1/models/..;/api/tags", "/v1/models/a/..;x/b", "/v1/models/.", "/v1/models/.x", "/api/blobs/..;"} {
		if a := f.do(t, "OPTIONS", path, "", asks...); a.status != 401 { // it is no preflight on a path that is passed
			t.Errorf("%s: %d; want 401", path, a.status)
		}
		if a := f.do(t, "GET", path, "", "Authorization", "Bearer "+clientToken); a.status != 404 {
			t.Errorf("GET %s: %d; want 404", path, a.status)
		}
	}
	if len(seen) > 0 {
		t.Errorf("the host saw %v", <-seen)
	}
}

// TestFaultPreflightInChunks: an empty body is none, also if its end comes later. One with
// a byte is refused, and one that does not come is not waited for.
func TestFaultPreflightInChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := newStubIn(t)
		seen := make(chan string, 1)
		stub.anything = func(_ http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			seen <- fmt.Sprintf("%q %v %d %q", body, err, r.ContentLength, r.TransferEncoding)
		}
		f := newFrontIn(t, stub, func(o *Options) { o.Token = clientToken })
		for _, test := range []struct {
			body  []string // as it comes
			want  int
			after time.Duration
		}{
			{[]string{"0\r\n\r\n"}, 200, 0},
			{[]string{"0;x=y\r\n", "X-Trailer: 1\r\n\r\n"}, 200, time.Second},
			{[]string{"", "", "0\r\n\r\n"}, 200, 2 * time.Second},
			{[]string{"1\r\nx\r\n0\r\n\r\n"}, 400, 0},
			{[]string{"f4240\r\n", "x"}, 400, time.Second},
			{[]string{"nonsense\r\n"}, 400, 0},
			{[]string{""}, 408, preflightTimeout},
			{[]string{"1\r\n"}, 408, preflightTimeout},
		} {
			c := connect(t, f)
			began := time.Now()
			c.send(t, "OPTIONS /api/show HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nAccess-Control-Request-Method: POST\r\nTransfer-Encoding: chunked\r\n\r\n")
			go func() {
				for i, part := range test.body {
					if i > 0 {
						time.Sleep(time.Second)
					}
					io.WriteString(c, part)
				}
			}()
			resp, err := http.ReadResponse(c.in, nil)
			if took := time.Since(began); err != nil || resp.StatusCode != test.want || took != test.after || resp.Close != (test.want != 200) {
				t.Errorf("%q: %+v, %v after %v; want %d after %v", test.body, resp, err, took, test.want, test.after)
			}
			if test.want == 200 && resp.StatusCode == 200 {
				if got, want := <-seen, `"" <nil> 0 []`; got != want {
					t.Errorf("%q: the host got %s; want %s", test.body, got, want)
				}
			}
			c.Close()
		}
		synctest.Wait()
		if len(seen) > 0 {
			t.Errorf("the host got %s", <-seen)
		}
		f.expectIdle(t)
	})
}

// TestFaultPreflightsToASilentHost: few of them are at the host, and none stays for long.
func TestFaultPreflightsToASilentHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sent = 3 * maxPreflights
		stub, f := timedFront(t, func(o *Options) { o.Token = clientToken })
		var arrived atomic.Int64
		stub.anything = func(w http.ResponseWriter, r *http.Request) {
			arrived.Add(1)
			<-r.Context().Done()
		}
		began, answers := time.Now(), make(chan answer, sent)
		for range sent {
			go func() { answers <- f.do(t, "OPTIONS", "/api/show", "", asks...) }()
		}
		synctest.Wait()
		if got := arrived.Load(); got != maxPreflights {
			t.Errorf("%d preflights at the host; want %d", got, maxPreflights)
		}
		for range sent {
			if a := <-answers; a.status != 504 {
				t.Errorf("got %d; want 504", a.status)
			}
		}
		if took := time.Since(began); took != preflightTimeout {
			t.Errorf("took %v; want %v", took, preflightTimeout)
		}
		f.expectIdle(t)
	})
}

// TestFaultBodyOfGET: it goes nowhere, and whoever sends none of it is answered.
func TestFaultBodyOfGET(t *testing.T) {
	stub := newStub(t)
	bodies := make(chan string, 10)
	for _, handler := range []*http.HandlerFunc{&stub.ps, &stub.anything} {
		*handler = func(w http.ResponseWriter, r *http.Request) {
			if isPoll(r) {
				return
			}
			body, _ := io.ReadAll(r.Body)
			bodies <- string(body) + strings.Join(r.Header["Content-Length"], "") + strings.Join(r.TransferEncoding, "")
		}
	}
	f := newFront(t, stub.URL, func(o *Options) { o.Manage = true })
	for _, request := range []string{"GET /api/ps", "GET /v1/models", "HEAD /api/version", "HEAD /api/blobs/sha256-1"} {
		for _, body := range []string{
			"Content-Length: 5\r\n\r\nhello", "Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n",
		} {
			c := connect(t, f).send(t, request+" HTTP/1.1\r\nHost: localhost\r\n"+body)
			if got := <-bodies; got != "" {
				t.Errorf("%s, %q: the host got %q", request, body, got)
			}
			rest, err := io.ReadAll(c.in) // and the connection ends
			if !strings.HasPrefix(string(rest), "HTTP/1.1 200 OK\r\n") || err != nil {
				t.Errorf("%s, %q: got %q, %v; want 200", request, body, rest, err)
			}
		}
	}
}

// TestFaultRefusedKeepNoConnection: whoever has no token gets an answer and the end.
func TestFaultRefusedKeepNoConnection(t *testing.T) {
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Token = clientToken })
	for request, status := range map[string]string{
		"GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n":                               "401",
		"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n":            "401",
		"GET /status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n": "401",
	} {
		c := connect(t, f).send(t, request)
		if rest, err := io.ReadAll(c.in); !strings.HasPrefix(string(rest), "HTTP/1.1 "+status) || !strings.Contains(string(rest), "\r\nConnection: close\r\n") || err != nil {
			t.Errorf("%q: got %q, %v; want %s and the end", request, rest, err, status)
		}
	}
}

// TestFaultRefusedDoNotFillTheLog: of many refused requests in a second ten are logged,
// and how many more there were. All others are logged as ever.
func TestFaultRefusedDoNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f := timedFront(t, func(o *Options) { o.Token = clientToken })
		for range 3 * recordsPerSecond {
			f.do(t, "GET", "/api/ps", "")
			f.do(t, "GET", "/api/ps", "", "Authorization", "Bearer "+clientToken)
		}
		time.Sleep(time.Second)
		f.do(t, "OPTIONS", "/api/show", "", asks...)
		synctest.Wait()
		count := map[any]int{}
		for _, record := range f.log.access(t, 4*recordsPerSecond+1) {
			count[record["status"]]++
			if n := record["unlogged"]; record["method"] == "OPTIONS" && n != 2.0*recordsPerSecond || record["method"] != "OPTIONS" && n != nil {
				t.Errorf("got unlogged=%v in %v", n, record)
			}
		}
		f.Close() // / is 503 now
		time.Sleep(time.Second)
		for range 3 * recordsPerSecond {
			f.do(t, "GET", "/", "")
		}
		synctest.Wait()
		if got := strings.Count(f.log.String(), `"route":"/"`); got != recordsPerSecond {
			t.Errorf("%d records of 503 at /; want %d", got, recordsPerSecond)
		}
		if count[401.0] != recordsPerSecond || count[200.0] != 3*recordsPerSecond+1 {
			t.Errorf("got records of %v; want %d of 401 and all others", count, recordsPerSecond)
		}
		f.expectIdle(t)
	})
}
