package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// BuildForeman builds the foreman that this module is nested in, into dir, with
// flags for go build, and returns the binary's path.
func BuildForeman(ctx context.Context, dir string, flags ...string) (string, error) {
	binary := filepath.Join(dir, "foreman")
	args := append([]string{"build", "-buildvcs=false", "-o", binary}, flags...)
	_, err := goCommand(ctx, filepath.Join(here(), "..", ".."), dir, append(args, ".")...)
	return binary, err
}

// A Foreman is a running foreman.
type Foreman struct {
	URL string

	proc   *process
	killed bool
}

var listening = regexp.MustCompile(`\blistening\b.*\baddr"?[=:]"?([^"\s]+)`) // in text or JSON

// StartForeman starts the binary with nothing in its environment but env, its
// log in a file under dir, and waits until it listens. The address is a free
// port unless env says otherwise.
func StartForeman(ctx context.Context, binary, dir string, env ...string) (*Foreman, error) {
	return StartForemanAs(ctx, exec.Command(binary), dir, env...)
}

// StartForemanAs does so with a command that may say more about how to run it.
func StartForemanAs(ctx context.Context, cmd *exec.Cmd, dir string, env ...string) (*Foreman, error) {
	logFile, err := os.CreateTemp(dir, "foreman-*.log")
	if err != nil {
		return nil, err
	}
	logFile.Close()
	cmd.Env = append([]string{"FOREMAN_ADDR=127.0.0.1:0"}, env...)
	proc, err := startProcess(cmd, logFile.Name())
	if err != nil {
		return nil, err
	}
	f := &Foreman{proc: proc}
	return f, proc.ready(ctx, func() error {
		match := listening.FindStringSubmatch(f.Log())
		if match == nil {
			return errors.New("no line of its log says where it listens")
		}
		f.URL = "http://" + match[1]
		return nil
	})
}

// Stop asks foreman to end, as an operator would, and returns an error unless
// it ends well, or was killed. It may be called twice.
func (f *Foreman) Stop() error {
	if err := f.proc.stop(syscall.SIGTERM, time.Minute); !f.killed {
		return err
	}
	return nil
}

// Kill ends foreman as a crash would.
func (f *Foreman) Kill() {
	f.killed = true
	f.proc.stop(syscall.SIGKILL, 0)
}

// Sleep stops foreman as a machine that falls asleep does.
func (f *Foreman) Sleep() { f.proc.signal(syscall.SIGSTOP) }

// Wake has it go on.
func (f *Foreman) Wake() { f.proc.signal(syscall.SIGCONT) }

// Log returns what foreman wrote so far.
func (f *Foreman) Log() string { return f.proc.log() }
