package main

import (
	"os"
	"os/exec"
	"testing"
)

// need returns the path of the first of the programs that is installed. Without
// any of them the test fails where CI=true, for there nothing may go untested,
// and is skipped elsewhere.
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
	t.Skipf("none of %q is installed: %s", programs, advice)
	return ""
}
