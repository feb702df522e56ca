package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// Built and started once for all tests. Only tests that use an Ollama of their
// own may stop it.
var (
	ollamaBinary  string
	standIn       bool   // whether it has the stand-in for llama-server
	foremanBinary string // with the race detector
	ollama        *lab.Ollama
	ollamaVersion string // as it says itself
	testDir       string // gone when all tests have ended
)

// testPace has chats of the usual length done at once, and lets those that are to go
// on for long do so.
var testPace = lab.Pace{Rate: 500}

// installedOllama is the environment variable that names the Ollama to test
// with, instead of the one that the tests build.
const installedOllama = "FOREMAN_E2E_OLLAMA"

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	if err := chooseTests(); err != nil {
		return 0, err
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "foreman-e2e-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	testDir = dir
	begin := time.Now()
	if ollamaBinary = os.Getenv(installedOllama); ollamaBinary == "" {
		if ollamaBinary, err = lab.BuildOllama(ctx, dir); err != nil {
			return 0, err
		}
		standIn = true
		fmt.Printf("Ollama %s built in %.1fs\n", lab.OllamaVersion(), time.Since(begin).Seconds())
	}
	begin = time.Now()
	flags := []string{"-race"}
	if *soakSamples != "" { // the race detector's own memory grows with all that it sees
		flags = nil
	}
	if foremanBinary, err = lab.BuildForeman(ctx, dir, flags...); err != nil {
		return 0, err
	}
	fmt.Printf("foreman built in %.1fs\n", time.Since(begin).Seconds())
	if ollama, err = lab.StartOllama(ctx, ollamaBinary, dir, testPace.Env()...); err != nil {
		return 0, err
	}
	defer ollama.Kill()
	if ollamaVersion, err = ollama.Client.Version(ctx); err != nil {
		return 0, err
	}
	fmt.Printf("Ollama %s is up\n", ollamaVersion)
	defer tellLeftOut(os.Stdout)
	return m.Run(), nil
}

// startForeman starts a foreman in front of the target for one test. More
// environment, or another value for a variable, goes in env.
func startForeman(t *testing.T, target string, env ...string) *lab.Foreman {
	t.Helper()
	f := startForemanAnyhow(t, target, env...)
	eventually(t, func() error { return wantHealth(f.URL, "ok", "") }) // after /readyz it would end later
	return f
}

// startForemanAnyhow is startForeman where the target is not to be used yet.
func startForemanAnyhow(t *testing.T, target string, env ...string) *lab.Foreman {
	t.Helper()
	f, err := lab.StartForeman(t.Context(), foremanBinary, t.TempDir(), append([]string{
		"FOREMAN_OLLAMA_URL=" + target,
		"FOREMAN_EMBED_MODEL=" + lab.EmbedModel,
		"FOREMAN_POLL_INTERVAL=500ms",
		"GORACE=atexit_sleep_ms=0", // else the race detector ends a second late
	}, env...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := f.Stop()
		if err != nil {
			t.Errorf("foreman ended with %v; want a clean end", err)
		}
		log := f.Log()
		if strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
			t.Error("a race or a panic in foreman")
		}
		if t.Failed() {
			t.Logf("foreman's log:\n%s", log)
		}
	})
	return f
}

// eventually waits until cond returns nil. The deadline is for machines that are
// busy with something else.
func eventually(t *testing.T, cond func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := lab.Until(ctx, cond); err != nil {
		t.Fatal(err)
	}
}

func wantStatus(url string, want int) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		body, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("GET %s: got %d %s; want %d", url, resp.StatusCode, body, want)
	}
	return nil
}

// An answer is a response that was read to its end.
type answer struct {
	*http.Response
	body string
}

// get asks for url.
func get(t *testing.T, url string) answer {
	t.Helper()
	resp, err := http.Get(url)
	return read(t, resp, err)
}

// post posts body to url.
func post(t *testing.T, url, body string) answer {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body))
	return read(t, resp, err)
}

func read(t *testing.T, resp *http.Response, err error) answer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// newClient returns Ollama's own Go client for the server at base. The token is
// sent unless it is empty.
func newClient(t *testing.T, base, token string) *api.Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return api.NewClient(u, withToken(token))
}

// withToken returns an HTTP client that sends the token unless it is empty.
func withToken(token string) *http.Client {
	return &http.Client{Transport: bearer(token)}
}

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+string(b))
	}
	return http.DefaultTransport.RoundTrip(r)
}

// resident returns an error unless Ollama says that the model is loaded.
func resident(ctx context.Context, client *api.Client, model string) error {
	running, err := client.ListRunning(ctx)
	if err != nil {
		return err
	}
	for _, m := range running.Models {
		if m.Name == model+":latest" {
			return nil
		}
	}
	return fmt.Errorf("resident are %v; want %s among them", running.Models, model)
}
