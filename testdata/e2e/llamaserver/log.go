package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// A diary is a file of what the stand-ins of an Ollama did, a line of JSON each. Where it
// has no name nothing is written.
type diary struct{ file, model string }

// An entry is a model that was loaded, or an answer.
type entry struct {
	Model string    `json:"model"` // its file's name
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`

	Prompt int    `json:"prompt,omitempty"` // tokens; 0: the model was loaded
	Cached int    `json:"cached,omitempty"` // tokens of the prompt that were not read
	Said   int    `json:"said,omitempty"`   // words
	End    string `json:"end,omitempty"`    // of the prompt's text, by which its sender knows it
}

func (d diary) loads(from, to time.Time) { d.write(entry{From: from, To: to}) }

func (d diary) answers(from time.Time, p prompt, cached, said int) {
	const most = 500
	d.write(entry{From: from, To: time.Now(), Prompt: p.tokens, Cached: cached, Said: said, End: p.text[max(0, len(p.text)-most):]})
}

// write appends an entry. A line is one write, and so stays whole beside those of others.
func (d diary) write(e entry) {
	if d.file == "" {
		return
	}
	e.Model = d.model
	file, err := os.OpenFile(d.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return
	}
	defer file.Close()
	line, _ := json.Marshal(e) // texts and numbers can be written
	file.Write(append(line, '\n'))
}
