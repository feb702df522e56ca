package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/e2e/lab"
)

var (
	soakTime    = flag.Duration("soak", 10*time.Second, "how long the soak goes on")
	soakSamples = flag.String("samples", "", "`file` for what foreman takes of the machine during the soak, for testdata/bench.sh -workload -resources")
)

// TestSoak has clients chat and embed, and leave at random, while the owner pauses, stops
// chats and takes tokens back, and Ollama is killed twice and falls asleep once, in a long
// soak every two minutes. Every answer is whole or seen to be cut, no two chats are ever open
// at once, and nothing is left behind:
//
//	go -C testdata/e2e test -run Soak -soak 60s
func TestSoak(t *testing.T) {
	const chatting, embedding = 6, 2
	// An Ollama that computes its answers itself loses a place in its runner now and
	// then when a client leaves before the first byte, and does not answer any more when
	// it has lost them all. It has many here.
	own := startOllama(t, "OLLAMA_NUM_PARALLEL=64")
	watch := startWatch(t, own.URL)
	owner := newSoakOwner(t, chatting+embedding)
	foreman := startForeman(t, watch.server.URL, "FOREMAN_TOKENS_FILE="+owner.tokens)
	owner.base = strings.Replace(foreman.URL, "://", "://owner:sesame-owner@", 1)
	eventually(t, func() error { return resident(t.Context(), own.Client, lab.EmbedModel) })
	before := restingAt(t, owner.base)
	sample(t, owner.base)

	transport := &http.Transport{MaxIdleConnsPerHost: chatting + embedding}
	s := &soakers{t: t, base: foreman.URL, watch: watch, client: &http.Client{Transport: transport}, counts: map[string]int{}}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop, stopAll := context.WithCancel(ctx)
	defer stopAll()
	for i := range chatting + embedding {
		next := wishForChat
		if i >= chatting {
			next = wishForEmbed
		}
		all.Go(func() { s.run(ctx, stop, i, next) })
	}

	all.Go(func() { owner.pause(stop) })
	all.Go(func() { owner.stop(stop) })
	all.Go(func() { owner.reload(stop) })

	rounds := max(1, int(*soakTime/(2*time.Minute)))
	third := *soakTime / time.Duration(3*rounds)
	for range rounds {
		<-time.After(third)
		own.Kill() // and back at once, so that foreman may not even notice
		if err := own.Start(ctx); err != nil {
			t.Fatal(err)
		}
		own.Sleep() // its kernel answers on
		<-time.After(2 * time.Second)
		own.Wake()
		<-time.After(third)
		own.Kill()
		eventually(t, func() error { return wantHealth(owner.base, "degraded", "unreachable") })
		if err := own.Start(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error { return wantHealth(owner.base, "ok", "") })
		<-time.After(third)
	}
	stopAll()
	last := time.AfterFunc(time.Minute, cancel) // for what they still wait for
	all.Wait()
	last.Stop()

	eventually(t, func() error {
		return wantMetrics(owner.base, map[string]float64{"foreman_queue_depth": 0, "foreman_chats_in_flight": 0})
	})
	rnd := rand.New(rand.NewPCG(1, 0))
	for range 10 { // the slot is there, and so is Ollama
		w := wishForChat(rnd)
		resp, err := withToken(soakToken(0)).Post(foreman.URL+w.path, "application/json", strings.NewReader(w.body))
		if !w.whole(read(t, resp, err).body) {
			t.Errorf("a chat after it all, %s %s: not whole", w.path, w.body)
		}
	}
	// Connections that are kept for the next request are no leak. Both ends of
	// foreman let go of theirs.
	transport.CloseIdleConnections()
	watch.server.Config.SetKeepAlivesEnabled(false)
	// Any other goes when nothing has used it for three minutes.
	resting, done := context.WithTimeout(t.Context(), 4*time.Minute)
	defer done()
	if err := lab.Until(resting, func() error { return wantMetrics(owner.base, before) }); err != nil {
		t.Fatal(err)
	}

	total, most, open := watch.counts()
	if open != 0 {
		t.Errorf("chats still open at Ollama: got %d; want none", open)
	}
	if most != 1 {
		t.Errorf("chats open at once at Ollama: got %d; want 1", most)
	}
	for _, word := range []string{"whole", "refused", "left"} { // a cut is a matter of luck
		if s.sum(word) == 0 {
			t.Errorf("%s: got none; want some, or this was no soak", word)
		}
	}
	fmt.Printf("%d asked in %v:\n%s", s.sum(""), *soakTime, s)
	if err := owner.check(); err != nil {
		t.Errorf("%v: %v", owner, err)
	}
	fmt.Printf("%v\nOllama killed and started again: %d times; chats that reached it: %d; open at once: %d\n", owner, 2*rounds, total, most)
	fmt.Printf("at rest before, and not more after: %v\n", before)
}

// sample writes each second what foreman takes of the machine, to the file that -samples names.
func sample(t *testing.T, base string) {
	if *soakSamples == "" {
		return
	}
	file, err := os.Create(*soakSamples)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait(); file.Close() })
	all.Go(func() {
		for tick := time.Tick(time.Second); ctx.Err() == nil; <-tick {
			if now, err := metricsOf(base); err == nil { // foreman may be stopped, as it may be asleep
				json.NewEncoder(file).Encode(map[string]any{
					"At": time.Since(began).Seconds(), "MB": now["process_resident_memory_bytes"] / (1 << 20),
					"Goroutines": now["go_goroutines"], "Descriptors": now["process_open_fds"],
				})
			}
		}
	})
}

// restingAt returns what a foreman without work has of goroutines and file
// descriptors: the fewest that it has ever had, for a poll of the target may
// always be on its way.
func restingAt(t *testing.T, base string) map[string]float64 {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	fewest := map[string]float64{}
	for range 50 {
		all, err := metricsOf(base)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"go_goroutines", "process_open_fds"} {
			value, there := all[name]
			if least, seen := fewest[name]; there && (!seen || value < least) {
				fewest[name] = value
			}
		}
	}
	return fewest
}

// wantMetrics returns an error unless each metric is at most at its limit.
func wantMetrics(base string, limits map[string]float64) error {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	all, err := metricsOf(base)
	if err != nil {
		return err
	}
	for name, limit := range limits {
		if got, there := all[name]; !there || got > limit {
			return fmt.Errorf("%s: got %v (told: %t); want %v at most", name, got, there, limit)
		}
	}
	return nil
}

// metricsOf reads foreman's metrics that have no labels, with the password in base as the
// token. It leaves no connection behind, which would be counted among them.
func metricsOf(base string) (map[string]float64, error) {
	r, err := http.NewRequest("GET", base+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	r.Close = true
	if token, ok := r.URL.User.Password(); ok { // which http.Client would send as the password of a browser
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			all[name] = v
		}
	}
	return all, lines.Err()
}
