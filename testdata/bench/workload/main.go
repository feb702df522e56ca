// Command workload compares fronts of one Ollama host that several people share: an hour of work, from published
// distributions, is sent through each front to a stub that takes the time of a host, or to a real Ollama. It prints
// tables in Markdown, and draws pictures. testdata/bench.sh -workload runs it.
//
//	workload                      each front on hosts that load a model in 3, 8 and 30 s
//	workload -ollama PROGRAM      each front on an Ollama that PROGRAM starts: testdata/e2e/host
//	workload -simulate            policies instead of fronts, in a second, without a network
//	workload -from FILE           what an earlier run has written
//	workload -resources FILE      a picture, to stdout, of samples of a foreman's memory
//
// A front needs about a millisecond of real time for what it does, which counts for as many simulated ones as -scale says: compare
// times of more than a few seconds only. Hosts are measured side by side; each has its bursts of embeddings when the others have none.
// Everything listens on 127.0.0.1; clients come from 127.0.1.1 and so on, which needs Linux.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type settings struct {
	horizon, patience, scale float64
	host                     Host
	loads                    []float64
	seeds                    []int
	fronts                   []front
	ollama, out              string
	programs                 map[string]string
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	s := settings{programs: map[string]string{}, loads: []float64{3, 8, 30}, seeds: []int{1}, fronts: fronts}
	flags := flag.NewFlagSet("workload", flag.ExitOnError)
	simulated := flags.Bool("simulate", false, "simulate policies")
	from := flags.String("from", "", "`file` of earlier runs, runs.jsonl, to print and draw again")
	resources := flags.String("resources", "", "`file` of samples, a line of JSON each, to draw")
	flags.Float64Var(&s.horizon, "horizon", 3600, "simulated `seconds` of work")
	flags.Float64Var(&s.patience, "patience", 300, "simulated `seconds` of silence until a client leaves; a batch never does")
	flags.Float64Var(&s.scale, "scale", 60, "simulated seconds in a real one")
	flags.Float64Var(&s.host.PromptRate, "prompt", 2000, "prompt `tokens` a second")
	flags.Float64Var(&s.host.DecodeRate, "decode", 80, "answer `tokens` a second")
	flags.IntVar(&s.host.Keep, "keep", 4, "`conversations` whose prompts the host keeps")
	flags.Func("loads", "`seconds` to load a model on each host (default 3,8,30)", list(&s.loads, func(t string) (float64, error) { return strconv.ParseFloat(t, 64) }))
	flags.Func("seeds", "`seeds` of the work (default 1)", list(&s.seeds, strconv.Atoi))
	flags.Func("fronts", "`names` of fronts (default all)", list(&s.fronts, frontOf))
	flags.StringVar(&s.ollama, "ollama", "", "`program` that starts an Ollama")
	flags.StringVar(&s.out, "out", "", "`folder` for pictures, and for the runs as runs.jsonl")
	for _, program := range []string{"foreman", "haproxy", "llama-swap"} {
		s.programs[program] = program
		flags.Func(program, "the `program`", func(path string) error { s.programs[program] = path; return nil })
	}
	flags.Parse(args)
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected arguments: %s", strings.Join(flags.Args(), " "))
	}
	var runs []Run
	var err error
	switch {
	case *resources != "":
		samples, err := read[Sample](*resources)
		if err == nil {
			_, err = io.WriteString(stdout, drawResources(samples))
		}
		return err
	case *from != "":
		if runs, err = read[Run](*from); err != nil {
			return err
		}
	case *simulated:
		runs = s.simulate()
	default:
		if runs = s.live(); len(runs) == 0 {
			return errors.New("no front could be measured")
		}
	}
	if _, err := io.WriteString(stdout, tables(runs)); err != nil || s.out == "" {
		return err
	}
	return s.keep(runs, *from == "")
}

// list reads values with commas between.
func list[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		*to = nil
		for part := range strings.SplitSeq(text, ",") {
			v, err := parse(part)
			if err != nil {
				return err
			}
			*to = append(*to, v)
		}
		return nil
	}
}

func frontOf(key string) (front, error) {
	var keys []string
	for _, f := range fronts {
		if f.key == key {
			return f, nil
		}
		keys = append(keys, f.key)
	}
	return front{}, fmt.Errorf("expected some of %s", strings.Join(keys, ","))
}

func (s settings) hostName(load float64) string {
	if s.ollama != "" {
		return fmt.Sprintf("Ollama, loads in %.4g s", load)
	}
	return fmt.Sprintf("loads in %.4g s", load)
}

func (s settings) simulate() (runs []Run) {
	for _, load := range s.loads {
		for _, p := range policies {
			for _, seed := range s.seeds {
				host := s.host
				host.LoadTime = load
				runs = append(runs, Run{
					Key: p.key, Front: p.name, People: p.shares.people, Background: p.shares.background, Host: s.hostName(load), Seed: uint64(seed), Horizon: s.horizon,
					Chats: simulate(newWork(uint64(seed), s.horizon), host, p, s.patience),
				})
			}
		}
	}
	return runs
}

// live measures one front after the other, each on all hosts at once. One that fails is left out.
func (s settings) live() (runs []Run) {
	began := time.Now()
	each := time.Duration((s.horizon+s.patience)/s.scale+3) * time.Second
	for _, seed := range s.seeds {
		for i, f := range s.fronts {
			fmt.Fprintf(os.Stderr, "[%v] seed %d, front %d of %d, for %v: %s\n", time.Since(began).Round(time.Second), seed, i+1, len(s.fronts), each, f.name)
			var all sync.WaitGroup
			var mu sync.Mutex
			for i, load := range s.loads {
				all.Go(func() {
					time.Sleep(time.Duration(float64(i) / float64(len(s.loads)) * burstEvery / s.scale * 1e9)) // for the bursts
					r, err := s.once(f, newWork(uint64(seed), s.horizon), load)
					mu.Lock()
					defer mu.Unlock()
					if err != nil {
						fmt.Fprintf(os.Stderr, "%s, %s: left out: %v\n", f.name, s.hostName(load), err)
						return
					}
					runs = append(runs, r)
				})
			}
			all.Wait()
		}
	}
	slices.SortStableFunc(runs, func(a, b Run) int { return cmp.Compare(s.hostOrder(a.Host), s.hostOrder(b.Host)) })
	return runs
}

func (s settings) hostOrder(name string) int {
	return slices.IndexFunc(s.loads, func(load float64) bool { return s.hostName(load) == name })
}

// A target is a host that serves one run.
type target interface {
	url() string
	begin(c clock)                 // the run
	end() (map[int]*Record, error) // it, and say what was served, by ID
}

// once sends a work through a front.
func (s settings) once(f front, w *work, load float64) (run Run, err error) {
	run = Run{Key: f.key, Front: f.name, People: f.shares.people, Background: f.shares.background, Host: s.hostName(load), Seed: w.seed, Horizon: w.horizon, Scale: s.scale, Machine: machineLoad()}
	dir, err := os.MkdirTemp("", "workload")
	if err != nil {
		return run, err
	}
	defer os.RemoveAll(dir)
	host := s.host
	host.LoadTime = load
	var t target
	if s.ollama != "" { // it has room for one model
		w.lanes = slices.DeleteFunc(w.lanes, func(l Lane) bool { return l.Requests[0].Kind == embeddings })
		t, err = startOllama(s.ollama, dir, host, s.scale)
	} else {
		t, err = startStub(host, s.scale)
	}
	if err != nil {
		return run, err
	}
	p := place{dir: dir, target: strings.TrimPrefix(t.url(), "http://"), scale: s.scale, clients: w.clients, programs: s.programs}
	if s.ollama == "" {
		p.embedder = "embed"
	}
	r, err := f.start(p)
	if err != nil {
		t.end()
		return run, err
	}
	c := clock{time.Now(), s.scale}
	t.begin(c)
	d := newDriver(c, r.url, f.v1, s.patience, w)
	stop := r.sample(c, max(s.horizon/240, s.scale), &run.Samples)
	d.drive(w)
	stop()
	text, _ := os.ReadFile(r.log)
	r.stop()
	served, err := t.end()
	for _, chat := range d.records {
		if side := served[chat.ID]; side != nil && side.Stop > 0 {
			chat.Start, chat.Stop, chat.Cost = side.Start, side.Stop, side.Cost
		}
	}
	run.Chats, run.Embed, run.EmbedLost = d.records, d.embed, d.embedFailed
	if len(text) > 0 {
		fmt.Fprintf(os.Stderr, "%s says: %s\n", f.name, text[:min(len(text), 2000)])
	}
	return run, err
}

// machineLoad is how many processes ran or waited for a processor in the last minute.
func machineLoad() (load float64) {
	text, _ := os.ReadFile("/proc/loadavg")
	fmt.Sscan(string(text), &load)
	return load
}

// keep writes the pictures, and the runs.
func (s settings) keep(runs []Run, written bool) error {
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	write := func(name, text string) error { return os.WriteFile(filepath.Join(s.out, name), []byte(text), 0o644) }
	var errs []error
	for _, g := range groupsOf(runs) {
		name := strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(g.host))
		errs = append(errs, write("waits-"+name+".svg", drawWaits(g)), write("turns-"+name+".svg", drawTurns(g)))
		if f := g.of("foreman"); f != nil && len(f.Runs[0].Samples) > 0 {
			errs = append(errs, write("resources-"+name+".svg", drawResources(f.Runs[0].Samples)))
		}
	}
	if written {
		var b strings.Builder
		for _, r := range runs {
			errs = append(errs, json.NewEncoder(&b).Encode(r))
		}
		errs = append(errs, write("runs.jsonl", b.String()))
	}
	return errors.Join(errs...)
}

// read reads a file of JSON.
func read[T any](name string) (all []T, err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for values := json.NewDecoder(bufio.NewReader(file)); ; {
		var v T
		if err := values.Decode(&v); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, v)
	}
}
