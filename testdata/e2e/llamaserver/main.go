// Command llamaserver stands in for llama-server, the program that Ollama starts
// for each model it loads and asks for words and embeddings. It answers what
// Ollama asks, over the same HTTP routes, but it reads no weights and makes up
// all words: syllables without meaning, the same ones for the same prompt, exactly
// as many as were asked for.
//
// The environment says how slow it is, for Ollama passes its own on:
//
//	STANDIN_LOAD=2s    how long it loads its model
//	STANDIN_PROMPT=1s  how long it reads a prompt before the first word
//	STANDIN_RATE=20    words per second; 0: as fast as it can
//	STANDIN_PAUSE=1s   how long it is silent before the last word of an answer
//	STANDIN_CRASH=5    it exits instead of the fifth word of an answer
//	STANDIN_READ=2000  tokens of a prompt per second, besides STANDIN_PROMPT; 0: no time
//	STANDIN_KEEP=4     how many prompts it keeps, see cache.go; 0: none
//	STANDIN_LOG=FILE   where it appends what it did, see log.go
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("llama-server", flag.ContinueOnError)
	flags.SetOutput(stderr)
	list := flags.Bool("list-devices", false, "")
	host := flags.String("host", "127.0.0.1", "")
	port := flags.Int("port", 8080, "")
	model := flags.String("model", "", "")
	slots := flags.Int("np", 1, "")
	if err := flags.Parse(known(flags, args)); err != nil {
		return err
	}
	if *list {
		_, err := fmt.Fprintln(stdout, "Available devices:") // and none follows
		return err
	}
	pace, err := readPace(getenv)
	if err != nil {
		return err
	}

	// Ollama waits for this line when it looks for graphics cards.
	fmt.Fprintln(stderr, "system_info: a stand-in for llama-server, no devices")
	if *model != "" {
		size, err := checkModel(*model)
		if err != nil {
			return fmt.Errorf("error loading model: %w", err)
		}
		// From this line Ollama learns that the model is in main memory.
		fmt.Fprintf(stderr, "load_tensors:   CPU_Mapped model buffer size = %8.2f MiB\n", float64(size)/(1<<20))
	}
	l, err := net.Listen("tcp", net.JoinHostPort(*host, strconv.Itoa(*port)))
	if err != nil {
		return err
	}
	s := newServer(filepath.Base(*model), pace, max(*slots, 1))
	s.log = diary{file: getenv("STANDIN_LOG"), model: filepath.Base(*model)}
	s.log.loads(s.ready.Add(-pace.load), s.ready)
	return http.Serve(l, s)
}

// known returns those arguments that are among the flags, with their values.
// Ollama gives many more, none of which matters to who reads no weights.
func known(flags *flag.FlagSet, args []string) (kept []string) {
	for i := 0; i < len(args); i++ {
		name := strings.TrimLeft(args[i], "-")
		f := flags.Lookup(name)
		if f == nil || name == args[i] {
			continue
		}
		kept = append(kept, args[i])
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			continue
		}
		if i+1 < len(args) {
			i++
			kept = append(kept, args[i])
		}
	}
	return kept
}

// checkModel returns the size of the file, which must be GGUF.
func checkModel(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return 0, err
	}
	if string(magic) != "GGUF" {
		return 0, errors.New("not a GGUF file")
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// A pace says how long everything takes.
type pace struct {
	load, prompt time.Duration
	pause        time.Duration // before the last word
	rate         float64       // words per second; 0: no limit
	read         float64       // tokens of a prompt per second; 0: no limit
	keep         int           // prompts
	crash        int           // the word that is not said any more; 0: none
}

func readPace(getenv func(string) string) (p pace, err error) {
	duration := func(name string, into *time.Duration) {
		if text := getenv(name); text != "" && err == nil {
			if *into, err = time.ParseDuration(text); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	duration("STANDIN_LOAD", &p.load)
	duration("STANDIN_PROMPT", &p.prompt)
	duration("STANDIN_PAUSE", &p.pause)
	number := func(name, what string, into *float64) {
		if text := getenv(name); text != "" && err == nil {
			if *into, err = strconv.ParseFloat(text, 64); err != nil || *into < 0 {
				err = fmt.Errorf("%s: %q is no number of %s per second", name, text, what)
			}
		}
	}
	number("STANDIN_RATE", "words", &p.rate)
	number("STANDIN_READ", "tokens", &p.read)
	count := func(name string, into *int) {
		if text := getenv(name); text != "" && err == nil {
			if *into, err = strconv.Atoi(text); err != nil {
				err = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	count("STANDIN_CRASH", &p.crash)
	count("STANDIN_KEEP", &p.keep)
	return p, err
}

// sleepUntil waits for a moment that may have passed, and returns an error if ctx
// ends first.
func sleepUntil(ctx context.Context, moment time.Time) error {
	wait := time.Until(moment)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
