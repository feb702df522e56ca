package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const tokenOfAnn, tokenOfBob = "ann-has-a-token", "bob-has-a-token"

// attacks are what somebody without a token does with a connection. Each leaves it open.
var attacks = []struct {
	name  string
	times int // 0: more than there are descriptors
	text  string
}{
	{"silent", 0, ""},
	{"half a header", 0, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\nX-"},
	{"large header", 300, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n" + tinyFields()},
	{"401", 0, "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"/healthz", 0, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"},
	{"unsent body", 0, "POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"},
	{"unsent chunks", 0, "POST PATH HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"OPTIONS *", 0, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"},
	{"preflight", 0, "OPTIONS /api/show HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"}, // which the host does not answer
	{"preflight and more", 0, "OPTIONS /api/show HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\nG"},
}

// tinyFields are the fields that cost most memory: 16 KiB of them.
func tinyFields() string {
	var b strings.Builder
	for i := 0; b.Len() < 16<<10; i++ {
		fmt.Fprintf(&b, "%s:\r\n", strconv.FormatInt(int64(i), 36))
	}
	return b.String()
}

var attackedPaths = []string{
	"/", "/api/chat", "/v1/messages", "/v1/audio/transcriptions", "/api/embed", "/api/tags", "/api/ps", "/api/show", "/v1/models/x",
	"/api/pull", "/api/blobs/x", "/api/chat/", "/healthz", "/readyz", "/metrics", "/status", "/unknown", "/api%2Fchat",
}

// TestFaultCrowdWithoutAToken: whoever has no token costs nothing those who have one,
// with few descriptors and the memory of testdata/deploy/kubernetes.yaml.
func TestFaultCrowdWithoutAToken(t *testing.T) {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil || own.Cur < 16000 {
		t.Skipf("the test itself needs 16,000 descriptors; it may have %d", own.Cur)
	}
	command := newCommand(t)
	for _, descriptors := range []int{1024, 256} {
		t.Run(fmt.Sprint(descriptors), func(t *testing.T) {
			o := newOllama(t)
			file := filepath.Join(t.TempDir(), "tokens")
			writeTokens := func(lines ...string) {
				t.Helper()
				if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(file+".new", file); err != nil {
					t.Fatal(err)
				}
			}
			writeTokens("ann "+tokenOfAnn, "bob "+tokenOfBob)
			cmd := command(nil, "FOREMAN_OLLAMA_URL="+o.URL, "FOREMAN_TOKENS_FILE="+file, "FOREMAN_POLL_INTERVAL=1s", "GOMEMLIMIT=400MiB")
			addr, log, ended := serve(t, withDescriptors(cmd, descriptors))
			began := time.Now()
			if descriptors < 1000 {
				log.await(t, `msg="few file descriptors: [^\n]* descriptors=256 chats=123\n`, ended)
			}

			ann := open(t, addr)
			running := ann.ask(t, "POST", "/api/chat", tokenOfAnn, `{"model":"chat"}`)
			at := receive(t, o.said)
			bob := open(t, addr)
			waiting := make(chan string, 1)
			go func() { waiting <- bob.status(bob.ask(t, "POST", "/api/chat", tokenOfBob, `{"model":"chat"}`)) }()
			awaitWaiting(t, "http://"+addr, 1)
			kept := open(t, addr)
			kept.want(t, "POST", "/api/embed", tokenOfAnn, `{"model":"embed","input":"x"}`, "200")

			for _, attack := range attacks {
				for i := range cmp.Or(attack.times, descriptors+100) {
					text := strings.Replace(attack.text, "PATH", attackedPaths[i%len(attackedPaths)], 1)
					io.WriteString(open(t, addr), text) // it may be closed by now
				}
				before := time.Now()
				open(t, addr).want(t, "GET", "/healthz", "", "", "200")
				t.Logf("%s: /healthz after %v", attack.name, time.Since(before))
				kept.want(t, "POST", "/api/embed", tokenOfAnn, `{"model":"embed","input":"x"}`, "200")
				open(t, addr).want(t, "GET", "/api/ps", tokenOfBob, "", "200")
				select {
				case <-at.left:
					t.Fatalf("%s: the running chat is gone", attack.name)
				case got := <-waiting:
					t.Fatalf("%s: the waiting chat got %s", attack.name, got)
				default:
				}
			}

			writeTokens("ann " + tokenOfAnn)
			if got := receive(t, waiting); got != "401" {
				t.Errorf("the waiting chat, without its token: got %s; want 401", got)
			}
			if runtime.GOOS == "linux" {
				peak := peakMemory(t, cmd.Process.Pid)
				if t.Logf("peak of memory: %d MB", peak>>20); peak > 256<<20 { // half the limit there: bodies need the rest
					t.Error("want 256 MB at most")
				}
			}

			terminate(t, cmd)
			log.await(t, `msg="shutting down"`, ended)
			close(at.finish)
			if body, err := io.ReadAll(running.Body); string(body) != whole.body || err != nil {
				t.Errorf("the running chat: got %q, %v; want %q", body, err, whole.body)
			}
			receive(t, ended)
			if got := cmd.ProcessState.String(); got != "exit status 0" || !strings.Contains(log.String(), "msg=drained") {
				t.Errorf("got %s; want exit status 0 and all drained", got)
			}
			text := log.String()
			for _, never := range []string{"too many open files", "panic"} {
				if strings.Contains(text, never) {
					t.Errorf("got %q in the log", never)
				}
			}
			seconds := int(time.Since(began)/time.Second) + 1
			if got := strings.Count(text, " status=401 "); got > 10*(seconds+1) {
				t.Errorf("%d records of 401 in %d s; want ten a second at most", got, seconds)
			}
		})
	}
}

// TestFaultAllPlacesTaken: where those who were let in have taken all places, the next one
// is told so, and /healthz answers.
func TestFaultAllPlacesTaken(t *testing.T) {
	addr, _, _ := serve(t, withDescriptors(newCommand(t)(nil, "FOREMAN_OLLAMA_URL="+newOllama(t).URL), 64))
	for range 20 { // see conns.LimitsFor
		io.WriteString(open(t, addr), "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{")
	}
	awaitAnswer(t, "http://"+addr+"/api/ps", "too many clients are connected") // when they have been read
	open(t, addr).want(t, "GET", "/healthz", "", "", "200")
}

// peakMemory returns the most memory that a process has had, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if err != nil || m == nil {
		t.Fatalf("no peak of memory: %v", err)
	}
	kilobytes, _ := strconv.Atoi(string(m[1]))
	return kilobytes << 10
}

// A line is one connection to foreman.
type line struct {
	net.Conn
	in *bufio.Reader
}

func open(t *testing.T, addr string) *line {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * limit))
	return &line{conn, bufio.NewReader(conn)}
}

// ask sends a request and returns the answer's header, or nil if there was none.
func (l *line) ask(t *testing.T, method, path, token, body string) *http.Response {
	fmt.Fprintf(l, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", method, path, token, len(body), body)
	resp, err := http.ReadResponse(l.in, nil)
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return nil
	}
	return resp
}

// status reads an answer to its end.
func (l *line) status(resp *http.Response) string {
	if resp == nil {
		return "none"
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err.Error()
	}
	return strconv.Itoa(resp.StatusCode)
}

func (l *line) want(t *testing.T, method, path, token, body, want string) {
	t.Helper()
	if got := l.status(l.ask(t, method, path, token, body)); got != want {
		t.Errorf("%s %s: got %s; want %s", method, path, got, want)
	}
}
