package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A front is what stands between the clients and the host.
type front struct {
	key, name string
	shares    shares
	command   func(p place) (args, env []string) // nil: there is none
	v1        bool                               // it has OpenAI's API alone
}

// shares is what a front knows of its clients, but for their names.
type shares struct {
	people     int  // the weight of those who chat; 0 is 1
	background bool // the batch goes when nobody else waits
}

// weight returns a client's; 0: it is in the background.
func (s shares) weight(client string) int {
	switch {
	case s.background && client == batch:
		return 0
	case strings.HasPrefix(client, "person"):
		return max(1, s.people)
	}
	return 1
}

// A place is where a front runs.
type place struct {
	dir, addr, target string
	embedder          string // the model to keep resident; empty: there is none
	scale             float64
	clients           []string
	shares            shares
	programs          map[string]string
}

var fronts = []front{
	{key: "none", name: "Ollama's own queue"},
	{key: "haproxy", name: "HAProxy, `maxconn 1`", command: haproxy},
	{key: "llama-swap", name: "llama-swap", command: llamaSwap, v1: true},
	{key: "foreman", name: "foreman", command: foreman()},
	{key: "arrival", name: "foreman, FAIR=false", command: foreman("FOREMAN_FAIR=false")},
	{key: "weights", name: "foreman, people weigh 3", command: foreman(), shares: shares{people: 3}},
	{key: "background", name: "foreman, batch in background", command: foreman(), shares: shares{background: true}},
}

// foreman runs with its defaults, whose times are scaled (those that are constants by bench.sh), and knows the clients by their tokens.
func foreman(settings ...string) func(place) ([]string, []string) {
	return func(p place) ([]string, []string) {
		var tokens strings.Builder
		for _, c := range p.clients {
			words := ""
			switch weight := p.shares.weight(c); weight {
			case 0:
				words = " background"
			case 1: // is the default
			default:
				words = fmt.Sprintf(" weight=%d", weight)
			}
			fmt.Fprintf(&tokens, "%s %s%s\n", c, tokenOf(c), words)
		}
		scaled := func(name string, seconds float64) string {
			return fmt.Sprintf("%s=%dus", name, int(seconds/p.scale*1e6))
		}
		return []string{p.programs["foreman"]}, append([]string{
			"FOREMAN_ADDR=" + p.addr, "FOREMAN_OLLAMA_URL=http://" + p.target, "FOREMAN_EMBED_MODEL=" + p.embedder,
			"FOREMAN_TOKENS_FILE=" + p.write("tokens", tokens.String()), "FOREMAN_LOG_LEVEL=warn",
			scaled("FOREMAN_HEARTBEAT", 20), scaled("FOREMAN_POLL_INTERVAL", 30),
			scaled("FOREMAN_STALL_TIMEOUT", 600),
		}, settings...)
	}
}

// haproxy lets one chat through.
func haproxy(p place) ([]string, []string) {
	file := p.write("haproxy.cfg", fmt.Sprintf(`global
    maxconn 8000
    nbthread 2
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout queue 1h
    option http-no-delay
frontend f
    bind %s
    use_backend chat if { path /api/chat }
    default_backend rest
backend chat
    server t %s maxconn 1
backend rest
    server t %s
`, p.addr, p.target, p.target))
	return []string{p.programs["haproxy"], "-db", "-q", "-f", file}, nil
}

// llamaSwap groups chats by model and has no limit of its own on chats at once; the host has its line behind it.
// The programs that it starts and stops do nothing: the host loads the model of a chat that comes. Versions before
// groups pass embeddings to whichever runs.
func llamaSwap(p place) ([]string, []string) {
	model := func(name string) string {
		return fmt.Sprintf("  %s:\n    cmd: sleep 100000\n    checkEndpoint: none\n    proxy: http://%s\n    concurrencyLimit: 1000\n", name, p.target)
	}
	file := p.write("llama-swap.yaml", "logLevel: error\nlogToStdout: none\nmodels:\n"+model("a")+model("b")+model("embed")+
		"groups:\n  chat:\n    swap: true\n    exclusive: false\n    members: [a, b]\n  embed:\n    persistent: true\n    swap: false\n    exclusive: false\n    members: [embed]\n")
	return []string{p.programs["llama-swap"], "-config", file, "-listen", p.addr}, nil
}

func (p place) write(name, text string) string {
	file := filepath.Join(p.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return file
}

// A running front can be stopped.
type running struct {
	url string
	cmd *exec.Cmd // nil: there is none
	log string    // its file
}

func (r *running) stop() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { r.cmd.Process.Kill() })
	defer timer.Stop()
	r.cmd.Wait()
}

// start starts a front and waits until it answers.
func (f front) start(p place) (*running, error) {
	if f.command == nil {
		return &running{url: "http://" + p.target}, nil
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // only to find a port that is free
	if err != nil {
		return nil, err
	}
	p.addr = ln.Addr().String()
	ln.Close()
	p.shares = f.shares
	args, env := f.command(p)
	r := &running{url: "http://" + p.addr, log: filepath.Join(p.dir, "log")}
	out, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.Env, r.cmd.Stdout, r.cmd.Stderr = append(os.Environ(), env...), out, out
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 50 {
		time.Sleep(200 * time.Millisecond) // foreman has polled once by then
		if resp, err := http.Get(r.url + "/"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK || f.v1 { // llama-swap has nothing there
				return r, nil
			}
		}
	}
	r.stop()
	text, _ := os.ReadFile(r.log)
	return nil, fmt.Errorf("%s does not answer: %s", f.name, text)
}
