package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
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

// TestCommandLineStopsABusyModel: the stop is answered while the chat goes on, and is
// done when the chat is over.
func TestCommandLineStopsABusyModel(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	foreman := startForeman(t, own.URL)
	run := commandLine(t, foreman.URL)
	leave := chatWithoutEnd(t, foreman.URL)
	if _, err := run("stop", lab.ChatModel); err != nil {
		t.Errorf("stop: got %v; want exit status 0", err)
	}
	if got := get(t, foreman.URL+"/healthz").body; !strings.Contains(got, `"running":1`) {
		t.Errorf("after the stop: got %s; want the chat to go on", got)
	}
	if err := resident(t.Context(), own.Client, lab.ChatModel); err != nil {
		t.Errorf("after the stop: got %v; want the model to stay for its chat", err)
	}
	leave()
	eventually(t, func() error {
		if resident(t.Context(), own.Client, lab.ChatModel) == nil {
			return errors.New("still resident after its chat")
		}
		return nil
	})
}

// TestCommandLineLaunches has `ollama launch` start programs that tell how they were
// started. Then it asks what such programs ask.
func TestCommandLineLaunches(t *testing.T) {
	foreman := startForeman(t, ollama.URL, "FOREMAN_EMBED_MODEL=")
	bin := t.TempDir()
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	run := commandLine(t, foreman.URL)
	for _, tt := range []struct {
		name, path, body string
		told             []string // what the program is told of foreman
	}{
		{"claude", "/v1/messages", `{"model":"tiny-chat","max_tokens":12,"stream":true,"messages":[{"role":"user","content":"hello"}]}`, []string{
			"ANTHROPIC_BASE_URL=" + foreman.URL + "\n", "ANTHROPIC_AUTH_TOKEN=ollama\n", "argument --model\nargument tiny-chat\n"}},
		{"codex", "/v1/responses", `{"model":"tiny-chat","max_output_tokens":12,"stream":true,"input":"hello"}`, []string{
			`base_url="` + foreman.URL + `/v1/"` + "\n", `wire_api="responses"`, "argument -m\nargument tiny-chat\n"}},
		{"opencode", "/v1/chat/completions", `{"model":"tiny-chat:latest","max_tokens":12,"stream":true,"messages":[{"role":"user","content":"hello"}]}`, []string{
			`"baseURL":"` + foreman.URL + `/v1"`, `"model":"ollama/tiny-chat:latest"`}},
		{"kimi", "/v1/chat/completions", `{"model":"tiny-chat","max_tokens":12,"stream":true,"messages":[{"role":"user","content":"hello"}]}`, []string{
			`"base_url":"` + foreman.URL + `/v1"`, `"model":"tiny-chat"`, `"max_context_size":2048`}},
	} {
		const script = "#!/bin/sh\n" +
			`[ "$1" = --version ] && { echo "codex-cli 9.9.9"; exit; }` + "\n" +
			`printf 'argument %s\n' "$@"` + "\nenv\n"
		if err := os.WriteFile(filepath.Join(bin, tt.name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		out, err := run("launch", tt.name, "--model", lab.ChatModel, "--yes")
		if err != nil {
			t.Errorf("launch %s: got %v; want exit status 0", tt.name, err)
			continue
		}
		for _, want := range tt.told {
			if !strings.Contains(out, want) {
				t.Errorf("launch %s: got %s; want %q in it", tt.name, out, want)
			}
		}
		if got := post(t, foreman.URL+tt.path, tt.body); got.StatusCode != http.StatusOK || !strings.HasPrefix(got.Header.Get("Content-Type"), "text/event-stream") {
			t.Errorf("%s: got %d %s; want a stream of events", tt.path, got.StatusCode, got.body)
		}
	}

	// Recommendations are all that launch asks for and does not get. It has a list of its own.
	refused := regexp.MustCompile(`(?m)^.* status=[^2].*$`).FindAllString(foreman.Log(), -1)
	if len(refused) == 0 {
		t.Error("foreman refused nothing; want the recommendations refused")
	}
	for _, line := range refused {
		if !strings.Contains(line, "path=/api/experimental/model-recommendations status=404") {
			t.Errorf("foreman refused %s", line)
		}
	}

	// For muse, launch has the model loaded and asks how much context it has there.
	if err := os.WriteFile(filepath.Join(bin, "muse"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	asked := len(foreman.Log())
	if _, err := run("launch", "muse", "--model", lab.ChatModel, "--yes"); err != nil {
		t.Errorf("launch muse: got %v; want exit status 0", err)
	}
	for _, want := range []string{"route=/api/generate status=200 ", "route=/api/ps status=200 "} {
		if got := foreman.Log()[asked:]; !strings.Contains(got, want) {
			t.Errorf("launch muse: foreman's log has %s; want %s in it", got, want)
		}
	}

	if out, err := run("launch", "claude", "--model", "absent", "--yes"); err == nil || !strings.Contains(out, "FOREMAN_MANAGE") {
		t.Errorf("launch with an absent model: got %q, %v; want a failure that names FOREMAN_MANAGE", out, err)
	}
}

// TestCommandLineManages makes, copies and removes a model. The polls are an
// hour apart: what foreman knows at once it knows from the change.
func TestCommandLineManages(t *testing.T) {
	t.Parallel()
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
