package status

import (
	"encoding/json"
	"io"
	"time"
)

// A document is a Page for programs. README.md explains it and has an example.
type document struct {
	Version string      `json:"version"`
	Now     time.Time   `json:"now"`
	Host    hostJSON    `json:"host"`
	Running *chatJSON   `json:"running"`
	Waiting []chatJSON  `json:"waiting"`
	Models  []modelJSON `json:"models"`
	Today   []shareJSON `json:"today"`
	Totals  totalsJSON  `json:"totals"`
	Recent  []Record    `json:"recent"`
	Others  []Record    `json:"others"`
}

type shareJSON struct {
	Client string `json:"client"`
	Chats  int    `json:"chats"`
	HeldMS int64  `json:"held_ms"`
}

type totalsJSON struct {
	Chats            int   `json:"chats"`
	HeldMS           int64 `json:"held_ms"`
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	Others           int   `json:"others"`
}

type hostJSON struct {
	URL      string     `json:"url"`
	Status   string     `json:"status"`
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`
	LastPoll *time.Time `json:"last_poll"`
	NextPoll *time.Time `json:"next_poll"`
}

type chatJSON struct {
	ID         string    `json:"id"`
	Model      string    `json:"model"`
	Options    string    `json:"options,omitempty"`
	Client     string    `json:"client"`
	Agent      string    `json:"agent,omitempty"`
	Stop       string    `json:"stop"`
	Since      time.Time `json:"since"`
	Answering  bool      `json:"answering,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`
	Position   int       `json:"position,omitempty"`
	Next       bool      `json:"next,omitempty"`
	EstimateMS *int64    `json:"estimate_ms,omitempty"`
}

type modelJSON struct {
	Name     string     `json:"name"`
	Size     int64      `json:"size,omitempty"`
	Resident *bool      `json:"resident"`
	Expires  *time.Time `json:"expires,omitempty"`
	Embedder bool       `json:"embedder,omitempty"`
	Remote   bool       `json:"remote,omitempty"`
}

// WriteJSON writes the page as JSON. Its errors are those of w.
func (p *Page) WriteJSON(w io.Writer) error {
	d := document{
		Version: p.Version,
		Now:     p.Now.UTC(),
		Host:    hostJSON{URL: p.Target, Status: "up", Reason: p.Reason, Since: p.Since.UTC()},
		Waiting: []chatJSON{},
		Models:  []modelJSON{},
		Today:   []shareJSON{},
		Totals: totalsJSON{
			p.Today.Chats, p.Today.Held.Milliseconds(), p.Today.PromptTokens, p.Today.CompletionTokens, p.Today.Others,
		},
		Recent: append([]Record{}, p.Chats...),
		Others: append([]Record{}, p.Others...),
	}
	switch {
	case p.Reason != "":
		d.Host.Status = "degraded"
	case p.Slow:
		d.Host.Status = "slow"
	}
	d.Host.LastPoll, d.Host.NextPoll = timeJSON(p.LastPoll), timeJSON(p.NextPoll)
	if p.Running != nil {
		running := p.Running.json()
		d.Running = &running
	}
	for _, c := range p.Waiting {
		d.Waiting = append(d.Waiting, c.json())
	}
	for _, m := range p.Models {
		resident := &m.Resident
		if p.ResidentUnknown {
			resident = nil
		}
		d.Models = append(d.Models, modelJSON{m.Name, m.Size, resident, timeJSON(m.Expires), m.Embedder, m.Remote})
	}
	for _, s := range p.Today.Shares {
		d.Today = append(d.Today, shareJSON{s.Client, s.Chats, s.Held.Milliseconds()})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// timeJSON returns a time as it is written; nil: it is zero.
func timeJSON(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (c Chat) json() chatJSON {
	j := chatJSON{
		ID: c.ID, Model: c.Model, Options: c.Options, Client: c.Client, Agent: c.Agent, Stop: c.Key, Since: c.Since.UTC(),
		Answering: c.Answering, Bytes: c.Bytes, Position: c.Position, Next: c.Next,
	}
	if c.Estimate != nil {
		ms := c.Estimate.Milliseconds()
		j.EstimateMS = &ms
	}
	return j
}
