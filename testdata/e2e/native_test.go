package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// realInference are the tests that TestRealInference runs: of clients, streams,
// faults and all that is compared with an Ollama without foreman. Clients leave no
// streams there: see mayLeaveStreams.
var realInference = []string{
	"TestLangchain",
	"TestOfficialClient",
	"TestOfficialGoClient",
	"TestOpenAI",
	"TestJavaScript",
	"TestPlainClient",
	"TestPlainClientInOutage",
	"TestCommandLine",
	"TestCommandLineStopsABusyModel",
	"TestPageAborts",
	"TestChatsOneAtATimeEmbedsTogether",
	"TestEmbedStorm",
	"TestStreamComesAsItIsMade",
	"TestUsage",
	"TestSameAsDirect",
	"TestDifferential",
	"TestDifferentialManage",
	"TestOutage",
	"TestSoak",
}

// TestRealInference runs these tests once more, in a process of their own, with
// an Ollama that computes its answers itself. Every one of them has to pass
// there, and none of them may skip anything.
func TestRealInference(t *testing.T) {
	if binary := os.Getenv(installedOllama); binary != "" {
		t.Skipf("%s=%s: the tests run with the Ollama that it names", installedOllama, binary)
	}
	begin := time.Now()
	binary, err := lab.BuildNative(t.Context(), t.TempDir())
	if errors.Is(err, lab.ErrMissing) && os.Getenv("CI") != "true" {
		leaveOut(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("Ollama with llama.cpp built in %.1fs\n", time.Since(begin).Seconds())

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self,
		"-test.v", "-test.parallel=1", "-test.run=^("+strings.Join(realInference, "|")+")$", "-soak="+soakTime.String())
	if deadline, ok := t.Deadline(); ok { // it has to end before we do, or nobody ends its servers
		cmd.Args = append(cmd.Args, "-test.timeout="+time.Until(deadline.Add(-10*time.Second)).String())
	}
	cmd.Env = append(os.Environ(), installedOllama+"="+binary)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var passed []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		t.Log(line)
		if strings.HasPrefix(strings.TrimSpace(line), "--- SKIP") {
			t.Errorf("got %s; want nothing skipped", line)
		}
		if test, ok := strings.CutPrefix(line, "--- PASS: "); ok {
			name, _, _ := strings.Cut(test, " ")
			passed = append(passed, name)
			fmt.Printf("with llama.cpp: %s\n", test)
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("read its output: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v; want exit status 0", err)
	}
	for _, name := range realInference {
		if !slices.Contains(passed, name) {
			t.Errorf("%s did not pass", name)
		}
	}
}
