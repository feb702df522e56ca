// Package target is the one way to the Ollama host: the transport of the requests
// that pass through, with one retry, and a small client for foreman's own.
//
// It knows nothing of clients, of the gate or of metrics. Its errors wrap
// [ErrUnreachable] where the connection failed, which is transient, and
// never where the host answered.
package target

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const dialTimeout = 4 * time.Second

// Errors that tell these failures from every other one. ErrUnreachable is a transient
// failure of the connection: nothing was answered. ErrLocal is one of foreman's own
// machine, and says nothing of the host. The other two are of the small client: the host
// answered 401 or 403, or is foreman itself.
var (
	ErrUnreachable  = errors.New("target unreachable")
	ErrLocal        = errors.New("out of file descriptors or ports")
	ErrUnauthorized = errors.New("target refused foreman")
	ErrLoop         = errors.New("the request came from this foreman: FOREMAN_OLLAMA_URL points back at it")
)

// A Target is the way to one Ollama host. Make one with [New].
type Target struct {
	// Dial opens the connections to the host, by TCP unless it is replaced before
	// the first request, as tests do.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	limit  int // the largest answer that the small client reads, in bytes
	url    *url.URL
	bearer string          // value of the Authorization field; empty: none
	via    string          // value of the Via field, which names this process
	fresh  *http.Transport // a new connection for each request

	mu      sync.Mutex // guards what follows
	pooled  *http.Transport
	retries uint64
	remote  string // the address that the small client found the host at last; empty: it never did
}

// New returns the way to the Ollama host at u, whose path, if any, is put before
// every other. A token, if not empty, is sent as the bearer.
func New(u *url.URL, token string) *Target {
	t := &Target{limit: 32 << 20, url: u, via: "1.1 foreman-" + rand.Text()[:10]}
	t.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	t.pooled = &http.Transport{
		Proxy:                  nil, // prompts and token go to the target and nowhere else
		DialContext:            t.dial,
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true, // or it would ask for gzip where the client did not
		MaxIdleConnsPerHost:    512,
		ReadBufferSize:         16 << 10, // an embedding's answer in one read, and so in one write
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
	t.fresh = t.pooled.Clone()
	t.fresh.DisableKeepAlives = true
	if token != "" {
		t.bearer = "Bearer " + token
	}
	return t
}

// dial opens a connection.
func (t *Target) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := t.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &watched{Conn: c}, nil
}

// foundAt notes where the host was found, which may have moved: a name can lead to
// another address than it did, and connections that are kept lead where it was.
func (t *Target) foundAt(addr net.Addr) {
	t.mu.Lock()
	moved := t.remote != "" && t.remote != addr.String()
	t.remote = addr.String()
	t.mu.Unlock()
	if moved {
		t.renew()
	}
}

// renew has no connection used again that is open now. Those in use are closed when
// they are idle: another Transport would keep them.
func (t *Target) renew() {
	t.mu.Lock()
	old := t.pooled
	t.pooled = old.Clone()
	t.mu.Unlock()
	old.CloseIdleConnections()
}

// pool returns the Transport that keeps connections.
func (t *Target) pool() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pooled
}

// String returns the target's URL without secrets.
func (t *Target) String() string { return t.url.Redacted() }

// Limit limits the connections of requests that pass through, kept ones among them: one
// more waits. It is called before the first request, or not at all.
func (t *Target) Limit(n int) { t.pooled.MaxConnsPerHost = n }

// CloseIdleConnections closes the connections that no request uses.
func (t *Target) CloseIdleConnections() { t.pool().CloseIdleConnections() }

// Retries returns how many requests were sent once more, since the start.
func (t *Target) Retries() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retries
}

// Address turns a request into one for the same path and query on the target, in
// foreman's name. It writes over r.URL, Host and the fields Authorization, if there
// is a token, and Via.
func (t *Target) Address(r *http.Request) {
	r.URL.Scheme, r.URL.Host = t.url.Scheme, t.url.Host
	r.URL.Path, r.URL.RawPath = t.url.Path+r.URL.Path, ""
	r.Host = t.url.Host // Ollama refuses names that it does not know (DNS rebinding)
	if t.bearer != "" {
		r.Header.Set("Authorization", t.bearer)
	}
	r.Header.Add("Via", t.via)
}

// IsLoop reports whether a request has come from this very process.
func (t *Target) IsLoop(r *http.Request) bool {
	for _, via := range r.Header["Via"] {
		if strings.Contains(via, t.via) {
			return true
		}
	}
	return false
}

// RoundTrip sends a request that was addressed to the target, on a pooled
// connection. If it is to be sent once more (see [attempt]), that is on a new one. Sent
// is when the request first had a connection; zero: it never had one.
func (t *Target) RoundTrip(r *http.Request) (resp *http.Response, sent time.Time, err error) {
	var first attempt
	resp, err = first.send(t.pool(), r)
	if err != nil && first.mayBeRepeated(r) {
		t.mu.Lock()
		t.retries++
		t.mu.Unlock()
		resp, err = new(attempt).send(t.fresh, r)
	}
	if err != nil {
		return nil, first.sent, Classify(r.Context(), err)
	}
	return resp, first.sent, nil
}

// Classify makes an error of the way to the target, or of reading its answer, wrap
// [ErrUnreachable] if the connection failed: it could not be made, it broke, or nothing
// came in time. It wraps [ErrLocal] instead if foreman had nothing left to make one with.
// If ctx was cancelled, its cause is the error: it says more than what that did to the
// connection. Of others the text is bounded.
func Classify(ctx context.Context, err error) error {
	var (
		network *net.OpError
		timeout interface{ Timeout() bool }
	)
	err = bounded{err}
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	case isLocal(err):
		return fmt.Errorf("%w: %w", ErrLocal, err)
	case errors.As(err, &network),
		errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		strings.Contains(err.Error(), "server closed idle connection"): // not exported by net/http
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	default:
		return err
	}
}

// A bounded error has at most 500 characters of the text of another: net/http may quote a
// line of a megabyte that the host has sent.
type bounded struct{ error }

func (e bounded) Error() string { return fmt.Sprintf("%.500s", e.error.Error()) }
func (e bounded) Unwrap() error { return e.error }

// isLocal reports whether this machine, or this process, had no descriptor, no port or no
// memory left for a connection.
func isLocal(err error) bool {
	for _, lack := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, lack) {
			return true
		}
	}
	// Who looks a name up without a descriptor is told that there is no such name.
	if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsTimeout {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return isLocal(err)
		}
		f.Close()
	}
	return false
}
