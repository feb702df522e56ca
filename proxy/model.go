package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
)

// readModel returns the model that a request's body names, as Ollama reads it:
// the first JSON value, its keys without regard to case, the last of duplicates;
// what follows that value is ignored. Errors are badRequest with a message for
// the client.
func readModel(body []byte) (string, error) {
	var request struct {
		Model string `json:"model"`
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
		return "", badRequest("missing request body")
	case errors.As(err, &mistyped) && mistyped.Field == "model":
		return "", badRequest("model must be a string, not " + mistyped.Value)
	case errors.As(err, &mistyped):
		return "", badRequest("the request body must be a JSON object, not " + mistyped.Value)
	case err != nil:
		return "", badRequest("the request body is not JSON: " + err.Error())
	case request.Model == "":
		return "", badRequest("model is required")
	}
	return request.Model, nil
}
