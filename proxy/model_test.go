package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestReadModel(t *testing.T) {
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
		model, err := readModel([]byte(test.body))
		got := ""
		if err != nil {
			got = err.Error()
			if _, ok := errors.AsType[badRequest](err); !ok {
				t.Errorf("%s: the error is a %T; want a badRequest", test.name, err)
			}
		}
		if model != test.model || got != test.err {
			t.Errorf("%s: got %q, %q; want %q, %q", test.name, model, got, test.model, test.err)
		}
	}
}

// FuzzReadModel holds readModel against Ollama's own way to read a request.
func FuzzReadModel(f *testing.F) {
	f.Add([]byte(chatBody))
	f.Fuzz(func(t *testing.T, body []byte) {
		var request struct {
			Model string `json:"model"`
		}
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&request)
		model, err := readModel(body)
		switch {
		case wantErr != nil:
			if err == nil {
				t.Errorf("got %q; Ollama says %v", model, wantErr)
			}
		case request.Model == "":
			if err == nil || err.Error() != "model is required" {
				t.Errorf("got %q, %v; want no model", model, err)
			}
		case err != nil || model != request.Model:
			t.Errorf("got %q, %v; want %q", model, err, request.Model)
		}
		if err != nil && model != "" {
			t.Errorf("got %q with an error", model)
		}
	})
}
