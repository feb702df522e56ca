// Command host is an Ollama for testdata/bench.sh -workload: a real one, whose runner is the
// stand-in for llama-server. It holds two models that chat, a and b, and loads one of
// them at a time. It says on its first line where it listens, ends when its stdin does, and leaves
// nothing behind. STANDIN_… in its environment goes on to the stand-in.
//
//	host -build DIR   builds Ollama and the stand-in under DIR, and prints where Ollama is
//	host BINARY       starts an Ollama that was built so
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"foreman/e2e/lab"
)

func main() {
	dir := flag.String("build", "", "the `folder` to build Ollama under")
	flag.Parse()
	if err := run(*dir, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		os.Exit(1)
	}
}

func run(dir string, args []string) error {
	ctx := context.Background()
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		binary, err := lab.BuildOllama(ctx, dir)
		if err == nil {
			fmt.Println(binary)
		}
		return err
	}
	if len(args) != 1 {
		return errors.New("expected -build DIR, or the binary of an Ollama")
	}
	scratch, err := os.MkdirTemp("", "host-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	env := []string{"OLLAMA_NUM_PARALLEL=1", "OLLAMA_MAX_LOADED_MODELS=1"}
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "STANDIN_") {
			env = append(env, variable)
		}
	}
	ollama, err := lab.StartOllama(ctx, args[0], scratch, env...)
	if err != nil {
		return err
	}
	defer ollama.Kill()
	for seed, name := range []string{"a", "b"} {
		if err := ollama.AddLongModel(name, uint64(10+seed)); err != nil {
			return err
		}
	}
	fmt.Println(ollama.URL)
	io.Copy(io.Discard, os.Stdin)
	return nil
}
