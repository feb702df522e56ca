package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// A progress says on stderr what is being measured: on a terminal all the time, in
// one line, and elsewhere in a line for each step and one now and then.
type progress struct {
	began    time.Time
	terminal bool

	mu         sync.Mutex // guards what follows
	step, what string
}

func newProgress() *progress {
	p := &progress{began: time.Now()}
	every := 20 * time.Second
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.terminal, every = true, time.Second
	}
	go func() {
		for range time.Tick(every) {
			p.mu.Lock()
			p.print()
			p.mu.Unlock()
		}
	}()
	return p
}

// tell notes which step has begun, or is still going on, and with what.
func (p *progress) tell(step, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	begins := step != p.step
	p.step, p.what = step, what
	if begins || p.terminal {
		p.print()
	}
}

// print prints a line, unless there is nothing to tell. The caller holds mu.
func (p *progress) print() {
	if p.step == "" {
		return
	}
	line := fmt.Sprintf("[%v] %s: %s", time.Since(p.began).Round(time.Second), p.step, p.what)
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K"+line) // over the last one
	} else {
		fmt.Fprintln(os.Stderr, line)
	}
}

// pause takes the line from the terminal, for something else to be printed, and says
// nothing until tell is called.
func (p *progress) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	p.step = ""
}
