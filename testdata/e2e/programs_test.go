package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"foreman/e2e/lab"
)

func TestSmokeScript(t *testing.T) {
	t.Parallel()
	need(t, "smoke.sh needs curl (Debian: apt-get install curl)", "curl")
	bash := need(t, "smoke.sh is a script for bash (Debian: apt-get install bash)", "bash")
	foreman := startForeman(t, ollama.URL)
	out, err := exec.CommandContext(t.Context(), bash, "../smoke.sh", foreman.URL, lab.ChatModel, lab.EmbedModel).CombinedOutput()
	t.Logf("smoke.sh:\n%s", out)
	if err != nil {
		t.Errorf("smoke.sh: got %v; want exit status 0", err)
	}
}

// TestDemoLeavesNothing interrupts the program beside this test, as a terminal
// does (the whole process group) and as kill does.
func TestDemoLeavesNothing(t *testing.T) {
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	tests := []struct {
		name   string
		args   []string
		when   string // what it has said by then
		signal syscall.Signal
		group  bool
	}{
		{"Ctrl-C when up", nil, "Ctrl-C stops", syscall.SIGINT, true},
		{"terminated when up", nil, "Ctrl-C stops", syscall.SIGTERM, false},
		{"its reader leaves", nil, "Three chats", syscall.SIGPIPE, false},
		{"Ctrl-C while Ollama is built", nil, "Building Ollama", syscall.SIGINT, true},
		{"interrupted while foreman is built", nil, "Building foreman", syscall.SIGINT, false},
		{"Ctrl-C while a client waits", nil, "bert asks", syscall.SIGINT, true},
		{"Ctrl-C when busy", []string{"-busy"}, "clara is served", syscall.SIGINT, true},
		{"terminated when busy", []string{"-busy"}, "clara asks", syscall.SIGTERM, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tmp, outFile := t.TempDir(), filepath.Join(t.TempDir(), "out")
			cmd := exec.Command(program, tt.args...)
			said := start(t, cmd, tmp, outFile)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()

			eventually(t, func() error {
				if !strings.Contains(said(), tt.when) {
					return fmt.Errorf("it has not said %q:\n%s", tt.when, said())
				}
				return nil
			})
			target := cmd.Process.Pid
			if tt.group {
				target = -target
			}
			if err := syscall.Kill(target, tt.signal); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("got %v; want exit status 0", err)
				}
			case <-time.After(time.Minute):
				cmd.Process.Kill()
				t.Error("it did not end")
			}

			if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
				t.Errorf("files left behind: %q", left)
			}
			if left := processesWith("TMPDIR=" + tmp); len(left) > 0 {
				t.Errorf("processes left behind: %q", left)
			}
			for _, url := range regexp.MustCompile(`http://[\d.:]+`).FindAllString(said(), 2) {
				if resp, err := http.Get(url); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: got %v, %v; want nobody there", url, resp, err)
				}
			}
			t.Logf("it said:\n%s", said())
		})
	}
}

// start starts cmd in a process group of its own, with tmp for its files and the
// stand-in in a hurry, and returns a function that reads what it has said.
func start(t *testing.T, cmd *exec.Cmd, tmp, outFile string) (said func() string) {
	t.Helper()
	out, err := os.Create(outFile)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "STANDIN_LOAD=0", "STANDIN_RATE=100")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() string {
		b, err := os.ReadFile(outFile)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
}

// processesWith returns the command lines of the processes whose environment
// holds text. Where there is no /proc it finds none: there the test relies on
// the addresses alone.
func processesWith(text string) (commands []string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		if environ, _ := os.ReadFile(name); bytes.Contains(environ, []byte(text)) {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline"))
			commands = append(commands, string(command))
		}
	}
	return commands
}
