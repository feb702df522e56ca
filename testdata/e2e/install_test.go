package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestInstall installs foreman from a clone, as its users do, and asks it what it is.
func TestInstall(t *testing.T) {
	need(t, "apt-get install git", "git")
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	origin, clone, bin := filepath.Join(t.TempDir(), "origin"), filepath.Join(t.TempDir(), "foreman"), t.TempDir()
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") }) // a hook of git has some
	env = append(env, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GOENV=off", "GOFLAGS=", "GOWORK=off", "GOPROXY=off", "GOTOOLCHAIN=local", "GOBIN="+bin)
	run := func(dir, program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	check := func(state, version, commit string) {
		t.Helper()
		run(clone, "go", "install", ".")
		got := run(bin, filepath.Join(bin, "foreman"), "-version")
		if want := fmt.Sprintf("foreman %s (commit %s, %s, %s/%s)", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH); got != want {
			t.Errorf("%s: got %s; want %s", state, got, want)
		}
	}

	// The files may be no repository, or one with changes: they are committed to another.
	run(source, "git", "init", "--quiet", origin)
	run(source, "git", "--git-dir="+filepath.Join(origin, ".git"), "--work-tree="+source, "add", "--all")
	run(origin, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message=all")
	run(origin, "git", "tag", "v1.2.3")
	run(origin, "git", "clone", "--quiet", origin, clone)
	commit := run(clone, "git", "rev-parse", "HEAD")
	check("a clone", "v1.2.3", commit)

	file, err := os.OpenFile(filepath.Join(clone, "main.go"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("\n// changed\n"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	check("a clone with a change", "v1.2.3+dirty", commit+"-dirty")

	if err := os.RemoveAll(filepath.Join(clone, ".git")); err != nil {
		t.Fatal(err)
	}
	check("files without a repository", "(devel)", "unknown")
}
