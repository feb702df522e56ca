package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ollama/ollama/api"

	"foreman/e2e/lab"
)

// A request is one that is sent twice: to Ollama, and to foreman in front of it.
type request struct {
	name   string
	method string
	path   string   // as it is sent, escapes and query included
	body   string   // in chunks if it begins with "chunked:"
	fields []string // header fields, "Name: value"; without a value: not even the usual one
	before []request
}

func TestDifferential(t *testing.T) {
	foreman := startForeman(t, ollama.URL, "FOREMAN_EMBED_MODEL=")
	compare(t, ollama.URL, foreman.URL, corpus, byRequest(intended))
}

// TestDifferentialManage is the same for the requests that change what Ollama
// holds, where foreman lets them through and where it does not.
func TestDifferentialManage(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	managing := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=", "FOREMAN_MANAGE=true")
	compare(t, own.URL, managing.URL, manageCorpus(t, own), nil)

	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=")
	differ := byRequest(intendedUnmanaged)
	refused := slices.DeleteFunc(manageCorpus(t, own), func(r request) bool { return differ[r.name] == nil })
	compare(t, own.URL, foreman.URL, refused, differ)
	for _, r := range refused {
		got := send(t, foreman.URL, r)
		if got.status != http.StatusForbidden || r.method != "HEAD" && !strings.Contains(got.body, "FOREMAN_MANAGE") {
			t.Errorf("%s: got %d %s; want 403 that names FOREMAN_MANAGE", r.name, got.status, got.body)
		}
	}
}

// TestDifferentialModels sends bodies that name a model more than once to Ollama, looks
// which one it has loaded, and then to foreman: that takes the chat for one with the same
// model, or refuses it. Ollama's own handlers must differ, or the test shows nothing.
func TestDifferentialModels(t *testing.T) {
	t.Parallel()
	own := startOllama(t)
	for model, from := range map[string]string{"one": lab.ChatModel, "two": lab.EmbedModel} { // that know tools: a compaction brings one
		create := &api.CreateRequest{Model: model, From: from, Template: "{{ .Tools }}{{ range .Messages }}{{ .Content }}{{ end }}{{ .Prompt }}"}
		if err := own.Client.Create(t.Context(), create, func(api.ProgressResponse) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=", "FOREMAN_LOG_FORMAT=json")
	loaded := func() (names []string) {
		running, err := own.Client.ListRunning(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range running.Models {
			names = append(names, m.Name)
		}
		return names
	}
	unload := func() {
		for _, model := range []string{"one", "two"} {
			post(t, own.URL+"/api/generate", `{"model":"`+model+`","keep_alive":0}`)
		}
		eventually(t, func() error {
			if names := loaded(); len(names) > 0 {
				return fmt.Errorf("%q are loaded", names)
			}
			return nil
		})
	}
	const more = "the request names more than one model"
	ran, sent := map[string]map[string]bool{}, 0 // by body, which models
	for _, path := range []string{"/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/responses/compact", "/v1/messages", "/api/embed", "/api/embeddings", "/v1/embeddings"} {
		for _, test := range []struct {
			models  string
			differs bool
		}{
			{`"model":"one"`, false},
			{`"Model":"one"`, false},
			{`"\u006dodel":"one","model":"on\u0065","MODEL":"one"`, false},
			{`"model":"one","model":null`, false},
			{`"Model":"one","model":null`, false},
			{`"x":{"model":"two"},"name":"two","model":"one"`, false},
			{`"model":"one","Model":"two"`, true},
			{`"Model":"one","model":"two"`, true},
			{`"model":"one","model":"two"`, true},
			{`"\u004dodel":"one","model":"two"`, true},
			{`"model":"one","model":null,"MODEL":"two"`, true},
			{`"model":"one","model":""`, true},
		} {
			body := `{` + test.models + `,"stream":false,"max_tokens":5,"prompt":"hello","input":"hello",` + hello + `}`
			unload()
			direct := post(t, own.URL+path, body)
			names := loaded()
			unload()
			got := post(t, foreman.URL+path, body)
			if test.differs {
				if got.StatusCode != http.StatusBadRequest || !strings.Contains(got.body, more) || len(loaded()) > 0 {
					t.Errorf("%s %s: got %d %s, loaded %q; want 400 and none", path, test.models, got.StatusCode, got.body, loaded())
				}
			} else if got.StatusCode != direct.StatusCode && direct.StatusCode == http.StatusOK || !slices.Equal(loaded(), names) {
				t.Errorf("%s %s: got %d %.300s, loaded %q; Ollama has %d, %q", path, test.models, got.StatusCode, got.body, loaded(), direct.StatusCode, names)
			}
			sent++
			var records []map[string]any
			eventually(t, func() error {
				if records = requests(t, foreman); len(records) < sent {
					return fmt.Errorf("%d requests are in the log; want %d", len(records), sent)
				}
				return nil
			})
			if model := records[len(records)-1]["model"]; len(names) == 1 && model != nil && !test.differs && model != names[0] {
				t.Errorf("%s %s: foreman has %q in its log; Ollama ran %q", path, test.models, model, names)
			}
			for _, name := range names {
				if ran[test.models] == nil {
					ran[test.models] = map[string]bool{}
				}
				ran[test.models][name] = true
			}
			t.Logf("%s %s: Ollama %d %q, foreman %d", path, test.models, direct.StatusCode, names, got.StatusCode)
		}
	}
	if models := ran[`"model":"one","Model":"two"`]; len(models) != 2 {
		t.Errorf("Ollama's handlers all ran %v; want them to differ", models)
	}
}

// compare sends each request to Ollama and to foreman. The answers must be the
// same but for what differ names, and that must not be.
func compare(t *testing.T, direct, through string, requests []request, differ map[string][]string) {
	t.Helper()
	seen := map[string]bool{}
	asIntended := 0
	for _, r := range requests {
		if seen[r.name] {
			t.Errorf("two requests are called %q", r.name)
		}
		seen[r.name] = true
		t.Run(r.name, func(t *testing.T) {
			want, got := send(t, direct, r), send(t, through, r)
			t.Logf("%d %.150s", got.status, got.body)
			differences := want.differences(got)
			for _, what := range differ[r.name] {
				if _, ok := differences[what]; !ok {
					t.Errorf("%s is as Ollama has it; the list says that it differs", what)
				}
			}
			for what, difference := range differences {
				if slices.Contains(differ[r.name], what) {
					t.Logf("%s differs, as intended: %.300s", what, difference)
				} else {
					t.Errorf("%s differs: %s", what, difference)
				}
			}
		})
		if differ[r.name] != nil {
			asIntended++
		}
	}
	for name := range differ {
		if !seen[name] {
			t.Errorf("no request is called %q, which the list of intended differences names", name)
		}
	}
	t.Logf("%d requests compared, of which %d differ as intended", len(requests), asIntended)
}

// A reply is an answer with what varies from one to the next masked.
type reply struct {
	status int
	header http.Header
	body   string
}

// send sends a request, and what has to come before it.
func send(t *testing.T, base string, r request) reply {
	t.Helper()
	for _, b := range r.before {
		send(t, base, b)
	}
	var body io.Reader
	if text, chunked := strings.CutPrefix(r.body, "chunked:"); chunked {
		body = io.MultiReader(strings.NewReader(text)) // no length to be seen
	} else if text != "" {
		body = strings.NewReader(text)
	}
	req, err := http.NewRequestWithContext(t.Context(), r.method, base+r.path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for _, field := range r.fields {
		switch name, value, _ := strings.Cut(field, ": "); {
		case name == "Host":
			req.Host = value
		case value == "":
			req.Header.Del(name)
		default:
			req.Header.Add(name, value)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
	if err != nil {
		t.Fatalf("%s: %v", base, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", base, err)
	}
	return reply{resp.StatusCode, resp.Header, strings.TrimRight(mask(string(b)), "\n")} // foreman's own errors end their line
}

// differences says in what got is not what it should be: status, body, and the
// header fields that Ollama sent. More fields are foreman's right.
func (want reply) differences(got reply) map[string]string {
	all := map[string]string{}
	differ := func(what string, got, want any) { all[what] = fmt.Sprintf("got %v; want %v", got, want) }
	if got.status != want.status {
		differ("status", got.status, want.status)
	}
	if got.body != want.body {
		differ("body", got.body, want.body)
	}
	for name := range want.header {
		// A length follows from the body; but that of an answer to HEAD.
		if name == "Date" || name == "Content-Length" && want.body+got.body != "" {
			continue
		}
		if !slices.Equal(got.header[name], want.header[name]) {
			differ(name, got.header[name], want.header[name])
		}
	}
	return all
}

// masked are the keys whose values differ from one answer of Ollama to the next.
var masked = map[string]bool{
	"created_at": true, "created": true, "modified_at": true, "expires_at": true, "completed_at": true, "id": true,
	"total_duration": true, "load_duration": true, "prompt_eval_duration": true, "eval_duration": true,
	"parameters": true, "modelfile": true, // in the order of a Go map
}

// mask returns a body with those values masked: one JSON value a line, as events
// ("data: ") or not. What is not JSON stays as it is.
func mask(body string) string {
	var out strings.Builder
	for line := range strings.Lines(body) {
		text, event := strings.CutPrefix(line, "data: ")
		var value any
		if json.Unmarshal([]byte(text), &value) == nil {
			b, err := json.Marshal(maskValue(value))
			if err != nil {
				panic(err) // it has just been read
			}
			text = string(b) + text[len(strings.TrimRight(text, "\n")):]
		}
		if event {
			out.WriteString("data: ")
		}
		out.WriteString(text)
	}
	return out.String()
}

// maskValue masks what varies in a value, and sorts its models: Ollama lists
// those of the same second, by modified_at or expires_at, in the order of a Go map.
func maskValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			if v[key] = maskValue(v[key]); masked[key] {
				v[key] = "*"
			}
		}
		if models, ok := v["models"].([]any); ok {
			slices.SortFunc(models, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	case []any:
		for i := range v {
			v[i] = maskValue(v[i])
		}
	}
	return value
}
