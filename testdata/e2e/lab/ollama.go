package lab

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/ollama/ollama/api"
)

// An Ollama is a real one of any version: `ollama serve` with its runners, two model
// slots and the lab's two models.
type Ollama struct {
	URL    string
	Client *api.Client

	binary, dir string
	env         []string
	proc        *process
}

// StartOllama starts the binary on a free port, with everything that it writes
// under dir, and waits until it answers. It holds the two models, and asks nobody
// on the Internet. More environment, or another value for a variable, goes in env:
// a Pace, for instance.
func StartOllama(ctx context.Context, binary, dir string, env ...string) (*Ollama, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "http", Host: addr}
	o := &Ollama{
		URL:    u.String(),
		Client: api.NewClient(u, http.DefaultClient),
		binary: binary,
		dir:    dir,
		env: append([]string{
			"PATH=" + os.Getenv("PATH"),
			"HOME=" + dir,
			"TMPDIR=" + dir,
			"OLLAMA_HOST=" + addr,
			"OLLAMA_MODELS=" + filepath.Join(dir, "models"),
			"OLLAMA_MAX_LOADED_MODELS=2",
			"OLLAMA_NO_CLOUD=true",
		}, env...),
	}
	if err := store(o.Models()).addLabModels(); err != nil {
		return nil, err
	}
	return o, o.Start(ctx)
}

// Start starts Ollama again after a Kill, on the same address and with the same
// models, and waits until it answers.
func (o *Ollama) Start(ctx context.Context) error {
	cmd := exec.Command(o.binary, "serve")
	cmd.Env = o.env
	proc, err := startProcess(cmd, filepath.Join(o.dir, "ollama.log"))
	if err != nil {
		return err
	}
	o.proc = proc
	return proc.ready(ctx, func() error { return o.Client.Heartbeat(ctx) })
}

// Kill ends Ollama as a crash would: the server and its runners, at once.
func (o *Ollama) Kill() { o.proc.stop(syscall.SIGKILL, 0) }

// Sleep stops Ollama and its runners as a machine that falls asleep does: connections
// stay open, and nothing comes back on them.
func (o *Ollama) Sleep() { o.proc.signal(syscall.SIGSTOP) }

// Wake has them go on.
func (o *Ollama) Wake() { o.proc.signal(syscall.SIGCONT) }

// Log returns what Ollama wrote so far, over all its starts.
func (o *Ollama) Log() string { return o.proc.log() }
