package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Sample is what a front takes of the machine at a moment.
type Sample struct {
	At          float64 // seconds
	MB          float64 // resident memory
	Goroutines  int     // 0: it has none, or does not tell
	Descriptors int
}

// sample takes a sample every so many simulated seconds, until stop is called.
func (r *running) sample(c clock, every float64, into *[]Sample) (stop func()) {
	if r.cmd == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for at := 0.0; c.sleep(ctx, at); at += every {
			if now, err := r.look(); err == nil { // it may be gone by its own doing, which the chats tell
				now.At = at
				*into = append(*into, now)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// look takes a sample of the front: see proc(5).
func (r *running) look() (s Sample, err error) {
	pid := r.cmd.Process.Pid
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return s, err
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		return s, err
	}
	s.MB = float64(pages*os.Getpagesize()) / (1 << 20)
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.Descriptors = len(descriptors)
	if err != nil {
		return s, err
	}
	s.Goroutines = r.goroutines()
	return s, nil
}

func (r *running) goroutines() (n int) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	ask, _ := http.NewRequest("GET", r.url+"/metrics", nil)
	ask.Header.Set("Authorization", "Bearer "+tokenOf("embedder"))
	resp, err := client.Do(ask)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if _, rest, found := strings.Cut(string(text), "\ngo_goroutines "); found {
		fmt.Sscan(rest, &n)
	}
	return n
}
