package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An ollama is a real one whose runner is a stand-in that takes the time of a Host. Its program says on its first
// line where it listens, and ends when its stdin does.
type ollama struct {
	clock
	host    Host
	cmd     *exec.Cmd
	stdin   io.Closer
	address string
	diary   string // a file of what the stand-in did
}

// startOllama starts one whose time runs at a scale.
func startOllama(program, dir string, host Host, scale float64) (*ollama, error) {
	o := &ollama{host: host, cmd: exec.Command(program), diary: filepath.Join(dir, "diary")}
	o.cmd.Env = append(os.Environ(),
		fmt.Sprintf("STANDIN_LOAD=%.6fs", host.LoadTime/scale),
		fmt.Sprintf("STANDIN_READ=%f", host.PromptRate*scale),
		fmt.Sprintf("STANDIN_RATE=%f", host.DecodeRate*scale),
		fmt.Sprintf("STANDIN_KEEP=%d", host.Keep),
		"STANDIN_LOG="+o.diary,
	)
	o.cmd.Stderr = os.Stderr
	stdin, err := o.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.stdin = stdin
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stdin.Close()
		return nil, fmt.Errorf("%s did not say where it listens: %w", program, cmp.Or(o.cmd.Wait(), err))
	}
	o.address = strings.TrimSpace(line)
	return o, nil
}

func (o *ollama) url() string   { return o.address }
func (o *ollama) begin(c clock) { o.clock = c }

// An entry is one of the stand-in's diary: a model that was loaded, or an answer.
type entry struct {
	Model    string
	From, To time.Time
	Prompt   int // 0: it was loaded
	Cached   int
	Said     int
	End      string // of the prompt's text
}

// sent is what the driver wrote at the end of a prompt.
var sent = regexp.MustCompile(`\{"ID":(\d+),`)

// end ends it, and returns what it served, by ID.
func (o *ollama) end() (map[int]*Record, error) {
	o.stdin.Close()
	if err := o.cmd.Wait(); err != nil {
		return nil, err
	}
	entries, err := read[entry](o.diary)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return a.From.Compare(b.From) })
	served := map[int]*Record{}
	loads := map[string]*entry{} // that no chat has used yet, by model
	for _, e := range entries {
		if e.Prompt == 0 {
			loads[e.Model] = &e
			continue
		}
		found := sent.FindAllStringSubmatch(e.End, -1)
		if found == nil {
			continue // it is no chat of ours
		}
		id, _ := strconv.Atoi(found[len(found)-1][1])
		r := &Record{Start: o.at(e.From), Stop: o.at(e.To)}
		r.Cached, r.Read, r.Decode = e.Cached, float64(e.Prompt-e.Cached)/o.host.PromptRate, float64(e.Said)/o.host.DecodeRate
		if load := loads[e.Model]; load != nil {
			delete(loads, e.Model)
			r.Start, r.Load = o.at(load.From), o.host.LoadTime
		}
		served[id] = r
	}
	return served, nil
}
