package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// beats puts chats in line behind one that is held, and prints what they cost a
// foreman with heartbeats and one without.
func beats(p *progress, command string, size size) error {
	n := size.standing
	target, err := startTarget()
	if err != nil {
		return err
	}
	fmt.Printf("| %d chats in line for %v | memory of one at first | and in the end | CPU meanwhile | load of the machine |\n| --- | --- | --- | --- | --- |\n", n, size.stand)
	for _, every := range []string{"0", "20s"} {
		p.tell("the line", fmt.Sprintf("%d chats, FOREMAN_HEARTBEAT=%s", n, every))
		c := &column{command: "env FOREMAN_HEARTBEAT=" + every + " FOREMAN_MAX_QUEUE=" + strconv.Itoa(n+1) + " " + command, target: target}
		stop := c.start()
		var row string
		if c.err == nil {
			row, c.err = c.standInLine(every, n, size.stand)
		}
		stop()
		p.pause()
		if c.err != nil {
			return c.err
		}
		fmt.Println(row)
	}
	return nil
}

// standInLine has n chats wait, and returns a row of the table.
func (c *column) standInLine(every string, n int, span time.Duration) (row string, err error) {
	client := newClient(n + 1)
	defer client.CloseIdleConnections()
	there, release := c.target.holdNext()
	before, err := c.driver.memory()
	if err != nil {
		return "", err
	}
	var (
		clients sync.WaitGroup
		failed  atomic.Pointer[error]
	)
	chat := func() {
		if err := sendInCrowd(client, c.driver.url+"/api/chat", chatBody); err != nil {
			failed.Store(&err)
		}
	}
	clients.Go(chat)
	<-there
	for range n {
		clients.Go(chat)
	}
	row, err = c.watchLine(every, n, before, span)
	release()
	clients.Wait()
	if cause := failed.Load(); err == nil && cause != nil {
		err = fmt.Errorf("a chat in line: %w", *cause)
	}
	return row, err
}

// watchLine weighs the front when n chats have come and span later. Before they came
// it had so many KB.
func (c *column) watchLine(every string, n, before int, span time.Duration) (row string, err error) {
	first, err := c.driver.settle()
	if err != nil {
		return "", err
	}
	used, err := c.driver.processor()
	if err != nil {
		return "", err
	}
	began := time.Now()
	time.Sleep(span)
	last, err := c.driver.memory()
	if err != nil {
		return "", err
	}
	after, err := c.driver.processor()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("| FOREMAN_HEARTBEAT=%s | %.1f KB | %.1f KB | %.2f %% of a core | %.2f |", every,
		float64(first-before)/float64(n), float64(last-before)/float64(n), 100*(after-used).Seconds()/time.Since(began).Seconds(), machineLoad()), nil
}

// processor returns the CPU time that the front has used, to a hundredth of a second.
func (d *driver) processor() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.pid)) // proc(5)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // behind the name
	var ticks int64
	for _, field := range strings.Fields(rest)[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
