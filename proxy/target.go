package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"foreman/inventory"
)

const (
	dialTimeout = 4 * time.Second
	// retryWithin is how soon after a request a connection must break to have been
	// closed before it: time for TCP to notice over a bad network.
	retryWithin = 5 * time.Second
	// answerLimit is the largest answer that the small client reads.
	answerLimit = 32 << 20
)

// A Target is the one way to the Ollama host. It is the transport of the
// requests that pass through, and a small client for foreman's own. Errors of
// both wrap [inventory.ErrUnreachable] where the connection failed, which is
// transient, and never where the host answered.
type Target struct {
	url    *url.URL
	bearer string // value of the Authorization field; empty: none
	via    string // value of the Via field, which names this process
	pooled *http.Transport
	fresh  *http.Transport // a new connection for each request

	retried func() // called for each request that is sent once more
}

// NewTarget returns the way to the Ollama host at u, whose path, if any, is put
// before every other. A token, if not empty, is sent as the bearer.
func NewTarget(u *url.URL, token string) *Target {
	pooled := &http.Transport{
		Proxy:                  nil, // prompts and token go to the target and nowhere else
		DialContext:            holding((&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext),
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true, // or it would ask for gzip where the client did not
		MaxIdleConnsPerHost:    512,
		ReadBufferSize:         16 << 10, // an embedding's answer in one read, and so in one write
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
	fresh := pooled.Clone()
	fresh.DisableKeepAlives = true
	t := &Target{url: u, via: "1.1 foreman-" + rand.Text()[:10], pooled: pooled, fresh: fresh, retried: func() {}}
	if token != "" {
		t.bearer = "Bearer " + token
	}
	return t
}

// address turns a request for a path into one for that path on the target, in
// foreman's name. It writes over r.URL.
func (t *Target) address(r *http.Request, path string) {
	*r.URL = url.URL{Scheme: t.url.Scheme, Host: t.url.Host, Path: t.url.Path + path}
	r.Host = t.url.Host // Ollama refuses names that it does not know (DNS rebinding)
	if t.bearer != "" {
		r.Header.Set("Authorization", t.bearer)
	}
	r.Header.Add("Via", t.via)
}

// isLoop reports whether a request has come from this very process.
func (t *Target) isLoop(r *http.Request) bool {
	for _, via := range r.Header["Via"] {
		if strings.Contains(via, t.via) {
			return true
		}
	}
	return false
}

// RoundTrip sends a job's request to the target on a pooled connection. If that
// connection was kept, from another request or open since before a chat's turn, and
// breaks at once, without a byte of an answer, the target had most likely closed it
// meanwhile: then the request is sent once more, on a new connection. One that
// breaks later may break because of the request. A request on a new connection is
// never repeated. A chat that was ready before its turn, and then was not, waits on.
func (t *Target) RoundTrip(r *http.Request) (*http.Response, error) {
	var seen struct {
		reused, answered, returned atomic.Bool
		sent                       atomic.Pointer[time.Time] // when the whole request was; nil: not yet
	}
	j := jobOf(r)
	first := r.WithContext(httptrace.WithClientTrace(untraced{j}, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			seen.reused.Store(info.Reused)
			holdAt(info.Conn, j.launch)
		},
		PutIdleConn: func(err error) {
			if err == nil && seen.returned.Load() { // the last Read of the answer's body is about to return
				j.finish()
			}
		},
		GotFirstResponseByte: func() {
			seen.answered.Store(true)
			if j.launch != nil {
				j.launch.attempted() // what comes before anything was sent is no answer
			}
		},
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if now := time.Now(); info.Err == nil {
				seen.sent.Store(&now)
			}
		},
	}))
	if r.GetBody != nil {
		// ReverseProxy has wrapped the body. Transport sends one that it knows to
		// be in memory together with the header, in one packet.
		first.Body, _ = r.GetBody()
	}
	ready := j.launch != nil && j.launch.isEarly()
	resp, err := t.pooled.RoundTrip(first)
	gone, kept := true, seen.reused.Load()
	if ready {
		var held bool
		gone, held = j.launch.attempted()
		kept = kept || held
	}
	sent := seen.sent.Load()
	atOnce := sent == nil || time.Since(*sent) < retryWithin
	switch {
	case !gone:
		if err == nil { // the target got tired of waiting
			resp.Body.Close()
		}
		select {
		case <-j.launch.released:
		case <-j.Done():
			return nil, context.Cause(j)
		}
	case err != nil && kept && !seen.answered.Load() && atOnce && j.Err() == nil && isReplayable(r):
		t.retried()
	case err != nil:
		return nil, classify(j, err)
	default:
		seen.returned.Store(true)
		return resp, nil
	}
	again := r.Clone(httptrace.WithClientTrace(untraced{j}, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { holdAt(info.Conn, j.launch) },
	}))
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	if resp, err = t.fresh.RoundTrip(again); err != nil {
		return nil, classify(j, err)
	}
	return resp, nil
}

// An untraced context has no trace in it. ReverseProxy's would send the target's
// informational answers on to the client, which has asked foreman and not the
// target for a 100.
type untraced struct{ context.Context }

func (c untraced) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

func isReplayable(r *http.Request) bool {
	return r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
}

// classify makes an error of a transport wrap inventory.ErrUnreachable if the
// connection failed: it could not be made, it broke, or nothing came in time.
// If ctx ended, its cause says more than what that did to the transport.
func classify(ctx context.Context, err error) error {
	var (
		network *net.OpError
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	case errors.Is(err, errUpload), errors.Is(err, errSlowUpload):
		return err
	case errors.As(err, &network),
		errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		strings.Contains(err.Error(), "server closed idle connection"): // not exported by net/http
		return fmt.Errorf("%w: %w", inventory.ErrUnreachable, err)
	default:
		return err
	}
}

// Tags returns the body of the target's answer to GET /api/tags.
func (t *Target) Tags(ctx context.Context) ([]byte, error) {
	return t.Read(ctx, "/api/tags")
}

// Read returns the body of the target's answer to GET path.
func (t *Target) Read(ctx context.Context, path string) ([]byte, error) {
	return t.ask(ctx, http.MethodGet, path, nil)
}

// PS returns the names of the models that are resident on the target.
func (t *Target) PS(ctx context.Context) ([]string, error) {
	body, err := t.Read(ctx, "/api/ps")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Models []struct {
			Name string `json:"name"`
		} `json:"models"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("GET /api/ps: %w", err)
	}
	var names []string
	for _, m := range answer.Models {
		names = append(names, m.Name)
	}
	return names, nil
}

// Embed embeds a trivial text and asks the target to keep the model loaded until
// another request says otherwise.
func (t *Target) Embed(ctx context.Context, model string) error {
	body, err := json.Marshal(map[string]any{"model": model, "input": "warm", "keep_alive": -1})
	if err != nil {
		return err
	}
	_, err = t.ask(ctx, http.MethodPost, "/api/embed", body)
	return err
}

// ask sends a request of foreman's own and returns the body of a 200. Its errors
// wrap inventory.ErrUnauthorized for 401 and 403. It follows no redirect, and uses
// a connection of its own: an old one to a host that fell asleep tells nothing.
func (t *Target) ask(ctx context.Context, method, path string, body []byte) (answer []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %s: %w", method, t.url.Path+path, err)
		}
	}()
	r, err := http.NewRequestWithContext(ctx, method, "/", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	t.address(r, path)
	r.Header.Set("User-Agent", "foreman")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := t.fresh.RoundTrip(r)
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s", inventory.ErrUnauthorized, resp.Status)
	case http.StatusLoopDetected:
		return nil, errLoop
	default:
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	answer, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return nil, classify(ctx, err)
	}
	if len(answer) > answerLimit {
		return nil, fmt.Errorf("the answer is larger than %d MiB", answerLimit>>20)
	}
	return answer, nil
}
