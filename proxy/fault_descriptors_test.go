//go:build unix

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test runs foreman in a process of its own, with few descriptors: clients
// and target have enough.
func TestFaultFewDescriptors(t *testing.T) {
	const variable = "FOREMAN_TEST_FEW_DESCRIPTORS"
	if targetURL := os.Getenv(variable); targetURL != "" {
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		limit.Cur = 64
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		f := newFront(t, targetURL, nil)
		fmt.Println("listening", f.URL)
		io.Copy(io.Discard, os.Stdin) // until the parent has done
		f.expectIdle(t)
		if state := f.Inventory.State(); state.Degraded() {
			t.Errorf("degraded, %s; want a target that is fine", state.Reason)
		}
		return
	}

	stub := newStub(t)
	child := exec.Command(os.Args[0], "-test.run=^TestFaultFewDescriptors$", "-test.v")
	child.Env = append(os.Environ(), variable+"="+stub.URL)
	child.Stderr = t.Output()
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	var url string
	for url == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the child did not start: %v", err)
		}
		if _, rest, ok := strings.Cut(line, "listening http://"); ok {
			url = "http://" + strings.TrimSpace(rest)
		}
	}
	ended := make(chan error)
	go func() {
		io.Copy(t.Output(), lines)
		ended <- child.Wait()
	}()

	f := &front{URL: url}
	var clients sync.WaitGroup
	for i := range 200 {
		clients.Go(func() {
			path := []string{"/api/chat", "/api/embed"}[i%2]
			c := connect(t, f)
			c.send(t, postOf(path, marked("few"), "Connection: close\r\n"))
			if got := c.status(t); got != 200 {
				t.Errorf("%s: status %d; want 200", path, got)
			}
		})
	}
	clients.Wait()
	stdin.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("foreman: %v", err)
		}
	case <-time.After(20 * time.Second): // it hangs
		child.Process.Kill()
		t.Errorf("foreman did not end: %v", <-ended)
	}
}
