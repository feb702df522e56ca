package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestInstall installs and starts foreman in a clone, with the README's command, and has
// it say what it is.
func TestInstall(t *testing.T) {
	need(t, "apt-get install git", "git")
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("`(go install [^`]+)`").FindSubmatch(readme)
	if command == nil {
		t.Fatal("the README does not say how to install foreman")
	}
	origin, clone := filepath.Join(t.TempDir(), "origin"), filepath.Join(t.TempDir(), "foreman")
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { // a hook of git has its variables
		return strings.HasPrefix(v, "GIT_") || strings.HasPrefix(v, "GOPATH=") || strings.HasPrefix(v, "GOBIN=")
	})
	env = append(env, "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "HOME="+t.TempDir(), "GOCACHE="+goEnv(t, "GOCACHE"),
		"GOENV=off", "GOFLAGS=", "GOWORK=off", "GOPROXY=off", "GOTOOLCHAIN=local")
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
		got := run(clone, "sh", "-c", string(command[1])+" -version")
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
