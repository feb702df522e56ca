package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// AgentTemplate is the template of a model that can use tools: those that it may use
// come first, as JSON.
const AgentTemplate = `<|agent|>
{{- if .Tools }}<tools>{{ json .Tools }}</tools>{{ end }}
{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ if .ToolCalls }}{{ range .ToolCalls }}
<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
`

// AddAgentModel adds a model that can use tools. Agents say a lot before their users say
// anything: of a prompt of 256 KB nothing is left out.
func (o *Ollama) AddAgentModel(name string) error {
	s := store(o.Models())
	template, err := s.blob("application/vnd.ollama.image.template", []byte(AgentTemplate))
	if err != nil {
		return err
	}
	return s.addModel(name, 4, map[string]any{"llama.context_length": uint32(256 << 10)}, template)
}

// InstallAgents installs the packages of the folder agents, 1.8 GB of them, and returns where
// their programs are. They stay in the user's cache for the next time, until the lock
// file changes.
func InstallAgents(ctx context.Context, npm string) (bin string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "foreman-e2e-agents")
	source := filepath.Join(here(), "agents")
	lock, err := os.ReadFile(filepath.Join(source, "package-lock.json"))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	name := hex.EncodeToString(sum[:4])
	dir := filepath.Join(cache, name)
	bin = filepath.Join(dir, "node_modules", ".bin")
	if _, err := os.Stat(dir); err == nil {
		return bin, nil
	}
	begun := dir + ".begun" // until it is whole
	if err := os.RemoveAll(begun); err != nil {
		return "", err
	}
	if err := os.CopyFS(begun, os.DirFS(source)); err != nil {
		return "", err
	}
	install := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund")
	install.Dir = begun
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(begun, dir); err != nil {
		return "", err
	}
	others, err := os.ReadDir(cache)
	for _, other := range others {
		if other.Name() != name {
			err = errors.Join(err, os.RemoveAll(filepath.Join(cache, other.Name())))
		}
	}
	return bin, err
}

// An Agent is the program of somebody who has a language model do things.
type Agent struct{ proc *process }

// StartAgent starts a program with nothing in its environment but env, and with what it
// says in a file at log.
func StartAgent(cmd *exec.Cmd, log string, env ...string) (*Agent, error) {
	cmd.Env = env
	proc, err := startProcess(cmd, log)
	if err != nil {
		return nil, err
	}
	return &Agent{proc}, nil
}

// Wait waits until the program has ended and returns how it did.
func (a *Agent) Wait(ctx context.Context) error {
	select {
	case <-a.proc.done:
		return a.proc.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop ends the program, if it has not ended, with all its children.
func (a *Agent) Stop() { a.proc.stop(syscall.SIGTERM, 5*time.Second) }

// Log returns what the program has said so far, on stdout and stderr.
func (a *Agent) Log() string { return a.proc.log() }
