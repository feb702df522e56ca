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
var goodNames = []struct{ name, want string }{
	{"model", "registry.ollama.ai/library/model:latest"},
	{"model:7b-v2.6-q6_K", "registry.ollama.ai/library/model:7b-v2.6-q6_k"},
	{"namespace/model:tag", "registry.ollama.ai/namespace/model:tag"},
	{"host/namespace/model", "host/namespace/model:latest"},
	{"HOST/NameSpace/Model:Tag", "host/namespace/model:tag"},
	{"hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", "hf.co/bartowski/llama-3.2-3b-instruct-gguf:q4_k_m"},
	{"_why/_the/_lucky:_stiff", "_why/_the/_lucky:_stiff"},
	{"h/n/m:t", "h/n/m:t"},
	{"m-_.0", "registry.ollama.ai/library/m-_.0:latest"},

	// Hosts, with ports and schemes.
	{"host:port/namespace/model", "host:port/namespace/model:latest"},
	{"host:1:2/namespace/model:tag", "host:1:2/namespace/model:tag"},
	{"scheme://host:port/namespace/model:tag", "host:port/namespace/model:tag"},
	{"://host/namespace/model", "host/namespace/model:latest"},
	{"https:///namespace/model", "registry.ollama.ai/namespace/model:latest"},
	{"host./namespace/model", "host./namespace/model:latest"},

	// As long as can be.
	{part350 + "/" + part80 + "/" + part80 + ":" + part80, part350 + "/" + part80 + "/" + part80 + ":" + part80},
}

var notNames = []string{
	"https://host/model", "https://model", "a://b://c/namespace/model", "x/host/namespace/model",

	// A first byte, and then any, that must not be in a part.
	"-hh/nn/mm:tt", ".hh/nn/mm:tt", ":hh/nn/mm:tt", "hh/-nn/mm:tt", "hh/nn/-mm:tt", "hh/nn/.mm:tt", "hh/nn/mm:-tt",
	"hh/nn/mm:.tt", "hh/n.n/mm:tt", "host/name:space/model:tag", "mo:del:tag", "mo del", "model\n", "model\x00", "modèle", "[model", "m{", "m`",
	"m@", "m[", "m/../x", "..",

	// Parts that are promised and missing.
	"", ":", "model:", ":tag", "/", "/model", "namespace/", "namespace/:tag", "//", "//model", "/namespace/model", "host//model", "host//",

	// Too long by a byte.
	"x" + part350 + "/n/m:t", "x" + part80 + "/m:t", "x" + part80, "m:x" + part80,
}

func TestNames(t *testing.T) {
	for _, tt := range goodNames {
		for _, name := range []string{tt.name, tt.want} {
			if got, ok := canonical(name); got != tt.want || !ok {
				t.Errorf("%q: got %q, %t; want %q", name, got, ok, tt.want)
			}
		}
	}
	for _, name := range notNames {
		if got, ok := canonical(name); ok {
			t.Errorf("%q: got %q; want it refused", name, got)
		}
	}
}

func TestSame(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"model", "Model:Latest", true},
		{"https://registry.ollama.ai/library/model", "library/model:latest", true},
		{"model", "model:7b", false},
		{"model", "other/model", false},
		{"model", "", false},
		{"", "", false},
		{"model", " model:local ", true},
		{"model:7b", "model:7B:local", true},
		{"model", "model:cloud", false},
		{"model:7b", "model:7b-cloud", false},
		{"model:7b:cloud", "model:7b-cloud", true},
		{"a b", "a b", false},
	} {
		if got, reversed := Same(tt.a, tt.b), Same(tt.b, tt.a); got != tt.want || reversed != tt.want {
			t.Errorf("%q and %q: got %t, and %t the other way round; want %t", tt.a, tt.b, got, reversed, tt.want)
		}
	}
}
