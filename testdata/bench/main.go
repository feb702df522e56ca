// Command bench shows what foreman costs, and what it costs when it grows.
// testdata/bench.sh runs it, and says with -h what it measures.
//
//	bench [-short] FRONT=COMMAND...  drives each front; COMMAND gets TARGET and
//	                                 LISTEN, two addresses, from its environment;
//	                                 the first front is a foreman
//	bench bare                       is such a front: a pooled httputil.ReverseProxy
//
// Everything listens on 127.0.0.1.
package main

import (
	"errors"
	"flag"
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A size is how much is measured.
type size struct {
	rounds int

	queued []int // how many chats are put in line
	embeds []int // how many clients send embeddings at once
	span   time.Duration
	chats  int // of each client that keeps its connection
	words  int // of a streamed answer

	standing int           // how many chats stand in line
	stand    time.Duration // for how long: a foreman tells each that it is alive every 20 s
}

var (
	whole = size{5, []int{10, 100, 1000, 10_000}, []int{1, 32, 1000}, time.Second, 20, 200, 10_000, time.Minute}
	short = size{1, []int{10, 100}, []int{1, 32}, 100 * time.Millisecond, 5, 100, 100, time.Second}
)

// keepers is how many clients keep their connections.
const keepers = 16

func main() {
	runtime.LockOSThread() // fronts end with the thread that started them
	log.SetFlags(0)
	size := whole
	flag.BoolFunc("short", "measure too little to tell anything, to see that it works", func(string) error {
		size = short
		return nil
	})
	flag.Parse()
	if flag.NArg() == 1 && flag.Arg(0) == "bare" {
		log.Fatal(bare(os.Getenv("TARGET"), os.Getenv("LISTEN")))
	}
	if err := bench(size, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// bench measures the fronts, and prints the tables.
func bench(size size, fronts []string) error {
	target, err := startTarget()
	if err != nil {
		return err
	}
	var columns []*column
	for _, arg := range fronts {
		name, command, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: expected FRONT=COMMAND", arg)
		}
		columns = append(columns, &column{
			name: name, command: command, target: target,
			queues: map[int][]queueFigures{}, embeds: map[int][]embedFigures{},
		})
	}
	if len(columns) == 0 {
		return errors.New("expected FRONT=COMMAND")
	}
	p := newProgress()
	inTurn(p, "queued chats", columns, size.rounds, queueing(size))
	inTurn(p, "answers", columns, size.rounds, answering(size))
	p.pause()
	good := slices.DeleteFunc(slices.Clone(columns), func(c *column) bool {
		if c.err != nil {
			log.Printf("%s is left out: %v", c.name, c.err)
		}
		return c.err != nil
	})
	if columns[0].err != nil {
		return errors.New("there is nothing to compare")
	}
	printFigures(size, good)
	fmt.Println()
	printRatios(size, good)
	fmt.Println()
	return beats(p, columns[0].command, size)
}

// inTurn starts all fronts afresh and has each measured several times, and each time
// in another order: a machine that others share is not as fast in one minute as in
// the next.
func inTurn(p *progress, part string, columns []*column, rounds int, ms []measurement) {
	for _, c := range columns {
		p.tell(part, "starting "+c.name)
		if c.err == nil {
			defer c.start()()
		}
	}
	for round := range rounds {
		for _, m := range ms {
			if round > 0 && m.once {
				continue
			}
			for range 1 + m.more {
				for _, i := range rand.Perm(len(columns)) {
					if c := columns[i]; c.err == nil && !(m.gate && c.noGate) {
						p.tell(fmt.Sprintf("%s, round %d of %d", part, round+1, rounds), m.name+", "+c.name)
						c.loads = append(c.loads, machineLoad())
						taken := make(chan error)
						go func() { taken <- m.take(c) }() // main is locked to a thread, and wakes late
						c.err = <-taken
					}
				}
			}
		}
	}
}

// A measurement is taken of a front.
type measurement struct {
	name string
	gate bool // only fronts that send one chat at a time have it
	once bool // one round is enough
	more int  // how many times more it is taken in each round
	take func(c *column) error
}

// queueing is what is measured first: it weighs the fronts, and they take memory the
// first time.
func queueing(size size) (ms []measurement) {
	for _, n := range size.queued {
		ms = append(ms, measurement{
			name: fmt.Sprintf("%d chats in line", n), gate: true, once: n >= 10_000,
			take: func(c *column) error {
				figures, err := c.driver.queue(n)
				if err == errNoGate {
					c.noGate = true
					return nil
				}
				c.queues[n] = append(c.queues[n], figures)
				return err
			},
		})
	}
	return ms
}

// answering is what is measured of fronts that have settled.
func answering(size size) (ms []measurement) {
	for _, n := range size.embeds {
		ms = append(ms, measurement{
			name: fmt.Sprintf("%d embeddings at once", n),
			take: func(c *column) error {
				c.embeds[n] = append(c.embeds[n], c.driver.embeds(n, size.span))
				return nil
			},
		})
	}
	// What follows is short and often: whatever else the machine does then disturbs
	// some of the times, and not their median.
	ms = append(ms, measurement{
		name: fmt.Sprintf("chats of %d clients", keepers), gate: true, more: 2,
		take: func(c *column) error {
			gaps, err := c.driver.kept(keepers, size.chats)
			c.kept = append(c.kept, gaps)
			return err
		},
	})
	return append(ms, measurement{
		name: "a streamed answer", more: 4,
		take: func(c *column) error {
			late, err := c.driver.stream(size.words)
			// A proxy of net/http may lose the race between an answer and the body's end.
			for again := 0; err != nil && again < 3; again++ {
				c.lost++
				late, err = c.driver.stream(size.words)
			}
			c.late = append(c.late, late)
			return err
		},
	})
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

// A column is a front and what was measured of it.
type column struct {
	name, command string
	target        *target
	driver        *driver // while it runs
	err           error   // why it is left out

	loads  []float64     // of the machine, at each measurement
	ready  time.Duration // from its start to its first answer
	idle   int           // KB of memory then
	noGate bool
	queues map[int][]queueFigures // of each round, by how many were queued
	embeds map[int][]embedFigures // of each round, by how many were sent at once
	kept   [][]time.Duration      // of each time: the target's idle times between chats of clients that keep their connections
	late   [][]time.Duration      // of each time: how long a word was on its way
	lost   int                    // streamed answers that were asked for again
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
	front.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // also if we are killed
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

// machineLoad is how many processes ran or waited for a processor in the last minute.
func machineLoad() (load float64) {
	text, _ := os.ReadFile("/proc/loadavg") // proc(5)
	fmt.Sscan(string(text), &load)
	return load
}
