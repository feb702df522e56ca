// Command bench shows what foreman costs, and what it costs when it grows: the
// rate and latency of embeddings by how many are sent at once, the memory of a
// queued chat and the target's idle time between two chats by how many wait. It
// prints a table in Markdown. testdata/bench.sh runs it.
//
//	bench FRONT=COMMAND...   drives each front; COMMAND gets TARGET and LISTEN,
//	                         two addresses, from its environment
//	bench bare               is such a front: a pooled httputil.ReverseProxy
//
// Everything listens on 127.0.0.1.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	embedsAtOnce = []int{1, 32, 1000}
	chatsQueued  = []int{10, 100, 1000, 10_000}
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 2 && os.Args[1] == "bare" {
		log.Fatal(bare(os.Getenv("TARGET"), os.Getenv("LISTEN")))
	}
	target, err := startTarget()
	if err != nil {
		log.Fatal(err)
	}
	var columns []column
	for _, arg := range os.Args[1:] {
		name, command, ok := strings.Cut(arg, "=")
		if !ok {
			log.Fatalf("%q: expected FRONT=COMMAND", arg)
		}
		c, err := measure(name, command, target)
		if err != nil {
			log.Printf("%s is left out: %v", name, err)
			continue
		}
		columns = append(columns, c)
	}
	printTable(columns)
}

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

// A column is what was measured of one front.
type column struct {
	name   string
	embeds []embedFigures
	queues []queueFigures // none if it is no gate
}

// measure starts a front and drives it.
func measure(name, command string, target *target) (column, error) {
	c := column{name: name}
	listen, err := freeAddress()
	if err != nil {
		return c, err
	}

	front := exec.Command("sh", "-c", "exec "+command)
	front.Env = append(os.Environ(), "TARGET="+target.addr, "LISTEN="+listen)
	front.Stderr = os.Stderr
	if err := front.Start(); err != nil {
		return c, err
	}
	defer func() {
		front.Process.Signal(syscall.SIGTERM)
		front.Wait()
	}()
	d := &driver{url: "http://" + listen, target: target, pid: front.Process.Pid}
	if err := d.awaitReady(); err != nil {
		return c, err
	}
	for _, n := range chatsQueued {
		figures, err := d.queue(n)
		if err == errNoGate {
			break
		}
		if err != nil {
			return c, fmt.Errorf("%d chats queued: %w", n, err)
		}
		c.queues = append(c.queues, figures)
	}
	// These come last: memory that they have made a front take would hide what the
	// first of the chats need.
	for _, n := range embedsAtOnce {
		c.embeds = append(c.embeds, d.embeds(n, 3*time.Second))
	}
	return c, nil
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

func printTable(columns []column) {
	row := func(label string, cell func(column) string) {
		fmt.Printf("| %s |", label)
		for _, c := range columns {
			fmt.Printf(" %s |", cell(c))
		}
		fmt.Println()
	}
	row("", func(c column) string { return c.name })
	row("---", func(column) string { return "---" })
	for i, n := range embedsAtOnce {
		row(fmt.Sprintf("%d embeds at once: rate, p50, p99", n), func(c column) string {
			e := c.embeds[i]
			cell := fmt.Sprintf("%.0f/s, %s, %s", e.rate, short(e.p50), short(e.p99))
			if e.failed > 0 {
				cell += fmt.Sprintf("; %d failed", e.failed)
			}
			return cell
		})
	}
	for i, n := range chatsQueued {
		row(fmt.Sprintf("%d chats queued: memory of one; target idle between two p50, p99", n), func(c column) string {
			if len(c.queues) == 0 {
				return "no gate"
			}
			q := c.queues[i]
			return fmt.Sprintf("%.1f KB; %s, %s", q.kilobytes, short(q.p50), short(q.p99))
		})
	}
}

func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
}
