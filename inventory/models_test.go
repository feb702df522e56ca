package inventory

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Names are spelt as the target spells them, however they are asked for.
func TestFind(t *testing.T) {
	m, err := readModels([]byte(` {"x":1,"models":[{"name":"B:7b","model":"b:7B","size":1e99,"details":{"name":"no"}},{"model":"hf.co/x/Y:Z"},{"name":"a","size":42},
		{"name":"gpt-oss:120b-cloud","remote_host":"https://ollama.com:443"},{"name":"new:cloud","remote_host":"https://ollama.com:443"},
		{"name":"old:x-cloud"},{"name":"odd:local"},{"name":"one","model":"two"},{"name":"not a name"},{}]}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	here := func(name string) Model {
		if name == "a" {
			return Model{Name: name, Size: 42}
		}
		return Model{Name: name}
	}
	remote := func(name string) Model { return Model{Name: name, Remote: true} }
	state := State{models: m}
	want := []Model{
		here("B:7b"), here("hf.co/x/Y:Z"), here("a"), remote("gpt-oss:120b-cloud"), remote("new:cloud"),
		here("old:x-cloud"), here("odd:local"), here("one"), here("not a name"), here(""),
	}
	if got := state.Models(); !slices.Equal(got, want) || state.Len() != len(want) {
		t.Errorf("got %d, %v; want %d, %v", state.Len(), got, len(want), want)
	}
	for name, want := range map[string]Model{
		"b:7b": here("B:7b"), "library/B:7B": here("B:7b"), "HF.CO/x/y:z": here("hf.co/x/Y:Z"), "A:latest": here("a"), "one": here("one"), "two": here("two"),
		"b": {}, "y:z": {}, "x/b:7b": {}, "no": {}, "": {}, "a:": {}, "not a name": {},
		// Ollama's own spaces and suffixes.
		" a\n": here("a"), "a:local": here("a"), "b:7b:LOCAL": here("B:7b"), "odd:local": {}, "odd:local:local": {}, "a:local:local": {}, "a:local:cloud": {},
		"gpt-oss:120b-cloud": remote("gpt-oss:120b-cloud"), "gpt-oss:120b:cloud": remote("gpt-oss:120b-cloud"),
		"new:cloud": remote("new:cloud"), "New: cloud": remote("new:cloud"), "new": {}, "gpt-oss:cloud": {},
		// What the target holds under such a name runs in the cloud all the same.
		"a:cloud": {}, "old:x-cloud": {}, "b:7b-cloud": {},
	} {
		if got, ok := m.find(name, nil); got != want && ok || ok != (want != Model{}) || state.Holds(name) != ok {
			t.Errorf("%q: got %v, %t; want %v", name, got, ok, want)
		}
	}
}

func TestNotAnOllama(t *testing.T) {
	for tags, want := range map[string]string{
		"":                        "unexpected end of JSON input",
		"<html>":                  "invalid character '<'",
		"null":                    `no "models"`,
		`{"data":[]}`:             `no "models"`,
		`[]`:                      "cannot unmarshal array",
		`{"models":{}}`:           "cannot unmarshal object",
		`{"models":["chat"]}`:     "cannot unmarshal string",
		`{"models":[{"name":7}]}`: "cannot unmarshal number",
		`{"models":[]}{}`:         "after top-level value",
		`{"models":` + strings.Repeat("[", 100_000): "exceeded max depth",
	} {
		m, err := readModels([]byte(tags))
		if err == nil {
			t.Errorf("%.40s: got %v; want an error", tags, m)
		} else if got := err.Error(); !strings.HasPrefix(got, "models: ") || !strings.Contains(got, want) {
			t.Errorf("%.40s: got error %q; want models: … %s", tags, got, want)
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
		`{"models":[{"name":"a","size":1e99},{"name":"b","size_vram":"much"}]}`:                                            {{Name: "a"}, {Name: "b"}},
	} {
		if got, err := readResident([]byte(ps)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v; want %v", ps, got, err, want)
		}
	}
	for _, ps := range []string{"<html>", "{}", `{"models":[{"name":7}]}`} {
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
		var answer struct{ Models json.RawMessage }
		var entries []struct{ Name, Model string }
		if err := errors.Join(json.Unmarshal(tags, &answer), json.Unmarshal(answer.Models, &entries)); err != nil {
			t.Fatalf("accepted %q: %v", tags, err)
		}
		state := State{models: m}
		if state.Len() != len(entries) {
			t.Errorf("got %d models; want %d", state.Len(), len(entries))
		}
		spellings := make(map[string]bool)
		for _, entry := range entries {
			for _, name := range []string{entry.Name, entry.Model} {
				key, ok := canonical(name)
				spellings[key] = spellings[key] || ok
				if _, _, source := cutSource(name); source {
					continue // it says where the model is to run
				}
				if got := state.Holds(name); got != (ok || state.Holds(strings.TrimSpace(name))) {
					t.Errorf("holds %q: got %t; want %t", name, got, ok)
				}
				if ok && !(state.Holds(key) && state.Holds(strings.ToUpper(name))) {
					t.Errorf("%q is not found as %q, or in upper case", name, key)
				}
			}
		}
		for key := range m.byName {
			if !spellings[key] {
				t.Errorf("holds %q, which nobody named", key)
			}
		}
	})
}
