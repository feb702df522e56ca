package inventory

import (
	"slices"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct{ patterns, matched, others string }{
		{"llama3*,qwen3:8b", "llama3 llama3:latest LLAMA3.2:1b-q4 Qwen3:8B", "llama2 qwen3 qwen3:latest qwen3:8b-q4 x/llama3 a-qwen3:8b"},
		{"chat", "chat chat:latest CHAT:Latest", "chat:8b chats library/chat"},
		{"chat:latest", "chat Chat:latest", "chat:8b"},
		{"chat:*", "chat chat:8b", "chats:8b"},
		{"hf.co/x/*,hub:5000/a/b", "HF.co/x/y:z hub:5000/a/b hub:5000/a/b:latest", "hf.co/y/x:z hub:5000/a/b:8b"},
		{"*", "chat a/b:c", ""},
	} {
		p := Patterns(strings.Split(test.patterns, ","))
		for _, model := range strings.Fields(test.matched) {
			if !p.Match(model) {
				t.Errorf("%s does not match %s", test.patterns, model)
			}
		}
		for _, model := range strings.Fields(test.others) {
			if p.Match(model) {
				t.Errorf("%s matches %s", test.patterns, model)
			}
		}
	}
	if !Patterns(nil).Match("chat") {
		t.Error("without patterns a model does not match")
	}
	m, err := readModels([]byte(`{"models":[{"name":"Chat:8b"},{"name":"embed:latest"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got := Patterns{"chat*", "chat", "embed", "x*"}.Unmatched(State{models: m})
	if want := []string{"chat", "x*"}; !slices.Equal(got, want) {
		t.Errorf("unmatched: got %q; want %q", got, want)
	}
}

// The entries that stay, and what else an answer has, are not changed by a byte.
func TestFilter(t *testing.T) {
	p := Patterns{"chat", "b*"}
	for answer, want := range map[string]string{
		` {"x": [1 ],"models" : [ {"name":"chat:latest", "size":1e2 } ,{"name":"secret"},{"model":"B:7b","n":"\u0061"}], "y":{"models":[{"name":"secret"}]} }` + "\n": ` {"x": [1 ],"models" : [{"name":"chat:latest", "size":1e2 },{"model":"B:7b","n":"\u0061"}], "y":{"models":[{"name":"secret"}]} }` + "\n",
		`{"models":[{"name":"chat","model":"secret"},{"name":"secret","model":"chat"},{},5,null,{"name":5}]}`:                                                         `{"models":[]}`,
		`{"models":[{"id":"secret"}],"MODELS":[{"id":"secret"},{"id":"chat"}]}`:                                                                                       `{"models":[],"MODELS":[{"id":"chat"}]}`,
		`{"models":null}`: `{"models":[]}`,
		`{"data":[]}`:     `{"data":[]}`,
		`{"models":{}}`:   "",
		`[{"id":"chat"}]`: "",
		`{"models":[`:     "",
		``:                "",
	} {
		got, err := p.Filter([]byte(answer))
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %s, %v; want %s", answer, got, err, want)
		}
	}
}
