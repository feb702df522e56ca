package inventory

import (
	"strings"
	"testing"
)

var (
	part80  = strings.Repeat("8", 80)
	part350 = strings.Repeat("3", 350)
)

// What Ollama takes names to be (types/model/name.go and its test there).
var names = []struct {
	name, want string // want "": not a name
}{
	// Missing parts.
	{"model", "registry.ollama.ai/library/model:latest"},
	{"model:latest", "registry.ollama.ai/library/model:latest"},
	{"model:7b-v2.6-q6_K", "registry.ollama.ai/library/model:7b-v2.6-q6_k"},
	{"namespace/model", "registry.ollama.ai/namespace/model:latest"},
	{"namespace/model:tag", "registry.ollama.ai/namespace/model:tag"},
	{"host/namespace/model", "host/namespace/model:latest"},
	{"host/namespace/model:tag", "host/namespace/model:tag"},
	{"registry.ollama.ai/library/dolphin-mistral:7b", "registry.ollama.ai/library/dolphin-mistral:7b"},
	{"hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/llama-3.2-3b-instruct-gguf:q4_k_m"},

	// Case.
	{"MODEL:TAG", "registry.ollama.ai/library/model:tag"},
	{"HOST/NameSpace/Model:Tag", "host/namespace/model:tag"},

	// Hosts, with ports and schemes.
	{"host:port/namespace/model", "host:port/namespace/model:latest"},
	{"host:port/namespace/model:tag", "host:port/namespace/model:tag"},
	{"host:1:2/namespace/model:tag", "host:1:2/namespace/model:tag"},
	{"scheme://host:port/namespace/model:tag", "host:port/namespace/model:tag"},
	{"://host/namespace/model", "host/namespace/model:latest"},
	{"https:///namespace/model", "registry.ollama.ai/namespace/model:latest"},
	{"https://host/model", ""},
	{"https://model", ""},
	{"a://b://c/namespace/model", ""},
	{"x/host/namespace/model", ""},
	{"host./namespace/model", "host./namespace/model:latest"},

	// What parts are made of.
	{"_why/_the/_lucky:_stiff", "_why/_the/_lucky:_stiff"},
	{"h/n/m:t", "h/n/m:t"},
	{"m-_.0", "registry.ollama.ai/library/m-_.0:latest"},
	{"-hh/nn/mm:tt", ""},
	{".hh/nn/mm:tt", ""},
	{":hh/nn/mm:tt", ""},
	{"hh/-nn/mm:tt", ""},
	{"hh/nn/-mm:tt", ""},
	{"hh/nn/.mm:tt", ""},
	{"hh/nn/mm:-tt", ""},
	{"hh/nn/mm:.tt", ""},
	{"hh/n.n/mm:tt", ""},
	{"host/name:space/model:tag", ""},
	{"mo:del:tag", ""},
	{"model@sha256", ""},
	{"@t", ""},
	{"^", ""},
	{"mo del", ""},
	{"model\n", ""},
	{"model\x00", ""},
	{"modèle", ""},
	{"[model", ""},
	{"m{", ""},
	{"m`", ""},
	{"m@", ""},
	{"m[", ""},
	{"m/../x", ""},
	{"..", ""},

	// Parts that are promised and missing.
	{"", ""},
	{":", ""},
	{"model:", ""},
	{":tag", ""},
	{"/", ""},
	{"/model", ""},
	{"namespace/", ""},
	{"namespace/:tag", ""},
	{"//", ""},
	{"//model", ""},
	{"/namespace/model", ""},
	{"host//model", ""},
	{"host//", ""},

	// Length.
	{part80 + "/" + part80 + ":" + part80, "registry.ollama.ai/" + part80 + "/" + part80 + ":" + part80},
	{part350 + "/" + part80 + "/" + part80 + ":" + part80, part350 + "/" + part80 + "/" + part80 + ":" + part80},
	{"x" + part350 + "/n/m:t", ""},
	{"x" + part80 + "/m:t", ""},
	{"x" + part80, ""},
	{"m:x" + part80, ""},
	{strings.Repeat("x", 5000), ""},
}

func TestNames(t *testing.T) {
	for _, tt := range names {
		got, ok := canonical(tt.name)
		if !ok {
			got = ""
		}
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("%q: got %q, %t; want %q", tt.name, got, ok, tt.want)
		}
		if again, ok := canonical(got); tt.want != "" && (again != got || !ok) {
			t.Errorf("%q: got %q, %t; want the name itself", got, again, ok)
		}
	}
}

func TestSame(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"model", "model", true},
		{"model", "Model:Latest", true},
		{"model", "registry.ollama.ai/library/model", true},
		{"https://registry.ollama.ai/library/model", "library/model:latest", true},
		{"model", "model:7b", false},
		{"model", "other/model", false},
		{"model", "host/library/model", false},
		{"model", "model2", false},
		{"model", "", false},
		{"", "", false},
		{"model", " model:local ", true},
		{"model:7b", "model:7B:local", true},
		{"model", "model:cloud", false},
		{"model:7b", "model:7b-cloud", false},
		{"model:7b:cloud", "model:7b-cloud", true},
		{"a b", "a b", false},
		{"a b", "model", false},
	} {
		if got := Same(tt.a, tt.b); got != tt.want {
			t.Errorf("Same(%q, %q): got %t; want %t", tt.a, tt.b, got, tt.want)
		}
		if got := Same(tt.b, tt.a); got != tt.want {
			t.Errorf("Same(%q, %q): got %t; want %t", tt.b, tt.a, got, tt.want)
		}
	}
}
