package main

import "strings"

// intended are the answers of foreman that are not Ollama's, in what they differ
// and why. The names are those of requests; every one of them must differ, in
// nothing else, and no other may.
var intended = []difference{
	{"a path that foreman does not know is refused as JSON, as all its errors are, and not as plain text",
		"body, Content-Type",
		"unknown path; path under /api; path of the registry; no path to blobs"},
	{"only a path that is spelt as in the table matches: what Ollama's router makes of the others could pass by the gate",
		"status, body, Content-Type, Location",
		"slash at the end; slash at the end of a GET; doubled slash; escaped letter; escaped slash; dot segment"},
	{"a method that does not fit is told so, with Allow, and not that the path does not exist",
		"status, body, Content-Type, Content-Length",
		"GET chat; PUT chat; DELETE tags; POST tags; HEAD models; HEAD ps; GET delete; GET embed"},
	{"a chat with a model that is not there is refused before it waits, in the words of /api/generate and of later Ollamas",
		"body",
		"chat unknown; chat unknown not streaming; chat unknown local Origin; chat with another tag"},
	{"a name that no model can have is the name of a model that is not there",
		"status, body",
		"chat with a name too long; chat with a digest; chat with a space in the name"},
	{"what is not JSON, or names no model, is refused before it waits, with a message that says which",
		"status, body",
		"chat cut; chat not JSON; chat an array; chat model a number; chat BOM; chat deeply nested; generate without model"},
	{"the model is looked at before the rest of the request",
		"status, body, Content-Type",
		"chat unknown with wrong messages; OpenAI chat unknown without messages; chat unknown wrong Origin"},
	{"OpenAI's errors have the type that belongs to their status, and the charset that all JSON has here",
		"status, body, Content-Type",
		"OpenAI chat unknown; OpenAI completion unknown; OpenAI chat without model; completion without model; " +
			"OpenAI chat not JSON; OpenAI chat no body; completion no body"},
	{"a content coding, which Ollama does not know either, is told so",
		"status, body",
		"chat gzip"},
	{"later Ollamas know these paths: the model is looked at before this one says that it does not",
		"body, Content-Type",
		"responses unknown; messages unknown; images unknown; image edits unknown"},
}

// intendedUnmanaged are those of a foreman that does not manage.
var intendedUnmanaged = []difference{
	{"model management is off unless FOREMAN_MANAGE=true",
		"status, body, Content-Type, Content-Length",
		"pull; push; create; copy; delete; blob; no blob; blob upload"},
}

// A difference is what may differ in the answers to some requests: "status",
// "body" or a header field.
type difference struct{ reason, what, requests string }

// byRequest returns for each request in the list what may differ.
func byRequest(list []difference) map[string]string {
	what := map[string]string{}
	for _, d := range list {
		for name := range strings.SplitSeq(d.requests, "; ") {
			what[name] += d.what
		}
	}
	return what
}
