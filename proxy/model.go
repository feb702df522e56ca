package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"time"

	"foreman/inventory"
)

// What a chat may be that needs no turn.
const (
	besideRemote = "remote model" // another host does the work
	besideUnload = "unload"       // the model is to leave the memory, no more
)

// An ask is what foreman reads of a chat's body.
type ask struct {
	model  string
	unload bool
}

// readAsk reads a chat's body as Ollama does. Errors are badRequest with a message for
// the client.
func readAsk(r *http.Request, body []byte) (ask, error) {
	if r.URL.Path == transcriptionsPath {
		return readForm(r, body)
	}
	return readJSON(r.URL.Path, body)
}

// modelOf returns the model that the body of a passed request names; "" if that body is
// too large to be held, or names none.
func modelOf(r *http.Request) string {
	if r.GetBody == nil {
		return ""
	}
	held, _ := r.GetBody() // of a body in memory: it does not fail
	body, _ := io.ReadAll(held)
	ask, _ := readJSON(r.URL.Path, body) // the client knows by now what is wrong with it
	return ask.model
}

// readJSON reads the first JSON value of a body, its keys without regard to case, the
// last of duplicates; what follows that value is ignored.
func readJSON(path string, body []byte) (ask, error) {
	var request struct {
		Model     values          `json:"model"`
		Messages  filled          `json:"messages"`
		Prompt    filled          `json:"prompt"`
		KeepAlive json.RawMessage `json:"keep_alive"`
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
		return ask{}, badRequest("missing request body")
	case errors.As(err, &mistyped) && mistyped.Field == "model":
		return ask{}, badRequest("model must be a string, not " + mistyped.Value)
	case errors.As(err, &mistyped):
		return ask{}, badRequest("the request body must be a JSON object, not " + mistyped.Value)
	case err != nil:
		return ask{}, badRequest("the request body is not JSON: " + err.Error())
	case request.Model.last() == "":
		return ask{}, badRequest("model is required")
	case slices.ContainsFunc(request.Model, inventory.IsCloud) && !inventory.IsCloud(request.Model.last()):
		// Under /v1/ Ollama looks for cloud models with regard to case, and then reads
		// the body again without.
		return ask{}, badRequest("the request names more than one model, and one of them is a cloud model")
	}
	idle := path == "/api/chat" && !bool(request.Messages) || path == "/api/generate" && !bool(request.Prompt)
	return ask{request.Model.last(), idle && isZero(request.KeepAlive)}, nil
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
func readForm(r *http.Request, body []byte) (ask, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" || params["boundary"] == "" {
		return ask{}, badRequest("the request body must be multipart/form-data, with a boundary")
	}
	cutOff := badRequest("the form is cut off: its closing boundary does not come")
	if !bytes.Contains(body, []byte("--"+params["boundary"]+"--")) { // NextPart does not tell all cuts from an end
		return ask{}, cutOff
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
			return ask{}, cutOff
		case err != nil:
			return ask{}, badRequest("the form is badly framed: " + err.Error())
		}
	}
	switch {
	case len(models) > 1:
		return ask{}, badRequest("the form names more than one model")
	case len(models) == 0, models[0] == "":
		return ask{}, badRequest("model is required")
	}
	return ask{model: models[0]}, nil
}
