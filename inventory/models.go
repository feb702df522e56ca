package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
)

// models is the set of models in one answer to GET /api/tags.
type models struct {
	listed []string          // names as the target tells them, in its order
	names  map[string]string // the same by canonical name
}

// readModels reads an answer to GET /api/tags. An answer of another shape is an
// error: it did not come from an Ollama.
func readModels(tags []byte) (models, error) {
	var answer struct {
		Models json.RawMessage `json:"models"`
	}
	if err := json.Unmarshal(tags, &answer); err != nil {
		return models{}, fmt.Errorf("models: %w", err)
	}
	if answer.Models == nil {
		return models{}, errors.New(`models: the answer has no "models"`)
	}
	var list []struct {
		Name  string `json:"name"`
		Model string `json:"model"`
	}
	if err := json.Unmarshal(answer.Models, &list); err != nil {
		return models{}, fmt.Errorf("models: %w", err)
	}
	m := models{names: make(map[string]string, len(list))}
	for _, entry := range list {
		m.listed = append(m.listed, cmp.Or(entry.Name, entry.Model))
		for _, name := range []string{entry.Model, entry.Name} {
			if key, ok := canonical(name); ok {
				m.names[key] = name
			}
		}
	}
	return m, nil
}

// named returns a model's name as the target tells it, for any way to spell it
// that Ollama accepts; "" if the target does not hold it.
func (m models) named(name string) string {
	key, _ := canonical(name)
	return m.names[key]
}
