package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A Browser is a Chromium without a window and with a profile of its own, to be
// driven over the DevTools protocol.
type Browser struct {
	URL string // of the DevTools, ws://127.0.0.1:…

	proc *process
}

var devTools = regexp.MustCompile(`DevTools listening on (ws://\S+)`)

// StartBrowser starts the binary with its profile and everything else that it
// writes under dir, and waits until it can be driven. All names in hosts are
// names of 127.0.0.1 to it, and "name=address" of that address.
func StartBrowser(ctx context.Context, binary, dir string, hosts ...string) (*Browser, error) {
	rules := "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
	for _, host := range hosts {
		name, addr, ok := strings.Cut(host, "=")
		if !ok {
			addr = "127.0.0.1"
		}
		rules = "MAP " + name + " " + addr + ", " + rules
	}
	cmd := exec.Command(binary,
		"--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
		"--no-first-run", "--no-default-browser-check",
		"--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4", // a mouse
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--host-resolver-rules="+rules,
		"--user-data-dir="+filepath.Join(dir, "profile"),
		"--remote-debugging-port=0",
		"about:blank")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "XDG_RUNTIME_DIR=" + dir}
	proc, err := startProcess(cmd, filepath.Join(dir, "browser.log"))
	if err != nil {
		return nil, err
	}
	b := &Browser{proc: proc}
	return b, proc.ready(ctx, func() error {
		match := devTools.FindStringSubmatch(b.Log())
		if match == nil {
			return errors.New("it has not said where its DevTools listen")
		}
		b.URL = match[1]
		return nil
	})
}

// Stop ends the browser and all its processes.
func (b *Browser) Stop() { b.proc.stop(syscall.SIGTERM, 10*time.Second) }

// Log returns what the browser wrote so far.
func (b *Browser) Log() string { return b.proc.log() }
