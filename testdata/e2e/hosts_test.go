package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// Hosts are two foremen, each before an Ollama of its own, behind one HAProxy with the
// configuration in testdata/deploy.
type hosts struct {
	URL  string // HAProxy's
	a, b *oneHost

	haproxy *lab.Front
	secure  *site // nil: none
}

// A oneHost is one of the two.
type oneHost struct {
	name    string // as HAProxy has it
	ollama  *lab.Ollama
	foreman *lab.Foreman
	target  string // Ollama's URL, or that of a meter before it
	addr    string // foreman's, also when it starts again
	env     []string
}

// A hostsSetup says how the hosts differ from the usual.
type hostsSetup struct {
	variant string              // of the configuration; see hostsConfig
	paces   [2]lab.Pace         // of the Ollamas
	ollamas []string            // more of their environment
	hold    func(*http.Request) // what holds up requests at b's Ollama; nil: nothing
	foremen []string            // more of the foremen's environment
	models  []string            // that the Ollamas hold besides
	tls     bool                // HAProxy listens with TLS too
}

// startHosts starts them all.
func startHosts(t *testing.T, setup hostsSetup) *hosts {
	t.Helper()
	needStandIn(t)
	need(t, "the tests of two hosts need haproxy (Debian: apt-get install haproxy)", "haproxy")
	h := &hosts{a: &oneHost{name: "a"}, b: &oneHost{name: "b"}}
	for i, host := range []*oneHost{h.a, h.b} {
		host.ollama = startOllama(t, append(setup.paces[i].Env(), setup.ollamas...)...)
		host.target, host.env = host.ollama.URL, setup.foremen
		for seed, model := range setup.models {
			if err := host.ollama.AddModel(model, uint64(10+seed)); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if host.addr, err = lab.FreeAddr(); err != nil {
			t.Fatal(err)
		}
		if host == h.b && setup.hold != nil {
			meter, err := lab.NewMeter(host.target, setup.hold)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(meter.Close)
			host.target = meter.URL
		}
		host.start(t)
	}
	dir := t.TempDir()
	haproxy, err := lab.StartFront(t.Context(), dir, func(addr string) (*exec.Cmd, error) {
		config, err := hostsConfig(setup.variant, addr, h.a.addr, h.b.addr)
		if err != nil {
			return nil, err
		}
		if setup.tls {
			if config, h.secure, err = withTLS(config, dir); err != nil {
				return nil, err
			}
		}
		file := filepath.Join(dir, "haproxy.cfg")
		return exec.Command("haproxy", "-db", "-f", file), os.WriteFile(file, []byte(config), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		haproxy.Stop()
		if t.Failed() {
			t.Logf("HAProxy's log:\n%s", haproxy.Log())
		}
	})
	h.URL, h.haproxy = haproxy.URL, haproxy
	return h
}

// hostsConfig returns the configuration with these addresses and for whoever runs the
// tests. The lines of a variant, if one is named, take the place of those for leastconn.
func hostsConfig(variant, addr, a, b string) (string, error) {
	const file = "../deploy/haproxy.cfg"
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	config := string(text)
	replace := func(old, new string) {
		if strings.Count(config, old) != 1 && err == nil {
			err = fmt.Errorf("%s: want %q in it, once", file, old)
		}
		config = strings.Replace(config, old, new, 1)
	}
	replace("    user haproxy\n    group haproxy\n", "")
	replace("bind :8080\n", "bind "+addr+"\n")
	replace("192.168.1.20:8080", a)
	replace("192.168.1.21:8080", b)
	replace("llama3.3", "mistral")
	if variant == "" || err != nil {
		return config, err
	}
	_, lines, ok := strings.Cut(config, "    # Instead: "+variant)
	if !ok {
		return "", fmt.Errorf("%s: want the variant %q in it", file, variant)
	}
	lines, _, _ = strings.Cut(lines, "\n\n")
	_, lines, _ = strings.Cut(lines, "\n") // the rest of the comment
	replace("    balance leastconn\n", strings.ReplaceAll(lines+"\n", "    # ", "    "))
	return config, err
}

// withTLS returns the configuration with the line for TLS, and the site where that listens.
func withTLS(config, dir string) (string, *site, error) {
	const line = "# bind :443 ssl crt /etc/haproxy/foreman.pem "
	if strings.Count(config, line) != 1 {
		return "", nil, fmt.Errorf("want %q, once", line)
	}
	addr, err := lab.FreeAddr()
	if err != nil {
		return "", nil, err
	}
	file := filepath.Join(dir, "foreman.pem")
	if err := lab.WriteCertificate(frontName, file, filepath.Join(dir, "foreman.key")); err != nil {
		return "", nil, err
	}
	certificate, err := os.ReadFile(file)
	if err != nil {
		return "", nil, err
	}
	s := &site{URL: "https://" + frontName, addr: addr, root: x509.NewCertPool()}
	s.root.AppendCertsFromPEM(certificate)
	return strings.Replace(config, line, "bind "+addr+" ssl crt "+file+" ", 1), s, nil
}

// start starts the host's foreman, at first or again.
func (h *oneHost) start(t *testing.T) {
	t.Helper()
	h.foreman = startForeman(t, h.target, append([]string{"FOREMAN_ADDR=" + h.addr, "FOREMAN_EMBED_MODEL=", "FOREMAN_DRAIN_TIMEOUT=0"}, h.env...)...)
}

var ollamaChats = regexp.MustCompile(`(?m)^\[GIN\].* POST +"/api/chat"$`)

// chats returns how many chats the host's Ollama has ended.
func (h *oneHost) chats() int { return len(ollamaChats.FindAllString(h.ollama.Log(), -1)) }

// load returns how many chats run and wait at the host's foreman.
func (h *oneHost) load() (int, error) {
	var health struct{ Running, Waiting int }
	err := getJSON(h.foreman.URL+"/healthz", &health)
	return health.Running + health.Waiting, err
}

// wantLoad waits until so many chats run and wait at the hosts' foremen.
func (h *hosts) wantLoad(t *testing.T, a, b int) {
	t.Helper()
	eventually(t, func() error {
		gotA, errA := h.a.load()
		gotB, errB := h.b.load()
		if gotA != a || gotB != b {
			return fmt.Errorf("got %d and %d chats; want %d and %d: %w", gotA, gotB, a, b, errors.Join(errA, errB))
		}
		return nil
	})
}

// turns returns how many times HAProxy has said that the host is UP, or DOWN.
func (h *hosts) turns(host *oneHost, state string) int {
	return strings.Count(h.haproxy.Log(), "Server foremen/"+host.name+" is "+state)
}

// awaitTurn waits until HAProxy says so once more than it had before.
func (h *hosts) awaitTurn(t *testing.T, host *oneHost, state string, before int) {
	t.Helper()
	eventually(t, func() error {
		if h.turns(host, state) == before {
			return fmt.Errorf("HAProxy has not noticed that %s is %s", host.name, state)
		}
		return nil
	})
}

// chatOf returns a chat of so many words.
func chatOf(model string, words int, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"stream":%t,"options":{"num_predict":%d},"messages":[{"role":"user","content":"Tell me all."}]}`,
		model, stream, words)
}

// An ended request is what came of one.
type ended struct {
	status int
	body   string
	err    error // of reading the body, or of asking
}

// whole returns an error unless it is a chat, with or without a stream, that came to its end.
func (e ended) whole() error {
	if e.status != http.StatusOK || e.err != nil || !wholeNative(e.body) {
		return fmt.Errorf("got %d, %d bytes that end in %q, %v; want a whole chat", e.status, len(e.body), e.body[max(0, len(e.body)-200):], e.err)
	}
	return nil
}

// ask asks for something and calls began when the first byte of the answer has come.
func ask(ctx context.Context, client *http.Client, url, body string, began func()) ended {
	r, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		return ended{err: err}
	}
	resp, err := client.Do(r)
	if err != nil {
		return ended{err: err}
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	if _, err := in.Peek(1); err == nil {
		began()
	}
	all, err := io.ReadAll(in)
	return ended{resp.StatusCode, string(all), err}
}

// ask does so in the background, until the test ends.
func (h *hosts) ask(t *testing.T, path, body string) (began <-chan struct{}, end <-chan ended) {
	t.Helper()
	first, all := make(chan struct{}), make(chan ended, 1)
	var asking sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); asking.Wait() })
	asking.Go(func() { all <- ask(ctx, http.DefaultClient, h.URL+path, body, func() { close(first) }) })
	return first, all
}

// receive waits for something to come.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(2 * time.Minute):
		t.Fatal("waited for two minutes in vain")
		panic("not reached")
	}
}

// TestHostsShareTheChats: HAProxy gives each chat to the shorter line, both hosts work at
// once, and who leaves is gone from the line.
func TestHostsShareTheChats(t *testing.T) {
	t.Parallel()
	h := startHosts(t, hostsSetup{paces: [2]lab.Pace{{Rate: 50}, {Rate: 50}}})
	// What waits at a, and at b. Each chat finds the lines as the one before it has made them.
	var atA, atB []caller
	join := func() {
		t.Helper()
		c := call(t, h.URL+"/api/chat", "", chatOf(lab.ChatModel, manyWords, true))
		eventually(t, func() error {
			a, errA := h.a.load()
			b, errB := h.b.load()
			switch {
			case a == len(atA)+1 && b == len(atB):
				atA = append(atA, c)
			case a == len(atA) && b == len(atB)+1:
				atB = append(atB, c)
			default:
				return fmt.Errorf("%d chats at a and %d at b; want one more than %d and %d: %w", a, b, len(atA), len(atB), errors.Join(errA, errB))
			}
			return nil
		})
	}
	for range 6 {
		join()
	}
	if len(atA) != 3 || len(atB) != 3 {
		t.Errorf("%d chats at a and %d at b; want three at each", len(atA), len(atB))
	}
	for len(atA) > 1 {
		atA[len(atA)-1].leave()
		atA = atA[:len(atA)-1]
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // less than HAProxy waits for a client that does nothing
		err := lab.Until(ctx, func() error {
			if n, err := h.a.load(); n != len(atA) || err != nil {
				return fmt.Errorf("%d chats at a; want %d: %w", n, len(atA), err)
			}
			return nil
		})
		cancel()
		if err != nil {
			t.Fatalf("a client has left: %v", err)
		}
	}
	join()
	join()
	if len(atA) != 3 || len(atB) != 3 {
		t.Errorf("%d chats at a and %d at b when two had left a, and two more had come; want them at a", len(atA), len(atB))
	}
}

// Two streams, of which a gives one word by word, while b's Ollama does not have the other
// until it is released; and a chat without a stream behind each of them.
type fourChats struct {
	atA, atB <-chan ended
	waiting  [2]<-chan ended
	release  func()
}

func startFourChats(t *testing.T, words int) (*hosts, fourChats) {
	t.Helper()
	released := make(chan struct{})
	h := startHosts(t, hostsSetup{
		paces: [2]lab.Pace{{Rate: 200}, {}},
		hold: func(r *http.Request) {
			if r.URL.Path != "/api/chat" {
				return
			}
			select {
			case <-released:
			case <-r.Context().Done():
			}
		},
	})
	began, end := h.ask(t, "/api/chat", chatOf(lab.ChatModel, words, true))
	began2, end2 := h.ask(t, "/api/chat", chatOf(lab.ChatModel, words, true))
	h.wantLoad(t, 1, 1)
	four := fourChats{atA: end, atB: end2, release: sync.OnceFunc(func() { close(released) })}
	select {
	case <-began:
	case <-began2:
		four.atA, four.atB = four.atB, four.atA
	case <-time.After(time.Minute):
		t.Fatal("no stream has begun")
	}
	large := strings.Replace(chatOf(lab.ChatModel, 8, false), "all.", strings.Repeat("all ", 50_000), 1) // does not come in one packet
	for i := range four.waiting {
		_, four.waiting[i] = h.ask(t, "/api/chat", large)
	}
	h.wantLoad(t, 2, 2)
	return h, four
}

// wantAllAtB asks for chats and embeddings, which b must answer, for a cannot.
func (h *hosts) wantAllAtB(t *testing.T) {
	t.Helper()
	for i := range 10 {
		h.wantWhole(t, chatOf(lab.ChatModel, 8, i%2 == 0))
		if e := receive(t, second(h.ask(t, "/api/embed", embedOf))); e.status != http.StatusOK || e.err != nil {
			t.Errorf("got %+v; want an embedding", e)
		}
	}
}

const embedOf = `{"model":"` + lab.EmbedModel + `","input":"hello"}`

func second[A, B any](_ A, b B) B { return b }

// TestHostsOneIsKilled kills a's Ollama in the middle of a stream, before another chat
// that waits, and has it come back.
func TestHostsOneIsKilled(t *testing.T) {
	t.Parallel()
	h, chats := startFourChats(t, 5000)
	down, up := h.turns(h.a, "DOWN"), h.turns(h.a, "UP")
	h.a.ollama.Kill()
	if e := receive(t, chats.atA); e.status != http.StatusOK || e.body == "" || e.err != io.ErrUnexpectedEOF {
		t.Errorf("the stream from a: got %d, %d bytes, %v; want a part of it, and a cut", e.status, len(e.body), e.err)
	}
	for range 10 { // whether HAProxy has noticed or not
		if e := receive(t, second(h.ask(t, "/api/embed", embedOf))); e.status != http.StatusOK || e.err != nil {
			t.Errorf("got %+v; want an embedding", e)
		}
	}
	h.wantLoad(t, 0, 3) // the chat that waited at a has gone to b
	chats.release()
	for _, end := range append(chats.waiting[:], chats.atB) {
		if err := receive(t, end).whole(); err != nil {
			t.Error(err)
		}
	}
	h.awaitTurn(t, h.a, "DOWN", down)
	h.wantAllAtB(t)

	if err := h.a.ollama.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.awaitTurn(t, h.a, "UP", up)
	before := h.a.chats()
	eventually(t, func() error {
		h.wantWhole(t, chatOf(lab.ChatModel, 8, false))
		if h.a.chats() == before {
			return errors.New("a is back, and has had no chat")
		}
		return nil
	})
}

// TestHostsOneSleeps has a's Ollama fall asleep in the middle of a stream, before another
// chat that waits, and wake.
func TestHostsOneSleeps(t *testing.T) {
	t.Parallel()
	h, chats := startFourChats(t, 5000)
	down, up := h.turns(h.a, "DOWN"), h.turns(h.a, "UP")
	h.a.ollama.Sleep()
	t.Cleanup(h.a.ollama.Wake)
	h.awaitTurn(t, h.a, "DOWN", down)
	chats.release()
	if err := receive(t, chats.atB).whole(); err != nil {
		t.Errorf("the stream from b: %v", err)
	}
	h.wantAllAtB(t)
	if e := receive(t, chats.atA); e.status != http.StatusOK || e.body == "" || e.err != io.ErrUnexpectedEOF {
		t.Errorf("the stream from a: got %d, %d bytes, %v; want a part of it, and a cut", e.status, len(e.body), e.err)
	}
	for _, end := range chats.waiting { // the one at a goes to b
		if err := receive(t, end).whole(); err != nil {
			t.Errorf("a chat that waited: %v", err)
		}
	}
	h.a.ollama.Wake()
	h.awaitTurn(t, h.a, "UP", up)
}

// TestHostsAMachineSleeps has a's Ollama and its foreman, on one machine, fall asleep in
// the middle of a stream, and wake.
func TestHostsAMachineSleeps(t *testing.T) {
	t.Parallel()
	h, chats := startFourChats(t, 1000)
	chats.release()
	down, up := h.turns(h.a, "DOWN"), h.turns(h.a, "UP")
	h.a.foreman.Sleep()
	h.a.ollama.Sleep()
	wake := func() { h.a.ollama.Wake(); h.a.foreman.Wake() }
	t.Cleanup(wake)
	h.awaitTurn(t, h.a, "DOWN", down)
	if err := receive(t, chats.atB).whole(); err != nil {
		t.Errorf("the stream from b: %v", err)
	}
	h.wantAllAtB(t)
	wake()
	h.awaitTurn(t, h.a, "UP", up)
	for what, end := range map[string]<-chan ended{"the stream from a": chats.atA, "a chat that waited": chats.waiting[0], "the other": chats.waiting[1]} {
		if err := receive(t, end).whole(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestHostsBeforeTheFirstByte: a chat that its host has begun, and of which nothing has
// come yet, goes to the other host if foreman says that it cannot be. If nobody says
// so, it is an error, and goes to no other host.
func TestHostsBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	pace := lab.Pace{Prompt: 5 * time.Second, Rate: 500}
	for _, test := range []struct {
		name  string
		end   func(*oneHost)
		moves bool
	}{
		{"its Ollama is killed", func(h *oneHost) { h.ollama.Kill() }, true},
		{"its foreman has no more time", func(h *oneHost) { h.foreman.Stop() }, true},
		{"its foreman is killed", func(h *oneHost) { h.foreman.Kill() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := startHosts(t, hostsSetup{paces: [2]lab.Pace{pace, pace}})
			_, end := h.ask(t, "/api/chat", chatOf(lab.ChatModel, 8, false))
			busy, other := h.a, h.b
			eventually(t, func() error {
				if n, err := busy.load(); n == 1 || err != nil {
					return err
				}
				busy, other = other, busy
				return errors.New("no chat runs")
			})
			test.end(busy)
			e := receive(t, end)
			if test.moves {
				if err := e.whole(); err != nil {
					t.Error(err)
				}
				return
			}
			if e.status != http.StatusBadGateway || !tellsError(e.body) || e.err != nil {
				t.Errorf("got %+v; want 502 with an error", e)
			}
			if log := other.foreman.Log(); strings.Contains(log, "route=/api/chat") {
				t.Errorf("the other foreman had the chat:\n%s", log)
			}
			if n, err := other.load(); n != 0 || err != nil {
				t.Errorf("the other foreman has %d chats, %v; want none", n, err)
			}
		})
	}
}

var turnedAway = regexp.MustCompile(`waiting_chats_turned_away=(\d+)`)

// TestHostsRestart has clients chat and embed while the foremen are restarted, one after
// the other. Nobody notices.
func TestHostsRestart(t *testing.T) {
	t.Parallel()
	h := startHosts(t, hostsSetup{paces: [2]lab.Pace{testPace, testPace}, foremen: []string{"FOREMAN_DRAIN_TIMEOUT=1m"}})
	const chatting, embedding = 8, 2
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		counts = map[string]int{}
	)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer asking.Wait()
	defer cancel()
	stop := make(chan struct{})
	for i := range chatting + embedding {
		next, rnd := wishForChat, rand.New(rand.NewPCG(2, uint64(i)))
		if i >= chatting {
			next = wishForEmbed
		}
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					t.Errorf("client %d: %v", i, context.Cause(ctx))
					return
				default:
				}
				w := next(rnd)
				e := ask(ctx, http.DefaultClient, h.URL+w.path, w.body, func() {})
				if e.status != http.StatusOK || e.err != nil || !w.whole(e.body) {
					t.Errorf("%s %s: got %d %.300s, %v; want it whole", w.path, w.body, e.status, e.body, e.err)
				}
				mu.Lock()
				counts[w.path]++
				mu.Unlock()
			}
		})
	}
	away := 0
	for _, host := range []*oneHost{h.a, h.b} {
		eventually(t, func() error {
			if n, err := host.load(); n < 3 || err != nil {
				return fmt.Errorf("%s has %d chats; want some in line: %w", host.name, n, err)
			}
			return nil
		})
		down, up := h.turns(host, "DOWN"), h.turns(host, "UP")
		if err := host.foreman.Stop(); err != nil {
			t.Errorf("%s: %v", host.name, err)
		}
		h.awaitTurn(t, host, "DOWN", down)
		if match := turnedAway.FindStringSubmatch(host.foreman.Log()); match != nil {
			n, err := strconv.Atoi(match[1])
			if err != nil {
				t.Error(err)
			}
			away += n
		}
		host.start(t)
		h.awaitTurn(t, host, "UP", up) // or the other one must not be stopped
	}
	close(stop)
	asking.Wait()
	var ending sync.WaitGroup
	for _, host := range []*oneHost{h.a, h.b} { // both at once: each listens on for a while
		ending.Go(func() { host.foreman.Stop() }) // who looks how it ends stops it again
	}
	ending.Wait()
	if away == 0 {
		t.Error("no chat was in line at a foreman that was stopped: this was no test")
	}
	t.Logf("asked for and answered: %v; turned away by one foreman and answered by the other: %d", counts, away)
}

// TestHostsTLS has clients speak TLS with HAProxy, and HAProxy find one foreman gone.
func TestHostsTLS(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{true, false} {
		h := startHosts(t, hostsSetup{tls: true, foremen: []string{"FOREMAN_HOSTS=" + frontName}})
		client := h.secure.client(t, http2)
		if err := h.a.foreman.Stop(); err != nil { // HAProxy has not noticed yet
			t.Error(err)
		}
		for i := range 4 {
			if err := ask(t.Context(), client, h.secure.URL+"/api/chat", chatOf(lab.ChatModel, 8, i%2 == 0), func() {}).whole(); err != nil {
				t.Error(err)
			}
			if e := ask(t.Context(), client, h.secure.URL+"/api/embed", embedOf, func() {}); e.status != http.StatusOK || e.err != nil {
				t.Errorf("got %+v; want an embedding", e)
			}
		}
	}
}

// hostsModels are the models of the tests that follow, beside the lab's own. They are odd
// in number: chats that alternate between two hosts come to each host with each model.
// HAProxy's hash gives some of these names to a, and some to b.
var hostsModels = []string{"llama3.2", "mistral", "mistral-small", "phi4", "smollm2"}

// TestHostsAffinity counts how many models the Ollamas load for the same chats, one
// after the other.
func TestHostsAffinity(t *testing.T) {
	for _, test := range []struct {
		name, variant string
		loads         int
	}{
		{"leastconn", "", 2 * len(hostsModels)},
		{"by model", "a model's chats", len(hostsModels)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := startHosts(t, hostsSetup{variant: test.variant, models: hostsModels, ollamas: []string{"OLLAMA_MAX_LOADED_MODELS=10"}})
			// The end of this body is beyond what HAProxy keeps of it.
			large := `{"model":%q,"stream":false,"options":{"num_predict":8},"messages":[{"role":"user","content":"` + strings.Repeat("la ", 100_000) + `"}]}`
			for range 2 {
				for _, model := range hostsModels {
					h.wantWhole(t, chatOf(model, 8, true))
					h.wantWhole(t, chatOf(strings.ToUpper(model)+":latest", 8, false))
					h.wantWhole(t, `{"messages":[{"role":"user","content":"hello"}],"stream":false,"model":"`+model+`"}`)
					h.wantWhole(t, fmt.Sprintf(large, model))
				}
			}
			a, b := h.chats(t, 2*4*len(hostsModels))
			if a == 0 || b == 0 {
				t.Errorf("%d chats at a and %d at b; want some at both", a, b)
			}
			loadsA, loadsB := loads(h.a.ollama), loads(h.b.ollama)
			if loadsA+loadsB != test.loads {
				t.Errorf("got %d loads at a and %d at b; want %d in all", loadsA, loadsB, test.loads)
			}
			t.Logf("%d chats with %d models at a, %d at b; loads: %d and %d", a, len(hostsModels), b, loadsA, loadsB)
		})
	}
}

// TestHostsAModelOverflows has more chats with one model than one host should have.
func TestHostsAModelOverflows(t *testing.T) {
	t.Parallel()
	h := startHosts(t, hostsSetup{variant: "a model's chats", paces: [2]lab.Pace{{Rate: 50}, {Rate: 50}}})
	for i, want := range [][2]int{{0, 1}, {0, 2}, {0, 3}, {1, 3}} {
		call(t, h.URL+"/api/chat", "", chatOf(lab.ChatModel, manyWords, true))
		eventually(t, func() error {
			a, errA := h.a.load()
			b, errB := h.b.load()
			if got := [2]int{min(a, b), max(a, b)}; got != want {
				return fmt.Errorf("%d chats: %d at a and %d at b; want %v: %w", i+1, a, b, want, errors.Join(errA, errB))
			}
			return nil
		})
	}
}

// TestHostsOneModel has one model at a as long as that is there.
func TestHostsOneModel(t *testing.T) {
	t.Parallel()
	h := startHosts(t, hostsSetup{variant: "one model at a", models: hostsModels})
	for range 4 {
		h.wantWhole(t, chatOf("llama3.2", 8, false)) // at either
		h.wantWhole(t, chatOf("mistral", 8, false))
		h.wantWhole(t, chatOf("mistral-small", 8, true)) // the rule has the beginning of the name
	}
	a, b := h.chats(t, 12)
	if log := h.b.foreman.Log(); b == 0 || strings.Contains(log, "model=mistral") {
		t.Errorf("%d chats at a and %d at b; want some at b, and none with mistral:\n%s", a, b, log)
	}
	if err := h.a.foreman.Stop(); err != nil {
		t.Error(err)
	}
	h.wantWhole(t, chatOf("mistral", 8, false))
	if _, after := h.chats(t, 13); after != b+1 {
		t.Errorf("%d chats at b, and %d when a was gone; want one more", b, after)
	}
}

// TestHostsByClient has each of six clients come to one host.
func TestHostsByClient(t *testing.T) {
	t.Parallel()
	h := startHosts(t, hostsSetup{variant: "a client"})
	var total, sumA, sumB int
	for _, token := range []string{"anna", "bert", "clara", "dora", "emil", "fritz"} {
		client := newClient(t, h.URL, token)
		for range 4 {
			if _, err := chat(t.Context(), client, lab.ChatModel, true); err != nil {
				t.Fatal(err)
			}
			total++
		}
		a, b := h.chats(t, total)
		if a != sumA && b != sumB {
			t.Errorf("%s: %d chats at a and %d at b; want all at one", token, a-sumA, b-sumB)
		}
		sumA, sumB = a, b
	}
	if sumA == 0 || sumB == 0 {
		t.Errorf("%d chats at a and %d at b; want some at both", sumA, sumB)
	}
}

// chats waits until the hosts have ended so many chats, and returns how many each has.
func (h *hosts) chats(t *testing.T, want int) (a, b int) {
	t.Helper()
	eventually(t, func() error { // a client may have its answer before Ollama has written its log
		if a, b = h.a.chats(), h.b.chats(); a+b != want {
			return fmt.Errorf("%d chats at a and %d at b; want %d", a, b, want)
		}
		return nil
	})
	return a, b
}

// wantWhole asks for a chat, and fails the test unless it comes whole.
func (h *hosts) wantWhole(t *testing.T, body string) {
	t.Helper()
	if err := receive(t, second(h.ask(t, "/api/chat", body))).whole(); err != nil {
		t.Fatalf("%.100s: %v", body, err)
	}
}
