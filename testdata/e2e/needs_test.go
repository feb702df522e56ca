package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// others are the tests that take most of their time, as a rule for programs that are neither
// foreman nor the Ollama in front of which it stands, as patterns of their names.
var others = []string{
	"TestBenchShort", "TestBenchEnds", "TestBenchWorkload", // what measures, and HAProxy beside it
	"TestCompose", "TestKubernetes.*", // their validation: 750 MB in Go's caches
	"TestFailover", "TestFront", "TestFrontBrowser", "TestFrontStops", "TestFrontPassesWordByWord", // nginx, Caddy, HAProxy
	"TestHosts.*",                // two hosts behind HAProxy
	"TestImage",                  // buildah
	"TestProm.*",                 // Prometheus
	"TestSystemd", "TestLaunchd", // systemd-analyze, Python's plistlib
	"TestRealInference",                         // an Ollama with llama.cpp
	"TestJavaScript", "TestBeats.*", "TestWake", // npm
	"TestCORS", "TestStatusPage.*", "TestStop", "TestStopTooLate", "TestStopFromAnotherSite", "TestStopButtonHoldsStill", "TestPageAborts", // Chromium
	"TestSoak", "TestEmbedStorm", "TestInstall", "TestDemoLeavesNothing", // they take their time
}

var onlyOthers = flag.Bool("others", false, "run the tests of other programs, and only those")

// chooseTests leaves out others and TestAgents, or all but one of these, unless -run or
// -skip say what to run. What is left out is told at the end.
func chooseTests() error {
	flag.Parse()
	chosen, parallel := false, false
	flag.Visit(func(f *flag.Flag) {
		chosen = chosen || f.Name == "test.run" || f.Name == "test.skip"
		parallel = parallel || f.Name == "test.parallel"
	})
	if !parallel { // those that are marked so wait more than they work
		if err := flag.Set("test.parallel", "8"); err != nil {
			return err
		}
	}
	switch pattern := "^(" + strings.Join(others, "|") + ")$"; {
	case chosen:
		return nil
	case *onlyOthers:
		return flag.Set("test.run", pattern)
	case agentsFlag != "":
		return flag.Set("test.run", "^TestAgents$")
	default:
		leftOut.tests["they test other programs more than foreman: go -C testdata/e2e test -others"] = others
		return flag.Set("test.skip", pattern)
	}
}

// leftOut has the tests that were skipped, by what would let them run: without -v,
// go test says nothing of a skipped test.
var leftOut = struct {
	sync.Mutex
	tests map[string][]string
}{tests: map[string][]string{}}

// tellLeftOut says which tests were left out, and how to have them.
func tellLeftOut(w io.Writer) {
	leftOut.Lock()
	defer leftOut.Unlock()
	for _, advice := range slices.Sorted(maps.Keys(leftOut.tests)) {
		fmt.Fprintf(w, "LEFT OUT: %s: %s\n", strings.Join(leftOut.tests[advice], ", "), advice)
	}
}

// need returns the path of the first of the programs that is installed. Without
// any of them the test fails where CI=true, for there nothing may go untested,
// and is skipped elsewhere; tellLeftOut says so at the end.
func need(t *testing.T, advice string, programs ...string) string {
	t.Helper()
	for _, name := range programs {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("none of %q is installed, and CI=true: %s", programs, advice)
	}
	leaveOut(t, advice)
	return ""
}

// leaveOut skips the test, and has tellLeftOut say so at the end.
func leaveOut(t *testing.T, advice string) {
	t.Helper()
	leftOut.Lock()
	leftOut.tests[advice] = append(leftOut.tests[advice], t.Name())
	leftOut.Unlock()
	t.Skip(advice)
}
