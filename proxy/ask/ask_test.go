package ask

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestReadJSON(t *testing.T) {
	const more = "the request names more than one model"
	for _, test := range []struct{ name, body, model, err string }{
		{"plain", `{"model":"chat"}`, "chat", ""},
		{"among others", `{"stream":true,"messages":[{"model":"not this"}],"model":"chat","options":{"model":"nor this"}}`, "chat", ""},
		{"white space", "\r\n\t {\n\"model\" :\t\"chat\"\n}\n", "chat", ""},
		{"key in capitals", `{"MODEL":"chat"}`, "chat", ""},
		{"key escaped", `{"\u006dodel":"chat"}`, "chat", ""},
		{"key with a space", `{"model ":"chat"}`, "", "model is required"},
		{"key with a long s", `{"\u017ftream":true,"model":"chat"}`, "chat", ""},
		{"two", `{"model":"first","model":"chat"}`, "", more},
		{"exact key last", `{"Model":"first","model":"chat"}`, "", more},
		{"two and one escaped", `{"model":"first","\u004dODEL":"chat"}`, "", more},
		{"two of three", `{"model":"chat","MODEL":"chat","model":"first"}`, "", more},
		{"two and far apart", `{"model":"first","x":[{"a":"]}\"\\"},{}],"y":-1.5e3 , "z" : null,"Model":"chat"}`, "", more},
		{"two in other cases", `{"model":"chat","model":"Chat"}`, "", more},
		{"two with a null between", `{"model":"first","model":null,"model":"chat"}`, "", more},
		{"two and one a number", `{"model":"chat","Model":1}`, "", more},
		{"two and one empty", `{"model":"","Model":"chat"}`, "", more},
		{"twice", `{"model":"chat","model":"chat"}`, "chat", ""},
		{"twice with an escape", `{"model":"a\/chat","model":"a\/chat"}`, "a/chat", ""},
		{"twice in two cases", `{"model":"chat","Model" : "chat" }`, "chat", ""},
		{"null first of two", `{"model":null,"Model":"chat"}`, "chat", ""},
		{"two in an array", `{"x":{"model":"a"},"options":{"model":"b"},"model":"chat"}`, "chat", ""},
		{"null", `{"model":null}`, "", "model is required"},
		{"null last", `{"model":"chat","model":null}`, "chat", ""},
		{"empty last", `{"model":"chat","model":""}`, "", more},
		{"a number first", `{"model":1,"model":"chat"}`, "", more},
		{"a number", `{"model":1}`, "", "model must be a string, not number"},
		{"a list", `{"model":["chat"]}`, "", "model must be a string, not array"},
		{"an escape in it", `{"model":"ch\u0061t\n"}`, "chat\n", ""},
		{"invalid UTF-8", "{\"model\":\"chat\xff\"}", "chat\ufffd", ""},
		{"half a surrogate", `{"model":"chat\ud800"}`, "chat\ufffd", ""},
		{"first value only", `{"model":"chat"}{"model":"other"}`, "chat", ""},
		{"two behind the first value", `{"model":"chat"}{"Model":"other"}`, "chat", ""},
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
		{"comma too many", `{"model":"chat",}`, "", "the request body is not JSON: invalid character '}' looking for beginning of object key string"},
		{"a line break in it", "{\"model\":\"a\nb\"}", "", `the request body is not JSON: invalid character '\n' in string literal`},
		{"long", `{"model":"` + strings.Repeat("x", 5000) + `"}`, strings.Repeat("x", 5000), ""},
		{"too long", `{"model":"` + strings.Repeat("x", 10_000) + `"}`, "", "the name of the model is too long"},
		{"many spaces", `{"model":"` + strings.Repeat(" ", 10_000) + "chat" + strings.Repeat(" ", 10_000) + `"}`, "chat", ""},
		{"nothing in it", ` { } `, "", "model is required"},
		{"nested too deeply", `{"model":"chat","x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`, "", "the request body is not JSON: invalid character '[' exceeded max depth"},
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

// TestShow: where Ollama takes a name if the model is empty, both must come to the same.
func TestShow(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"chat","name":""}`:               "chat",
		`{"model":"","Name":"chat"}`:               "chat",
		`{"model":null,"name":"chat"}`:             "chat",
		`{"model":"","Model":"chat"}`:              "chat",
		`{"model":"chat","name":"\u0063hat"}`:      "chat",
		`{"model":"","name":null,"name":"chat"}`:   "chat",
		`{"model":"","name":""}`:                   string(errNoModel),
		`{"model":"chat","name":"other"}`:          string(ErrModels),
		`{"name":"chat","NAME":"other"}`:           string(ErrModels),
		`{"model":"chat","name":5}`:                string(ErrModels),
		`{"model":"chat","name":"","name":"Chat"}`: string(ErrModels),
	} {
		a, err := JSON(ShowPath, []byte(body))
		if got := a.Model; err == nil && got != want || err != nil && err.Error() != want {
			t.Errorf("%s: got %q, %v; want %s", body, got, err, want)
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
		{"/api/chat", `"keep_alive":0,"\u212aeep_alive":0,"messages":null`, true},
		{"/api/generate", `"keep_alive":0,"prompt":null,"messages":[]`, true},

		{"/api/chat", `"messages":[]`, false},
		{"/api/chat", `"keep_alive":0,"keep_alive":5`, false},
		{"/api/chat", `"keep_alive":5,"keep_alive":0`, false},
		{"/api/chat", `"keep_alive":0,"\u212aeep_alive":5`, false},
		{"/api/chat", `"keep_alive":0,"Messages":[],"messages":[{}]`, false},
		{"/api/chat", `"keep_alive":0,"messages":[{}],"messages":[]`, false},
		{"/api/chat", `"keep_alive":0,"stream":true,"stream":false`, false},
		{"/api/chat", `"keep_alive":0,"prompt":"","Prompt":"x"`, false},
		{"/api/chat", `"keep_alive":0,"options":{},"options":{"num_ctx":1}`, false},
		{"/api/chat", `"keep_alive":0,"options":{"num_ctx":1,"Num_Ctx":2}`, false},
		{"/api/chat", `"keep_alive":[` + strings.Repeat("0,", 100) + `0]`, false},
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
		{"/api/chat", said + `,"stream":true,"stream":true,"STREAM":true`, true},
		{"/api/chat", said + `,"stream":true,"Stream":false`, false},
		{"/api/chat", said + `,"stream":false,"Stream":true`, false},
		{"/api/chat", said + `,"stream":true,"stream":null`, false},
		{"/api/chat", said + `,"keep_alive":1,"keep_alive":2`, false},
		{"/api/chat", said + `,"messages":[{},{}]`, false},
		{"/api/chat", said + `,"Shift":true,"shift":false`, false},
		{"/api/generate", said + `,"\u0070rompt":"y"`, false},
		{"/api/generate", said + `,"options":{"num_gpu":1,"seed":1,"seed":2}`, true}, // foreman does not decide on that
		{"/api/generate", said + `,"options":{"num_gpu":1,"num_gpu":2}`, false},
		{"/api/chat", said + `,"stream":"true"`, false}, // an error
		{"/api/chat", `"stream":true`, false},           // loads the model, and says so in one value
		{"/api/generate", `"prompt":""`, false},
		{"/v1/chat/completions", said, false},
		{"/v1/chat/completions", `"stream":true`, true},
		{"/v1/completions", `"stream":true`, true},
		{"/v1/responses", `"stream":true`, true},
		{"/v1/messages", `"stream":true`, true},
		{"/v1/messages", `"\u017ftream":true`, true},
		{"/v1/messages", `"stream":true,"Stream":false`, false},
		{"/v1/responses", `"Stream":false,"stream":true`, false},
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
		`"options":{"num_ctx":1},"Options":{"num_ctx":1}`:                                        "num_ctx=1",
		`"options":{"num_ctx":1},"options":{"num_ctx":2}`:                                        "unclear", // Ollama makes one map of both
		`"options":{"num_ctx":null,"Num_Ctx":5}`:                                                 "unclear",
		`"options":{"num_ctx":1,"num_ctx":2}`:                                                    "unclear",
		`"shift":true,"shift":false`:                                                             "unclear",
		`"options":{"num_ctx":null},"shift":null`:                                                "",
		`"options":null`: "",
		`"options":[1]`:  "",
		`"options":"x"`:  "",
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
	for fields, want := range map[string]string{
		`"input":"x"`: "",
		`"options":{"use_mmap":false,"num_ctx": 4096 ,"temperature":0},"shift":true`: `{"num_ctx":4096,"use_mmap":false}`,
		`"options":{"num_ctx":1},"options":{"num_ctx":2}`:                            "",
		`"options":{"num_ctx":"40 96"}`:                                              "",
		`"options":{"num_ctx":[4, 0]}`:                                               "",
	} {
		for path, want := range map[string]string{"/api/embed": want, "/api/embeddings": want, "/v1/embeddings": ""} {
			a, err := JSON(path, []byte(`{"model":"embed",`+fields+`}`))
			if got := string(a.OptionsJSON()); got != want || err != nil {
				t.Errorf("%s %s: got %q, %v; want %q", path, fields, got, err, want)
			}
		}
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
		more    = "the request names more than one model"
	)
	whole := form(formModel+"chat", audio)
	for _, test := range []struct{ name, contentType, query, body, model, err string }{
		{"model first", multipartForm, "", whole, "chat", ""},
		{"model last", multipartForm, "", form(audio, "name=\"language\"\r\n\r\nen", formModel+"chat:latest"), "chat:latest", ""},
		{"something behind it", multipartForm, "", whole + "and so on", "chat", ""},
		{"boundary in quotes", `Multipart/Form-Data; charset=x; boundary="b0undary"`, "", whole, "chat", ""},
		{"model in the query alone", multipartForm, "model=chat", form(audio), "chat", ""},
		{"a file is no value", multipartForm, "", form("name=\"model\"; filename=\"x\"\r\n\r\nother", formModel+"chat"), "chat", ""},
		{"long", multipartForm, "", form(formModel + strings.Repeat("x", 8<<10)), strings.Repeat("x", 8<<10), ""},
		{"too long", multipartForm, "", form(formModel + strings.Repeat("x", 20<<10)), "", "the name of the model is too long"},
		{"other case", multipartForm, "", form("name=\"Model\"\r\n\r\nchat", audio), "", missing},
		{"no model", multipartForm, "", form(audio), "", missing},
		{"empty model", multipartForm, "", form(formModel, audio), "", missing},
		{"twice", multipartForm, "model=chat", form(formModel+"chat", audio, formModel+"chat"), "chat", ""},
		{"two models", multipartForm, "", form(formModel+"chat", audio, formModel+"other"), "", more},
		{"two models of three", multipartForm, "", form(formModel+"chat", formModel+"other", formModel+"chat"), "", more},
		{"two and one empty", multipartForm, "", form(formModel, formModel+"chat"), "", more},
		{"two in the query", multipartForm, "model=chat&model=other", form(audio), "", more},
		{"many parts", multipartForm, "", form(append(slices.Repeat([]string{"name=\"x\"\r\n\r\n"}, 999), formModel+"chat")...), "chat", ""},
		{"too many parts", multipartForm, "", form(append(slices.Repeat([]string{"name=\"x\"\r\n\r\n"}, 1000), formModel+"chat")...), "", "the form has too many parts"},
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

// FuzzReadJSON holds JSON against encoding/json: what foreman takes a body to say, all
// ways to read it say.
func FuzzReadJSON(f *testing.F) {
	for _, body := range worst(100) {
		f.Add([]byte(body))
	}
	f.Add([]byte(`{"model":"chat","messages":[{"role":"user","content":"prompt"}]}`))
	f.Add([]byte(`{"model":"a","MODEL":"b"} x`))
	f.Add([]byte(`{"\u212aeep_alive":0 , "me\u017fsages":[ ],"model":"\ud800"}`))
	f.Add([]byte(`{"model":"chat","messages":[{}],"stream":true,"options":{"num_ctx":1,"num_\u0063tx":2}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var request struct {
			Model     string            `json:"model"`
			Messages  []json.RawMessage `json:"messages"`
			KeepAlive any               `json:"keep_alive"`
			Stream    *bool             `json:"stream"`
		}
		var mistyped *json.UnmarshalTypeError
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&request) // as most of Ollama's handlers do
		isMistyped := errors.As(wantErr, &mistyped)
		a, err := JSON("/api/chat", body)
		switch {
		case wantErr != nil && !isMistyped:
			if err == nil {
				t.Fatalf("got %q; Ollama says %v", a.Model, wantErr)
			}
			return
		case err != nil:
			if a != (Ask{}) {
				t.Errorf("got %+v with an error", a)
			}
		case a.Model != request.Model, a.Model == "":
			t.Errorf("got %q; want %q", a.Model, request.Model)
		}
		if isMistyped && mistyped.Field == "" {
			if err == nil {
				t.Error("got no error of what is no object")
			}
			return
		}

		said := map[string][]string{} // by name, as encoding/json has the values
		for _, m := range decodeMembers(t, body) {
			for _, name := range []string{"model", "stream", "keep_alive", "messages"} {
				if strings.EqualFold(m.key, name) && (name != "model" || m.value != "null") {
					said[name] = append(said[name], m.value)
				}
			}
		}
		isAsked := slices.ContainsFunc(said["model"], func(value string) bool { return value != said["model"][0] })
		switch {
		case err == ErrModels && !isAsked:
			t.Errorf("got %v of %q", err, said["model"])
		case err != nil && len(said["model"]) == 1 && request.Model != "" && len(request.Model) < nameLimit/6 && !isMistyped:
			t.Errorf("got %v of the model %q", err, request.Model)
		case err != nil || isMistyped: // which of Ollama's errors it is does not matter
			return
		}
		for _, value := range said["model"] {
			var name string
			if json.Unmarshal([]byte(value), &name) != nil || name != a.Model {
				t.Errorf("got %q; it says %s, too", a.Model, value)
			}
		}
		if a.Stream {
			for _, value := range said["stream"] {
				if value != "true" && (value != "null" || len(said["stream"]) > 1) {
					t.Errorf("got a stream of %q", said["stream"])
				}
			}
		}
		if a.Unload && (len(request.Messages) > 0 || request.KeepAlive != 0.0 && !isZero([]byte(said["keep_alive"][0])) ||
			len(slices.Compact(said["keep_alive"])) != 1 || len(slices.Compact(said["messages"])) > 1) {
			t.Errorf("got an unload of %q", said)
		}
	})
}

// FuzzPeek holds Peek against JSON.
func FuzzPeek(f *testing.F) {
	for _, body := range worst(100) {
		f.Add([]byte(body))
	}
	for _, body := range []string{`{"model":"a"}`, `{"model":"a","model":"b"}`, `{"model":"a\"b"}`, `[]`, `:`, `{"model":}`, `{"model":"a",,"b"}`, `{"options":{"num_ctx"`, `{"model":"\`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/api/embed", "/v1/embeddings"} {
			for n := range min(len(body), 1000) {
				Peek(path, body[:n]) // comes to an end
			}
			got, gotErr := Peek(path, body)
			if _, err := first(body); err != nil {
				continue
			}
			if want, wantErr := JSON(path, body); got != want || gotErr != wantErr && gotErr.Error() != wantErr.Error() {
				t.Errorf("got %+v, %v; want %+v, %v", got, gotErr, want, wantErr)
			}
		}
	})
}

// FuzzReadForm holds readForm against Go's own reading of forms, which is Ollama's.
func FuzzReadForm(f *testing.F) {
	f.Add(form(formModel+"chat", audio), "model=chat")
	f.Add(form(audio, "name=\"Model\"\r\n\r\nother", formModel+"chat")+"x", "model=%63hat&Model=x;y")
	f.Fuzz(func(t *testing.T, body, query string) {
		r := &http.Request{Method: "POST", URL: &url.URL{Path: TranscriptionsPath, RawQuery: query}, Header: http.Header{"Content-Type": {multipartForm}}, Body: io.NopCloser(strings.NewReader(body))}
		a, err := Read(r, []byte(body))
		if err != nil || r.ParseMultipartForm(1<<20) != nil {
			return
		}
		if got := r.Form["model"]; a.Model == "" || slices.ContainsFunc(got, func(model string) bool { return model != a.Model }) || len(got) == 0 {
			t.Errorf("got %q of %q", a.Model, got)
		}
	})
}

// FuzzMembers holds the walk over an object, and its keys, against encoding/json.
func FuzzMembers(f *testing.F) {
	f.Add([]byte(`{"a":1, "b" : [{"c":"]\"}"}],"\u212aeep_alive":{} , "":"\\" }x`))
	f.Add([]byte("{\"\u017ftream\":-1e9,\"\xff\":null\n}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		object, err := first(body)
		if err != nil || object[0] != '{' {
			return
		}
		want := decodeMembers(t, body)
		for key, value := range members(object) {
			if len(want) == 0 {
				t.Fatalf("got one more, %s: %s", key, value)
			}
			m := want[0]
			want = want[1:]
			var text string
			if err := json.Unmarshal([]byte(`"`+string(key)+`"`), &text); err != nil || text != m.key || string(value) != m.value {
				t.Errorf("got %s: %s; want %q: %s", key, value, m.key, m.value)
			}
			var buf [len("draft_num_predict")]byte
			folded, ok := appendFolded(buf[:0], key)
			for _, name := range append(loadOptions, "model", "stream", "keep_alive", "messages", "prompt", "options", "shift", "name") {
				if got, want := ok && string(folded) == name, strings.EqualFold(text, name); got != want {
					t.Errorf("%s is %s: got %t; want %t", key, name, got, want)
				}
			}
		}
		if len(want) > 0 {
			t.Errorf("got no %q", want)
		}
	})
}

type member struct{ key, value string }

// decodeMembers returns the members of the object that body begins with; none: it is none.
func decodeMembers(t *testing.T, body []byte) (all []member) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return nil
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		all = append(all, member{key.(string), string(value)})
	}
	return all
}
