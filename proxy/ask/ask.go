// Package ask reads what a chat asks for out of its body, as Ollama reads it.
package ask

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"time"

	"foreman/inventory"
)

// An Ask is what foreman wants to know of a chat.
type Ask struct {
	Model  string // as the client spells it
	Unload bool   // nothing is asked of the model but to leave the target's memory
	Stream bool   // the answer is to come piece by piece; false where that is in doubt

	// Options are those in the body that make Ollama load a loaded model again if they
	// differ (server/sched.go there), as "num_ctx=4096 num_gpu=1"; "": there are none.
	Options string
}

// loadOptions are the options of which Ask.Options tells.
var loadOptions = []string{"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}

// An Error says what is wrong with a body, in words for the client.
type Error string

func (e Error) Error() string { return string(e) }

// TranscriptionsPath is where a form names the model, and not JSON.
const TranscriptionsPath = "/v1/audio/transcriptions"

// Read reads the body of a chat. Its errors are of type [Error].
func Read(r *http.Request, body []byte) (Ask, error) {
	if r.URL.Path == TranscriptionsPath {
		return readForm(r, body)
	}
	return JSON(r.URL.Path, body)
}

// JSON reads the first JSON value of a body that was sent to path, its keys without
// regard to case, the last of duplicates; what follows that value is ignored. Its errors
// are of type [Error].
func JSON(path string, body []byte) (Ask, error) {
	var request struct {
		Model     values          `json:"model"`
		Messages  filled          `json:"messages"`
		Prompt    filled          `json:"prompt"`
		KeepAlive json.RawMessage `json:"keep_alive"`
		Stream    json.RawMessage `json:"stream"`
		Shift     json.RawMessage `json:"shift"`
		Options   options         `json:"options"`
	}
	err := json.Unmarshal(body, &request)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset > 0 {
		// Something may stand behind the first value: up to there it may be JSON.
		// A json.Decoder would not mind, but copies the body, and more than once.
		first := body[:syntax.Offset-1]
		if e := json.Unmarshal(first, &request); !errors.As(e, new(*json.SyntaxError)) {
			err = e
		}
	}
	var mistyped *json.UnmarshalTypeError
	switch {
	case len(bytes.TrimLeft(body, " \t\r\n")) == 0:
		return Ask{}, Error("missing request body")
	case errors.As(err, &mistyped) && mistyped.Field == "model":
		return Ask{}, Error("model must be a string, not " + mistyped.Value)
	case errors.As(err, &mistyped):
		return Ask{}, Error("the request body must be a JSON object, not " + mistyped.Value)
	case err != nil:
		return Ask{}, Error("the request body is not JSON: " + err.Error())
	case request.Model.last() == "":
		return Ask{}, Error("model is required")
	case slices.ContainsFunc(request.Model, inventory.IsCloud) && !inventory.IsCloud(request.Model.last()):
		// Under /v1/ Ollama looks for cloud models with regard to case, and then reads
		// the body again without.
		return Ask{}, Error("the request names more than one model, and one of them is a cloud model")
	}
	a := Ask{Model: request.Model.last()}
	idle := false // the model is loaded or unloaded, and that is all
	switch path {
	case "/api/chat", "/api/generate":
		idle = path == "/api/chat" && !bool(request.Messages) || path == "/api/generate" && !bool(request.Prompt)
		a.Unload = idle && isZero(request.KeepAlive)
		a.Stream = !idle && slices.Contains([]string{"", "null", "true"}, string(request.Stream))
		a.Options = request.Options.load(request.Shift)
	case "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages":
		a.Stream = string(request.Stream) == "true"
	}
	return a, nil
}

// values are the strings that a key of a JSON object has, in their order.
type values []string

func (v *values) UnmarshalJSON(b []byte) error {
	value := v.last() // null changes nothing
	if err := json.Unmarshal(b, &value); err != nil {
		return err
	}
	*v = append(*v, value)
	return nil
}

func (v values) last() string {
	if len(v) == 0 {
		return ""
	}
	return v[len(v)-1]
}

// options are the options of a request by their names. Ollama reads them into a map.
type options map[string]json.RawMessage

func (o *options) UnmarshalJSON(b []byte) error {
	var all map[string]json.RawMessage
	if json.Unmarshal(b, &all) == nil { // else Ollama refuses them
		*o = all
	}
	return nil
}

// load returns those that matter for loading, and shift, which is none of them to Ollama
// and matters too.
func (o options) load(shift json.RawMessage) string {
	var b strings.Builder
	add := func(name string, value json.RawMessage) {
		if text := string(bytes.TrimSpace(value)); text != "" && text != "null" && len(text) <= optionLimit {
			fmt.Fprintf(&b, " %s=%s", name, text)
		}
	}
	for _, name := range loadOptions {
		add(name, o[name])
	}
	add("shift", shift)
	return strings.TrimPrefix(b.String(), " ")
}

// optionLimit is how many bytes the value of an option may have: a number, or a word.
const optionLimit = 32

// filled is whether a JSON value is there: neither null nor an empty string or list.
type filled bool

func (f *filled) UnmarshalJSON(b []byte) error {
	switch b[0] {
	case 'n': // to Ollama it changes nothing, or empties a list: in doubt, something is asked
	case '[':
		*f = len(bytes.TrimSpace(b[1:len(b)-1])) > 0
	default:
		*f = string(b) != `""`
	}
	return nil
}

// isZero reports whether a keep_alive is a number or a duration of 0.
func isZero(keepAlive json.RawMessage) bool {
	var value any
	json.Unmarshal(keepAlive, &value) // of none at all it is an error, and value nil
	switch value := value.(type) {
	case float64:
		return value == 0
	case string:
		d, err := time.ParseDuration(value)
		return err == nil && d == 0
	default:
		return false
	}
}

// nameLimit is how many bytes of a form's value are read: no model has so long a name.
const nameLimit = 8 << 10

// readForm reads the model that a multipart form names. Ollama takes the first, one in
// the query before those in the form; here there must be one and no more.
func readForm(r *http.Request, body []byte) (Ask, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || params["boundary"] == "" {
		return Ask{}, Error("the request body must be multipart/form-data, with a boundary")
	}
	cutOff := Error("the form is cut off: its closing boundary does not come")
	if !bytes.Contains(body, []byte("--"+params["boundary"]+"--")) { // NextPart does not tell all cuts from an end
		return Ask{}, cutOff
	}
	models := r.URL.Query()["model"]
	form := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		var value []byte
		if err == nil && part.FormName() == "model" && part.FileName() == "" {
			value, err = io.ReadAll(io.LimitReader(part, nameLimit))
			models = append(models, string(value))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return Ask{}, cutOff
		case err != nil:
			return Ask{}, Error("the form is badly framed: " + err.Error())
		}
	}
	switch {
	case len(models) > 1:
		return Ask{}, Error("the form names more than one model")
	case len(models) == 0, models[0] == "":
		return Ask{}, Error("model is required")
	}
	return Ask{Model: models[0]}, nil
}
