package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// agentsFlag says which cases of TestAgents to run.
var agentsFlag agentCases

func init() {
	flag.Var(&agentsFlag, "agents", "install real agents, have all of them work at once, and run nothing else; =`cases`: alone, line, long, together, killed, stopped, with commas between them, or all")
}

// agentCases is a flag whose value is a list of cases; without one it is together.
type agentCases string

func (c *agentCases) String() string   { return string(*c) }
func (c *agentCases) IsBoolFlag() bool { return true }
func (c *agentCases) has(name string) bool {
	return *c == "all" || slices.Contains(strings.Split(string(*c), ","), name)
}

func (c *agentCases) Set(value string) error {
	switch value {
	case "true":
		value = "together"
	case "false":
		value = ""
	}
	for _, name := range strings.Split(value, ",") {
		if !slices.Contains([]string{"", "all", "alone", "line", "long", "together", "killed", "stopped"}, name) {
			return fmt.Errorf("no case is called %q", name)
		}
	}
	*c = agentCases(value)
	return nil
}

// patience is how long an agent may take for its task, on a machine that is busy with
// something else.
const patience = 5 * time.Minute

const agentModel = "tiny-agent"

// An agentKind is a program that has a model use tools.
type agentKind struct {
	name string
	// prepare writes what the program is to know of foreman into its home, and returns
	// the command that gives it a task, with what it needs in its environment.
	prepare         func(t *testing.T, s agentSettings) (command []string, env []string)
	killed, stopped agentEnd
}

// agentSettings is what an agent is told.
type agentSettings struct {
	bin, home      string
	foreman, token string
	idle           time.Duration // after which it gives up, if it can be told; 0: as it comes
	task           string
}

// write writes a file in the agent's home.
func (s agentSettings) write(t *testing.T, name, content string) {
	t.Helper()
	file := filepath.Join(s.home, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s agentSettings) writeJSON(t *testing.T, name string, content any) {
	t.Helper()
	b, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name, string(b))
}

// env is the environment of every agent.
func (s agentSettings) env() []string {
	return []string{
		"HOME=" + s.home,
		"TMPDIR=" + filepath.Join(s.home, "tmp"),
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HTTPS_PROXY=http://127.0.0.1:1", // nothing on the Internet is asked
		"NO_PROXY=127.0.0.1",
	}
}

// ms is the idle time in milliseconds.
func (s agentSettings) ms() int64 { return s.idle.Milliseconds() }

// stoppedByOwner is what foreman tells of a chat that was stopped on its page.
const stoppedByOwner = "this chat was stopped on foreman's status page by owner"

var agentKinds = []agentKind{
	{name: "codex", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		config := `model = "` + agentModel + `"
model_provider = "foreman"
[model_providers.foreman]
name = "foreman"
base_url = "` + s.foreman + `/v1"
wire_api = "responses"
env_key = "FOREMAN_KEY"
`
		if s.idle > 0 {
			config += fmt.Sprintf("stream_idle_timeout_ms = %d\n", s.ms())
		}
		s.write(t, ".codex/config.toml", config)
		return []string{"codex", "exec", "--skip-git-repo-check", "-s", "danger-full-access", s.task},
			[]string{"FOREMAN_KEY=" + s.token}
	}, killed: agentEnd{done: true, says: "Reconnecting... 1/5"}, stopped: agentEnd{done: true, says: "Reconnecting... 1/5"}},
	{name: "claude", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		env := []string{
			"ANTHROPIC_BASE_URL=" + s.foreman,
			"ANTHROPIC_AUTH_TOKEN=" + s.token,
			"ANTHROPIC_API_KEY=sk-ant-of-another-server", // sent too
			"ANTHROPIC_MODEL=" + agentModel,
			"ANTHROPIC_SMALL_FAST_MODEL=" + agentModel,
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		}
		if s.idle > 0 {
			env = append(env, fmt.Sprintf("API_TIMEOUT_MS=%d", s.ms()),
				"CLAUDE_ENABLE_STREAM_WATCHDOG=1", fmt.Sprintf("CLAUDE_STREAM_IDLE_TIMEOUT_MS=%d", s.ms()),
				"CLAUDE_ENABLE_BYTE_WATCHDOG=1", fmt.Sprintf("CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS=%d", s.ms()))
		}
		return []string{"claude", "-p", s.task, "--allowedTools", "Write"}, env
	}, killed: agentEnd{done: true}, stopped: agentEnd{done: true}},
	{name: "opencode", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		options := map[string]any{"baseURL": s.foreman + "/v1", "apiKey": s.token}
		if s.idle > 0 {
			options["headerTimeout"], options["chunkTimeout"] = s.ms(), s.ms()
		}
		s.writeJSON(t, ".config/opencode/opencode.json", map[string]any{
			"provider": map[string]any{"foreman": map[string]any{
				"npm": "@ai-sdk/openai-compatible", "options": options,
				"models": map[string]any{agentModel: map[string]any{}},
			}},
			"model": "foreman/" + agentModel,
		})
		return []string{"opencode", "run", s.task}, []string{"OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_MODELS_FETCH=1"}
	}, killed: agentEnd{done: true}, stopped: agentEnd{done: true, or: stoppedByOwner}},
	{name: "qwen", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		settings := map[string]any{
			"privacy": map[string]any{"usageStatisticsEnabled": false},
			"general": map[string]any{"enableAutoUpdate": false, "disableAutoUpdate": true},
		}
		if s.idle > 0 {
			settings["model"] = map[string]any{"generationConfig": map[string]any{"timeout": s.ms()}}
		}
		s.writeJSON(t, ".qwen/settings.json", settings)
		return []string{"qwen", "--auth-type", "openai", "--approval-mode", "auto-edit", "-p", s.task},
			[]string{"OPENAI_BASE_URL=" + s.foreman + "/v1", "OPENAI_API_KEY=" + s.token, "OPENAI_MODEL=" + agentModel,
				"HTTPS_PROXY="} // it takes that for HTTP too, and does not look at NO_PROXY
	}, killed: agentEnd{says: "[API Error: terminated (cause: other side closed)]"}, stopped: agentEnd{says: "[API Error: " + stoppedByOwner + "]"}},
	{name: "pi", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		s.writeJSON(t, ".pi/agent/models.json", map[string]any{"providers": map[string]any{"foreman": map[string]any{
			"baseUrl": s.foreman + "/v1", "api": "openai-completions", "apiKey": s.token,
			"models": []any{map[string]any{"id": agentModel}},
		}}})
		return []string{"pi", "--provider", "foreman", "--model", agentModel, "-p", s.task}, []string{"PI_OFFLINE=1"}
	}, killed: agentEnd{done: true}, stopped: agentEnd{says: stoppedByOwner}},
	{name: "cline", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		login := exec.CommandContext(t.Context(), filepath.Join(s.bin, "cline"),
			"auth", "-p", "openai", "-k", s.token, "-m", agentModel, "-b", s.foreman+"/v1")
		login.Env = s.env()
		if out, err := login.CombinedOutput(); err != nil {
			t.Fatalf("cline auth: %v\n%s", err, out)
		}
		return []string{"cline", "-P", "openai", "-m", agentModel, "-k", s.token, s.task}, nil
	}, killed: agentEnd{says: "The socket connection was closed unexpectedly."}, stopped: agentEnd{says: "The socket connection was closed unexpectedly.", or: stoppedByOwner}},
	{name: "continue", prepare: func(t *testing.T, s agentSettings) ([]string, []string) {
		model := map[string]any{
			"name": agentModel, "provider": "openai", "model": agentModel,
			"apiBase": s.foreman + "/v1", "apiKey": s.token,
		}
		if s.idle > 0 {
			model["requestOptions"] = map[string]any{"timeout": s.ms()}
		}
		s.writeJSON(t, "config.yaml", map[string]any{ // JSON is YAML too
			"name": "foreman", "version": "1.0.0", "schema": "v1", "models": []any{model},
		})
		return []string{"cn", "-p", s.task, "--config", filepath.Join(s.home, "config.yaml"), "--allow", "Write"}, nil
	}, killed: agentEnd{done: true}, stopped: agentEnd{says: stoppedByOwner}},
}

// An agentRun is one agent at one task.
type agentRun struct {
	*lab.Agent
	tap  *tap
	line string // to be written
	file string // where
}

// startAgent gives an agent a task, with a home of its own.
func startAgent(t *testing.T, bin string, kind agentKind, foreman string, idle time.Duration) *agentRun {
	t.Helper()
	home := t.TempDir()
	work := filepath.Join(home, "work")
	for _, dir := range []string{work, filepath.Join(home, "tmp")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := &agentRun{
		tap:  newTap(t, foreman),
		line: "foreman-" + kind.name,
		file: filepath.Join(work, "greeting.txt"),
	}
	settings := agentSettings{
		bin: bin, home: home, foreman: run.tap.URL, token: agentToken(kind.name), idle: idle,
		task: "Write the line " + run.line + " to the file " + run.file + " and say so.",
	}
	command, env := kind.prepare(t, settings)
	cmd := exec.Command(filepath.Join(bin, command[0]), command[1:]...)
	cmd.Dir = work
	agent, err := lab.StartAgent(cmd, filepath.Join(home, "said"), append(settings.env(), env...)...)
	if err != nil {
		t.Fatal(err)
	}
	run.Agent = agent
	t.Cleanup(func() {
		agent.Stop()
		endWith(t, "HOME="+home)
		t.Logf("%s said:\n%s", kind.name, agent.Log())
		for _, r := range run.tap.requests() {
			t.Logf("%s asked: %s", kind.name, r)
		}
	})
	return run
}

// endWith ends the processes that have such an environment: agents leave some behind,
// in groups of their own.
func endWith(t *testing.T, variable string) {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		var pid int
		if environ, _ := os.ReadFile(name); !slices.Contains(strings.Split(string(environ), "\x00"), variable) {
			continue
		}
		if _, err := fmt.Sscanf(name, "/proc/%d/", &pid); err == nil {
			t.Logf("it left process %d behind", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// inTime waits as eventually does, and for longer.
func inTime(t *testing.T, cond func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lab.Until(ctx, cond); err != nil {
		t.Fatal(err)
	}
}

// wantDone waits until the agent has ended, and looks at what it did.
func (r *agentRun) wantDone(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Wait(ctx); err != nil {
		t.Errorf("got %v; want a clean end", err)
	}
	if got, err := os.ReadFile(r.file); err != nil || string(got) != r.line+"\n" {
		t.Errorf("its file: got %q, %v; want %q", got, err, r.line+"\n")
	}
	if want := "I wrote the line " + r.line; !strings.Contains(r.Log(), want) {
		t.Errorf("it has not said %q", want)
	}
}

func agentToken(name string) string { return "sesame-" + name }

// startAgents starts a foreman whose tokens have the names of agents.
func startAgents(t *testing.T, target string, env ...string) *lab.Foreman {
	t.Helper()
	var tokens strings.Builder
	for _, name := range append(agentNames(), "owner", "batch") {
		fmt.Fprintf(&tokens, "%s %s\n", name, agentToken(name))
	}
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte(tokens.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return startForeman(t, target, append([]string{"FOREMAN_TOKENS_FILE=" + file, "FOREMAN_EMBED_MODEL="}, env...)...)
}

func agentNames() (names []string) {
	for _, kind := range agentKinds {
		names = append(names, kind.name)
	}
	return names
}

// startAgentOllama starts an Ollama with a model that can use tools.
func startAgentOllama(t *testing.T, pace lab.Pace) *lab.Ollama {
	t.Helper()
	own := startOllama(t, pace.Env()...)
	if err := own.AddAgentModel(agentModel); err != nil {
		t.Fatal(err)
	}
	return own
}

// TestAgents has real agents do a small task through foreman: each writes a line to a
// file, and says so. The README has what their users see of it, in a table.
func TestAgents(t *testing.T) {
	if agentsFlag == "" {
		leaveOut(t, "real agents are installed first, 1.8 GB of them: go -C testdata/e2e test -agents")
	}
	needStandIn(t)
	const advice = "the agents need Node.js 20 or later, with npm (Debian: apt-get install nodejs npm)"
	need(t, advice, "node")
	bin, err := lab.InstallAgents(t.Context(), need(t, advice, "npm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, string)
	}{
		{"alone", agentsAlone},
		{"line", agentsInLine},
		{"long", agentsInLongLine},
		{"together", agentsTogether},
		{"killed", agentsKilled},
		{"stopped", agentsStopped},
	} {
		if agentsFlag.has(c.name) {
			t.Run(c.name, func(t *testing.T) { c.run(t, bin) })
		}
	}
}

func agentsAlone(t *testing.T, bin string) {
	own := startAgentOllama(t, testPace)
	for _, kind := range agentKinds {
		t.Run(kind.name, func(t *testing.T) {
			foreman := startAgents(t, own.URL)
			startAgent(t, bin, kind, foreman.URL, 0).wantDone(t)
			logRecent(t, foreman.URL)
		})
	}
}

// agentsInLine has all wait behind a chat for three times as long as they want to hear
// nothing, where that can be told to them.
func agentsInLine(t *testing.T, bin string) { waitInLine(t, bin, 10*time.Second, 35*time.Second) }

// agentsInLongLine has them wait for longer than any does by itself, or can be told to.
func agentsInLongLine(t *testing.T, bin string) { waitInLine(t, bin, 0, 330*time.Second) }

func waitInLine(t *testing.T, bin string, idle, wait time.Duration) {
	own := startAgentOllama(t, testPace)
	released := make(chan struct{})
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if r.URL.Path != "/api/chat" {
			return
		}
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	foreman := startAgents(t, meter.URL, "FOREMAN_HEARTBEAT=1s")
	call(t, foreman.URL+"/api/chat", agentToken("batch"), `{"model":"`+agentModel+`","messages":[{"role":"user","content":"hello"}]}`)
	eventually(t, func() error { return wantWaiting(foreman.URL, 0) })
	runs := map[string]*agentRun{}
	for _, kind := range agentKinds {
		runs[kind.name] = startAgent(t, bin, kind, foreman.URL, idle)
	}
	inTime(t, func() error {
		waiting := map[string]bool{}
		for _, chat := range agentPage(t, foreman.URL).Waiting {
			waiting[chat.Client] = true
		}
		if len(waiting) < len(agentKinds) {
			return fmt.Errorf("in line are %v; want %v", waiting, agentNames())
		}
		return nil
	})
	time.Sleep(wait)
	release()
	wantAllDone(t, runs)
	for name, run := range runs {
		asked := map[string]bool{}
		for _, r := range run.tap.requests() {
			if asked[r.body] {
				t.Errorf("%s asked for the same twice; want it to wait", name)
			}
			asked[r.body] = true
		}
	}
	logRecent(t, foreman.URL)
}

// agentsTogether has all of them work at once, beside somebody whose chats never end.
func agentsTogether(t *testing.T, bin string) {
	own := startAgentOllama(t, lab.Pace{Rate: 100})
	foreman := startAgents(t, own.URL)
	done := make(chan struct{})
	var batch sync.WaitGroup
	var served atomic.Int64
	for range 8 {
		batch.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				client := newClient(t, foreman.URL, agentToken("batch"))
				if _, err := chat(t.Context(), client, agentModel, false); err != nil && t.Context().Err() == nil {
					t.Errorf("batch: %v", err)
					return
				}
				served.Add(1)
			}
		})
	}
	runs := map[string]*agentRun{}
	for _, kind := range agentKinds {
		runs[kind.name] = startAgent(t, bin, kind, foreman.URL, 0)
	}
	wantAllDone(t, runs)
	close(done)
	batch.Wait()
	if served.Load() == 0 {
		t.Error("batch: no chat was served")
	}
	t.Logf("%d chats of the batch", served.Load())
	page := agentPage(t, foreman.URL)
	for _, share := range page.Today {
		t.Logf("%+v", share)
	}
}

func wantAllDone(t *testing.T, runs map[string]*agentRun) {
	t.Helper()
	for _, name := range agentNames() {
		t.Run(name, func(t *testing.T) { runs[name].wantDone(t) })
	}
}

// agentsKilled kills Ollama while it answers an agent, and starts it again.
func agentsKilled(t *testing.T, bin string) {
	for _, kind := range agentKinds {
		t.Run(kind.name, func(t *testing.T) {
			own := startAgentOllama(t, lab.Pace{Rate: 10})
			foreman := startAgents(t, own.URL)
			run := startAgent(t, bin, kind, foreman.URL, 0)
			run.answering(t)
			own.Kill()
			eventually(t, func() error { return wantHealth(foreman.URL, "degraded", "unreachable") })
			if err := own.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			run.wantEnd(t, kind.killed)
			logRecent(t, foreman.URL)
		})
	}
}

// agentsStopped stops an agent's chat on the page, while Ollama answers.
func agentsStopped(t *testing.T, bin string) {
	for _, kind := range agentKinds {
		t.Run(kind.name, func(t *testing.T) {
			own := startAgentOllama(t, lab.Pace{Rate: 10})
			foreman := startAgents(t, own.URL)
			run := startAgent(t, bin, kind, foreman.URL, 0)
			run.answering(t)
			running := agentPage(t, foreman.URL).Running
			if running == nil {
				t.Fatal("nothing runs")
			}
			askPage(t, foreman.URL, url.Values{"stop": {running.Stop}})
			run.wantEnd(t, kind.stopped)
			logRecent(t, foreman.URL)
		})
	}
}

// answering waits until the agent hears the first words of what it is to do.
func (r *agentRun) answering(t *testing.T) {
	t.Helper()
	inTime(t, func() error {
		r.tap.mu.Lock()
		defer r.tap.mu.Unlock()
		for _, said := range r.tap.said {
			if bytes.Contains(said.Bytes(), []byte("will ")) {
				return nil
			}
		}
		return errors.New("no answer")
	})
}

// An agentEnd is how an agent ends when something has gone wrong on its way.
type agentEnd struct {
	done bool   // it has done its task all the same
	says string // what it has said of it; empty: nothing
	or   string // what it may say instead, and has not done its task then
}

func (r *agentRun) wantEnd(t *testing.T, want agentEnd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := r.Wait(ctx)
	if ctx.Err() != nil {
		t.Error("it goes on; want an end")
	}
	if want.or != "" && strings.Contains(r.Log(), want.or) {
		want = agentEnd{says: want.or}
	}
	if want.done {
		r.wantDone(t)
	} else {
		if err == nil {
			t.Error("it ended as if nothing were wrong")
		}
		if _, noFile := os.Stat(r.file); noFile == nil {
			t.Error("it has written the file; want none")
		}
	}
	if !strings.Contains(r.Log(), want.says) {
		t.Errorf("it has not said %q", want.says)
	}
}

// A agentStatus is what the tests read of foreman's page.
type agentStatus struct {
	Running *struct{ Client, Stop string }
	Waiting []struct{ Client string }
	Today   []struct {
		Client string
		Chats  int
	}
	Recent []agentRequest
	Others []agentRequest
}

type agentRequest struct {
	Method, Route, Client, Agent, Reason string
	Status                               int
	Early, Cut                           bool
	Queue                                int64 `json:"queue_ms"`
	MS                                   int64
}

func agentPage(t *testing.T, foreman string) (page agentStatus) {
	t.Helper()
	if err := json.Unmarshal([]byte(askPage(t, foreman, nil)), &page); err != nil {
		t.Fatal(err)
	}
	return page
}

// logRecent logs what foreman's page says of the requests that have ended.
func logRecent(t *testing.T, foreman string) {
	t.Helper()
	page := agentPage(t, foreman)
	for _, r := range append(page.Recent, page.Others...) {
		t.Logf("%+v", r)
	}
}

// askPage asks for foreman's page as JSON, or sends its form, as its owner.
func askPage(t *testing.T, foreman string, form url.Values) string {
	t.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(t.Context(), method, foreman+"/status", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := withToken(agentToken("owner")).Do(r)
	a := read(t, resp, err)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%s /status: got %d %s; want 200", method, a.StatusCode, a.body)
	}
	return a.body
}

// A sent request is one that a client has sent through a tap.
type sent struct {
	*http.Request
	body string
}

// requests returns what clients have sent.
func (p *tap) requests() (all []sent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, asked := range p.asked {
		reader := bufio.NewReader(bytes.NewReader(asked.Bytes()))
		for {
			r, err := http.ReadRequest(reader)
			if err != nil {
				break // the end, or half a request
			}
			body, _ := io.ReadAll(r.Body) // likewise
			all = append(all, sent{r, string(body)})
		}
	}
	return all
}

// String is what the README tells of a request.
func (r sent) String() string {
	var said struct {
		Stream              bool
		Tools               []any
		MaxTokens           int `json:"max_tokens"`
		MaxCompletionTokens int `json:"max_completion_tokens"`
		MaxOutputTokens     int `json:"max_output_tokens"`
	}
	json.Unmarshal([]byte(r.body), &said) // what is no JSON says nothing
	return fmt.Sprintf("%s %s, %d bytes, stream %v, %d tools, %d tokens, %s", r.Method, r.URL, len(r.body),
		said.Stream, len(said.Tools), said.MaxTokens+said.MaxCompletionTokens+said.MaxOutputTokens, r.UserAgent())
}
