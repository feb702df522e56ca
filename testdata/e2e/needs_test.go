package main

import (
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
