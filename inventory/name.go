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
	x, _, ok := reference(a)
	y, _, _ := reference(b)
	return ok && x == y
}

// reference returns the canonical name of the model that a request asks for, and
// whether it asks for one that runs in Ollama's cloud. Ollama ignores spaces around
// the name, and its end may say where the model is to run (internal/modelref there):
// ":local" on the host, ":cloud" or "-cloud" in the cloud. A cloud model that was pulled
// is listed with such a name.
func reference(asked string) (name string, cloud, ok bool) {
	name = strings.TrimSpace(asked)
	base, cloud, found := cutSource(name)
	if _, _, twice := cutSource(base); found && twice {
		return "", cloud, false
	}
	switch {
	case !found:
	case !cloud:
		name = base
	case strings.LastIndexByte(base, ':') > strings.LastIndexByte(base, '/'): // it has a tag
		name = base + "-cloud"
	default:
		name = base + ":cloud"
	}
	name, ok = canonical(name)
	return name, cloud, ok
}

// cutSource cuts the end off that says where a model is to run, if there is one.
func cutSource(name string) (base string, cloud, found bool) {
	colon := strings.LastIndexByte(name, ':')
	if colon < 0 {
		return name, false, false
	}
	switch tag := strings.ToLower(strings.TrimSpace(name[colon+1:])); {
	case tag == "local":
		return name[:colon], false, true
	case tag == "cloud":
		return name[:colon], true, true
	case strings.HasSuffix(tag, "-cloud") && !strings.Contains(tag, "/"):
		return name[:colon+1] + strings.TrimSuffix(tag, "-cloud"), true, true
	default:
		return name, false, false
	}
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

// shortest returns a canonical name as Ollama lists it: without what is default before the tag.
func shortest(canonical string) string {
	name, ok := strings.CutPrefix(canonical, defaultHost+"/")
	if !ok {
		return canonical
	}
	return strings.TrimPrefix(name, defaultNamespace+"/")
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
