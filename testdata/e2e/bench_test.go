package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// benchCommand is testdata/bench.sh, in a process group of its own.
func benchCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	bash := need(t, "bench.sh is a script for bash (Debian: apt-get install bash)", "bash")
	cmd := exec.CommandContext(t.Context(), bash, append([]string{"../bench.sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// bench runs testdata/bench.sh.
func bench(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, told bytes.Buffer
	cmd := benchCommand(t, args...)
	cmd.Stdout, cmd.Stderr = &out, &told
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), told.String(), cmd.ProcessState.ExitCode()
}

func TestBenchHelp(t *testing.T) {
	out, told, status := bench(t, "-h")
	if status != 0 || told != "" {
		t.Errorf("bench.sh -h: got status %d, stderr %q; want 0 and nothing", status, told)
	}
	for _, want := range []string{"usage: testdata/bench.sh [-short | -workload [FLAG...]]\n", "Measures ", "Needs Linux and Go.", "Takes ", " minutes", "\n  -short  ", "\n  -h "} {
		if !strings.Contains(out, want) {
			t.Errorf("bench.sh -h: got %s; want %q in it", out, want)
		}
	}
}

func TestBenchRefusesArguments(t *testing.T) {
	for _, args := range [][]string{{"-x"}, {"foreman"}, {""}, {"-short", "-h"}, {"-short", "1"}} {
		out, told, status := bench(t, args...)
		if status != 2 || out != "" || strings.Count(told, "\n") != 1 || !strings.Contains(told, "; expected none, or -short, or -h") {
			t.Errorf("bench.sh %q: got status %d, stdout %q, stderr %q; want 2, nothing, and a line that says what is expected", args, status, out, told)
		}
	}
}

// TestBenchShort sees that there is a figure, however bad, in each place of each table.
func TestBenchShort(t *testing.T) {
	out, told, status := bench(t, "-short")
	t.Logf("bench.sh -short:\n%s%s", told, out)
	if status != 0 {
		t.Fatalf("bench.sh -short: got status %d; want 0", status)
	}
	parts := strings.Split(strings.TrimSpace(out), "\n\n")
	if len(parts) != 4 {
		t.Fatalf("bench.sh -short: got %d parts; want a line and three tables", len(parts))
	}
	const (
		duration = `\d+ [mµ]s`
		failures = `(; \d+ failed)?`
		pair     = duration + `, ` + duration
		rate     = `\d+/s, ` + pair + failures
		queued   = `-?\d+\.\d KB; ` + pair
		ratio    = `\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)`
		beats    = `-?\d+\.\d KB \| -?\d+\.\d KB \| \d+\.\d\d % of a core \| \d+\.\d\d`
	)
	check := func(table string, rows [][2]string, gate func(front string) bool) {
		lines := strings.Split(table, "\n")
		if len(lines) != len(rows)+2 {
			t.Errorf("got a table of %d lines; want %d:\n%s", len(lines), len(rows)+2, table)
			return
		}
		fronts := cells(lines[0])
		for i, row := range rows {
			label, pattern := row[0], row[1]
			got := cells(lines[i+2])
			if len(got) != len(fronts) || got[0] != label {
				t.Errorf("got row %q; want one of %d cells whose first is %q", lines[i+2], len(fronts), label)
				continue
			}
			for j, cell := range got[1:] {
				want := pattern
				if rest, ok := strings.CutPrefix(pattern, "gate:"); ok {
					if want = rest; !gate(fronts[j+1]) {
						want = "no gate"
					}
				}
				if !regexp.MustCompile("^" + want + "$").MatchString(cell) {
					t.Errorf("%s, %s: got %q; want %s", label, fronts[j+1], cell, want)
				}
			}
		}
	}
	hasGate := func(front string) bool {
		return strings.HasPrefix(front, "foreman") || strings.HasPrefix(front, "HAProxy")
	}
	for i, want := range []string{"|  | foreman | bare ReverseProxy |", "| foreman, compared with | bare ReverseProxy |"} {
		if table := parts[i+1]; !strings.HasPrefix(table, want) || !strings.Contains(table, "| foreman, no heap reserved |\n") {
			t.Errorf("got table %s; want it to begin with %s and to have the foreman without a reserve", table, want)
		}
	}
	check(parts[1], [][2]string{
		{"start to first answer; memory then", `\d+ ms; \d+\.\d MB`},
		{"1 embeds at once: rate, p50, p99", rate},
		{"32 embeds at once: rate, p50, p99", rate},
		{"10 chats queued: memory of one; target idle between two p50, p99", "gate:" + queued},
		{"100 chats queued: memory of one; target idle between two p50, p99", "gate:" + queued},
		{"16 clients that keep their connections: target idle between two chats p50, p99", "gate:" + pair},
		{"a streamed word's way: p50, p99", pair + failures},
		{"load of the machine meanwhile", `\d+\.\d\d to \d+\.\d\d`},
	}, hasGate)
	check(parts[2], [][2]string{
		{"1 embeds at once: rate", ratio},
		{"32 embeds at once: rate", ratio},
		{"16 clients that keep their connections: target idle between two chats p50", "gate:" + ratio},
		{"16 clients that keep their connections: target idle between two chats p99", "gate:" + ratio},
		{"a streamed word's way: p50", ratio},
		{"a streamed word's way: p99", ratio},
	}, hasGate)
	if want := `^\| 100 chats in line for 1s \| .*\n.*\n\| FOREMAN_HEARTBEAT=0 \| ` + beats + ` \|\n\| FOREMAN_HEARTBEAT=20s \| ` + beats + ` \|$`; !regexp.MustCompile(want).MatchString(parts[3]) {
		t.Errorf("got table %s; want %s", parts[3], want)
	}
	for _, want := range []string{
		`queued chats, round 1 of 1: \d+ chats in line, `,
		`answers, round 1 of 1: .*, `,
		`the line: 100 chats, FOREMAN_HEARTBEAT=0\n`,
		`the line: 100 chats, FOREMAN_HEARTBEAT=20s\n`,
	} {
		if !regexp.MustCompile(`(?m)^\[[\dm]+s\] ` + want).MatchString(told) {
			t.Errorf("stderr has no line %s", want)
		}
	}
	if strings.Contains(told, "is left out") {
		t.Errorf("stderr has %s; want all fronts measured", told)
	}
	if strings.Contains(told, "\x1b") || strings.Contains(told, "\r") {
		t.Errorf("stderr is no terminal, and has %q; want plain lines", told)
	}
}

// TestBenchWorkload sees that two fronts are compared, in a work too short to tell anything.
func TestBenchWorkload(t *testing.T) {
	t.Setenv("BENCH_WAIT", "0")
	dir := t.TempDir()
	out, told, status := bench(t, "-workload", "-loads", "3", "-fronts", "none,foreman", "-horizon", "120", "-patience", "60", "-out", dir)
	t.Logf("bench.sh -workload:\n%s%s", told, out)
	if status != 0 {
		t.Fatalf("bench.sh -workload: got status %d; want 0", status)
	}
	for _, want := range []string{
		`, foreman at [0-9a-f?]+\n\n\*\*loads in 3 s\*\*: 1 runs of 2 minutes for each front, at 1:60.\n\n\| front \|`,
		`\n\| foreman \| \d+ \|`,
		`\n\| model loads in 100 chats: at most 10 \| \d+\.\d\d (pass|\*\*fail\*\*) \|\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("stdout has no %s", want)
		}
	}
	for _, name := range []string{"waits", "turns", "resources"} {
		if _, err := os.Stat(filepath.Join(dir, name+"-loads-in-3-s.svg")); err != nil {
			t.Error(err)
		}
	}
}

// TestBenchEnds kills what drives the fronts, and sees that they end, too.
func TestBenchEnds(t *testing.T) {
	cmd := benchCommand(t, "-short")
	told, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	group := cmd.Process.Pid
	t.Cleanup(func() { syscall.Kill(-group, syscall.SIGKILL) }) // what a failure leaves
	killed := false
	for lines := bufio.NewScanner(told); !killed && lines.Scan(); {
		if !strings.Contains(lines.Text(), "round 1 of 1") {
			continue
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", group))
		if err != nil {
			t.Fatal(err)
		}
		driver, err := strconv.Atoi(strings.TrimSpace(string(children)))
		if err != nil {
			t.Fatalf("bench.sh has children %q; want one", children)
		}
		if err := syscall.Kill(driver, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed = true
	}
	if err := cmd.Wait(); !killed || err == nil {
		t.Errorf("bench.sh, killed: %t, ended with %v; want true and an error", killed, err)
	}
	eventually(t, func() error {
		if err := syscall.Kill(-group, 0); err != syscall.ESRCH {
			return fmt.Errorf("processes of bench.sh are left: %v", err)
		}
		return nil
	})
}

// cells returns the cells of a row of a table in Markdown.
func cells(row string) []string {
	row = strings.TrimSuffix(strings.TrimPrefix(row, "|"), "|")
	all := strings.Split(row, "|")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return all
}
