package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// readModel returns the model that a request's body names, as Ollama reads it:
// the first JSON value, its keys without regard to case, the last of duplicates;
// what follows that value is ignored. Errors are errBadRequest with a message
// for the client.
func readModel(body []byte) (string, error) {
	var request struct {
		Model string `json:"model"`
	}
	err := json.Unmarshal(body, &request)
	if err != nil {
		// There may be something behind the first value. A Decoder does not
		// mind, but copies the body.
		err = json.NewDecoder(bytes.NewReader(body)).Decode(&request)
	}
	var mistyped *json.UnmarshalTypeError
	switch {
	case err == io.EOF:
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
