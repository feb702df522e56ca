package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	embedBody = []byte(`{"model":"embed:latest","input":"` + strings.Repeat("The quick brown fox jumps over the lazy dog. ", 40) + `"}`)
	chatBody  = chatOf(0)
)

// chatOf is a chat whose answer has so many words, one after the other; 0: three at once.
func chatOf(words int) []byte {
	options := ""
	if words > 0 {
		options = fmt.Sprintf(`"options":{"num_predict":%d},`, words)
	}
	return []byte(`{"model":"chat:latest",` + options + `"messages":[{"role":"user","content":"` + strings.Repeat("Why is the sky blue? ", 95) + `"}]}`)
}

// A driver is the clients of one front.
type driver struct {
	url    string
	target *target
	pid    int // of the front
}

func newClient(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}}
}

func (d *driver) awaitReady() error {
	var last error
	c := http.Client{Timeout: 5 * time.Second}
	for range 5000 {
		resp, err := c.Post(d.url+"/api/embed", "application/json", bytes.NewReader(embedBody))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		last = err
		time.Sleep(time.Millisecond)
	}
	return last
}

type embedFigures struct {
	rate     float64 // of good answers, per second
	p50, p99 time.Duration
	failed   int64
}

// embeds sends embeddings from n clients in closed loops for a while.
func (d *driver) embeds(n int, span time.Duration) embedFigures {
	c := newClient(n)
	defer c.CloseIdleConnections()
	var (
		clients sync.WaitGroup
		taken   = make([][]time.Duration, n)
		failed  atomic.Int64
	)
	began := time.Now()
	for i := range n {
		clients.Go(func() {
			for time.Since(began) < span {
				sent := time.Now()
				if err := send(context.Background(), c, d.url+"/api/embed", embedBody); err != nil {
					failed.Add(1)
					continue
				}
				taken[i] = append(taken[i], time.Since(sent))
			}
		})
	}
	clients.Wait()
	elapsed := time.Since(began)
	all := slices.Sorted(slices.Values(slices.Concat(taken...)))
	return embedFigures{float64(len(all)) / elapsed.Seconds(), quantile(all, .5), quantile(all, .99), failed.Load()}
}

// median returns the figures of the round whose rate is the middle one, and what
// failed in all of them.
func median(rounds []embedFigures) embedFigures {
	middle := slices.SortedFunc(slices.Values(rounds), func(a, b embedFigures) int { return cmp.Compare(a.rate, b.rate) })[len(rounds)/2]
	middle.failed = 0
	for _, r := range rounds {
		middle.failed += r.failed
	}
	return middle
}

type queueFigures struct {
	kilobytes float64         // of the front's memory, for each chat in line
	idle      []time.Duration // of the target, between two of them
}

// idle returns the target's idle times in all rounds, sorted.
func idle(rounds []queueFigures) (all []time.Duration) {
	for _, r := range rounds {
		all = append(all, r.idle...)
	}
	slices.Sort(all)
	return all
}

var errNoGate = errors.New("two chats were at the target at once")

// queue puts n chats in line behind one that is held, weighs the front, and lets
// them all through.
func (d *driver) queue(n int) (queueFigures, error) {
	// Each leaves when it has its answer: kept connections would keep those out who
	// wait to be accepted, where descriptors are few.
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	there, release := d.target.holdNext()
	var (
		clients sync.WaitGroup
		failed  atomic.Pointer[error]
	)
	chat := func() {
		if err := sendInCrowd(c, d.url+"/api/chat", chatBody); err != nil {
			failed.Store(&err)
		}
	}
	before, err := d.memory()
	if err != nil {
		return queueFigures{}, err
	}
	clients.Go(chat)
	<-there
	for range n {
		clients.Go(chat)
	}
	after, err := d.settle()
	release()
	clients.Wait()
	if _, most := d.target.idle(); most > 1 {
		return queueFigures{}, errNoGate
	}
	if cause := failed.Load(); err == nil && cause != nil {
		err = *cause
	}
	gaps, _ := d.target.idle()
	return queueFigures{float64(after-before) / float64(n), gaps}, err
}

// kept has n clients that keep their connections send several chats each, one
// after the other, and returns how long the target was idle between two of them.
func (d *driver) kept(n, each int) (gaps []time.Duration, err error) {
	d.target.startOver()
	c := newClient(n)
	defer c.CloseIdleConnections()
	var (
		clients sync.WaitGroup
		failed  atomic.Pointer[error]
		body    = chatOf(3)
	)
	for range n {
		clients.Go(func() {
			for range each {
				if err := send(context.Background(), c, d.url+"/api/chat", body); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	clients.Wait()
	if cause := failed.Load(); cause != nil {
		return nil, *cause
	}
	gaps, most := d.target.idle()
	if most > 1 {
		return nil, errNoGate
	}
	return gaps, nil
}

// stream reads an answer of n words, and returns how long each was on its way from
// the target, sorted.
func (d *driver) stream(n int) (late []time.Duration, err error) {
	c := newClient(1)
	defer c.CloseIdleConnections()
	resp, err := c.Post(d.url+"/api/chat", "application/json", bytes.NewReader(chatOf(n)))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		now := time.Since(epoch)
		var word chunk
		if err := json.Unmarshal(lines.Bytes(), &word); err != nil {
			return nil, err
		}
		if word.Done {
			break
		}
		sent, err := strconv.ParseInt(word.Message.Content, 10, 64)
		if err != nil {
			return nil, err
		}
		late = append(late, now-time.Duration(sent))
	}
	if len(late) != n {
		return nil, fmt.Errorf("%d words of %d came", len(late), n)
	}
	slices.Sort(late)
	return late, nil
}

// settle waits until the front's memory has not grown for a second, and returns
// it: a front tells nobody how many wait, but for foreman.
func (d *driver) settle() (kilobytes int, err error) {
	for still := 0; still < 10; {
		time.Sleep(100 * time.Millisecond)
		now, err := d.memory()
		if err != nil {
			return 0, err
		}
		if now > kilobytes {
			kilobytes, still = now, 0
		} else {
			still++
		}
	}
	return kilobytes, nil
}

// memory returns the resident memory of the front and its children, in KB.
func (d *driver) memory() (kilobytes int, err error) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", d.pid))
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(d.pid)) {
		statm, err := os.ReadFile("/proc/" + pid + "/statm") // proc(5)
		if err != nil {
			return 0, err
		}
		pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
		if err != nil {
			return 0, err
		}
		kilobytes += pages * os.Getpagesize() / 1024
	}
	return kilobytes, nil
}

// comers has a place for each who connects and has sent nothing yet. A crowd has processors
// of its own, and a front may close whoever is silent.
var comers = make(chan struct{}, 100)

// sendInCrowd is send for one of many who come at once.
func sendInCrowd(c *http.Client, url string, body []byte) error {
	comers <- struct{}{}
	sent := sync.OnceFunc(func() { <-comers })
	defer sent()
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { sent() }}
	return send(httptrace.WithClientTrace(context.Background(), trace), c, url, body)
}

func send(ctx context.Context, c *http.Client, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
