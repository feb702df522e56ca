package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
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
