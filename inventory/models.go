package inventory

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A Model is one that the target lists.
type Model struct {
	Name   string // as the target spells it
	Remote bool   // another host runs it, and the target only passes requests on
	Size   int64  // bytes on the target's disk; 0: the target did not say
}

// models is the set of models in one answer to GET /api/tags.
type models struct {
	listed []Model          // in the target's order
	byName map[string]Model // by canonical name
}

// find returns the model that a request asks for, if that is among those that it may ask
// for. A model of Ollama's cloud is found only if it was pulled, whatever a model here is
// called.
func (m models) find(asked string, only Patterns) (Model, bool) {
	name, cloud, _ := reference(asked)
	model, ok := m.byName[name]
	return model, ok && (model.Remote || !cloud) && only.Match(model.Name)
}

// readModels reads an answer to GET /api/tags.
func readModels(tags []byte) (models, error) {
	var list []struct {
		Name       string `json:"name"`
		Model      string `json:"model"`
		RemoteHost string `json:"remote_host"` // only cloud models have one
		Size       size   `json:"size"`
	}
	if err := unmarshalModels(tags, &list); err != nil {
		return models{}, err
	}
	m := models{byName: make(map[string]Model, len(list))}
	for _, entry := range list {
		model := Model{Name: cmp.Or(entry.Name, entry.Model), Remote: entry.RemoteHost != "", Size: int64(entry.Size)}
		m.listed = append(m.listed, model)
		for _, name := range []string{entry.Model, entry.Name} {
			if key, ok := canonical(name); ok {
				model.Name = name
				m.byName[key] = model
			}
		}
	}
	return m, nil
}

// A size is a number of bytes, or 0 where the target says something else: which models it
// holds matters more.
type size int64

func (s *size) UnmarshalJSON(b []byte) error {
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil && n > 0 {
		*s = size(n)
	}
	return nil
}

// readResident reads an answer to GET /api/ps.
func readResident(ps []byte) ([]Resident, error) {
	var list []struct {
		Name      string          `json:"name"`
		Model     string          `json:"model"`
		Size      size            `json:"size"`
		SizeVRAM  size            `json:"size_vram"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if err := unmarshalModels(ps, &list); err != nil {
		return nil, err
	}
	resident := make([]Resident, len(list))
	for i, entry := range list {
		resident[i] = Resident{Name: cmp.Or(entry.Name, entry.Model), Size: int64(entry.Size), SizeVRAM: int64(entry.SizeVRAM)}
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
