package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// beatSpan is how long the line stands: each chat in it is told three times that it
// is alive, if that is done every 20 s.
const beatSpan = 60 * time.Second

// beats puts n chats in line behind one that is held, and prints what they cost a
// foreman with heartbeats and one without.
func beats(command string, n int) error {
	target, err := startTarget()
	if err != nil {
		return err
	}
	fmt.Printf("| %d chats in line for %v | memory of one at first | and in the end | CPU meanwhile |\n| --- | --- | --- | --- |\n", n, beatSpan)
	for _, every := range []string{"0", "20s"} {
		c := &column{command: "env FOREMAN_HEARTBEAT=" + every + " FOREMAN_MAX_QUEUE=" + strconv.Itoa(n+1) + " " + command, target: target}
		stop := c.start()
		if c.err == nil {
			c.err = c.standInLine(every, n)
		}
		stop()
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// standInLine has n chats wait, and prints a row of the table.
func (c *column) standInLine(every string, n int) error {
	client := newClient(n + 1)
	defer client.CloseIdleConnections()
	there, release := c.target.holdNext()
	before, err := c.driver.memory()
	if err != nil {
		return err
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	defer release()
	chat := func() { send(client, c.driver.url+"/api/chat", chatBody) }
	clients.Go(chat)
	<-there
	for range n {
		clients.Go(chat)
	}
	first, err := c.driver.settle()
	if err != nil {
		return err
	}
	used, err := c.driver.processor()
	if err != nil {
		return err
	}
	began := time.Now()
	time.Sleep(beatSpan)
	last, err := c.driver.memory()
	if err != nil {
		return err
	}
	after, err := c.driver.processor()
	if err != nil {
		return err
	}
	fmt.Printf("| FOREMAN_HEARTBEAT=%s | %.1f KB | %.1f KB | %.2f %% of a core |\n", every,
		float64(first-before)/float64(n), float64(last-before)/float64(n), 100*(after-used).Seconds()/time.Since(began).Seconds())
	return nil
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
