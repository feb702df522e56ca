package config

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// env is an environment.
type env map[string]string

func (e env) get(name string) string { return e[name] }

func TestDefaults(t *testing.T) {
	c, err := Load(env{}.get)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.OllamaURL.String(), "http://localhost:11434"; got != want {
		t.Errorf("OllamaURL: got %s; want %s", got, want)
	}
	c.OllamaURL, c.inForce = nil, nil
	want := Config{
		Addr:         ":8080",
		PollInterval: 30 * time.Second,
		MaxQueue:     512,
		Fair:         true,
		Affinity:     -1,
		MaxBody:      64 << 20,
		Heartbeat:    20 * time.Second,
		StallTimeout: 10 * time.Minute,
		MaxTurn:      time.Hour,
		WakeTimeout:  3 * time.Minute,
		DrainTimeout: 30 * time.Second,
		LogLevel:     slog.LevelInfo,
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v; want %+v", c, want)
	}
}

// Every variable with values that are good and what they come to.
var good = []struct {
	name, value string
	field       func(Config) any
	want        any
}{
	{"FOREMAN_ADDR", "127.0.0.1:0", func(c Config) any { return c.Addr }, "127.0.0.1:0"},
	{"FOREMAN_ADDR", "[::1]:65535", func(c Config) any { return c.Addr }, "[::1]:65535"},
	{"FOREMAN_ADDR", "[fe80::1%eth0]:80", func(c Config) any { return c.Addr }, "[fe80::1%eth0]:80"},
	{"FOREMAN_ADDR", "Foreman_1.lan.:80", func(c Config) any { return c.Addr }, "Foreman_1.lan.:80"},
	{"FOREMAN_OLLAMA_URL", "https://mac.lan", target, "https://mac.lan"},
	{"FOREMAN_OLLAMA_URL", "HTTP://mac.lan", target, "http://mac.lan"},
	{"FOREMAN_OLLAMA_URL", "http://mac.lan:11434/", target, "http://mac.lan:11434"},
	{"FOREMAN_OLLAMA_URL", "http://mac.lan/ollama//", target, "http://mac.lan/ollama"},
	{"FOREMAN_OLLAMA_URL", "http://mac.lan/v1x", target, "http://mac.lan/v1x"},
	{"FOREMAN_OLLAMA_URL", "http://mac.lan/api/ollama", target, "http://mac.lan/api/ollama"},
	{"FOREMAN_OLLAMA_URL", "http://[fe80::1]:11434", target, "http://[fe80::1]:11434"},
	{"FOREMAN_OLLAMA_TOKEN", "sk-!~", func(c Config) any { return c.OllamaToken }, "sk-!~"},
	{"FOREMAN_EMBED_MODEL", "nomic-embed-text:v1.5", func(c Config) any { return c.EmbedModel }, "nomic-embed-text:v1.5"},
	{"FOREMAN_POLL_INTERVAL", "100ms", func(c Config) any { return c.PollInterval }, 100 * time.Millisecond},
	{"FOREMAN_TOKEN", "sk-!~", func(c Config) any { return c.Token }, "sk-!~"},
	{"FOREMAN_TOKENS_FILE", "/run/secrets/tokens", func(c Config) any { return c.TokensFile }, "/run/secrets/tokens"},
	{"FOREMAN_CLIENT_HEADER", "x-openwebui-user-id", func(c Config) any { return c.ClientHeader }, "X-Openwebui-User-Id"},
	{"FOREMAN_HOSTS", "Foreman.LAN, gpu_1.example.com,x-y", hosts, "[foreman.lan gpu_1.example.com x-y]"},
	{"FOREMAN_HOSTS", "foreman.lan.", hosts, "[foreman.lan]"},
	{"FOREMAN_MANAGE", "true", func(c Config) any { return c.Manage }, true},
	{"FOREMAN_MAX_QUEUE", "0", func(c Config) any { return c.MaxQueue }, 0},
	{"FOREMAN_MAX_QUEUE", "1000000", func(c Config) any { return c.MaxQueue }, 1_000_000},

	{"FOREMAN_FAIR", "false", func(c Config) any { return c.Fair }, false},
	{"FOREMAN_AFFINITY", "0", func(c Config) any { return c.Affinity }, time.Duration(0)},
	{"FOREMAN_AFFINITY", "90s", func(c Config) any { return c.Affinity }, 90 * time.Second},
	{"FOREMAN_QUIET", "22:00-07:00", quiet, 7 * 9 * 60},
	{"FOREMAN_QUIET", "mon-FRI 9:00-17:00 , Sat 00:00-24:00,Sat-Sun 23:00-00:30", quiet, 5*8*60 + 24*60 + 2*30 + 60},
	{"FOREMAN_QUEUE_TIMEOUT", "90s", func(c Config) any { return c.QueueTimeout }, 90 * time.Second},
	{"FOREMAN_HEARTBEAT", "0", func(c Config) any { return c.Heartbeat }, time.Duration(0)},
	{"FOREMAN_HEARTBEAT", "100ms", func(c Config) any { return c.Heartbeat }, 100 * time.Millisecond},
	{"FOREMAN_MAX_BODY", "1024", maxBody, int64(1024)},
	{"FOREMAN_MAX_BODY", "2000B", maxBody, int64(2000)},
	{"FOREMAN_MAX_BODY", "500KB", maxBody, int64(500_000)},
	{"FOREMAN_MAX_BODY", "3MB", maxBody, int64(3_000_000)},
	{"FOREMAN_MAX_BODY", "2GB", maxBody, int64(2_000_000_000)},
	{"FOREMAN_MAX_BODY", "1TB", maxBody, int64(1_000_000_000_000)},
	{"FOREMAN_MAX_BODY", "1KiB", maxBody, int64(1 << 10)},
	{"FOREMAN_MAX_BODY", "64MiB", maxBody, int64(64 << 20)},
	{"FOREMAN_MAX_BODY", "3GiB", maxBody, int64(3 << 30)},
	{"FOREMAN_MAX_BODY", "1TiB", maxBody, int64(1 << 40)},
	{"FOREMAN_STALL_TIMEOUT", "1s", func(c Config) any { return c.StallTimeout }, time.Second},
	{"FOREMAN_MAX_TURN", "0", func(c Config) any { return c.MaxTurn }, time.Duration(0)},
	{"FOREMAN_MAX_TURN", "1s", func(c Config) any { return c.MaxTurn }, time.Second},
	{"FOREMAN_EMBEDS", "1000", func(c Config) any { return c.Embeds }, 1000},
	{"FOREMAN_WAKE", "A0-B1-C2-D3-E4-F5", wake, "a0:b1:c2:d3:e4:f5@"},
	{"FOREMAN_WAKE", "aa:bb:cc:dd:ee:ff@192.168.1.255:9", wake, "aa:bb:cc:dd:ee:ff@192.168.1.255:9"},
	{"FOREMAN_WAKE", "aabb.ccdd.eeff@mac.lan:7", wake, "aa:bb:cc:dd:ee:ff@mac.lan:7"},
	{"FOREMAN_WAKE", "aa:bb:cc:dd:ee:ff@[fe80::1%eth0]:9", wake, "aa:bb:cc:dd:ee:ff@[fe80::1%eth0]:9"},
	{"FOREMAN_WAKE_TIMEOUT", "1s", func(c Config) any { return c.WakeTimeout }, time.Second},
	{"FOREMAN_DRAIN_TIMEOUT", "0", func(c Config) any { return c.DrainTimeout }, time.Duration(0)},
	{"FOREMAN_DRAIN_TIMEOUT", "2m", func(c Config) any { return c.DrainTimeout }, 2 * time.Minute},
	{"FOREMAN_LOG_LEVEL", "debug", level, slog.LevelDebug},
	{"FOREMAN_LOG_LEVEL", "info", level, slog.LevelInfo},
	{"FOREMAN_LOG_LEVEL", "warn", level, slog.LevelWarn},
	{"FOREMAN_LOG_LEVEL", "error", level, slog.LevelError},
	{"FOREMAN_LOG_LEVEL", "WARN", level, slog.LevelWarn},
	{"FOREMAN_LOG_FORMAT", "json", func(c Config) any { return c.LogJSON }, true},
}

func wake(c Config) any    { return net.HardwareAddr(c.WakeMAC).String() + "@" + c.WakeAddr }
func target(c Config) any  { return c.OllamaURL.String() }
func hosts(c Config) any   { return fmt.Sprint(c.Hosts) }
func maxBody(c Config) any { return c.MaxBody }
func level(c Config) any   { return c.LogLevel }

// quiet returns how many minutes of a week are quiet.
func quiet(c Config) any {
	n, at := 0, time.Unix(0, 0).UTC()
	for week := at.AddDate(0, 0, 7); at.Before(week); at = at.Add(time.Minute) {
		if !c.Quiet(at).IsZero() {
			n++
		}
	}
	return n
}

// Every variable with what its error expects and values that get it.
var bad = []struct {
	name, expected string
	values         []string
}{
	{"FOREMAN_ADDR", "HOST:PORT or :PORT", []string{
		"8080", "localhost", ":", "localhost:", ":http", ":-1", ":+1", ":65536", ":80 ", "::1:80", "http://localhost:80", ":80:80",
		"256.0.0.1:80", "1.2.3:80", "10:80", "a b:80", "*:80", "[::g]:80", "1.:80",
	}},
	{"FOREMAN_OLLAMA_URL", "http://HOST:PORT or https://HOST:PORT, without user info, query or fragment", []string{
		"localhost", "localhost:11434", "//localhost:11434", "ftp://localhost", "http:localhost", "http://", "http://:11434", "http:///x",
		"http://localhost:x", "http://localhost:0", "http://localhost:65536", "http://localhost:99999999999",
		"http://localhost:11434/v1", "http://localhost/api/", "http://localhost/ollama/v1//",
		"http://localhost#", "http://localhost/#x", "http://local host", "http://localhost/%zz", "http://[::1", " ",
	}},
	{"FOREMAN_OLLAMA_TOKEN", "visible ASCII characters and no space", nil}, // their values are in TestSecrets
	{"FOREMAN_EMBED_MODEL", "a model's name, such as nomic-embed-text", []string{" ", "nomic embed", "nomic\n", "nömic"}},
	{"FOREMAN_POLL_INTERVAL", "a duration of at least 100ms, such as 30s or 5m", []string{"30", "0", "99ms", "-30s", "1 m", "soon", " 30s"}},
	{"FOREMAN_TOKEN", "visible ASCII characters and no space", nil},
	{"FOREMAN_TOKENS_FILE", "a file's path", []string{" "}},
	{"FOREMAN_CLIENT_HEADER", "the name of a header field that has no credentials, such as X-OpenWebUI-User-Id", []string{
		"X User", "X-User:", "X/User", "Ü", "a,b", " ",
		"Authorization", "proxy-authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Forwarded-Access-Token", "Cf-Access-Jwt-Assertion", "apikey",
	}},
	{"FOREMAN_HOSTS", "host names without port, with commas between, such as foreman.lan,gpu.example.com", []string{
		",", "a,", ",a", "a,,b", "a:80", "http://a", "a b", "*.lan", "[::1]", "bücher.example",
	}},
	{"FOREMAN_MANAGE", "true or false", []string{"1", "0", "yes", "True", "true "}},
	{"FOREMAN_MAX_QUEUE", "a whole number from 0 to 1000000", []string{"-1", "1000001", "1.5", "many", "1e3", "9999999999999999999"}},
	{"FOREMAN_FAIR", "true or false", []string{"1", "no", "TRUE"}},
	{"FOREMAN_AFFINITY", "auto, a duration such as 30s, or 0", []string{"-1s", "30", "Auto"}},
	{"FOREMAN_QUIET", "times such as 22:00-07:00 or Mon-Fri 09:00-17:00, several with commas between", []string{
		"22:00", "22-07", "22:00-7", "22:00-07:0", "22:00-07:60", "24:00-07:00", "22:00-24:01", "-1:00-07:00", "+1:00-07:00", "10:00pm-07:00", "22:00 - 07:00", "on",
		"07:00-07:00", "Mon", "Mon 22:00", "Mo 22:00-07:00", "Mon-Fri-Sat 22:00-07:00", "Mon- 22:00-07:00", "Mon Tue 22:00-07:00", "Mon,Tue 22:00-07:00",
		",", "22:00-07:00,", " ", "00:00-24:00", "00:00-12:00,12:00-00:00",
	}},
	{"FOREMAN_QUEUE_TIMEOUT", "a duration such as 90s or 5m, or 0", []string{"90", "-1s", "never"}},
	{"FOREMAN_HEARTBEAT", "a duration of at least 100ms, such as 20s, or 0", []string{"20", "99ms", "-20s", "never"}},
	{"FOREMAN_MAX_BODY", "a size from 1KiB to 1TiB, such as 64MiB or 500KB", []string{
		"0", "1023", "-1KiB", "1KB-", "64 MiB", "64mib", "64Mi", "64M", "64iB", "MiB", "1.5GiB", "1025GiB", "2TiB", "1TiBB", "9223372036854775807TiB", "99999999999999999999",
	}},
	{"FOREMAN_STALL_TIMEOUT", "a duration of at least 1s, such as 10m", []string{"0", "999ms", "-1s", "10"}},
	{"FOREMAN_MAX_TURN", "a duration of at least 1s, such as 1h, or 0", []string{"999ms", "-1s", "60", "never"}},
	{"FOREMAN_EMBEDS", "a whole number from 0 to 1000", []string{"-1", "1001", "2.0", "all"}},
	{"FOREMAN_WAKE", "a MAC address such as aa:bb:cc:dd:ee:ff, or one with the address to send to, as aa:bb:cc:dd:ee:ff@192.168.1.255:9", []string{
		"mac.lan", "192.168.1.20", "aa:bb:cc:dd:ee", "aa:bb:cc:dd:ee:ff:00:11", "aabbccddeefg", "aa:bb:cc:dd:ee:ff 192.168.1.255:9", "@192.168.1.255:9",
		"ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00",
		"aa:bb:cc:dd:ee:ff@", "aa:bb:cc:dd:ee:ff@192.168.1.255", "aa:bb:cc:dd:ee:ff@:9", "aa:bb:cc:dd:ee:ff@mac.lan:0", "aa:bb:cc:dd:ee:ff@mac.lan:wol", "aa:bb:cc:dd:ee:ff@256.0.0.1:9",
	}},
	{"FOREMAN_WAKE_TIMEOUT", "a duration of at least 1s, such as 3m", []string{"180", "-1s", "0", "999ms"}},
	{"FOREMAN_DRAIN_TIMEOUT", "a duration such as 30s, or 0", []string{"30", "-1s", "x"}},
	{"FOREMAN_LOG_LEVEL", "debug, info, warn or error", []string{"trace", "warning", "info ", "4", "info+1", "debug-4"}},
	{"FOREMAN_LOG_FORMAT", "text or json", []string{"JSON", "xml", "text "}},
}

func TestGoodValues(t *testing.T) {
	for _, tt := range good {
		c, err := Load(env{tt.name: tt.value}.get)
		if err != nil {
			t.Errorf("%s=%q: %v", tt.name, tt.value, err)
			continue
		}
		if got := tt.field(c); got != tt.want {
			t.Errorf("%s=%q: got %v; want %v", tt.name, tt.value, got, tt.want)
		}
	}
}

func TestBadValues(t *testing.T) {
	for _, tt := range bad {
		for _, value := range tt.values {
			_, err := Load(env{tt.name: value}.get)
			got, _, _ := strings.Cut(fmt.Sprint(err), "; ") // hints are in TestHints
			if want := fmt.Sprintf("%s=%q: expected %s", tt.name, value, tt.expected); got != want {
				t.Errorf("%s=%q: got error\n%s; want\n%s", tt.name, value, got, want)
			}
		}
	}
}

// What in particular is wrong, where that is known.
func TestHints(t *testing.T) {
	const (
		listenPort = "the port must be a number from 0 to 65535"
		ollamaPort = "the port must be a number from 1 to 65535"
		root       = "give the root of the host, without "
	)
	for _, tt := range []struct{ name, value, want string }{
		{"FOREMAN_ADDR", "localhost:http", listenPort},
		{"FOREMAN_ADDR", "localhost", ""},
		{"FOREMAN_ADDR", "256.0.0.1:80", "the host must be an IP address or a name"},
		{"FOREMAN_OLLAMA_URL", "http://localhost:99999", ollamaPort},
		{"FOREMAN_OLLAMA_URL", "http://localhost:0", ollamaPort},
		{"FOREMAN_OLLAMA_URL", "http://localhost:", ollamaPort},
		{"FOREMAN_OLLAMA_URL", "http://localhost:99999/v1", ollamaPort},
		{"FOREMAN_OLLAMA_URL", "http://localhost:11434/v1", root + "/v1 at the end"},
		{"FOREMAN_OLLAMA_URL", "http://localhost:11434/v1/", root + "/v1 at the end"},
		{"FOREMAN_OLLAMA_URL", "https://mac.lan/ollama/api//", root + "/api at the end"},
		{"FOREMAN_OLLAMA_URL", "localhost:11434", ""},
		{"FOREMAN_WAKE", "mac.lan", ""},
		{"FOREMAN_WAKE", "ff:ff:ff:ff:ff:ff", "no network card has this MAC address"},
		{"FOREMAN_WAKE", "aa:bb:cc:dd:ee:ff@192.168.1.255", "behind the @ belong an IP address or a name, and a port from 1 to 65535"},
		{"FOREMAN_QUIET", "22:00-07:00, 09:00", `"09:00": want two times from 00:00 to 24:00 with - between`},
		{"FOREMAN_QUIET", "09:00-09:00", `"09:00-09:00": the two times are the same; the whole day is 00:00-24:00`},
		{"FOREMAN_QUIET", "Mon,Tue 09:00-17:00", `"Mon": want two times from 00:00 to 24:00 with - between`},
		{"FOREMAN_QUIET", "Mo-Fr 09:00-17:00", `"Mo-Fr 09:00-17:00": the days are Sun, Mon, Tue, Wed, Thu, Fri and Sat, one or two with - between`},
		{"FOREMAN_QUIET", "Mon - Fri 09:00-17:00", `"Mon - Fri 09:00-17:00": want times behind the days, if any, and no more`},
		{"FOREMAN_QUIET", "00:00-24:00", "that is all of the week"},
	} {
		_, err := Load(env{tt.name: tt.value}.get)
		_, got, _ := strings.Cut(fmt.Sprint(err), "; ")
		if err == nil || got != tt.want {
			t.Errorf("%s=%q: got %v; want the hint %q", tt.name, tt.value, err, tt.want)
		}
	}
}

// The tables above leave no variable out.
func TestTablesAreWhole(t *testing.T) {
	var all, inGood, inBad []string
	for _, v := range variables {
		all = append(all, v.name)
	}
	for _, tt := range good {
		inGood = append(inGood, tt.name)
	}
	for _, tt := range bad {
		inBad = append(inBad, tt.name)
	}
	if got := slices.Compact(inGood); !slices.Equal(got, all) {
		t.Errorf("good: got %v; want %v", got, all)
	}
	if !slices.Equal(inBad, all) {
		t.Errorf("bad: got %v; want %v", inBad, all)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	e, want := make(env), ""
	for _, tt := range bad {
		value := "sec\tret"
		shown := "(set)"
		if len(tt.values) > 0 {
			value = tt.values[0]
			shown = value
		}
		e[tt.name] = value
		want += fmt.Sprintf("%s=%q: expected %s\n", tt.name, shown, tt.expected)
	}
	_, err := Load(e.get)
	got := ""
	for line := range strings.Lines(fmt.Sprintln(err)) {
		problem, _, _ := strings.Cut(strings.TrimSpace(line), "; ") // hints are in TestHints
		got += problem + "\n"
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// shownOf returns everything that is ever shown of a configuration.
func shownOf(t *testing.T, e env) string {
	t.Helper()
	c, err := Load(e.get)
	var b bytes.Buffer
	fmt.Fprintln(&b, err)
	var environ []string
	for name, value := range e {
		environ = append(environ, name+"="+value)
	}
	if err := Usage(&b, e.get, environ); err != nil {
		t.Fatal(err)
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(handler).Info("starting", "config", c)
	}
	return b.String()
}

func TestSecrets(t *testing.T) {
	for _, name := range []string{"FOREMAN_TOKEN", "FOREMAN_OLLAMA_TOKEN"} {
		for value, good := range map[string]bool{
			"hunter2": true, "hunter2 ": false, " hunter2": false, "hunter2\n": false, "hunter2\r\nX: y": false, "hünter2": false,
			"hunter2\x7f": false, "hunter2\x00": false, "\xffhunter2": false,
		} {
			_, err := Load(env{name: value}.get)
			want := "<nil>"
			if !good {
				want = name + `="(set)": expected visible ASCII characters and no space`
			}
			if got := fmt.Sprint(err); got != want {
				t.Errorf("%s=%q: got error %s; want %s", name, value, got, want)
			}
			if got := shownOf(t, env{name: value}); strings.Contains(got, "nter2") {
				t.Errorf("%s=%q is shown:\n%s", name, value, got)
			} else if n := strings.Count(got, "(set)"); good && n != 3 || !good && n != 2 {
				t.Errorf("%s=%q: (set) is shown %d times; want it in the table and both logs, or in both errors:\n%s", name, value, n, got)
			}
		}
	}
}

func TestUserInfoAndQueryAreHidden(t *testing.T) {
	for value, want := range map[string]string{
		"http://hunter2@mac.lan":              "http://(hidden)@mac.lan",
		"http://user:hunter2@mac.lan:11434/x": "http://(hidden)@mac.lan:11434/x",
		"https://user:hunter2@x@mac.lan":      "https://(hidden)@mac.lan",
		"http://user:hunter2/x@mac.lan":       "http://(hidden)@mac.lan",
		"http://user:hunter2?@mac.lan":        "http://(hidden)@mac.lan",
		"http://user:hunter2#@mac.lan":        "http://(hidden)@mac.lan",
		"http://user:%zzhunter2@mac.lan":      "http://(hidden)@mac.lan",
		"http://us er:hunter2@mac.lan:x":      "http://(hidden)@mac.lan:x",
		"user:hunter2@mac.lan:11434":          "(hidden)@mac.lan:11434",
		"http:/user:hunter2@mac.lan":          "(hidden)@mac.lan",
		"//user:hunter2@mac.lan":              "(hidden)@mac.lan",
		"user:hunter2://x@mac.lan":            "(hidden)@mac.lan",
		"hunter2@mac.lan://x":                 "(hidden)@mac.lan://x",
		"http://mac.lan/?token=hunter2":       "http://mac.lan/?(hidden)",
		"http://mac.lan/?":                    "http://mac.lan/",
	} {
		e := env{"FOREMAN_OLLAMA_URL": value}
		_, err := Load(e.get)
		if got, want := fmt.Sprint(err), fmt.Sprintf("FOREMAN_OLLAMA_URL=%q: expected http://HOST:PORT", want); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got error\n%s; want\n%s…", value, got, want)
		}
		if got := shownOf(t, e); strings.Contains(got, "hunter2") {
			t.Errorf("%s is shown:\n%s", value, got)
		}
	}
}

func TestUsage(t *testing.T) {
	e := env{
		"FOREMAN_ADDR":       "127.0.0.1:9",
		"FOREMAN_TOKEN":      "hunter2",
		"FOREMAN_OLLAMA_URL": "http://mac.lan:11434/v1",
		"FOREMAN_MAX_QUEUE":  "none",
	}
	var b strings.Builder
	if err := Usage(&b, e.get, []string{"FOREMAN_ADDR=127.0.0.1:9", "FOREMAN_TOKN=hunter2", "HOME=/"}); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"VARIABLE               IN FORCE                DEFAULT\n",
		"FOREMAN_ADDR           127.0.0.1:9             :8080\n    address to listen on\n",
		"FOREMAN_OLLAMA_URL     not usable: see below   http://localhost:11434\n",
		"FOREMAN_TOKEN          (set)                   -\n",
		"FOREMAN_EMBED_MODEL    -                       -\n",
		"FOREMAN_MAX_QUEUE      not usable: see below   512\n",
		`
Not usable, so that foreman does not start:
    FOREMAN_OLLAMA_URL="http://mac.lan:11434/v1": expected http://HOST:PORT or
    https://HOST:PORT, without user info, query or fragment; give the root of
    the host, without /v1 at the end
    FOREMAN_MAX_QUEUE="none": expected a whole number from 0 to 1000000

Unknown to foreman, so that they have no effect (misspelt?):
    FOREMAN_TOKN
`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant in it\n%s", got, want)
		}
	}
	for line := range strings.Lines(got) {
		if len(line) > 80+len("\n") {
			t.Errorf("longer than 80 columns: %s", line)
		}
	}
	if strings.Contains(got, "hunter2") {
		t.Errorf("a secret is shown:\n%s", got)
	}
}

// Every variable is there with its whole meaning.
func TestUsageIsWhole(t *testing.T) {
	var b strings.Builder
	if err := Usage(&b, env{}.get, nil); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, v := range variables {
		fallback := cmp.Or(v.fallback, "-")
		want := v.name + " " + fallback + " " + fallback + " " + v.meaning
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant in it\n%s", got, want)
		}
	}
	for _, heading := range []string{"Not usable", "Unknown"} {
		if strings.Contains(got, heading) {
			t.Errorf("nothing is wrong, but it says %q", heading)
		}
	}
}

func TestWriteWrapped(t *testing.T) {
	long := strings.Repeat("x", 90)
	for text, want := range map[string]string{
		"short":                              "    short\n",
		strings.Repeat("x", 76):              "    " + strings.Repeat("x", 76) + "\n",
		strings.Repeat("x", 76) + " y":       "    " + strings.Repeat("x", 76) + "\n    y\n",
		strings.Repeat("x", 70) + " " + long: "    " + strings.Repeat("x", 70) + "\n    " + long + "\n",
		long + " y":                          "    " + long + " y\n",
	} {
		var b strings.Builder
		if writeWrapped(&b, text); b.String() != want {
			t.Errorf("got\n%s; want\n%s", &b, want)
		}
	}
}

func TestUsageTellsOfErrors(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	if err := Usage(w, env{}.get, nil); err == nil {
		t.Error("got no error from a closed file")
	}
}

func TestLogValue(t *testing.T) {
	c, err := Load(env{"FOREMAN_TOKEN": "hunter2", "FOREMAN_HOSTS": "a,b", "FOREMAN_OLLAMA_URL": "http://mac.lan/"}.get)
	if err != nil {
		t.Fatal(err)
	}
	want := "[addr=:8080 ollama_url=http://mac.lan/ poll_interval=30s token=(set) hosts=a,b manage=false max_queue=512 fair=true affinity=auto " +
		"queue_timeout=0 heartbeat=20s max_body=64MiB stall_timeout=10m max_turn=1h embeds=0 wake_timeout=3m drain_timeout=30s log_level=info log_format=text]"
	if got := c.LogValue().String(); got != want {
		t.Errorf("got\n%s; want\n%s", got, want)
	}
}

func TestUnknown(t *testing.T) {
	for entry, want := range map[string]string{
		"FOREMAN_ADDR=:80":             "",
		"FOREMAN_ADDR":                 "",
		"FOREMAN_LOG_FORMAT=x=y":       "",
		"HOME=/root":                   "",
		"foreman_addr=:80":             "",
		"XFOREMAN_ADDR=:80":            "",
		"":                             "",
		"=C:=C:\\":                     "",
		"FOREMAN_TOKN=hunter2":         "FOREMAN_TOKN",
		"FOREMAN_OLLAMA_TOKENS=x":      "FOREMAN_OLLAMA_TOKENS",
		"FOREMAN_SERVICE_HOST=1.2.3.4": "FOREMAN_SERVICE_HOST",
		"FOREMAN_=x":                   "FOREMAN_",
	} {
		if got := strings.Join(Unknown([]string{entry}), ";"); got != want {
			t.Errorf("%s: got %q; want %q", entry, got, want)
		}
	}
	got := Unknown([]string{"FOREMAN_X1=", "FOREMAN_ADDR=", "FOREMAN_SERVICE_HOST=", "PATH="})
	if want := []string{"FOREMAN_X1", "FOREMAN_SERVICE_HOST"}; !slices.Equal(got, want) {
		t.Errorf("got %q; want %q", got, want)
	}
}

// The README's table of variables is the code's.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `"+prefix) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
	}
	for _, v := range variables {
		fallback := ""
		if v.fallback != "" {
			fallback = "`" + v.fallback + "` "
		}
		want = append(want, "| `"+v.name+"` | "+fallback+"| "+v.meaning+" |")
	}
	if !slices.Equal(got, want) {
		t.Errorf("the README has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
