package ask

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
)

func TestReadJSON(t *testing.T) {
	for _, test := range []struct{ name, body, model, err string }{
		{"plain", `{"model":"chat"}`, "chat", ""},
		{"among others", `{"stream":true,"messages":[{"model":"not this"}],"model":"chat","options":{"model":"nor this"}}`, "chat", ""},
		{"white space", "\r\n\t {\n\"model\" :\t\"chat\"\n}\n", "chat", ""},
		{"key in capitals", `{"MODEL":"chat"}`, "chat", ""},
		{"key in both", `{"mOdEl":"chat"}`, "chat", ""},
		{"key escaped", `{"\u006dodel":"chat"}`, "chat", ""},
		{"key with a space", `{"model ":"chat"}`, "", "model is required"},
		{"last of two", `{"model":"first","model":"chat"}`, "chat", ""},
		{"last of two in two cases", `{"model":"first","Model":"chat"}`, "chat", ""},
		{"exact key first", `{"Model":"first","model":"chat"}`, "chat", ""},
		{"null", `{"model":null}`, "", "model is required"},
		{"null last", `{"model":"chat","model":null}`, "chat", ""},
		{"empty last", `{"model":"chat","model":""}`, "", "model is required"},
		{"a number first", `{"model":1,"model":"chat"}`, "", "model must be a string, not number"},
		{"a number", `{"model":1}`, "", "model must be a string, not number"},
		{"a truth", `{"model":true}`, "", "model must be a string, not bool"},
		{"a list", `{"model":["chat"]}`, "", "model must be a string, not array"},
		{"an object", `{"model":{"name":"chat"}}`, "", "model must be a string, not object"},
		{"an escape in it", `{"model":"ch\u0061t\n"}`, "chat\n", ""},
		{"invalid UTF-8", "{\"model\":\"chat\xff\"}", "chat\ufffd", ""},
		{"half a surrogate", `{"model":"chat\ud800"}`, "chat\ufffd", ""},
		{"first value only", `{"model":"chat"}{"model":"other"}`, "chat", ""},
		{"trailing bytes", `{"model":"chat"} and so on`, "chat", ""},
		{"trailing brace", `{"model":"chat"}}`, "chat", ""},
		{"cloud beside it", `{"model":"chat:cloud","Model":"chat"}`, "", "the request names more than one model, and one of them is a cloud model"},
		{"cloud alone", `{"model":"chat","Model":"chat:7b-cloud"}`, "chat:7b-cloud", ""},
		{"trailing NUL", "{\"model\":\"chat\"}\x00", "chat", ""},
		{"null first", `null{"model":"other"}`, "", "model is required"},
		{"a name elsewhere", `{"name":"chat"}`, "", "model is required"},
		{"large number beside", `{"n":1e999999,"model":"chat"}`, "chat", ""},
		{"byte order mark", "\ufeff" + `{"model":"chat"}`, "", "the request body is not JSON: invalid character 'ï' looking for beginning of value"},
		{"a list first", `[]{"model":"other"}`, "", "the request body must be a JSON object, not array"},
		{"a string", `"chat"`, "", "the request body must be a JSON object, not string"},
		{"a number alone", `1`, "", "the request body must be a JSON object, not number"},
		{"nothing", ``, "", "missing request body"},
		{"blank", "\n\n", "", "missing request body"},
		{"half", `{"model":"chat"`, "", "the request body is not JSON: unexpected end of JSON input"},
		{"single quotes", `{'model':'chat'}`, "", `the request body is not JSON: invalid character '\'' looking for beginning of object key string`},
		{"comma too many", `{"model":"chat",}`, "", "the request body is not JSON: invalid character '}' looking for beginning of object key string"},
		{"a line break in it", "{\"model\":\"a\nb\"}", "", `the request body is not JSON: invalid character '\n' in string literal`},
		{"long", `{"model":"` + strings.Repeat("x", 5000) + `"}`, strings.Repeat("x", 5000), ""},
	} {
		a, err := JSON("/v1/messages", []byte(test.body))
		got := ""
		if err != nil {
			got = err.Error()
			if _, ok := errors.AsType[Error](err); !ok {
				t.Errorf("%s: the error is a %T; want an Error", test.name, err)
			}
		}
		if a.Model != test.model || got != test.err {
			t.Errorf("%s: got %q, %q; want %q, %q", test.name, a.Model, got, test.model, test.err)
		}
	}
}

// TestUnloads: Ollama unloads a model for a chat without messages, or a generation
// without a prompt, whose keep_alive is 0. What it may read in another way is no unload.
func TestUnloads(t *testing.T) {
	for _, test := range []struct {
		path, fields string
		want         bool
	}{
		{"/api/generate", `"keep_alive":0`, true}, // ollama stop
		{"/api/generate", `"keep_alive":0,"prompt":""`, true},
		{"/api/generate", `"keep_alive":0,"messages":[{}],"stream":false`, true},
		{"/api/chat", `"keep_alive":0`, true},
		{"/api/chat", `"keep_alive":0,"messages":[]`, true},
		{"/api/chat", `"keep_alive":0,"messages":[ ],"prompt":"x"`, true},
		{"/api/chat", `"KEEP_ALIVE":"0s","Messages":[]`, true},
		{"/api/chat", `"keep_alive":"0"`, true},
		{"/api/chat", `"keep_alive":0.0`, true},
		{"/api/chat", `"keep_alive":5,"keep_alive":0`, true},
		{"/api/chat", `"messages":[{}],"messages":[],"keep_alive":0`, true},

		{"/api/chat", `"messages":[]`, false},
		{"/api/chat", `"keep_alive":0,"keep_alive":5`, false},
		{"/api/chat", `"keep_alive":0,"keep_alive":null`, false},
		{"/api/chat", `"keep_alive":0,"messages":[{}]`, false},
		{"/api/chat", `"keep_alive":0,"messages":[],"MESSAGES":[{}]`, false},
		{"/api/chat", `"keep_alive":0,"messages":[{}],"messages":null`, false},
		{"/api/chat", `"keep_alive":0,"messages":{}`, false},
		{"/api/chat", `"keep_alive":-1`, false},
		{"/api/chat", `"keep_alive":"5m"`, false},
		{"/api/chat", `"keep_alive":"nothing"`, false},
		{"/api/chat", `"keep_alive":1e-12`, false},
		{"/api/chat", `"keep_alive":false`, false},
		{"/api/chat", `"keep_alive":[0]`, false},
		{"/api/generate", `"keep_alive":0,"prompt":"x"`, false},
		{"/api/generate", `"keep_alive":0,"prompt":"x","prompt":null`, false},
		{"/api/generate", `"keep_alive":0,"prompt":7`, false},
		{"/v1/chat/completions", `"keep_alive":0`, false},
		{"/v1/completions", `"keep_alive":0`, false},
	} {
		a, err := JSON(test.path, []byte(`{"model":"chat",`+test.fields+`}`))
		if a.Unload != test.want || err != nil {
			t.Errorf("%s %s: got %v, %v; want %v", test.path, test.fields, a.Unload, err, test.want)
		}
	}
}

// TestStreams: what foreman takes for a stream must be one to Ollama too.
func TestStreams(t *testing.T) {
	const said = `"messages":[{}],"prompt":"x"`
	for _, test := range []struct {
		path, fields string
		want         bool
	}{
		{"/api/chat", said, true},
		{"/api/generate", said, true},
		{"/api/chat", said + `,"stream":true`, true},
		{"/api/chat", said + `,"stream":null`, true},
		{"/api/chat", said + `,"stream":false`, false},
		{"/api/chat", said + `,"stream":true,"Stream":false`, false},
		{"/api/chat", said + `,"stream":"true"`, false}, // an error
		{"/api/chat", `"stream":true`, false},           // loads the model, and says so in one value
		{"/api/generate", `"prompt":""`, false},
		{"/v1/chat/completions", said, false},
		{"/v1/chat/completions", `"stream":true`, true},
		{"/v1/completions", `"stream":true`, true},
		{"/v1/responses", `"stream":true`, true},
		{"/v1/messages", `"stream":true`, true},
		{"/v1/messages", `"stream":false`, false},
		{"/v1/responses/compact", `"stream":true`, false},
		{"/v1/images/generations", `"stream":true`, false},
	} {
		a, err := JSON(test.path, []byte(`{"model":"chat",`+test.fields+`}`))
		if a.Stream != test.want || err != nil {
			t.Errorf("%s %s: got %v, %v; want %v", test.path, test.fields, a.Stream, err, test.want)
		}
	}
}

// TestOptions: what makes Ollama load a model again, as it is in the body.
func TestOptions(t *testing.T) {
	for fields, want := range map[string]string{
		`"stream":true`: "",
		`"options":{}`:  "",
		`"options":{"temperature":0.7,"num_predict":9}`:                                          "",
		`"options":{"num_gpu":1,"num_ctx":4096}`:                                                 "num_ctx=4096 num_gpu=1",
		`"OPTIONS":{"num_thread": 4 ,"use_mmap":false,"main_gpu":0,"num_batch":8},"shift":false`: "num_batch=8 main_gpu=0 use_mmap=false num_thread=4 shift=false",
		`"options":{"draft_num_predict":3}`:                                                      "draft_num_predict=3",
		`"options":{"num_ctx":1},"options":{"num_ctx":2}`:                                        "num_ctx=2",
		`"options":{"num_ctx":null,"Num_Ctx":5},"shift":null`:                                    "",
		`"options":[1]`: "",
		`"options":"x"`: "",
		`"options":{"num_ctx":"` + strings.Repeat("x", 99) + `"}`: "",
	} {
		a, err := JSON("/api/chat", []byte(`{"model":"chat",`+fields+`}`))
		if a.Options != want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", fields, a.Options, err, want)
		}
	}
	if a, err := JSON("/v1/chat/completions", []byte(`{"model":"chat","options":{"num_ctx":1}}`)); a.Options != "" || err != nil {
		t.Errorf("OpenAI: got %q, %v; want none: Ollama reads none there", a.Options, err)
	}
}

// form is a multipart form of parts, each a header and a value.
func form(parts ...string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteString("--b0undary\r\nContent-Disposition: form-data; " + part + "\r\n")
	}
	return b.String() + "--b0undary--\r\n"
}

const (
	multipartForm = "multipart/form-data; boundary=b0undary"
	audio         = "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF"
	formModel     = "name=\"model\"\r\n\r\n"
)

func TestReadForm(t *testing.T) {
	const (
		noForm  = "the request body must be multipart/form-data, with a boundary"
		cutOff  = "the form is cut off: its closing boundary does not come"
		missing = "model is required"
		more    = "the form names more than one model"
	)
	whole := form(formModel+"chat", audio)
	for _, test := range []struct{ name, contentType, query, body, model, err string }{
		{"model first", multipartForm, "", whole, "chat", ""},
		{"model last", multipartForm, "", form(audio, "name=\"language\"\r\n\r\nen", formModel+"chat:latest"), "chat:latest", ""},
		{"something behind it", multipartForm, "", whole + "and so on", "chat", ""},
		{"boundary in quotes", `Multipart/Form-Data; charset=x; boundary="b0undary"`, "", whole, "chat", ""},
		{"model in the query alone", multipartForm, "model=chat", form(audio), "chat", ""},
		{"a file is no value", multipartForm, "", form("name=\"model\"; filename=\"x\"\r\n\r\nother", formModel+"chat"), "chat", ""},
		{"long", multipartForm, "", form(formModel + strings.Repeat("x", 20<<10)), strings.Repeat("x", 8<<10), ""},
		{"other case", multipartForm, "", form("name=\"Model\"\r\n\r\nchat", audio), "", missing},
		{"no model", multipartForm, "", form(audio), "", missing},
		{"empty model", multipartForm, "", form(formModel, audio), "", missing},
		{"two models", multipartForm, "", form(formModel+"chat", audio, formModel+"chat"), "", more},
		{"one more in the query", multipartForm, "model=other", whole, "", more},
		{"JSON", "application/json", "", `{"model":"chat"}`, "", noForm},
		{"no type", "", "", whole, "", noForm},
		{"another multipart", "multipart/mixed; boundary=b0undary", "", whole, "", noForm},
		{"no boundary", "multipart/form-data", "", whole, "", noForm},
		{"boundary never comes", "multipart/form-data; boundary=other", "", whole, "", cutOff},
		{"cut in the file", multipartForm, "", whole[:strings.Index(whole, "RIFF")+2], "", cutOff},
		{"cut in the model", multipartForm, "", form(audio, formModel+"chat")[:strings.Index(form(audio, formModel+"chat"), "chat")+2], "", cutOff},
		{"cut before its end", multipartForm, "", strings.TrimSuffix(whole, "--\r\n"), "", cutOff},
		{"nothing", multipartForm, "", "", "", cutOff},
		{"bad framing", multipartForm, "", "--b0undary\r\nno field\r\n\r\nx\r\n--b0undary--\r\n", "", `the form is badly framed: malformed MIME header: missing colon: "no field"`},
	} {
		r := &http.Request{URL: &url.URL{Path: TranscriptionsPath, RawQuery: test.query}, Header: http.Header{"Content-Type": {test.contentType}}}
		a, err := Read(r, []byte(test.body))
		got := ""
		if err != nil {
			got = err.Error()
			if _, ok := errors.AsType[Error](err); !ok {
				t.Errorf("%s: the error is a %T; want an Error", test.name, err)
			}
		}
		if a.Model != test.model || a.Unload || got != test.err {
			t.Errorf("%s: got %+v, %q; want %q, %q", test.name, a, got, test.model, test.err)
		}
	}
}

// A model's name is found behind a large file, which is not copied for it.
func TestReadFormBehindALargeFile(t *testing.T) {
	body := []byte(form(audio+strings.Repeat("x", 20<<20), formModel+"chat"))
	r := &http.Request{URL: &url.URL{Path: TranscriptionsPath}, Header: http.Header{"Content-Type": {multipartForm}}}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if a, err := Read(r, body); a.Model != "chat" || err != nil {
		t.Errorf("got %+v, %v; want chat", a, err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<10 {
		t.Errorf("%d KiB allocated; want a few", got>>10)
	}
}

// FuzzReadJSON holds readJSON against Ollama's own way to read a request.
func FuzzReadJSON(f *testing.F) {
	f.Add([]byte(`{"model":"chat","messages":[{"role":"user","content":"prompt"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var request struct {
			Model string `json:"model"`
		}
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&request)
		a, err := JSON("/api/chat", body)
		model := a.Model
		switch {
		case wantErr != nil:
			if err == nil {
				t.Errorf("got %q; Ollama says %v", model, wantErr)
			}
		case request.Model == "":
			if err == nil || err.Error() != "model is required" {
				t.Errorf("got %q, %v; want no model", model, err)
			}
		case err != nil && strings.Contains(err.Error(), "more than one model"):
		case err != nil || model != request.Model:
			t.Errorf("got %q, %v; want %q", model, err, request.Model)
		}
		if err != nil && model != "" {
			t.Errorf("got %q with an error", model)
		}
	})
}
