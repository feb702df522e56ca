// Command bench shows what foreman costs, and what it costs when it grows: the
// time from its start to its first answer, the rate and latency of embeddings by
// how many are sent at once, the memory of a queued chat and the target's idle time
// between two chats by how many wait. It prints a table in Markdown.
// testdata/bench.sh runs it.
//
//	bench FRONT=COMMAND...   drives each front; COMMAND gets TARGET and LISTEN,
//	                         two addresses, from its environment
//	bench bare               is such a front: a pooled httputil.ReverseProxy
//	bench beats COMMAND      has 10,000 chats stand in line at a foreman, with
//	                         heartbeats and without
//
// Everything listens on 127.0.0.1.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 2 && os.Args[1] == "bare" {
		log.Fatal(bare(os.Getenv("TARGET"), os.Getenv("LISTEN")))
	}
	if len(os.Args) == 3 && os.Args[1] == "beats" {
		if err := beats(os.Args[2], 10_000); err != nil {
			log.Fatal(err)
		}
		return
	}
	target, err := startTarget()
	if err != nil {
		log.Fatal(err)
	}
	var columns []*column
	for _, arg := range os.Args[1:] {
		name, command, ok := strings.Cut(arg, "=")
		if !ok {
			log.Fatalf("%q: expected FRONT=COMMAND", arg)
		}
		columns = append(columns, &column{
			name: name, command: command, target: target,
			queues: map[int][]queueFigures{}, embeds: map[int][]embedFigures{},
		})
	}
	inTurn(columns, queueChats)
	inTurn(columns, embed)
	printTable(slices.DeleteFunc(columns, func(c *column) bool {
		if c.err != nil {
			log.Printf("%s is left out: %v", c.name, c.err)
		}
		return c.err != nil
	}))
}

// inTurn starts all fronts afresh and has each measured by how much is asked of it,
// several times, and each time in another order: a machine that others share is not
// as fast in one minute as in the next.
func inTurn(columns []*column, m measurement) {
	for _, c := range columns {
		if c.err == nil {
			defer c.start()()
		}
	}
	for round := range 7 {
		for _, n := range m.amounts {
			if round > 0 && n >= 10_000 {
				continue // once is enough of these
			}
			for _, i := range rand.Perm(len(columns)) {
				if c := columns[i]; c.err == nil {
					c.err = m.take(c, n)
				}
			}
		}
	}
}

// A measurement is taken of a front for each of several amounts.
type measurement struct {
	amounts []int
	take    func(c *column, n int) error
}

var embed = measurement{[]int{1, 32, 1000}, func(c *column, n int) error {
	c.embeds[n] = append(c.embeds[n], c.driver.embeds(n, time.Second))
	return nil
}}

var queueChats = measurement{[]int{10, 100, 1000, 10_000}, func(c *column, n int) error {
	if c.noGate {
		return nil
	}
	figures, err := c.driver.queue(n)
	if err == errNoGate {
		c.noGate = true
		return nil
	}
	c.queues[n] = append(c.queues[n], figures)
	return err
}}

// bare is the least that a proxy can be: the ceiling of every other figure.
func bare(target, listen string) error {
	u := &url.URL{Scheme: "http", Host: target}
	return http.ListenAndServe(listen, &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u) },
		FlushInterval: -1,
		BufferPool:    new(buffers),
		ErrorLog:      log.New(io.Discard, "", 0), // what fails is counted
		Transport:     &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true},
	})
}

type buffers struct{ sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.Pool.Get().(*[32 << 10]byte); ok {
		return v[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(v []byte) { b.Pool.Put((*[32 << 10]byte)(v)) }

// A column is a front and what was measured of it.
type column struct {
	name, command string
	target        *target
	driver        *driver // while it runs
	err           error   // why it is left out

	ready  time.Duration // from its start to its first answer
	idle   int           // KB of memory then
	noGate bool
	queues map[int][]queueFigures // of each round, by how many were queued
	embeds map[int][]embedFigures // of each round, by how many were sent at once
}

// start starts the front, and returns what ends it.
func (c *column) start() (stop func()) {
	var listen string
	if listen, c.err = freeAddress(); c.err != nil {
		return func() {}
	}
	front := exec.Command("sh", "-c", "exec "+c.command)
	front.Env = append(os.Environ(), "TARGET="+c.target.addr, "LISTEN="+listen)
	front.Stderr = os.Stderr
	began := time.Now()
	if c.err = front.Start(); c.err != nil {
		return func() {}
	}
	c.driver = &driver{url: "http://" + listen, target: c.target, pid: front.Process.Pid}
	c.err = c.driver.awaitReady()
	c.ready = time.Since(began)
	if c.err == nil {
		c.idle, c.err = c.driver.settle()
	}
	return func() {
		front.Process.Signal(syscall.SIGTERM)
		front.Wait()
	}
}

// freeAddress returns an address for a front. It is not of the range from which
// the kernel takes a client's port: whoever dials such a port before the front
// listens may be connected with itself.
func freeAddress() (string, error) {
	for port := 21000; port < 22000; port++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", errors.New("no free port from 21000 to 21999")
}

func printTable(columns []*column) {
	row := func(label string, cell func(*column) string) {
		fmt.Printf("| %s |", label)
		for _, c := range columns {
			fmt.Printf(" %s |", cell(c))
		}
		fmt.Println()
	}
	row("", func(c *column) string { return c.name })
	row("---", func(*column) string { return "---" })
	row("start to first answer; memory then", func(c *column) string {
		return fmt.Sprintf("%d ms; %.1f MB", c.ready.Milliseconds(), float64(c.idle)/1024)
	})
	for _, n := range embed.amounts {
		row(fmt.Sprintf("%d embeds at once: rate, p50, p99", n), func(c *column) string {
			e := median(c.embeds[n])
			cell := fmt.Sprintf("%.0f/s, %s, %s", e.rate, short(e.p50), short(e.p99))
			if e.failed > 0 {
				cell += fmt.Sprintf("; %d failed", e.failed)
			}
			return cell
		})
	}
	for _, n := range queueChats.amounts {
		row(fmt.Sprintf("%d chats queued: memory of one; target idle between two p50, p99", n), func(c *column) string {
			if c.noGate {
				return "no gate"
			}
			// A front takes memory the first time.
			gaps := idle(c.queues[n])
			return fmt.Sprintf("%.1f KB; %s, %s", c.queues[n][0].kilobytes, short(quantile(gaps, .5)), short(quantile(gaps, .99)))
		})
	}
}

func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
}
