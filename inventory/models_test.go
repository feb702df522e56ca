package inventory

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadModels(t *testing.T) {
	for _, tt := range []struct {
		tags  string
		count int
		holds []string
		lacks []string
	}{
		{`{"models":[]}`, 0, nil, []string{"chat", ""}},
		{`{"models":null}`, 0, nil, []string{"chat"}}, // what Ollama had for none, once
		{`{"models":[{"name":"chat:latest","model":"chat:latest"}]}`, 1, []string{"chat", "CHAT:latest", "library/chat"}, []string{"chat:7b", "x/chat"}},
		{`{"models":[{"name":"chat:7b"},{"name":"hf.co/x/Y:Q4_K_M"}]}`, 2, []string{"chat:7B", "hf.co/x/y:q4_k_m"}, []string{"chat", "y:q4_k_m"}},
		{`{"models":[{"model":"new"}]}`, 1, []string{"new"}, nil},
		{`{"models":[{"name":"a","model":"b"}]}`, 1, []string{"a", "b"}, nil},
		{` {"x":1,"models":[{"name":"chat","size":1e99,"details":{"name":"no"}}]} ` + "\n", 1, []string{"chat"}, []string{"no"}},
		{`{"models":[{"name":"not a name"},{}]}`, 2, nil, []string{"not a name", ""}},
	} {
		m, err := readModels([]byte(tt.tags))
		if err != nil {
			t.Errorf("%s: %v", tt.tags, err)
			continue
		}
		state := State{models: m}
		if got := state.Len(); got != tt.count {
			t.Errorf("%s: got %d models; want %d", tt.tags, got, tt.count)
		}
		for _, name := range slices.Concat(tt.holds, tt.lacks) {
			if got, want := state.Holds(name), slices.Contains(tt.holds, name); got != want {
				t.Errorf("%s: holds %q: got %t; want %t", tt.tags, name, got, want)
			}
		}
	}
}

// Names are spelt as the target spells them, however they are asked for.
func TestFind(t *testing.T) {
	m, err := readModels([]byte(`{"models":[{"name":"B:7b","model":"b:7B"},{"model":"hf.co/x/Y:Z"},{"name":"a"},
		{"name":"gpt-oss:120b-cloud","remote_host":"https://ollama.com:443"},{"name":"new:cloud","remote_host":"https://ollama.com:443"},
		{"name":"old:x-cloud"},{"name":"odd:local"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	here := func(name string) Model { return Model{Name: name} }
	remote := func(name string) Model { return Model{name, true} }
	if got, want := (State{models: m}).Models(), []Model{here("B:7b"), here("hf.co/x/Y:Z"), here("a"),
		remote("gpt-oss:120b-cloud"), remote("new:cloud"), here("old:x-cloud"), here("odd:local")}; !slices.Equal(got, want) {
		t.Errorf("got %v; want %v", got, want)
	}
	for name, want := range map[string]Model{
		"b:7b": here("B:7b"), "library/B:7B": here("B:7b"), "HF.CO/x/y:z": here("hf.co/x/Y:Z"), "A:latest": here("a"),
		"b": {}, "": {}, "a:": {}, "not a name": {},
		// Ollama's own spaces and suffixes.
		" a\n": here("a"), "a:local": here("a"), "b:7b:LOCAL": here("B:7b"), "odd:local": {}, "odd:local:local": {}, "a:local:local": {}, "a:local:cloud": {},
		"gpt-oss:120b-cloud": remote("gpt-oss:120b-cloud"), "gpt-oss:120b:cloud": remote("gpt-oss:120b-cloud"),
		"new:cloud": remote("new:cloud"), "New: cloud": remote("new:cloud"), "new": {}, "gpt-oss:cloud": {},
		// What the target holds under such a name runs in the cloud all the same.
		"a:cloud": {}, "old:x-cloud": {}, "b:7b-cloud": {},
	} {
		if got, ok := m.find(name); got != want && ok || ok != (want != Model{}) {
			t.Errorf("%q: got %v, %t; want %v", name, got, ok, want)
		}
	}
}

func TestNotAnOllama(t *testing.T) {
	for _, tt := range []struct{ tags, want string }{
		{"", "unexpected end of JSON input"},
		{"<html>", "invalid character '<'"},
		{"null", `no "models"`},
		{"{}", `no "models"`},
		{`{"data":[]}`, `no "models"`},
		{`[]`, "cannot unmarshal array"},
		{`"models"`, "cannot unmarshal string"},
		{`{"models":{}}`, "cannot unmarshal object"},
		{`{"models":"chat"}`, "cannot unmarshal string"},
		{`{"models":["chat"]}`, "cannot unmarshal string"},
		{`{"models":[{"name":7}]}`, "cannot unmarshal number"},
		{`{"models":[`, "unexpected end of JSON input"},
		{`{"models":[]}{}`, "after top-level value"},
		{`{"models":` + strings.Repeat("[", 100_000), "exceeded max depth"},
	} {
		m, err := readModels([]byte(tt.tags))
		if err == nil {
			t.Errorf("%.40s: got %v; want an error", tt.tags, m)
		} else if got := err.Error(); !strings.HasPrefix(got, "models: ") || !strings.Contains(got, tt.want) {
			t.Errorf("%.40s: got error %q; want models: … %s", tt.tags, got, tt.want)
		}
	}
}

func TestReadResident(t *testing.T) {
	expires := time.Date(2318, 1, 1, 0, 0, 0, 0, time.UTC)
	for ps, want := range map[string][]Resident{
		`{"models":[]}`:   {},
		`{"models":null}`: {},
		`{"models":[{"name":"a:1","model":"b","size":7,"size_vram":5,"expires_at":"2318-01-01T00:00:00Z"},{"model":"c"}]}`: {{"a:1", 7, 5, expires}, {Name: "c"}},
		`{"models":[{"name":"a","expires_at":"soon"},{"name":"b","expires_at":7},{"name":"c","expires_at":null}]}`:         {{Name: "a"}, {Name: "b"}, {Name: "c"}},
	} {
		if got, err := readResident([]byte(ps)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", ps, got, err, want)
		}
	}
	for _, ps := range []string{"<html>", "{}", `{"models":[{"name":7}]}`, `{"models":[{"size":1e99}]}`} {
		if got, err := readResident([]byte(ps)); err == nil {
			t.Errorf("%s: got %v; want an error", ps, got)
		}
	}
}

// FuzzReadModels: nothing makes the readers panic; what they accept is JSON, and
// each name in it is found again in all its spellings.
func FuzzReadModels(f *testing.F) {
	tags, err := os.ReadFile("../testdata/tags.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tags)
	f.Fuzz(func(t *testing.T, tags []byte) {
		if resident, err := readResident(tags); err == nil {
			if m, err := readModels(tags); err != nil || len(resident) != len(m.listed) {
				t.Errorf("got %d resident; want %d, %v", len(resident), len(m.listed), err)
			}
		}
		m, err := readModels(tags)
		if err != nil {
			return
		}
		if !json.Valid(tags) {
			t.Fatalf("accepted %q, which is not JSON", tags)
		}
		var answer struct{ Models json.RawMessage }
		var entries []json.RawMessage
		if err := json.Unmarshal(tags, &answer); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(answer.Models, &entries); err != nil {
			t.Fatal(err)
		}
		state := State{models: m}
		if state.Len() != len(entries) {
			t.Errorf("got %d models; want %d", state.Len(), len(entries))
		}
		spellings := make(map[string]bool)
		for _, entry := range entries {
			var names struct{ Name, Model string }
			if err := json.Unmarshal(entry, &names); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{names.Name, names.Model} {
				key, ok := canonical(name)
				if _, _, source := cutSource(name); source {
					spellings[key] = spellings[key] || ok
					continue // it says where the model is to run
				}
				if got := state.Holds(name); got != (ok || state.Holds(strings.TrimSpace(name))) {
					t.Errorf("holds %q: got %t; want %t", name, got, ok)
				}
				if ok && !(state.Holds(key) && state.Holds(strings.ToUpper(name))) {
					t.Errorf("%q is not found as %q, or in upper case", name, key)
				}
				spellings[key] = spellings[key] || ok
			}
		}
		for key := range m.byName {
			if !spellings[key] {
				t.Errorf("holds %q, which nobody named", key)
			}
		}
	})
}
