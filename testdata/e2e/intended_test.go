package main

import "strings"

// intended are the answers of foreman that are not Ollama's, in what they differ
// and why. The names are those of requests; every one of them must differ in all
// of this and in nothing else, and no other may.
var intended = []difference{
	{"a path that foreman does not know is refused as JSON, as all its errors are, and not as plain text", inWhat{
		"body, Content-Type": "unknown path; path under /api; path of the registry; no path to blobs",
	}},
	{"only a path that is spelt as in the table matches: what Ollama's router makes of the others could pass by the gate", inWhat{
		"status, body":                         "escaped letter; escaped slash",
		"status, body, Content-Type, Location": "doubled slash; dot segment",
	}},
	{"a method that does not fit is told so as JSON, as all errors are, and Allow has OPTIONS, which is answered too", inWhat{
		"body, Content-Type, Allow":           "GET chat; PUT chat; DELETE tags; POST tags; GET delete; GET embed; status POST",
		"Content-Type, Content-Length, Allow": "HEAD models; HEAD ps",
	}},
	{"a name that no model can have is the name of a model that is not there", inWhat{
		"status, body": "chat with a name too long; chat with a digest; chat of a model on the host twice",
	}},
	{"what is not JSON, or names no model, is refused before it waits, with a message that says which", inWhat{
		"body":         "chat cut; chat not JSON; chat an array; chat model a number; chat BOM; chat deeply nested",
		"status, body": "generate without model",
	}},
	{"who names two models is told so: which of them runs differs from one of Ollama's handlers to another", inWhat{
		"status, body": "chat with a key twice; chat with a key twice, in two cases",
	}},
	{"the model is looked at before the rest of the request", inWhat{
		"status, body": "chat unknown with wrong messages; OpenAI chat unknown without messages; chat unknown wrong Origin",
	}},
	{"errors in OpenAI's shape have OpenAI's types and codes, and the charset that all JSON has here", inWhat{
		"body":                       "OpenAI chat not JSON; OpenAI chat no body; completion no body",
		"Content-Type":               "OpenAI chat without model",
		"body, Content-Type":         "OpenAI chat unknown; OpenAI completion unknown; responses unknown",
		"status, body, Content-Type": "completion without model",
	}},
	{"errors in Anthropic's shape have no request_id, which X-Request-Id tells, and the charset that all JSON has here", inWhat{
		"body, Content-Type": "messages unknown",
	}},
	{"a content coding, which Ollama does not know either, is told so", inWhat{
		"status, body": "chat gzip",
	}},
	{"not all Ollamas know these paths: the model is looked at before this one says that it does not", inWhat{
		"body, Content-Type": "images unknown; image edits unknown",
	}},
}

// intendedUnmanaged are those of a foreman that does not manage.
var intendedUnmanaged = []difference{
	{"model management is off unless FOREMAN_MANAGE=true", inWhat{
		"status":                     "blob",
		"status, Content-Length":     "no blob",
		"status, body":               "copy; delete; blob upload",
		"status, body, Content-Type": "pull; push; create",
	}},
}

// A difference is a reason why answers differ.
type difference struct {
	reason string
	inWhat
}

// inWhat names the requests whose answers differ in the same: "status", "body"
// or header fields.
type inWhat map[string]string

// byRequest returns for each request in the list in what its answer differs.
func byRequest(list []difference) map[string][]string {
	what := map[string][]string{}
	for _, d := range list {
		for fields, requests := range d.inWhat {
			for name := range strings.SplitSeq(requests, "; ") {
				what[name] = append(what[name], strings.Split(fields, ", ")...)
			}
		}
	}
	return what
}
