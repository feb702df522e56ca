package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"

	"foreman/e2e/lab"
)

// A front is a proxy that people put in front of foreman, with the lines that foreman's
// README has for it, and TLS. It is called frontName.
type front struct {
	program string // nginx or haproxy; empty: Caddy, built from source
	file    string // in testdata's front
	path    string // that it has before foreman's own; empty: none
	// config returns a whole configuration: the lines of the file, with foreman's address,
	// and what any site has around them. The certificate is in foreman.pem, in the
	// configuration's directory.
	config func(lines, addr, dir string) string
	// hurry lowers the time limits of a whole configuration to three seconds, and plain has
	// it do without TLS.
	hurry, plain func(config string) string
	args         func(file string) []string
	root         string // certificate that clients have to trust, in the configuration's directory
}

const frontName = "foreman.example"

var fronts = map[string]front{
	"nginx": {
		program: "nginx", file: "nginx.conf",
		config: func(lines, addr, dir string) string {
			return fmt.Sprintf("daemon off;\nmaster_process off;\npid %[1]s/nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n"+
				"client_body_temp_path %[1]s/body;\nproxy_temp_path %[1]s/proxy;\nfastcgi_temp_path %[1]s/fastcgi;\nuwsgi_temp_path %[1]s/uwsgi;\nscgi_temp_path %[1]s/scgi;\n"+
				"server {\n%[2]s}\n}\n", dir, strings.Replace(lines, "listen 443", "listen "+addr, 1))
		},
		hurry: func(config string) string { return strings.Replace(config, "read_timeout 1h", "read_timeout 3s", 1) },
		plain: func(config string) string { return strings.Replace(config, " ssl http2;", ";", 1) },
		args:  func(file string) []string { return []string{"-e", "stderr", "-p", filepath.Dir(file), "-c", file} },
		root:  "foreman.pem",
	},
	"caddy":             caddy("Caddyfile", ""),
	"caddy with a path": caddy("Caddyfile.path", "/ollama"),
	"haproxy": {
		program: "haproxy", file: "haproxy.cfg",
		config: func(lines, addr, dir string) string {
			usual := "defaults\nmode http\ntimeout connect 5s\ntimeout client 1m\n"
			return fmt.Sprintf("%s\nfrontend site\nbind %s ssl crt %s/foreman.pem alpn h2,http/1.1\ndefault_backend foreman\n", strings.Replace(lines, "defaults\n", usual, 1), addr, dir)
		},
		hurry: func(config string) string {
			return strings.NewReplacer("client 1m", "client 3s", "server 1h", "server 3s").Replace(config)
		},
		plain: func(config string) string { return regexp.MustCompile(" ssl crt .*").ReplaceAllString(config, "") },
		args:  func(file string) []string { return []string{"-db", "-f", file} },
		root:  "foreman.pem",
	},
}

// caddy returns a Caddy with the lines of a file, which have foreman under a path.
func caddy(file, path string) front {
	return front{
		file: file, path: path,
		config: func(lines, addr, dir string) string { // the certificates are its own
			return fmt.Sprintf("{\nadmin off\ndefault_bind 127.0.0.1\nhttps_port %s\nlocal_certs\nskip_install_trust\nauto_https disable_redirects\nservers {\nprotocols h1 h2\n}\n}\n%s",
				addr[strings.LastIndexByte(addr, ':')+1:], lines)
		},
		hurry: func(config string) string { // it has no limit of its own
			return regexp.MustCompile(`reverse_proxy \S+`).ReplaceAllString(config, "$0 {\ntransport http {\nread_timeout 3s\nresponse_header_timeout 3s\n}\n}")
		},
		plain: strings.NewReplacer("https_port", "http_port", frontName+" {", "http://"+frontName+" {").Replace,
		args:  func(file string) []string { return []string{"run", "--adapter", "caddyfile", "--config", file} },
		root:  "caddy/pki/authorities/local/root.crt",
	}
}

// A site is a front that runs.
type site struct {
	URL  string         // has its name, and the path
	addr string         // where it is
	root *x509.CertPool // that its certificate is signed by
}

// start starts the proxy in front of a foreman, as the README has it but for a change.
func (f front) start(t *testing.T, foreman string, change func(config string) string) *site {
	t.Helper()
	proxy, dir := f.startProxy(t, foreman, change)
	addr := strings.TrimPrefix(proxy.URL, "http://")
	s := &site{URL: "https://" + frontName + f.path, addr: addr, root: x509.NewCertPool()}
	eventually(t, func() error { // Caddy makes its certificates when it runs
		root, err := os.ReadFile(filepath.Join(dir, f.root))
		if err != nil {
			return err
		}
		s.root.AppendCertsFromPEM(root)
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: s.root, ServerName: frontName})
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return s
}

// startProxy starts the proxy, and returns it with the directory of its configuration.
func (f front) startProxy(t *testing.T, foreman string, change func(config string) string) (*lab.Front, string) {
	t.Helper()
	binary, err := f.binary(t)
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
		if err := lab.WriteCertificate(frontName, filepath.Join(dir, "foreman.pem"), filepath.Join(dir, "foreman.key")); err != nil {
			return nil, err
		}
		config := f.config(strings.Replace(string(lines), example, strings.TrimPrefix(foreman, "http://"), 1), addr, dir)
		if change != nil {
			before := config
			if config = change(config); config == before {
				return nil, errors.New("nothing to change")
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
			t.Logf("%s's log:\n%s", f.file, proxy.Log())
		}
	})
	return proxy, dir
}

// client returns a client of the site that speaks HTTP/2, or HTTP/1.1.
func (s *site) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.addr)
		},
		TLSClientConfig:   &tls.Config{RootCAs: s.root},
		ForceAttemptHTTP2: http2,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: speaks{transport, map[bool]int{true: 2, false: 1}[http2]}}
}

// speaks fails requests that are answered in another version of HTTP.
type speaks struct {
	http.RoundTripper
	major int
}

func (s speaks) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if err == nil && resp.ProtoMajor != s.major {
		resp.Body.Close()
		return nil, fmt.Errorf("answered in %s; want HTTP/%d", resp.Proto, s.major)
	}
	return resp, err
}

// binary returns the proxy's program, which is there.
func (f front) binary(t *testing.T) (string, error) {
	if f.program == "" {
		return lab.BuildCaddy(t.Context(), t.TempDir())
	}
	return exec.LookPath(f.program)
}

// needFront returns the proxy if it is installed.
func needFront(t *testing.T, name string) front {
	t.Helper()
	f := fronts[name]
	if f.program != "" {
		need(t, "the tests of proxies in front need nginx and haproxy (Debian: apt-get install nginx haproxy)", f.program)
	}
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
func (h *heard) hear(ctx context.Context, client *http.Client, url, body string) {
	h.err = func() error {
		r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
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
			case countBeats(line) > 0:
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
			beating, release := holdTurn(t, "FOREMAN_HEARTBEAT=1s", "FOREMAN_HOSTS="+frontName)
			silent, _ := holdTurn(t, "FOREMAN_HEARTBEAT=0", "FOREMAN_HOSTS="+frontName)
			var clients sync.WaitGroup
			t.Cleanup(clients.Wait)
			var survivors, victims []*heard
			ask := func(list *[]*heard, what string, site *site, http2 bool) {
				client := site.client(t, http2)
				for _, p := range frontPaths {
					h := &heard{name: what + ", " + p.path}
					*list = append(*list, h)
					clients.Go(func() { h.hear(t.Context(), client, site.URL+p.path, p.body) })
				}
			}
			asInREADME := front.start(t, beating, nil)
			ask(&survivors, "as in the README", asInREADME, true)
			ask(&survivors, "as in the README, HTTP/1.1", asInREADME, false)
			ask(&survivors, "three seconds", front.start(t, beating, front.hurry), true)
			ask(&victims, "no heartbeats", front.start(t, silent, front.hurry), true)

			eventually(t, func() error { return wantWaiting(beating, len(survivors)) })
			eventually(t, func() error { // one comes each second: the three seconds are over
				for _, h := range survivors {
					if got := h.beats.Load(); got < 5 {
						return fmt.Errorf("%s: got %d heartbeats in line; want five, one by one", h.name, got)
					}
				}
				return nil
			})
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
			site := front.start(t, silent, nil)
			for _, http2 := range []bool{true, false} {
				ctx, leave := context.WithCancel(t.Context())
				var h heard
				client := site.client(t, http2)
				clients.Go(func() { h.hear(ctx, client, site.URL+frontPaths[0].path, frontPaths[0].body) })
				eventually(t, func() error { return wantWaiting(silent, 1) })
				leave()
				eventually(t, func() error { return wantWaiting(silent, 0) })
			}
		})
	}
}

// TestFrontPassesWordByWord has an Ollama say its next word when the client has the one
// before, through proxies as foreman's README has them, over HTTP/2.
func TestFrontPassesWordByWord(t *testing.T) {
	for name := range fronts {
		t.Run(name, func(t *testing.T) {
			front := needFront(t, name)
			step := make(chan struct{}, 1)
			step <- struct{}{}
			site := front.start(t, startForeman(t, stepwise(t, step), "FOREMAN_HOSTS="+frontName).URL, nil)
			client := site.client(t, true)
			for _, p := range frontPaths {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r, err := http.NewRequestWithContext(ctx, "POST", site.URL+p.path, strings.NewReader(p.body))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				words, last := 0, ""
				for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
					if lines.Text() != "" {
						words++
						last = lines.Text()
						step <- struct{}{}
					}
				}
				if words < 33 || !strings.Contains(last, p.last) {
					t.Errorf("%s: got %d lines, the last %q; want 33 or more, and %s", p.path, words, last, p.last)
				}
			}
			resp, err := client.Post(site.URL+"/api/embed", "application/json", strings.NewReader(`{"model":"tiny-embed","input":"hello"}`))
			if got := read(t, resp, err); got.StatusCode != http.StatusOK || !has("embeddings")(got.body) {
				t.Errorf("embed: got %d %s; want an embedding", got.StatusCode, got.body)
			}
		})
	}
}

// TestFrontStops presses the button on a page that comes through proxies as foreman's
// README has them, but by plain HTTP and at a port that is not HTTP's: what the browser
// then says of the page's origin has to fit the Host.
func TestFrontStops(t *testing.T) {
	t.Parallel()
	for name := range fronts {
		t.Run(name, func(t *testing.T) {
			front := needFront(t, name)
			s := newStopStage(t, startBrowser(t, frontName), "FOREMAN_HOSTS="+frontName)
			t.Cleanup(s.release)
			proxy, _ := front.startProxy(t, s.URL, front.plain)
			running := s.chat(t)
			navigate(t, s.tab, strings.Replace(proxy.URL, "127.0.0.1", "anybody:sesame-ann@"+frontName, 1)+front.path+"/status")
			byMouse(t, s.tab, running)
			running.expectStopped(t)
		})
	}
}

// stepwise starts a server before the shared Ollama that passes a line of a stream on for
// each step.
func stepwise(t *testing.T, step <-chan struct{}) (url string) {
	t.Helper()
	target, err := neturl.Parse(ollama.URL)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			if resp.Request.Method == http.MethodPost && resp.ContentLength < 0 {
				resp.Body = &steps{resp.Body, bufio.NewReader(resp.Body), step, resp.Request.Context()}
			}
			return nil
		},
	})
	t.Cleanup(server.Close)
	return server.URL
}

// Steps is a body whose lines that are not empty come one for each step.
type steps struct {
	io.Closer
	in   *bufio.Reader
	step <-chan struct{}
	ctx  context.Context
}

func (s *steps) Read(b []byte) (int, error) {
	line, err := s.in.ReadSlice('\n')
	if len(line) > 1 {
		select {
		case <-s.step:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	if len(line) > len(b) {
		return 0, io.ErrShortBuffer
	}
	return copy(b, line), err
}

// TestFrontBrowser has a page read a stream that waits in line behind nginx, which gives
// up after three seconds.
func TestFrontBrowser(t *testing.T) {
	nginx := needFront(t, "nginx")
	foreman, release := holdTurn(t, "FOREMAN_HEARTBEAT=1s", "FOREMAN_HOSTS="+frontName)
	site := nginx.start(t, foreman, nginx.hurry)
	tab := startBrowser(t, frontName+"="+site.addr)
	if err := doIn(tab, func(ctx context.Context, target *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, security.SetIgnoreCertificateErrors, security.SetIgnoreCertificateErrorsParams{Ignore: true})
		return none, err
	}); err != nil {
		t.Fatal(err)
	}
	navigate(t, tab, site.URL+"/api/version")
	const protocol = `async () => performance.getEntriesByType('navigation')[0].nextHopProtocol`
	if got := inPage[string](t, tab, protocol); got != "h2" {
		t.Errorf("the page came by %q; want h2", got)
	}
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
					if (said.message?.content) heard.words++;
					else if (!said.done) heard.beats++;
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
	eventually(t, func() error { // one comes each second: nginx's three seconds are over
		if got := inPage[heard](t, tab, `async () => heard`, []any{}...); got.Beats < 5 || got.Words != 0 || got.Done {
			return fmt.Errorf("in line: got %+v; want five heartbeats and nothing else", got)
		}
		return nil
	})
	release()
	if got := inPage[heard](t, tab, `async () => { await chat; return heard; }`, []any{}...); got.Words != 32 || !got.Done {
		t.Errorf("got %+v; want 32 words and the end", got)
	}
}

// TestFrontsInREADME: the READMEs have the lines that are tested.
func TestFrontsInREADME(t *testing.T) {
	var readme strings.Builder
	for _, file := range []string{"../../README.md", "../deploy/README.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		readme.Write(text)
	}
	for name, front := range fronts {
		lines, err := os.ReadFile(filepath.Join("front", front.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(readme.String(), "\n"+string(lines)) {
			t.Errorf("%s: the README lacks\n%s", name, lines)
		}
	}
}
