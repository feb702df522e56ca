package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// models is the set of models in one answer to GET /api/tags.
type models struct {
	listed []string          // names as the target spells them, in its order
	names  map[string]string // the same by canonical name
}

// named returns a model's name as the target spells it, for any way to spell it
// that Ollama accepts; "" if the target does not hold it.
func (m models) named(name string) string {
	key, _ := canonical(name)
	return m.names[key]
}

// readModels reads an answer to GET /api/tags.
func readModels(tags []byte) (models, error) {
	var list []struct {
		Name  string `json:"name"`
		Model string `json:"model"`
	}
	if err := unmarshalModels(tags, &list); err != nil {
		return models{}, err
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

// readResident reads an answer to GET /api/ps.
func readResident(ps []byte) ([]Resident, error) {
	var list []struct {
		Name      string          `json:"name"`
		Model     string          `json:"model"`
		Size      int64           `json:"size"`
		SizeVRAM  int64           `json:"size_vram"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if err := unmarshalModels(ps, &list); err != nil {
		return nil, err
	}
	resident := make([]Resident, len(list))
	for i, entry := range list {
		resident[i] = Resident{Name: cmp.Or(entry.Name, entry.Model), Size: entry.Size, SizeVRAM: entry.SizeVRAM}
		var expiresAt time.Time
		if json.Unmarshal(entry.ExpiresAt, &expiresAt) == nil {
			resident[i].ExpiresAt = expiresAt // else it stays zero: that the model is resident matters more
		}
	}
	return resident, nil
}

// unmarshalModels stores the list "models" of an answer in what list points to.
// An answer of another shape is an error: it did not come from an Ollama.
func unmarshalModels(body []byte, list any) error {
	var answer struct {
		Models json.RawMessage `json:"models"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("models: %w", err)
	}
	if answer.Models == nil {
		return errors.New(`models: the answer has no "models"`)
	}
	if err := json.Unmarshal(answer.Models, list); err != nil {
		return fmt.Errorf("models: %w", err)
	}
	return nil
}
