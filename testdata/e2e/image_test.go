package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"foreman/e2e/lab"
)

// TestImage does by hand what the Dockerfile says, where no Docker engine is: it
// builds the binary with the same command from the files that .dockerignore lets
// through, puts it and the certificates into an empty root, and runs it there as
// the same user.
func TestImage(t *testing.T) {
	const imageLimit = 10_000_000 // bytes
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := strings.ReplaceAll(string(text), "\\\n", "") // lines that go on
	find := func(pattern string) string {
		match := regexp.MustCompile(`(?m)^` + pattern + `$`).FindStringSubmatch(dockerfile)
		if match == nil {
			t.Fatalf("the Dockerfile has no line %s", pattern)
		}
		return match[1]
	}
	build := find(`RUN (CGO_ENABLED=0 .*go build .*)`)
	user := find(`USER (\d+:\d+)`)
	certificates := find(`COPY --from=build (\S+) \S+`)
	find(`(FROM scratch)`)
	find(`HEALTHCHECK .* (CMD \["/foreman", "-healthcheck"\])`)
	find(`(ENTRYPOINT \["/foreman"\])`)

	context, root := t.TempDir(), t.TempDir()
	for _, name := range []string{"go.mod", "main.go", "config", "gate", "inventory", "proxy", "warm"} {
		if out, err := exec.Command("cp", "-r", filepath.Join("../..", name), context).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	binary := filepath.Join(root, "foreman")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "-o /foreman", "-o "+binary, 1))
	cmd.Dir = context
	cmd.Env = append(os.Environ(), "VERSION=v0.0.0-test", "COMMIT=abc", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}

	size := func(file string) int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	if n := size(binary) + size(certificates); n >= imageLimit {
		t.Errorf("binary and certificates have %d bytes; want an image under %d", n, imageLimit)
	}
	t.Logf("binary: %d bytes, certificates: %d", size(binary), size(certificates))

	attributes := &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 {
		var uid, gid uint32
		if _, err := fmt.Sscanf(user, "%d:%d", &uid, &gid); err != nil || uid == 0 {
			t.Fatalf("USER %s: %v; want a number that is not root's", user, err)
		}
		if err := os.Chmod(filepath.Dir(root), 0o755); err != nil {
			t.Fatal(err)
		}
		attributes.Chroot, attributes.Credential = root, &syscall.Credential{Uid: uid, Gid: gid}
		binary = "/foreman"
	}
	in := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.SysProcAttr, cmd.Dir = attributes, "/"
		return cmd
	}
	version, err := in("-version").Output()
	if got, want := string(version), fmt.Sprintf("foreman v0.0.0-test (commit abc, %s, %s/%s)\n", runtime.Version(), runtime.GOOS, runtime.GOARCH); err != nil || got != want {
		t.Errorf("-version: got %q, %v; want %q", got, err, want)
	}
	foreman, err := lab.StartForemanAs(t.Context(), in(), t.TempDir(), "FOREMAN_OLLAMA_URL="+ollama.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { foreman.Stop() })
	eventually(t, func() error { return wantStatus(foreman.URL+"/readyz", http.StatusOK) })
	check := in("-healthcheck")
	check.Env = []string{"FOREMAN_ADDR=" + strings.TrimPrefix(foreman.URL, "http://")}
	if out, err := check.CombinedOutput(); err != nil || !strings.Contains(string(out), `"status":"ok"`) {
		t.Errorf("-healthcheck: got %s, %v; want ok", out, err)
	}
}
