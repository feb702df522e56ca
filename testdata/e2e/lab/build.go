package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const ollamaModule = "github.com/ollama/ollama"

// OllamaVersion is the version of Ollama that go.mod asks for.
func OllamaVersion() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, dep := range info.Deps {
			if dep.Path == ollamaModule {
				return dep.Version
			}
		}
	}
	return "(unknown version)"
}

// CanBuildOllama returns an error that says what is missing, if anything is.
// Building Ollama would tell it after a minute, and in other words.
func CanBuildOllama(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "env", "CC", "CGO_ENABLED").Output()
	if err != nil {
		return fmt.Errorf("go env: %w", err)
	}
	compiler, enabled, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	program, _, _ := strings.Cut(compiler, " ") // it may have flags
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("Ollama cannot be built without a C compiler, and %s is not there (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)", program)
	}
	if enabled == "0" {
		return errors.New("Ollama cannot be built with CGO_ENABLED=0: unset it")
	}
	return nil
}

// BuildOllama builds Ollama under dir, with its llama-server beside it, which is
// the stand-in of this module. It returns the path of ollama. The first time takes
// minutes, later ones take seconds, for the go command keeps what it has compiled.
func BuildOllama(ctx context.Context, dir string) (binary string, err error) {
	if err := CanBuildOllama(ctx); err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "bin", "ollama")
	runner := filepath.Join(dir, "lib", "ollama", "llama-server") // where ollama looks
	version := strings.TrimPrefix(OllamaVersion(), "v")
	for _, build := range [][]string{
		{"build", "-ldflags=-s -w -X=" + ollamaModule + "/version.Version=" + version, "-o", binary, ollamaModule},
		{"build", "-o", runner, "./llamaserver"},
	} {
		if _, err := goCommand(ctx, here(), dir, build...); err != nil {
			return "", err
		}
	}
	return binary, nil
}

// A Pace says how long the stand-in for llama-server takes. Without one it takes no
// time.
type Pace struct {
	Load   time.Duration // to load a model
	Prompt time.Duration // to read a prompt
	Pause  time.Duration // before the last word of an answer
	Rate   float64       // words per second; 0: as fast as it can
}

// Env is the environment that gives an Ollama this pace.
func (p Pace) Env() []string {
	return []string{
		"STANDIN_LOAD=" + p.Load.String(),
		"STANDIN_PROMPT=" + p.Prompt.String(),
		"STANDIN_PAUSE=" + p.Pause.String(),
		"STANDIN_RATE=" + strconv.FormatFloat(p.Rate, 'f', -1, 64),
	}
}
