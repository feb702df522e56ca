package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// A front is a proxy that people put in front of foreman, with the lines that foreman's
// README has for it.
type front struct {
	program, packageName string
	file                 string // in testdata's front
	// config returns a whole configuration: the lines of the file, with foreman's address,
	// and what any site has around them.
	config func(lines, addr, dir string) string
	// hurry lowers the time limits of a whole configuration to three seconds.
	hurry func(config string) string
	args  func(file string) []string
}

var fronts = map[string]front{
	"nginx": {
		program: "nginx", packageName: "nginx", file: "nginx.conf",
		config: func(lines, addr, dir string) string {
			return fmt.Sprintf("daemon off;\nmaster_process off;\npid %[1]s/nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
				"client_body_temp_path %[1]s/body;\nproxy_temp_path %[1]s/proxy;\nfastcgi_temp_path %[1]s/fastcgi;\nuwsgi_temp_path %[1]s/uwsgi;\nscgi_temp_path %[1]s/scgi;\n"+
				"server {\nlisten %[2]s;\n%[3]s}\n}\n", dir, addr, lines)
		},
		hurry: func(config string) string { return strings.Replace(config, "read_timeout 1h", "read_timeout 3s", 1) },
		args:  func(file string) []string { return []string{"-e", "stderr", "-p", filepath.Dir(file), "-c", file} },
	},
	"caddy": {
		program: "caddy", packageName: "caddy", file: "Caddyfile",
		config: func(lines, addr, dir string) string {
			return "{\nadmin off\n}\n" + strings.Replace(lines, "foreman.example", "http://"+addr, 1)
		},
		hurry: func(config string) string { // it has no limit of its own
			at := strings.LastIndex(config, "\n}")
			return config[:at] + " {\ntransport http {\nread_timeout 3s\nresponse_header_timeout 3s\n}\n}" + config[at:]
		},
		args: func(file string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} },
	},
	"haproxy": {
		program: "haproxy", packageName: "haproxy", file: "haproxy.cfg",
		config: func(lines, addr, dir string) string {
			usual := "defaults\nmode http\ntimeout connect 5s\ntimeout client 1m\n"
			return fmt.Sprintf("%s\nfrontend site\nbind %s\ndefault_backend foreman\n", strings.Replace(lines, "defaults\n", usual, 1), addr)
		},
		hurry: func(config string) string {
			return strings.NewReplacer("client 1m", "client 3s", "server 1h", "server 3s").Replace(config)
		},
		args: func(file string) []string { return []string{"-db", "-f", file} },
	},
}

// start starts the proxy in front of a foreman, as the README has it, or in a hurry.
func (f front) start(t *testing.T, foreman string, hurry bool) *lab.Front {
	t.Helper()
	binary, err := exec.LookPath(f.program)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile(filepath.Join("front", f.file))
	if err != nil {
		t.Fatal(err)
	}
	const example = "127.0.0.1:8080"
	if strings.Count(string(lines), example) != 1 {
		t.Fatalf("%s: want %s in it, once", f.file, example)
	}
	dir := t.TempDir()
	proxy, err := lab.StartFront(t.Context(), dir, func(addr string) (*exec.Cmd, error) {
		config := f.config(strings.Replace(string(lines), example, strings.TrimPrefix(foreman, "http://"), 1), addr, dir)
		if hurry {
			patient := config
			if config = f.hurry(config); config == patient {
				return nil, errors.New("no time limit to lower")
			}
		}
		file := filepath.Join(dir, f.file)
		cmd := exec.Command(binary, f.args(file)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		return cmd, os.WriteFile(file, []byte(config), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proxy.Stop()
		if t.Failed() {
			t.Logf("%s's log:\n%s", f.program, proxy.Log())
		}
	})
	return proxy
}

// needFront returns the proxy if it is installed.
func needFront(t *testing.T, name string) front {
	t.Helper()
	f := fronts[name]
	need(t, "the tests of proxies in front need nginx, haproxy and caddy (Debian: apt-get install nginx haproxy caddy)", f.program)
	return f
}

// frontPaths are the streams that go through proxies, with what their last line is.
var frontPaths = []struct{ path, body, last string }{
	{"/api/chat", `{"model":"tiny-chat","messages":[{"role":"user","content":"Who are you?"}]}`, `"done":true`},
	{"/v1/chat/completions", `{"model":"tiny-chat","stream":true,"messages":[{"role":"user","content":"Who are you?"}]}`, "data: [DONE]"},
}

// A heard stream is what came of one.
type heard struct {
	name  string
	beats atomic.Int64 // that came so far
	last  string       // line that is not empty
	lines int
	err   error
}

// hear asks for a stream and reads it as it comes, to its end.
func (h *heard) hear(ctx context.Context, url, body string) {
	h.err = func() error {
		r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.Contains(line, `"queue":{`):
				h.beats.Add(1)
			case line != "":
				h.last = line
				h.lines++
			}
		}
		return lines.Err()
	}()
}

// TestFront has streams wait in line for ten seconds behind proxies that give up after
// three, and behind proxies as foreman's README has them.
func TestFront(t *testing.T) {
	for name := range fronts {
		t.Run(name, func(t *testing.T) {
			front := needFront(t, name)
			beating, release := holdTurn(t, "FOREMAN_HEARTBEAT=1s")
			silent, _ := holdTurn(t, "FOREMAN_HEARTBEAT=0")
			var clients sync.WaitGroup
			t.Cleanup(clients.Wait)
			var survivors, victims []*heard
			ask := func(list *[]*heard, what string, proxy *lab.Front) {
				for _, p := range frontPaths {
					h := &heard{name: what + ", " + p.path}
					*list = append(*list, h)
					clients.Go(func() { h.hear(t.Context(), proxy.URL+p.path, p.body) })
				}
			}
			ask(&survivors, "as in the README", front.start(t, beating, false))
			ask(&survivors, "three seconds", front.start(t, beating, true))
			ask(&victims, "no heartbeats", front.start(t, silent, true))

			eventually(t, func() error { return wantWaiting(beating, len(survivors)) })
			time.Sleep(10 * time.Second) // in line
			for _, h := range survivors {
				if got := h.beats.Load(); got < 4 {
					t.Errorf("%s: got %d heartbeats after ten seconds in line; want ten, one by one", h.name, got)
				}
			}
			if err := wantWaiting(beating, len(survivors)); err != nil {
				t.Error(err)
			}
			release()
			clients.Wait()
			for i, h := range survivors {
				if last := frontPaths[i%len(frontPaths)].last; h.err != nil || h.lines < 33 || !strings.Contains(h.last, last) {
					t.Errorf("%s: got %d lines, the last %q, %v; want 33 or more, and %s", h.name, h.lines, h.last, h.err, last)
				}
			}
			for _, h := range victims {
				if h.err == nil || !strings.HasPrefix(h.err.Error(), "504 ") {
					t.Errorf("%s: got %v; want 504", h.name, h.err)
				}
			}

			// A client that leaves is gone for foreman too.
			eventually(t, func() error { return wantWaiting(silent, 0) })
			client := call(t, front.start(t, silent, false).URL+"/api/chat", "", frontPaths[0].body)
			eventually(t, func() error { return wantWaiting(silent, 1) })
			client.leave()
			eventually(t, func() error { return wantWaiting(silent, 0) })
		})
	}
}

// TestFrontBrowser has a page read a stream that waits in line behind nginx, which gives
// up after three seconds.
func TestFrontBrowser(t *testing.T) {
	nginx := needFront(t, "nginx")
	tab := startBrowser(t)
	foreman, release := holdTurn(t, "FOREMAN_HEARTBEAT=1s")
	navigate(t, tab, nginx.start(t, foreman, true).URL+"/api/version")
	inPage[bool](t, tab, `async (model) => {
		window.heard = { beats: 0, words: 0 };
		window.chat = (async () => {
			const response = await fetch('/api/chat', {
				method: 'POST', body: JSON.stringify({ model, messages: [{ role: 'user', content: 'Who are you?' }] }),
			});
			const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
			let rest = '';
			for (;;) {
				const { done, value } = await reader.read();
				if (done) return;
				const lines = (rest + value).split('\n');
				rest = lines.pop();
				for (const line of lines) {
					const said = JSON.parse(line);
					if (said.queue) heard.beats++;
					if (said.message?.content) heard.words++;
					heard.done = said.done;
				}
			}
		})();
		return true;
	}`, lab.ChatModel)
	type heard struct {
		Beats, Words int
		Done         bool
	}
	eventually(t, func() error { return wantWaiting(foreman, 1) })
	time.Sleep(10 * time.Second) // in line
	if got := inPage[heard](t, tab, `async () => heard`, []any{}...); got.Beats < 4 || got.Words != 0 || got.Done {
		t.Errorf("after ten seconds in line: got %+v; want ten heartbeats and nothing else", got)
	}
	release()
	if got := inPage[heard](t, tab, `async () => { await chat; return heard; }`, []any{}...); got.Words != 32 || !got.Done {
		t.Errorf("got %+v; want 32 words and the end", got)
	}
}

// TestFrontsInREADME: the README has the lines that are tested.
func TestFrontsInREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, front := range fronts {
		lines, err := os.ReadFile(filepath.Join("front", front.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), "\n"+string(lines)) {
			t.Errorf("%s: the README lacks\n%s", name, lines)
		}
	}
}
