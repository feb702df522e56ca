package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// A setup is a foreman that has started with the files of a folder of testdata/deploy, as
// they stand, in front of an Ollama of the test's.
type setup struct {
	*lab.Foreman
	env    environment
	tokens map[string]string // by name
}

// readSetup reads the files of a folder. The tokens are made as the README says.
func readSetup(t *testing.T, name string) *setup {
	t.Helper()
	s := &setup{env: environment{}, tokens: map[string]string{}}
	content, err := os.ReadFile(filepath.Join("../deploy", name, "foreman.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			variable, value, _ := strings.Cut(line, "=")
			s.env[variable] = value
		}
	}
	s.env.inForce(t)

	readme, err := os.ReadFile("../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^while read .* <testdata/deploy/family/tokens`).Find(readme)
	if command == nil {
		t.Fatal("the README has no command that makes tokens")
	}
	bash := need(t, "the tests of the setups need bash (Debian: apt-get install bash)", "bash")
	need(t, "the tests of the setups need openssl (Debian: apt-get install openssl)", "openssl")
	cmd := exec.CommandContext(t.Context(), bash, "-c", strings.Replace(string(command), "family", name, 1))
	cmd.Dir = "../.."
	made, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(made)); lines.Scan(); {
		if words := strings.Fields(lines.Text()); words[0] != "#" {
			s.tokens[words[0]] = words[1]
		}
	}
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, made, 0o600); err != nil {
		t.Fatal(err)
	}
	s.env["FOREMAN_TOKENS_FILE"] = file
	if token := s.env["FOREMAN_TOKEN"]; token != "" {
		s.tokens["FOREMAN_TOKEN"] = token
	}
	return s
}

// start starts a foreman in front of target, and waits until it knows the models there.
func (s *setup) start(t *testing.T, target string, more environment) {
	t.Helper()
	s.Foreman = s.env.with(more).startBefore(t, target)
	eventually(t, func() error {
		if h, err := s.health(); err != nil || h.Models == 0 {
			return fmt.Errorf("no models: %+v, %w", h, err)
		}
		return nil
	})
}

// health is part of what /healthz says.
type health struct {
	Status string
	Models int
}

func (s *setup) health() (h health, err error) {
	resp, err := http.Get(s.URL + "/healthz")
	if err != nil {
		return h, err
	}
	defer resp.Body.Close()
	return h, json.NewDecoder(resp.Body).Decode(&h)
}

// client is Ollama's own, with the token of a name and other fields.
func (s *setup) client(t *testing.T, name string, fields ...string) *api.Client {
	t.Helper()
	header := http.Header{"Authorization": {"Bearer " + s.tokens[name]}}
	for pair := range slices.Chunk(fields, 2) {
		header.Set(pair[0], pair[1])
	}
	return newClientWith(t, s.URL, header)
}

// models returns what a client is told that there is.
func (s *setup) models(t *testing.T, name string) (names []string) {
	t.Helper()
	list, err := s.client(t, name).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Models {
		names = append(names, strings.TrimSuffix(m.Name, ":latest"))
	}
	slices.Sort(names)
	return names
}

// post posts a form to the status page with the token of a name.
func (s *setup) post(t *testing.T, name string, form url.Values) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/status", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	resp, err := withToken(s.tokens[name]).Do(r)
	return read(t, resp, err)
}

func chatWith(t *testing.T, client *api.Client, model string) error {
	t.Helper()
	return client.Chat(t.Context(), &api.ChatRequest{
		Model: model, Messages: []api.Message{{Role: "user", Content: "Who are you?"}},
	}, func(api.ChatResponse) error { return nil })
}

// startSetupOllama starts an Ollama with models of its own beside the lab's.
func startSetupOllama(t *testing.T, names ...string) *lab.Ollama {
	t.Helper()
	own := startOllama(t, testPace.Env()...)
	for i, name := range names {
		if err := own.AddModel(name, uint64(5+i)); err != nil {
			t.Fatal(err)
		}
	}
	return own
}

// at is a zone in which it is now about so many o'clock.
func at(hour int) environment {
	east := (hour-time.Now().UTC().Hour()+36)%24 - 12 // -12 to 11
	return environment{"TZ": fmt.Sprintf("Etc/GMT%+d", -east)}
}

// TestSetupFamily has a child ask for its models and others, and a parent let it ask in
// quiet hours.
func TestSetupFamily(t *testing.T) {
	t.Parallel()
	own := startSetupOllama(t, "llama3.2", "gemma3")
	s := readSetup(t, "family")
	mac, err := net.ParseMAC(s.env["FOREMAN_WAKE"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := time.LoadLocation(s.env["TZ"]); err != nil {
		t.Error(err)
	}
	toNobody := environment{"FOREMAN_WAKE": mac.String() + "@127.0.0.1:9"} // the Ollama of the test does not sleep

	s.start(t, own.URL, toNobody.with(at(12)))
	if got, want := s.models(t, "kid"), []string{"gemma3", "llama3.2"}; !slices.Equal(got, want) {
		t.Errorf("the child is told of %q; want %q", got, want)
	}
	if got := s.models(t, "mum"); !slices.Contains(got, lab.ChatModel) {
		t.Errorf("a parent is told of %q; want all", got)
	}
	for who, want := range map[string]string{"kid": "model '" + lab.ChatModel + "' not found", "mum": "", "dad": ""} {
		if err := chatWith(t, s.client(t, who), lab.ChatModel); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s asks %s: got %v; want %q", who, lab.ChatModel, err, want)
		}
	}
	if err := chatWith(t, s.client(t, "kid"), "gemma3"); err != nil {
		t.Errorf("the child asks gemma3: %v", err)
	}

	s.start(t, own.URL, toNobody.with(at(2)))
	if h, err := s.health(); h.Status != "paused" {
		t.Errorf("at night: got %q, %v; want paused", h.Status, err)
	}
	if got := s.post(t, "kid", url.Values{"resume": {"1"}}); got.StatusCode != http.StatusForbidden {
		t.Errorf("the child resumes: got %s; want 403", got.Status)
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		if err := chatWith(t, s.client(t, "kid"), "gemma3"); err != nil {
			t.Errorf("the child asks at night: %v", err)
		}
	})
	eventually(t, func() error { return waiting(s.URL, 1) })
	if got := s.post(t, "mum", url.Values{"resume": {"1"}}); got.StatusCode != http.StatusOK {
		t.Errorf("a parent resumes: got %s %s; want 200", got.Status, got.body)
	}
	asking.Wait()
}

// TestSetupOffice has the batch, Open WebUI's titles, its users and agents wait for one
// turn, and looks who has it when.
func TestSetupOffice(t *testing.T) {
	t.Parallel()
	own := startSetupOllama(t)
	var (
		mu    sync.Mutex
		began []string
	)
	released := make(chan struct{})
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if r.URL.Path != "/api/chat" {
			return
		}
		mu.Lock()
		began = append(began, r.Header.Get("X-Request-Id"))
		mu.Unlock()
		<-released
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	s := readSetup(t, "office")
	s.start(t, meter.URL, nil)
	// Open WebUI sends both fields with each request: without a value where there is no task.
	const user, task = "X-OpenWebUI-User-Id", "X-OpenWebUI-Task"
	var asking sync.WaitGroup
	t.Cleanup(asking.Wait)
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	for i, ask := range []struct {
		who    string
		fields []string
	}{
		{"ann-codex", []string{"X-Request-Id", "runs"}},
		{"nightly", []string{"X-Request-Id", "batch"}},
		{"FOREMAN_TOKEN", []string{"X-Request-Id", "title", user, "1", task, "title_generation"}},
		{"bob-claude", []string{"X-Request-Id", "agent"}},
		{"FOREMAN_TOKEN", []string{"X-Request-Id", "question", user, "2", task, ""}},
	} {
		client := s.client(t, ask.who, ask.fields...)
		asking.Go(func() {
			if err := chatWith(t, client, lab.ChatModel); err != nil {
				t.Errorf("%q: %v", ask.fields, err)
			}
		})
		eventually(t, func() error { return wantWaiting(s.URL, i) })
	}
	release()
	asking.Wait()
	for waits, want := range map[int][]string{0: {"runs"}, 1: {"agent", "question"}, 3: {"batch", "title"}} {
		if got := slices.Sorted(slices.Values(began[waits:][:len(want)])); !slices.Equal(got, want) {
			t.Errorf("Ollama got %q; want %q behind the first %d, in any order", began, want, waits)
		}
	}
	for _, want := range []string{"background=file", "background=header", `client="1 (header)"`, `client="2 (header)"`} {
		if !strings.Contains(s.Log(), want) {
			t.Errorf("the log has no %s", want)
		}
	}
}

// TestSetupClass has all pupils ask at once, and read their documents.
func TestSetupClass(t *testing.T) {
	t.Parallel()
	own := startSetupOllama(t, "llama3.2", "gemma3", "nomic-embed-text", "gpt-oss")
	s := readSetup(t, "class")
	if n := len(s.tokens); n != 31 {
		t.Fatalf("%d tokens; want 30 of pupils and the teacher's", n)
	}
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	var reading atomic.Int64
	meter, err := lab.NewMeter(own.URL, func(r *http.Request) {
		if r.URL.Path == "/api/embed" && s.tokens[r.Header.Get("X-Request-Id")] != "" { // and no warm-up
			reading.Add(1)
			<-released
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(meter.Close)
	s.start(t, meter.URL, nil)
	var asking sync.WaitGroup
	t.Cleanup(asking.Wait)
	t.Cleanup(release)
	for who := range s.tokens {
		client := s.client(t, who, "X-Request-Id", who)
		asking.Go(func() {
			if err := chatWith(t, client, "llama3.2"); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		})
		asking.Go(func() {
			if _, err := client.Embed(t.Context(), &api.EmbedRequest{Model: "nomic-embed-text", Input: "a page"}); err != nil {
				t.Errorf("%s reads: %v", who, err)
			}
		})
	}
	eventually(t, func() error {
		if n := meter.Total("/api/chat"); n < 31 || reading.Load() < 4 {
			return fmt.Errorf("%d chats have come and %d embeddings; want 31 and 4", n, reading.Load())
		}
		return nil
	})
	if n := reading.Load(); n != 4 {
		t.Errorf("%d embeddings are at Ollama; want 4", n)
	}
	release()
	asking.Wait()
	if got, want := s.models(t, "pupil07"), []string{"gemma3", "llama3.2", "nomic-embed-text"}; !slices.Equal(got, want) {
		t.Errorf("a pupil is told of %q; want %q", got, want)
	}
	if err := chatWith(t, s.client(t, "pupil07"), "gpt-oss"); err == nil || !strings.Contains(err.Error(), "model 'gpt-oss' not found") {
		t.Errorf("a pupil asks gpt-oss: got %v; want it not found", err)
	}
	if err := chatWith(t, s.client(t, "teacher"), "gpt-oss"); err != nil {
		t.Errorf("the teacher asks gpt-oss: %v", err)
	}
}
