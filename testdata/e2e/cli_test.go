package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// commandLine returns a function that runs `ollama` against the server at base
// and returns its standard output, or if it failed its standard error.
func commandLine(t *testing.T, base string) func(args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	return func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), ollamaBinary, args...)
		cmd.Dir = home
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "OLLAMA_HOST=" + base}
		var stdout, stderr bytes.Buffer // its spinners turn on standard error
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Logf("ollama %s: %v, %q", strings.Join(args, " "), err, &stderr)
			return stderr.String(), err
		}
		t.Logf("ollama %s:\n%s", strings.Join(args, " "), &stdout)
		return stdout.String(), nil
	}
}

// ago is what the command line makes of the time when a model was changed.
var ago = regexp.MustCompile(`(\S+ )+ago *`)

func TestCommandLine(t *testing.T) {
	meter := startMeter(t, nil)
	foreman := startForeman(t, meter.URL, "FOREMAN_EMBED_MODEL=")
	run, direct := commandLine(t, foreman.URL), commandLine(t, ollama.URL)
	same := func(args ...string) {
		t.Helper()
		want, err := direct(args...)
		if err != nil {
			t.Fatalf("direct: %v", err)
		}
		want = ago.ReplaceAllString(want, "")
		if got, err := run(args...); err != nil || ago.ReplaceAllString(got, "") != want {
			t.Errorf("ollama %s: got %q, %v; want %q", strings.Join(args, " "), got, err, want)
		}
	}
	same("run", lab.ChatModel, "Who are you?")
	same("list")
	same("list", "tiny-e")
	same("show", "--template", lab.ChatModel)
	same("show", "--license", lab.ChatModel)
	if got, err := run("show", lab.ChatModel); err != nil || !strings.Contains(got, "llama") {
		t.Errorf("show: got %q, %v; want what it is", got, err)
	}
	if got, err := run("ps"); err != nil || !strings.Contains(got, lab.ChatModel+":latest") {
		t.Errorf("ps after run: got %q, %v; want %s", got, err, lab.ChatModel)
	}
	if _, err := run("stop", lab.ChatModel); err != nil {
		t.Errorf("stop: got %v; want exit status 0", err)
	}
	eventually(t, func() error {
		list, err := ollama.Client.ListRunning(t.Context())
		if err == nil && slices.ContainsFunc(list.Models, func(m api.ProcessModelResponse) bool { return m.Name == lab.ChatModel+":latest" }) {
			err = errors.New("still resident after stop")
		}
		return err
	})

	// A misspelt name: the command line tries to pull it.
	if out, err := run("run", "tinny-chat", "hello"); err == nil || !strings.Contains(out, "model not pulled: is its name in the list of models?") {
		t.Errorf("ollama run of a misspelt name: got %q, %v; want a refusal that says so", out, err)
	}
	for _, args := range [][]string{{"run", "tinny-chat", "hello"}, {"pull", "tinny-chat"}, {"rm", lab.ChatModel}, {"cp", lab.ChatModel, "other"}} {
		out, err := run(args...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || !strings.Contains(out, "FOREMAN_MANAGE") {
			t.Errorf("ollama %s: got %q, %v; want a failure that names FOREMAN_MANAGE", args[0], out, err)
		}
	}
	for _, path := range []string{"/api/pull", "/api/delete", "/api/copy"} {
		if n := meter.Total(path); n != 0 {
			t.Errorf("%s: Ollama saw %d requests; want none", path, n)
		}
	}
}

// TestCommandLineManages makes, copies and removes a model. The polls are an
// hour apart: what foreman knows at once it knows from the change.
func TestCommandLineManages(t *testing.T) {
	own := startOllama(t)
	foreman := startForeman(t, own.URL, "FOREMAN_MANAGE=true", "FOREMAN_EMBED_MODEL=", "FOREMAN_POLL_INTERVAL=1h")
	run := commandLine(t, foreman.URL)
	dir := t.TempDir()
	gguf, modelfile := filepath.Join(dir, "model.gguf"), filepath.Join(dir, "Modelfile")
	if err := lab.WriteModel(gguf, "throw-away"); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("FROM %s\nPARAMETER num_ctx 512\nPARAMETER num_predict 8\nPARAMETER num_thread 1\n", gguf)
	if err := os.WriteFile(modelfile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		args []string
		want string   // in what the next list says
		not  []string // not in it
	}{
		{[]string{"create", "throw-away", "-f", modelfile}, "throw-away:latest", nil},
		{[]string{"run", "throw-away", "hello"}, "throw-away:latest", nil},
		{[]string{"cp", "throw-away", "copied:v2"}, "copied:v2", nil},
		{[]string{"rm", "throw-away"}, "copied:v2", []string{"throw-away"}},
		{[]string{"run", "copied:v2", "hello"}, "copied:v2", nil},
		{[]string{"rm", "copied:v2"}, lab.ChatModel, []string{"throw-away", "copied"}},
	}
	for _, step := range steps {
		if out, err := run(step.args...); err != nil {
			t.Errorf("%s: got %v\n%s", step.args, err, out)
		}
		list, err := run("list")
		if err != nil || !strings.Contains(list, step.want) {
			t.Errorf("list right after %s: got %q, %v; want %s in it", step.args[0], list, err, step.want)
		}
		for _, not := range step.not {
			if strings.Contains(list, not) {
				t.Errorf("list right after %s: got %q; want no %s in it", step.args[0], list, not)
			}
		}
	}
}
