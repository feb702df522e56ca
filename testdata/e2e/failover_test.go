package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"foreman/e2e/lab"
)

// A failoverClient behaves as a library for Ollama does that knows several hosts: it asks
// one once more after 408, 429, 5xx, or no answer at all, and then leaves it alone and asks
// the next. All else is final, and so is what happens to a stream that has opened. It speaks
// HTTPS, and a host may have a path.
type failoverClient []*failoverHost

type failoverHost struct {
	name    string
	url     string
	client  *http.Client
	benched bool
}

// A failoverEnd is how a chat ended.
type failoverEnd struct {
	saw  string // which hosts answered with what
	text string
	done bool // the answer is whole
	err  error
}

// A failoverChat is one that is under way.
type failoverChat struct {
	opened chan struct{} // closed when the stream's first piece is there
	ended  chan failoverEnd
}

func (c failoverClient) start(t *testing.T, words int) *failoverChat {
	chat := &failoverChat{make(chan struct{}), make(chan failoverEnd, 1)}
	request := asks(lab.ChatModel, true)
	request.Options = map[string]any{"num_predict": words}
	go func() { chat.ended <- c.chat(t.Context(), request, chat.opened) }()
	return chat
}

func (c failoverClient) chat(ctx context.Context, request plainRequest, opened chan<- struct{}) (end failoverEnd) {
	var body []byte
	if body, end.err = json.Marshal(request); end.err != nil {
		return end
	}
	var saw []string
	defer func() { end.saw = strings.Join(saw, ", ") }()
	for _, host := range c {
		for try := 0; try < 2 && !host.benched; try++ {
			var r *http.Request
			if r, end.err = http.NewRequestWithContext(ctx, http.MethodPost, host.url+"/api/chat", bytes.NewReader(body)); end.err != nil {
				return end
			}
			resp, err := host.client.Do(r)
			if err != nil {
				end.err = err
				saw = append(saw, host.name+" nothing")
				continue
			}
			defer resp.Body.Close()
			saw = append(saw, fmt.Sprint(host.name, " ", resp.StatusCode))
			switch status := resp.StatusCode; {
			case status == http.StatusOK:
				end.read(resp.Body, opened)
				return end
			case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500:
				end.err = errors.New(resp.Status)
			default:
				said, _ := io.ReadAll(resp.Body)
				end.err = errors.New(string(said))
				return end
			}
		}
		host.benched = true
	}
	return end
}

// read reads a stream.
func (end *failoverEnd) read(stream io.Reader, opened chan<- struct{}) {
	for decoder := json.NewDecoder(stream); ; {
		var piece plainPiece
		if end.err = decoder.Decode(&piece); end.err != nil {
			return
		}
		if opened != nil {
			close(opened)
			opened = nil
		}
		if piece.Error != "" {
			end.err = errors.New(piece.Error)
			return
		}
		end.text += piece.Message.Content
		if end.done = piece.Done; end.done {
			return
		}
	}
}

// TestFailover has a client with two hosts, each behind Caddy with TLS and a path, see the
// first one end: by SIGTERM, with its Ollama, or because somebody stops its chats; and a line
// that is too long. Running chats end where they are. Chats in line go to the other host, if
// they have heard no heartbeat.
func TestFailover(t *testing.T) {
	needStandIn(t)
	const endless = 80000
	caddy := needFront(t, "caddy with a path")
	second := caddy.start(t, startForeman(t, ollama.URL, "FOREMAN_HOSTS="+frontName).URL, nil)
	// begin starts a first host, on which a chat runs and another waits, and the client.
	begin := func(t *testing.T, words int, env ...string) (own *lab.Ollama, foreman *lab.Foreman, client failoverClient, running, waiting *failoverChat) {
		own = startOllama(t, lab.Pace{Rate: 20}.Env()...)
		foreman = startForeman(t, own.URL, append(env, "FOREMAN_HOSTS="+frontName, "FOREMAN_EMBED_MODEL=", "FOREMAN_DRAIN_TIMEOUT=50s")...)
		first := caddy.start(t, foreman.URL, nil)
		new := func() failoverClient { // each its own: nobody has benched the first host
			return failoverClient{{"first", first.URL, first.client(t, true), false}, {"second", second.URL, second.client(t, true), false}}
		}
		client = new()
		running = client.start(t, words)
		<-running.opened
		waiting = new().start(t, 32)
		eventually(t, func() error { return wantWaiting(foreman.URL, 1) })
		return own, foreman, client, running, waiting
	}
	wholeFromSecond := func(t *testing.T, what string, end failoverEnd) {
		t.Helper()
		if end.err != nil || !end.done || end.text == "" || !strings.HasPrefix(end.saw, "first 50") || !strings.HasSuffix(end.saw, ", second 200") {
			t.Errorf("%s: got %+v; want a whole answer from the second host after 5xx from the first", what, end)
		}
	}
	endsAtFirst := func(t *testing.T, what string, end failoverEnd, saw, text string) {
		t.Helper()
		if end.err == nil || end.done || end.saw != saw || !strings.Contains(end.err.Error(), text) {
			t.Errorf("%s: got %+v; want %s, and %q", what, end, saw, text)
		}
	}

	t.Run("SIGTERM", func(t *testing.T) {
		_, foreman, client, running, waiting := begin(t, 400)
		stopped := make(chan error, 1)
		go func() { stopped <- foreman.Stop() }()
		wholeFromSecond(t, "in line", <-waiting.ended)
		if end := <-running.ended; end.err != nil || !end.done || end.saw != "first 200" {
			t.Errorf("running: got %+v; want a whole answer from the first host", end)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		wholeFromSecond(t, "new", <-client.start(t, 32).ended)
	})
	t.Run("outage", func(t *testing.T) {
		own, _, client, running, waiting := begin(t, endless)
		own.Kill()
		endsAtFirst(t, "running", <-running.ended, "first 200", "stream error") // a cut, in HTTP/2
		wholeFromSecond(t, "in line", <-waiting.ended)
		wholeFromSecond(t, "new", <-client.start(t, 32).ended)
	})
	t.Run("stop", func(t *testing.T) {
		_, _, client, running, waiting := begin(t, endless)
		stop := func(key string) {
			t.Helper()
			resp, err := client[0].client.Post(client[0].url+"/status", "application/x-www-form-urlencoded", strings.NewReader("stop="+key))
			if got := read(t, resp, err); got.StatusCode != http.StatusOK || !strings.HasSuffix(got.Request.URL.Path, "/ollama/status") {
				t.Errorf("stop: got %d from %s; want the page again", got.StatusCode, got.Request.URL)
			}
		}
		r, err := http.NewRequestWithContext(t.Context(), "GET", client[0].url+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "application/json")
		resp, err := client[0].client.Do(r)
		var page struct {
			Running struct{ Stop string }
			Waiting []struct{ Stop string }
		}
		if err := json.Unmarshal([]byte(read(t, resp, err).body), &page); err != nil || len(page.Waiting) != 1 {
			t.Fatalf("page: %+v, %v; want one that waits", page, err)
		}
		stop(page.Waiting[0].Stop)
		endsAtFirst(t, "in line", <-waiting.ended, "first 403", "stopped on foreman's status page")
		stop(page.Running.Stop)
		endsAtFirst(t, "running", <-running.ended, "first 200", "stopped on foreman's status page")
	})
	t.Run("a long line", func(t *testing.T) {
		_, _, _, _, waiting := begin(t, endless, "FOREMAN_QUEUE_TIMEOUT=2s", "FOREMAN_HEARTBEAT=30s")
		wholeFromSecond(t, "in line", <-waiting.ended)
	})
	t.Run("after a heartbeat", func(t *testing.T) {
		_, foreman, _, _, waiting := begin(t, 200, "FOREMAN_HEARTBEAT=1s")
		<-waiting.opened
		stopped := make(chan error, 1)
		go func() { stopped <- foreman.Stop() }()
		endsAtFirst(t, "in line", <-waiting.ended, "first 200", "foreman is shutting down")
		if err := <-stopped; err != nil { // a second signal, at the test's end, would kill it
			t.Error(err)
		}
	})
}
