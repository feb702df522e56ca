package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"foreman/e2e/lab"
)

// A caller is a client in the middle of one request.
type caller struct {
	addr  string // where foreman sees it come from, which no other caller does where there are enough addresses
	leave context.CancelFunc
}

// callers counts the callers so far.
var callers atomic.Uint32

// call posts body and reads the answer for as long as it comes, in the
// background: until the test ends or the caller leaves. It returns when the
// connection is there.
func call(t *testing.T, url, token, body string) caller {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	addr := make(chan string, 1)
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			host, _, _ := net.SplitHostPort(info.Conn.LocalAddr().String())
			addr <- host
		},
	}), "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	dialer := &net.Dialer{LocalAddr: loopback(byte(2 + callers.Add(1)%200))}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	var calling sync.WaitGroup
	calling.Go(func() {
		if resp, err := client.Do(r); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	t.Cleanup(func() {
		leave()
		calling.Wait()
	})
	select {
	case a := <-addr:
		return caller{a, leave}
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
		return caller{}
	}
}

// lineUp begins a chat that goes on for long and lets so many more wait behind
// it, one after the other. It returns them all in this order.
func lineUp(t *testing.T, base, token string, waiting int) []caller {
	t.Helper()
	var line []caller
	for i := range 1 + waiting {
		line = append(line, call(t, base+"/api/chat", token,
			`{"model":"`+lab.ChatModel+`","messages":[{"role":"user","content":"Tell me all."}],"options":{"num_predict":80000}}`))
		eventually(t, func() error { return wantWaiting(base, i) })
	}
	return line
}

// wantWaiting returns an error unless a chat runs and so many wait.
func wantWaiting(base string, n int) error {
	resp, err := http.Get(base + "/healthz") // needs no token
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var got struct{ Running, Waiting int }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		return err
	}
	if got.Running != 1 || got.Waiting != n {
		return fmt.Errorf("healthz: got %d running, %d waiting; want 1 and %d", got.Running, got.Waiting, n)
	}
	return nil
}
