package lab

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
)

// A Meter stands between foreman and Ollama and knows which requests are open
// at Ollama. A request is open from before Ollama can see it until its last
// byte has come, or until the connection was given up.
type Meter struct {
	URL string

	server *httptest.Server
	hold   func(*http.Request)

	mu     sync.Mutex // guards the maps, which are keyed by path
	open   map[string]int
	most   map[string]int
	totals map[string]int
}

// NewMeter starts a meter in front of the server at target. If hold is not nil,
// it is called with each request that has just opened, and may wait for
// something before Ollama sees the request.
func NewMeter(target string, hold func(*http.Request)) (*Meter, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	m := &Meter{hold: hold, open: map[string]int{}, most: map[string]int{}, totals: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport:     m,
		FlushInterval: -1,
	}
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Held in memory: an answer that begins before Transport has seen the
		// end of a body that still comes in would be cut (go.dev/issue/40747).
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	m.URL = m.server.URL
	return m, nil
}

// Close ends the meter; no request may be open.
func (m *Meter) Close() { m.server.Close() }

// Open returns how many requests to path are open now.
func (m *Meter) Open(path string) int { return m.read(m.open, path) }

// Most returns how many requests to path were open at once at the most.
func (m *Meter) Most(path string) int { return m.read(m.most, path) }

// Total returns how many requests to path there have been.
func (m *Meter) Total(path string) int { return m.read(m.totals, path) }

func (m *Meter) read(counts map[string]int, path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return counts[path]
}

// RoundTrip counts r as open until its answer's body ends. That is before the
// client can have seen the end, so that its next request never overlaps.
func (m *Meter) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.URL.Path
	m.mu.Lock()
	m.totals[path]++
	m.open[path]++
	m.most[path] = max(m.most[path], m.open[path])
	m.mu.Unlock()
	ended := sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.open[path]--
	})

	if m.hold != nil {
		m.hold(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		ended()
		return nil, err
	}
	resp.Body = &meteredBody{resp.Body, ended}
	return resp, nil
}

type meteredBody struct {
	io.ReadCloser
	ended func()
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended()
	}
	return n, err
}

func (b *meteredBody) Close() error {
	defer b.ended()
	return b.ReadCloser.Close()
}
