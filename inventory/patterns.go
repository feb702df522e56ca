package inventory

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Patterns are the models that somebody may ask for: each is a name as the target spells
// it, with or without a tag of latest, or the beginning of names with a star behind it, in
// lower case. The case of names does not matter. nil: any model.
type Patterns []string

// Match reports whether a model, as the target spells it, is among them.
func (p Patterns) Match(model string) bool {
	return p == nil || slices.ContainsFunc(p, func(pattern string) bool { return matches(pattern, model) })
}

func matches(pattern, model string) bool {
	name := strings.ToLower(model)
	if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
		name += ":" + defaultTag
	}
	if beginning, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, beginning)
	}
	return pattern == name || pattern+":"+defaultTag == name
}

// Unmatched returns those of the patterns that no model of the target matches.
func (p Patterns) Unmatched(s State) (unmatched []string) {
	for _, pattern := range p {
		if !slices.ContainsFunc(s.Models(), func(m Model) bool { return matches(pattern, m.Name) }) {
			unmatched = append(unmatched, pattern)
		}
	}
	return unmatched
}

// Filter returns an answer of the target that lists models, as Ollama or OpenAI does, without the others:
// the entries that stay, and all under other keys, are as the target wrote them.
func (p Patterns) Filter(answer []byte) ([]byte, error) {
	var filtered bytes.Buffer
	copied := 0 // of answer
	d := json.NewDecoder(bytes.NewReader(answer))
	if begin, err := d.Token(); begin != json.Delim('{') {
		return nil, cmp.Or(err, errors.New("the list is no JSON object"))
	}
	for d.More() {
		name, err := d.Token()
		var value json.RawMessage
		if err == nil {
			err = d.Decode(&value)
		}
		if err != nil {
			return nil, err
		}
		if text, _ := name.(string); !strings.EqualFold(text, "models") && !strings.EqualFold(text, "data") { // as the target's clients may compare it
			continue
		}
		var entries []json.RawMessage
		if err := json.Unmarshal(value, &entries); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		end := int(d.InputOffset())
		filtered.Write(answer[copied : end-len(value)])
		separator := "["
		for _, entry := range entries {
			if p.matchEntry(entry) {
				filtered.WriteString(separator)
				filtered.Write(entry)
				separator = ","
			}
		}
		filtered.WriteString(strings.TrimSuffix(separator, ",") + "]")
		copied = end
	}
	filtered.Write(answer[copied:])
	return filtered.Bytes(), nil
}

// matchEntry reports whether an entry of a list has a name, and all that it has are those
// of models among the patterns.
func (p Patterns) matchEntry(entry []byte) bool {
	var said struct{ Name, Model, ID string }
	if json.Unmarshal(entry, &said) != nil {
		return false
	}
	names := slices.DeleteFunc([]string{said.Name, said.Model, said.ID}, func(name string) bool { return name == "" })
	return len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return !p.Match(name) })
}
