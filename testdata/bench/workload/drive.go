package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A driver sends a work to a front, as its clients.
type driver struct {
	clock
	url      string
	v1       bool // OpenAI's API instead of Ollama's
	patience float64
	clients  map[string]*http.Client

	mu          sync.Mutex // guards what follows
	records     []*Record
	embed       []float64 // real milliseconds of each embedding
	embedFailed int
}

// newDriver gives each client an address of its own (Linux: all of 127.0.0.0/8 is this machine) and a token.
func newDriver(c clock, url string, v1 bool, patience float64, w *work) *driver {
	d := &driver{clock: c, url: url, v1: v1, patience: patience, clients: map[string]*http.Client{}}
	for i, client := range w.clients {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}}
		d.clients[client] = &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: burst}}
	}
	return d
}

// drive sends all, and waits for one patience after the horizon.
func (d *driver) drive(w *work) {
	ctx, cancel := context.WithDeadline(context.Background(), d.start.Add(d.real(w.horizon+d.patience)))
	defer cancel()
	var all sync.WaitGroup
	begins := func(l Lane) float64 { return l.Requests[0].At }
	for _, lane := range slices.SortedStableFunc(slices.Values(w.lanes), func(a, b Lane) int { return cmp.Compare(begins(a), begins(b)) }) {
		if d.sleep(ctx, begins(lane)) { // a goroutine for each lane of many hours would be too many
			all.Go(func() { d.follow(ctx, lane) })
		}
	}
	all.Wait()
	for _, c := range d.clients {
		c.CloseIdleConnections()
	}
}

func (d *driver) follow(ctx context.Context, lane Lane) {
	ended := 0.0
	for _, request := range lane.Requests {
		due := max(request.At, ended+request.Gap)
		if due >= lane.Until || !d.sleep(ctx, due) {
			return
		}
		if request.Kind == embeddings {
			d.embedOne(ctx, request)
			continue
		}
		r := &Record{Request: request, Due: due, Sent: d.now()}
		d.chat(ctx, r)
		if ended = r.End; r.Outcome == failed {
			ended++ // nobody tries again at once
		}
		d.mu.Lock()
		d.records = append(d.records, r)
		d.mu.Unlock()
	}
}

// bodyOf is a chat with as many bytes in its prompt as it has tokens: those of a conversation begin alike. Its sizes come last.
func bodyOf(r Request) []byte {
	sizes, _ := json.Marshal(r)
	h := fnv.New64a()
	io.WriteString(h, r.Conv)
	letters := rand.New(rand.NewPCG(h.Sum64(), 0))
	text := make([]byte, max(0, r.Prompt-len(sizes)))
	for i := range text {
		text[i] = byte('a' + letters.IntN(26))
	}
	said := func(text []byte) any { return map[string]string{"role": "user", "content": string(text)} }
	body, _ := json.Marshal(map[string]any{
		"model": r.Model, "stream": r.Stream, "messages": []any{said(text), said(sizes)},
		"options": map[string]int{"num_predict": r.Out}, "max_tokens": r.Out,
	})
	return body
}

// chat sends a chat and notes what comes back. The client leaves when it has heard nothing for its patience.
func (d *driver) chat(ctx context.Context, r *Record) {
	inner, leave := context.WithCancel(ctx)
	defer leave()
	most := d.real(patience(r.Request, d.patience))
	silence := time.AfterFunc(most, leave)
	defer silence.Stop()
	err := d.post(inner, r.Client, "/api/chat", "/v1/chat/completions", bodyOf(r.Request), func(line []byte) {
		silence.Reset(most)
		if r.First == 0 && isReal(line) {
			r.First = d.now()
		}
	})
	r.End = d.now()
	switch {
	case err == nil && r.First > 0:
		r.Outcome = ok
	case ctx.Err() != nil:
		r.Outcome = cutOff
	case inner.Err() != nil:
		r.Outcome = gaveUp
	default:
		r.Outcome = failed
	}
}

// isReal reports whether a line of an answer is more than a heartbeat, which says nothing or is a comment.
func isReal(line []byte) bool {
	return bytes.HasPrefix(line, []byte("data:")) || bytes.HasPrefix(line, []byte("{")) &&
		(bytes.Contains(line, []byte(`"done":true`)) || !bytes.Contains(line, []byte(`"content":""`)))
}

func (d *driver) embedOne(ctx context.Context, r Request) {
	began := time.Now()
	err := d.post(ctx, r.Client, "/api/embed", "/v1/embeddings", []byte(`{"model":"embed","input":"words"}`), func([]byte) {})
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.embedFailed++
		return
	}
	d.embed = append(d.embed, time.Since(began).Seconds()*1000)
}

// post sends a request as a client, and calls got with each line of the answer.
func (d *driver) post(ctx context.Context, client, path, v1 string, body []byte, got func(line []byte)) error {
	if d.v1 {
		path = v1
	}
	r, err := http.NewRequestWithContext(ctx, "POST", d.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+tokenOf(client))
	resp, err := d.clients[client].Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			got(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func tokenOf(client string) string { return "token-of-" + client }
