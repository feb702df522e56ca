package inventory

import (
	"cmp"
	"strings"
)

// What Ollama takes a name's missing parts to be (types/model/name.go there).
const (
	defaultHost      = "registry.ollama.ai"
	defaultNamespace = "library"
	defaultTag       = "latest"
)

// Same reports whether two names mean the same model to Ollama.
func Same(a, b string) bool {
	x, ok := canonical(a)
	y, _ := canonical(b)
	return ok && x == y
}

// canonical returns the one spelling of all names that mean the same model to
// Ollama, HOST/NAMESPACE/MODEL:TAG in lower case: installed models are matched
// without case, the tag follows the last colon after the last slash, and
// missing parts have defaults. It reports false for what cannot be a name.
func canonical(name string) (string, bool) {
	host, namespace, model, tag := defaultHost, defaultNamespace, name, defaultTag
	if colon := strings.LastIndexByte(model, ':'); colon > strings.LastIndexByte(model, '/') {
		model, tag = model[:colon], model[colon+1:]
	}
	if slash := strings.LastIndexByte(model, '/'); slash >= 0 {
		namespace, model = model[:slash], model[slash+1:]
		if slash := strings.LastIndexByte(namespace, '/'); slash >= 0 {
			host, namespace = namespace[:slash], namespace[slash+1:]
			if _, rest, found := strings.Cut(host, "://"); found {
				host = cmp.Or(rest, defaultHost)
			}
		}
	}
	ok := isPart(host, 350, "-_.:") && isPart(namespace, 80, "-_") && isPart(model, 80, "-_.") && isPart(tag, 80, "-_.")
	return strings.ToLower(host + "/" + namespace + "/" + model + ":" + tag), ok
}

// isPart reports whether s is one part of a name: a letter, digit or underscore
// first, then those and the bytes in marks, and no longer than limit.
func isPart(s string, limit int, marks string) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		c := s[i] | 0x20 // lower case, where it is a letter
		switch {
		case 'a' <= c && c <= 'z', '0' <= s[i] && s[i] <= '9', s[i] == '_':
		case i > 0 && strings.IndexByte(marks, s[i]) >= 0:
		default:
			return false
		}
	}
	return true
}
