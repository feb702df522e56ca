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
	"unicode/utf8"
)

// An Ask is what foreman wants to know of a chat.
type Ask struct {
	Model  string // as the client spells it
	Unload bool   // nothing is asked of the model but to leave the target's memory
	Stream bool   // the answer is to come piece by piece; false where that is in doubt
	Flex   bool   // its service tier is flex: it can wait; false where that is in doubt

	// Options are those in the body that make Ollama load a loaded model again if they
	// differ (server/sched.go there), as "num_ctx=4096 num_gpu=1"; "": there are none.
	Options string
}

// loadOptions are the options of which Ask.Options tells.
var loadOptions = []string{"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}

// An Error says what is wrong with a body, in words for the client.
type Error string

func (e Error) Error() string { return string(e) }

// Paths with a reading of their own: where a form names the model, and not JSON; and where
// it may stand under name, which counts where model is empty.
const (
	TranscriptionsPath = "/v1/audio/transcriptions"
	ShowPath           = "/api/show"
)

// Read reads the body of a chat. Its errors are of type [Error].
func Read(r *http.Request, body []byte) (Ask, error) {
	if r.URL.Path == TranscriptionsPath {
		return readForm(r, body)
	}
	return JSON(r.URL.Path, body)
}

// What may be wrong with the name of a model.
const (
	// ErrModels is that there is another: which of them the target runs differs by path.
	ErrModels   = Error("the request names more than one model")
	errNoModel  = Error("model is required")
	errLongName = Error("the name of the model is too long")
)

// JSON reads the first JSON value of a body that was sent to path; what follows that value
// is ignored. The target's handlers find a key in several ways: exactly or in any case,
// the first or the last. Where these come to different values, foreman does not choose:
// for a model that is [ErrModels], with service_tier the Ask is not Flex, and with another
// field it is neither Unload nor Stream. Its errors are of type [Error].
func JSON(path string, body []byte) (Ask, error) {
	if len(trim(body)) == 0 {
		return Ask{}, Error("missing request body")
	}
	value, err := first(body)
	if err != nil {
		return Ask{}, Error("the request body is not JSON: " + err.Error())
	}
	return of(path, value)
}

// Peek is [JSON] of a body that goes on to the target even if it is no JSON, of which the
// target tells in its own words. So that is not checked, which would take nearly all of
// the time. Of what is no JSON the Ask may say anything.
func Peek(path string, body []byte) (Ask, error) {
	value, _ := cut(trim(body))
	if len(value) == 0 {
		return Ask{}, Error("the request body is not JSON")
	}
	return of(path, value)
}

// of returns what a JSON value asks for.
func of(path string, value []byte) (Ask, error) {
	model, stream, keepAlive := field{name: "model", skipNull: true}, field{name: "stream"}, field{name: "keep_alive"}
	messages, prompt := field{name: "messages"}, field{name: "prompt"}
	options, shift, tier := field{name: "options"}, field{name: "shift"}, field{name: "service_tier"}
	name := field{name: "name", skipNull: true, skipEmpty: true}
	model.skipEmpty = path == ShowPath
	switch kind := kindOf(value); kind {
	case "object":
		read(value, &model, &stream, &keepAlive, &messages, &prompt, &options, &shift, &tier, &name)
	case "null":
	default:
		return Ask{}, Error("the request body must be a JSON object, not " + kind)
	}
	if path == ShowPath && name.value != nil {
		model.add(name.value)
		model.inDoubt = model.inDoubt || name.inDoubt
	}
	a := Ask{Flex: !tier.inDoubt && tier.value != nil && isSame(tier.value, []byte(`"flex"`))}
	var err error
	if a.Model, err = nameOf(model); err != nil {
		return Ask{}, err
	}
	load, inDoubt := loadOf(options, shift)
	inDoubt = inDoubt || stream.inDoubt || keepAlive.inDoubt || messages.inDoubt || prompt.inDoubt
	switch path {
	case "/api/chat", "/api/generate":
		isIdle := path == "/api/chat" && !isFilled(messages.value) || path == "/api/generate" && !isFilled(prompt.value) // the model is loaded or unloaded, and that is all
		a.Unload = !inDoubt && isIdle && isZero(keepAlive.value)
		a.Stream = !inDoubt && !isIdle && slices.Contains([]string{"", "null", "true"}, string(stream.value))
		a.Options = load
	case "/api/embed", "/api/embeddings":
		a.Options, _ = loadOf(options, field{}) // there Ollama knows no shift
	case "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages":
		a.Stream = !inDoubt && string(stream.value) == "true"
	}
	return a, nil
}

// A field is what a JSON object says under one name.
type field struct {
	name      string
	skipNull  bool   // a null says nothing
	skipEmpty bool   // nor does an empty string
	value     []byte // as it stands in the object; nil: none
	inDoubt   bool   // there is another, and it differs
}

// read finds fields in an object: their keys in any case, and as often as they come.
func read(object []byte, fields ...*field) {
	var buf [len("draft_num_predict")]byte // the longest name
	for key, value := range members(object) {
		name, ok := appendFolded(buf[:0], key)
		if !ok {
			continue
		}
		for _, f := range fields {
			if string(name) == f.name {
				f.add(value)
				break
			}
		}
	}
}

func (f *field) add(value []byte) {
	switch {
	case f.skipNull && value[0] == 'n', f.skipEmpty && string(value) == `""`:
	case f.value == nil:
		f.value = value
	case !f.inDoubt:
		f.inDoubt = !isSame(f.value, value)
	}
}

// kindOf returns what a JSON value is, in encoding/json's words.
func kindOf(value []byte) string {
	switch value[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "bool"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// nameOf returns the name of the model that is asked for.
func nameOf(model field) (name string, err error) {
	switch {
	case model.inDoubt:
		return "", ErrModels
	case model.value == nil:
	case model.value[0] != '"':
		return "", Error("model must be a string, not " + kindOf(model.value))
	default:
		text := model.value
		if len(text) > nameLimit { // spaces around a name are none of it
			if text = bytes.Trim(text[1:len(text)-1], " "); len(text) > nameLimit {
				return "", errLongName
			}
			text = slices.Concat([]byte(`"`), text, []byte(`"`))
		}
		if end := len(text) - 1; end > 0 && text[end] == '"' && bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
			name = string(text[1:end]) // it stands for itself
		} else {
			err = json.Unmarshal(text, &name)
		}
	}
	if name == "" {
		return "", errNoModel
	}
	return name, err
}

// isFilled reports whether a value is there: neither null nor an empty string or list.
// Of null Ollama makes no change, or an empty list: in doubt, nothing is asked.
func isFilled(value []byte) bool {
	switch string(value) {
	case "", "null", `""`:
		return false
	}
	return value[0] != '[' || trim(value[1:])[0] != ']'
}

// isZero reports whether a keep_alive is a number or a duration of 0.
func isZero(keepAlive []byte) bool {
	if len(keepAlive) > optionLimit {
		return false
	}
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

// loadOf returns what of a body makes Ollama load a loaded model again: some options, and
// shift, which is none of them to Ollama.
func loadOf(options, shift field) (text string, inDoubt bool) {
	if options.value == nil && shift.value == nil {
		return "", false
	}
	all := make([]*field, len(loadOptions))
	for i, name := range loadOptions {
		all[i] = &field{name: name}
	}
	if bytes.HasPrefix(options.value, []byte("{")) { // else Ollama refuses them
		read(options.value, all...)
	}
	var b strings.Builder
	inDoubt = options.inDoubt
	for _, f := range append(all, &shift) {
		inDoubt = inDoubt || f.inDoubt
		if value := f.value; len(value) > 0 && len(value) <= optionLimit && string(value) != "null" {
			fmt.Fprintf(&b, " %s=%s", f.name, value)
		}
	}
	if inDoubt {
		return "unclear", true // like those of no clear body
	}
	return strings.TrimPrefix(b.String(), " "), false
}

// OptionsJSON returns Options as a JSON object; nil: there are none, or it is not clear which.
func (a Ask) OptionsJSON() []byte {
	if a.Options == "" {
		return nil
	}
	options := map[string]json.RawMessage{}
	for option := range strings.FieldsSeq(a.Options) {
		name, value, _ := strings.Cut(option, "=")
		options[name] = json.RawMessage(value)
	}
	text, err := json.Marshal(options)
	if err != nil { // a value that is more than one word is none that Ollama takes
		return nil
	}
	return text
}

// optionLimit is how many bytes the value of an option may have: a number, or a word.
const optionLimit = 32

// nameLimit is how many bytes of a name are read: no model has so long a one.
const nameLimit = 8 << 10

// maxParts is how many parts a form may have: Ollama, that is mime/multipart, takes no more.
const maxParts = 1000

// readForm reads the model that a multipart form names. Ollama takes the first, one in
// the query before those in the form, and knows one spelling of the field; here there must
// be one and no other.
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
	for parts := 0; ; parts++ {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		var value []byte
		if err == nil && part.FormName() == "model" && part.FileName() == "" {
			value, err = io.ReadAll(io.LimitReader(part, nameLimit+1))
			models = append(models, string(value))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return Ask{}, cutOff
		case err != nil:
			return Ask{}, Error("the form is badly framed: " + err.Error())
		case parts == maxParts:
			return Ask{}, Error("the form has too many parts")
		}
	}
	switch models = slices.Compact(models); {
	case len(models) > 1:
		return Ask{}, ErrModels
	case len(models) == 0, models[0] == "":
		return Ask{}, errNoModel
	case len(models[0]) > nameLimit:
		return Ask{}, errLongName
	}
	return Ask{Model: models[0]}, nil
}
