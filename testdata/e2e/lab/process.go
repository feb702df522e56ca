package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A process is a server in a process group of its own, so that a Ctrl-C meant
// for us does not reach it before we have decided what to do, and so that its
// children end with it.
type process struct {
	cmd     *exec.Cmd
	logFile string
	done    chan struct{} // closed when the process has ended and err is set
	err     error
}

// startProcess starts cmd with its output appended to logFile.
func startProcess(cmd *exec.Cmd, logFile string) (*process, error) {
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	own := ownGroup()
	if as := cmd.SysProcAttr; as != nil {
		own.Chroot, own.Credential = as.Chroot, as.Credential
	}
	cmd.SysProcAttr = own
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, logFile: logFile, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		endGroup(cmd.Process.Pid)
		close(p.done)
	}()
	return p, nil
}

// stop signals the whole group, waits for the leader to end and returns how it
// did. Whoever has not ended after the grace is killed.
func (p *process) stop(sig syscall.Signal, grace time.Duration) error {
	if p.running() {
		p.signal(sig)
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(grace):
		p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("killed: still running %v after %v", grace, sig)
	}
}

func (p *process) signal(sig syscall.Signal) { syscall.Kill(-p.cmd.Process.Pid, sig) }

// endGroup kills what the leader of a process group left behind, and waits a
// moment for init to have reaped it.
func endGroup(leader int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	Until(ctx, func() error {
		if syscall.Kill(-leader, syscall.SIGKILL) == nil {
			return errors.New("still there")
		}
		return nil
	})
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ready waits until cond returns nil, and kills the process if it never does.
func (p *process) ready(ctx context.Context, cond func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := Until(ctx, func() error {
		if !p.running() {
			cancel(fmt.Errorf("it ended: %v", p.err))
		}
		return cond()
	})
	if err != nil {
		p.stop(syscall.SIGKILL, 0)
		return fmt.Errorf("start %s: %w\n%s", p.cmd, err, p.log())
	}
	return nil
}

func (p *process) log() string {
	b, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// goCommand runs the go command in dir and returns what it printed. Its scratch
// files go to tmp, which the caller removes; when ctx ends, the compilers and
// linkers under it end too.
func goCommand(ctx context.Context, dir, tmp string, args ...string) (string, error) {
	return goCommandWith(ctx, dir, tmp, nil, args...)
}

// goCommandWith does so with more environment.
func goCommandWith(ctx context.Context, dir, tmp string, env []string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "TMPDIR="+tmp, "GOTMPDIR="+tmp), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = ownGroup()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		endGroup(cmd.Process.Pid)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}
