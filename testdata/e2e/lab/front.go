package lab

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A Front is a proxy of somebody else's, which stands in front of foreman.
type Front struct {
	URL string

	proc *process
}

// StartFront starts a proxy on a free port, with its log in dir, and waits until it
// listens. The command is to have it listen on the address.
func StartFront(ctx context.Context, dir string, command func(addr string) (*exec.Cmd, error)) (*Front, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	cmd, err := command(addr)
	if err != nil {
		return nil, err
	}
	proc, err := startProcess(cmd, filepath.Join(dir, "front.log"))
	if err != nil {
		return nil, err
	}
	f := &Front{URL: "http://" + addr, proc: proc}
	return f, proc.ready(ctx, func() error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Stop ends it.
func (f *Front) Stop() { f.proc.stop(syscall.SIGTERM, 10*time.Second) }

// Log returns what the proxy wrote so far.
func (f *Front) Log() string { return f.proc.log() }
