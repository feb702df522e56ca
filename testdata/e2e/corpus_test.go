package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"foreman/e2e/lab"
)

// with is a POST with a body.
func with(name, path, body string, fields ...string) request {
	return request{name: name, method: "POST", path: path, body: body, fields: fields}
}

// bare is a request without one.
func bare(name, method, path string, fields ...string) request {
	return request{name: name, method: method, path: path, fields: fields}
}

const (
	hello    = `"messages":[{"role":"user","content":"hello"}]`
	foreign  = "Origin: http://app.example.test"
	local    = "Origin: http://localhost:3000"
	asksPost = "Access-Control-Request-Method: POST"
)

// corpus are requests over all paths of foreman's route table but those that
// change what Ollama holds: good ones, bad ones and odd ones.
var corpus = []request{
	// Chats.
	with("chat", "/api/chat", `{"model":"tiny-chat",`+hello+`}`),
	with("chat not streaming", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`),
	with("chat streaming", "/api/chat", `{"model":"tiny-chat","stream":true,`+hello+`}`),
	with("chat with options", "/api/chat", `{"model":"tiny-chat","options":{"num_predict":5,"temperature":2,"seed":7},`+hello+`}`),
	with("chat with wrong options", "/api/chat", `{"model":"tiny-chat","options":{"num_predict":"many"},`+hello+`}`),
	with("chat with format", "/api/chat", `{"model":"tiny-chat","format":"nonsense","stream":false,`+hello+`}`),
	with("chat with tools", "/api/chat", `{"model":"tiny-chat","tools":[{"type":"function","function":{"name":"f"}}],`+hello+`}`),
	with("chat with keep_alive", "/api/chat", `{"model":"tiny-chat","keep_alive":"10m","stream":false,`+hello+`}`),
	with("chat with wrong keep_alive", "/api/chat", `{"model":"tiny-chat","keep_alive":"soon",`+hello+`}`),
	with("chat loads", "/api/chat", `{"model":"tiny-chat","messages":[]}`),
	with("chat without messages", "/api/chat", `{"model":"tiny-chat"}`),
	with("chat with wrong messages", "/api/chat", `{"model":"tiny-chat","messages":"hello"}`),
	with("chat with stream as text", "/api/chat", `{"model":"tiny-chat","stream":"yes",`+hello+`}`),
	with("chat as text/plain", "/api/chat", `{"model":"tiny-chat",`+hello+`}`, "Content-Type", "Content-Type: text/plain"),
	with("chat without Content-Type", "/api/chat", `{"model":"tiny-chat",`+hello+`}`, "Content-Type"),
	with("chat in chunks", "/api/chat", `chunked:{"model":"tiny-chat","stream":false,`+hello+`}`),
	with("chat with a query", "/api/chat?model=other&stream=false", `{"model":"tiny-chat",`+hello+`}`),
	with("chat with more behind it", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`} {"model":"absent"} junk`),
	with("chat with space around it", "/api/chat", " \r\n\t{\"model\":\"tiny-chat\",\"stream\":false,"+hello+"}\n\n"),
	with("chat with keys in any case", "/api/chat", `{"MODEL":"tiny-chat","Stream":false,`+hello+`}`),
	with("chat with a key twice", "/api/chat", `{"model":"absent","model":"tiny-chat","stream":false,`+hello+`}`),
	with("chat with a key twice, in two cases", "/api/chat", `{"model":"absent","Model":"tiny-chat","stream":false,`+hello+`}`),
	with("chat with null again", "/api/chat", `{"model":"tiny-chat","model":null,"stream":false,`+hello+`}`),
	with("chat with an escaped key", "/api/chat", `{"\u006dodel":"tiny-chat","stream":false,`+hello+`}`),
	with("chat with unknown keys", "/api/chat", `{"model":"tiny-chat","stream":false,"think":true,"x":{"model":"absent"},`+hello+`}`),
	with("chat by tag", "/api/chat", `{"model":"tiny-chat:latest","stream":false,`+hello+`}`),
	with("chat by namespace", "/api/chat", `{"model":"library/Tiny-Chat","stream":false,`+hello+`}`),
	with("chat by full name", "/api/chat", `{"model":"registry.ollama.ai/library/tiny-chat:LATEST","stream":false,`+hello+`}`),
	with("chat with another tag", "/api/chat", `{"model":"tiny-chat:7b",`+hello+`}`),
	with("chat of a model on the host", "/api/chat", `{"model":"tiny-chat:local",`+hello+`}`),
	with("chat of a model on the host twice", "/api/chat", `{"model":"tiny-chat:local:local",`+hello+`}`),
	with("chat with a space in the name", "/api/chat", `{"model":" tiny-chat",`+hello+`}`),
	with("chat with a digest", "/api/chat", `{"model":"tiny-chat@sha256:00",`+hello+`}`),
	with("chat with a name too long", "/api/chat", `{"model":"`+strings.Repeat("a", 5000)+`",`+hello+`}`),
	with("chat unknown", "/api/chat", `{"model":"absent",`+hello+`}`),
	with("chat unknown not streaming", "/api/chat", `{"model":"absent","stream":false,`+hello+`}`),
	with("chat unknown with wrong messages", "/api/chat", `{"model":"absent","messages":"hello"}`),
	with("chat no body", "/api/chat", ""),
	with("chat empty object", "/api/chat", `{}`),
	with("chat empty name", "/api/chat", `{"model":"",`+hello+`}`),
	with("chat null", "/api/chat", `null`),
	with("chat only space", "/api/chat", " \n"),
	with("chat an array", "/api/chat", `[]`),
	with("chat not JSON", "/api/chat", `model=tiny-chat`),
	with("chat cut", "/api/chat", `{"model":"tiny-chat","messages":[`),
	with("chat BOM", "/api/chat", "\ufeff{\"model\":\"tiny-chat\"}"),
	with("chat model a number", "/api/chat", `{"model":7,`+hello+`}`),
	with("chat deeply nested", "/api/chat", `{"model":"tiny-chat","x":`+strings.Repeat("[", 20000)+`}`),
	with("chat gzip", "/api/chat", "\x1f\x8b\x08\x00", "Content-Encoding: gzip"),
	with("chat identity", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`, "Content-Encoding: identity"),
	with("chat accepts gzip", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`, "Accept-Encoding: gzip", "Accept: text/html"),
	with("chat local Origin", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`, local),
	with("chat wrong Origin", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`, foreign),
	with("chat unknown local Origin", "/api/chat", `{"model":"absent",`+hello+`}`, local),
	with("chat unknown wrong Origin", "/api/chat", `{"model":"absent",`+hello+`}`, foreign),
	with("chat same Origin", "/api/chat", `{"model":"tiny-chat","stream":false,`+hello+`}`, "Host: app.internal", "Origin: http://app.internal"),
	with("chat unloads", "/api/chat", `{"model":"tiny-chat","messages":[],"keep_alive":0}`),

	with("generate", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon"}`),
	with("generate not streaming", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon","stream":false}`),
	with("generate raw", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon","raw":true,"stream":false}`),
	with("generate raw with system", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon","raw":true,"system":"You are a king."}`),
	with("generate with a wrong template", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon","template":"{{"}`),
	with("generate with a suffix", "/api/generate", `{"model":"tiny-chat","prompt":"Once upon","suffix":"a time"}`),
	with("generate loads", "/api/generate", `{"model":"tiny-chat"}`),
	with("generate unknown", "/api/generate", `{"model":"absent","prompt":"Once upon"}`),
	with("generate without model", "/api/generate", `{"prompt":"Once upon"}`),
	with("generate no body", "/api/generate", ""),
	with("generate unloads", "/api/generate", `{"model":"tiny-chat","keep_alive":0}`),

	// OpenAI's and Anthropic's.
	with("OpenAI chat", "/v1/chat/completions", `{"model":"tiny-chat","temperature":0,"seed":1,`+hello+`}`),
	with("OpenAI chat streaming", "/v1/chat/completions", `{"model":"tiny-chat","stream":true,"temperature":0,"seed":1,`+hello+`}`),
	with("OpenAI chat with usage", "/v1/chat/completions", `{"model":"tiny-chat","stream":true,"stream_options":{"include_usage":true},"max_tokens":3,"temperature":0,`+hello+`}`),
	with("OpenAI chat without messages", "/v1/chat/completions", `{"model":"tiny-chat"}`),
	with("OpenAI chat with wrong content", "/v1/chat/completions", `{"model":"tiny-chat","messages":[{"role":"user","content":7}]}`),
	with("OpenAI chat without model", "/v1/chat/completions", `{`+hello+`}`),
	with("OpenAI chat unknown", "/v1/chat/completions", `{"model":"absent",`+hello+`}`),
	with("OpenAI chat unknown without messages", "/v1/chat/completions", `{"model":"absent"}`),
	with("OpenAI chat not JSON", "/v1/chat/completions", `model=tiny-chat`),
	with("OpenAI chat no body", "/v1/chat/completions", ""),
	with("completion", "/v1/completions", `{"model":"tiny-chat","prompt":"Once upon","temperature":0,"seed":1}`),
	with("completion streaming", "/v1/completions", `{"model":"tiny-chat","prompt":"Once upon","stream":true,"temperature":0,"seed":1}`),
	with("OpenAI completion unknown", "/v1/completions", `{"model":"absent","prompt":"Once upon"}`),
	with("completion without model", "/v1/completions", `{"prompt":"Once upon"}`),
	with("completion no body", "/v1/completions", ""),
	with("responses", "/v1/responses", `{"model":"tiny-chat","input":"hello"}`),
	with("responses unknown", "/v1/responses", `{"model":"absent","input":"hello"}`),
	with("messages", "/v1/messages", `{"model":"tiny-chat","max_tokens":3,`+hello+`}`, "Anthropic-Version: 2023-06-01"),
	with("messages unknown", "/v1/messages", `{"model":"absent","max_tokens":3,`+hello+`}`, "Anthropic-Version: 2023-06-01"),
	with("images", "/v1/images/generations", `{"model":"tiny-chat","prompt":"a fox"}`),
	with("images unknown", "/v1/images/generations", `{"model":"absent","prompt":"a fox"}`),
	with("image edits unknown", "/v1/images/edits", `{"model":"absent","prompt":"a fox","image":"data:image/png;base64,AA=="}`),

	// Embeddings.
	with("embed", "/api/embed", `{"model":"tiny-embed","input":"one"}`),
	with("embed two", "/api/embed", `{"model":"tiny-embed","input":["one","two"],"keep_alive":"5m"}`),
	with("embed nothing", "/api/embed", `{"model":"tiny-embed"}`),
	with("embed a number", "/api/embed", `{"model":"tiny-embed","input":7}`),
	with("embed unknown", "/api/embed", `{"model":"absent","input":"one"}`),
	with("embed without model", "/api/embed", `{"input":"one"}`),
	with("embed not JSON", "/api/embed", `one`),
	with("embed no body", "/api/embed", ""),
	with("embed too long", "/api/embed", `{"model":"tiny-embed","truncate":false,"input":"`+strings.Repeat("one ", 3000)+`"}`),
	with("embed in chunks", "/api/embed", `chunked:{"model":"tiny-embed","input":"one"}`),
	with("embed wrong Origin", "/api/embed", `{"model":"tiny-embed","input":"one"}`, foreign),
	with("embeddings", "/api/embeddings", `{"model":"tiny-embed","prompt":"one"}`),
	with("embeddings nothing", "/api/embeddings", `{"model":"tiny-embed"}`),
	with("embeddings unknown", "/api/embeddings", `{"model":"absent","prompt":"one"}`),
	with("OpenAI embeddings", "/v1/embeddings", `{"model":"tiny-embed","input":["one","two"]}`),
	with("OpenAI embeddings base64", "/v1/embeddings", `{"model":"tiny-embed","input":"one","encoding_format":"base64"}`),
	with("OpenAI embeddings nothing", "/v1/embeddings", `{"model":"tiny-embed"}`),
	with("OpenAI embeddings unknown", "/v1/embeddings", `{"model":"absent","input":"one"}`),

	// What is read.
	bare("root", "GET", "/"),
	bare("HEAD root", "HEAD", "/"),
	bare("version", "GET", "/api/version"),
	bare("HEAD version", "HEAD", "/api/version"),
	bare("tags", "GET", "/api/tags"),
	bare("HEAD tags", "HEAD", "/api/tags"),
	bare("tags with a query", "GET", "/api/tags?x=1"),
	bare("version with a query", "GET", "/api/version?x=1"),
	with("embed with a query", "/api/embed?beta=true", `{"model":"tiny-embed","input":"one"}`),
	bare("tags local Origin", "GET", "/api/tags", local),
	bare("tags wrong Origin", "GET", "/api/tags", foreign),
	{name: "ps", method: "GET", path: "/api/ps", before: []request{ // both are loaded
		with("", "/api/chat", `{"model":"tiny-chat"}`),
		with("", "/api/embed", `{"model":"tiny-embed"}`),
	}},
	bare("status", "GET", "/api/status"),
	bare("status POST", "POST", "/api/status"),
	bare("ps wrong Origin", "GET", "/api/ps", foreign),
	with("show", "/api/show", `{"model":"tiny-chat"}`),
	with("show by name", "/api/show", `{"name":"Tiny-Chat","verbose":true}`),
	with("show unknown", "/api/show", `{"model":"absent"}`),
	with("show without model", "/api/show", `{}`),
	with("show no body", "/api/show", ""),
	bare("models", "GET", "/v1/models"),
	bare("model", "GET", "/v1/models/tiny-chat"),
	bare("model with tag", "GET", "/v1/models/tiny-chat:latest"),
	bare("model with an escaped colon", "GET", "/v1/models/tiny-chat%3Alatest"),
	bare("model unknown", "GET", "/v1/models/absent"),
	bare("model with namespace", "GET", "/v1/models/library/tiny-chat"),

	// A browser's questions.
	bare("preflight local", "OPTIONS", "/api/chat", local, asksPost, "Access-Control-Request-Headers: content-type"),
	bare("preflight wrong", "OPTIONS", "/api/chat", foreign, asksPost),
	bare("preflight embed", "OPTIONS", "/api/embed", local, asksPost),
	bare("preflight tags", "OPTIONS", "/api/tags", local, "Access-Control-Request-Method: GET"),
	bare("preflight models", "OPTIONS", "/v1/models/tiny-chat", local, "Access-Control-Request-Method: GET"),
	bare("preflight delete", "OPTIONS", "/api/delete", local, "Access-Control-Request-Method: DELETE"),
	bare("OPTIONS without Origin", "OPTIONS", "/api/chat"),

	// Paths and methods that Ollama lacks, or that foreman spells otherwise.
	bare("unknown path", "GET", "/favicon.ico"),
	bare("path under /api", "GET", "/api/nothing"),
	bare("path of the registry", "GET", "/v2/library/tiny-chat/manifests/latest"),
	bare("no path to blobs", "GET", "/api/blobs"),
	with("slash at the end", "/api/chat/", `{"model":"tiny-chat",`+hello+`}`),
	bare("slash at the end of a GET", "GET", "/api/tags/"),
	bare("doubled slash", "GET", "//api/tags"),
	bare("escaped letter", "GET", "/api/%74ags"),
	with("escaped slash", "/api%2Fchat", `{"model":"tiny-chat"}`),
	bare("dot segment", "GET", "/api/./tags"),
	bare("GET chat", "GET", "/api/chat"),
	bare("GET embed", "GET", "/api/embed"),
	bare("GET delete", "GET", "/api/delete"),
	bare("PUT chat", "PUT", "/api/chat"),
	bare("DELETE tags", "DELETE", "/api/tags"),
	with("POST tags", "/api/tags", `{}`),
	bare("HEAD models", "HEAD", "/v1/models"),
	bare("HEAD ps", "HEAD", "/api/ps"),
}

// manageCorpus are requests that change what an Ollama of the test's own holds.
// They are about a model to throw away, and about a registry where nobody is.
func manageCorpus(t *testing.T, own *lab.Ollama) []request {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(own.Models(), "blobs", "sha256-*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("blobs: got %q, %v; want some", blobs, err)
	}
	digest := strings.Replace(filepath.Base(blobs[0]), "-", ":", 1)
	content, err := os.ReadFile(blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	create := with("create", "/api/create", `{"model":"throw-away","from":"tiny-chat","system":"You are a king."}`)
	after := func(r request, before ...request) request { r.before = before; return r }
	copied := with("copy", "/api/copy", `{"source":"tiny-chat","destination":"throw-away"}`)
	remove := func(name, body string) request {
		return request{name: name, method: "DELETE", path: "/api/delete", body: body}
	}
	const nowhere = "http://127.0.0.1:1/lab/absent"
	return []request{
		after(create, create), // the first time it tells of new layers
		with("create not streaming", "/api/create", `{"model":"throw-away","from":"tiny-chat","stream":false}`),
		with("create from unknown files", "/api/create", `{"model":"throw-away","files":{"a.gguf":"sha256:00"}}`),
		with("create wrong name", "/api/create", `{"model":"a b","from":"tiny-chat"}`),
		with("create no body", "/api/create", ""),
		copied,
		with("copy unknown", "/api/copy", `{"source":"absent","destination":"throw-away"}`),
		with("copy to a wrong name", "/api/copy", `{"source":"tiny-chat","destination":"a b"}`),
		after(remove("delete", `{"model":"throw-away"}`), copied),
		after(remove("delete by name", `{"name":"throw-away"}`), copied),
		remove("delete unknown", `{"model":"absent"}`),
		remove("delete no body", ""),
		with("pull", "/api/pull", `{"model":"`+nowhere+`","insecure":true}`),
		with("pull not streaming", "/api/pull", `{"model":"`+nowhere+`","insecure":true,"stream":false}`),
		with("pull from an insecure registry", "/api/pull", `{"model":"`+nowhere+`"}`),
		with("pull without model", "/api/pull", `{}`),
		with("push", "/api/push", `{"model":"`+nowhere+`","insecure":true}`),
		with("push without model", "/api/push", `{}`),
		bare("blob", "HEAD", "/api/blobs/"+digest),
		bare("no blob", "HEAD", "/api/blobs/sha256:"+strings.Repeat("0", 64)),
		bare("not a digest", "HEAD", "/api/blobs/00"),
		with("blob upload", "/api/blobs/"+digest, string(content)),
		with("blob upload of something else", "/api/blobs/sha256:"+strings.Repeat("1", 64), "hello"),
	}
}
