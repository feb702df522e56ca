package status

import (
	"encoding/json"
	"io"
	"time"
)

// A document is a Page for programs. README.md explains it and has an example.
type document struct {
	Version string        `json:"version"`
	Now     time.Time     `json:"now"`
	Host    hostJSON      `json:"host"`
	Running *chatJSON     `json:"running"`
	Waiting []chatJSON    `json:"waiting"`
	Models  []modelJSON   `json:"models"`
	Today   []usageJSON   `json:"today"`
	Recent  []requestJSON `json:"recent"`
}

type usageJSON struct {
	Client string `json:"client"`
	Chats  int    `json:"chats"`
	HeldMS int64  `json:"held_ms"`
}

type hostJSON struct {
	URL      string     `json:"url"`
	Status   string     `json:"status"`
	Reason   string     `json:"reason,omitempty"`
	Since    time.Time  `json:"since"`
	LastPoll *time.Time `json:"last_poll"`
}

type chatJSON struct {
	ID         string    `json:"id"`
	Model      string    `json:"model"`
	Options    string    `json:"options,omitempty"`
	Client     string    `json:"client"`
	Since      time.Time `json:"since"`
	Answering  bool      `json:"answering,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`
	Position   int       `json:"position,omitempty"`
	Next       bool      `json:"next,omitempty"`
	EstimateMS *int64    `json:"estimate_ms,omitempty"`
}

type modelJSON struct {
	Name     string `json:"name"`
	Resident *bool  `json:"resident"`
	Embedder bool   `json:"embedder,omitempty"`
	Remote   bool   `json:"remote,omitempty"`
}

type requestJSON struct {
	ID          string    `json:"id"`
	Method      string    `json:"method"`
	Route       string    `json:"route"`
	Model       string    `json:"model,omitempty"`
	Client      string    `json:"client"`
	Beside      string    `json:"beside,omitempty"`
	Status      int       `json:"status"`
	Early       bool      `json:"early,omitempty"`
	Cut         bool      `json:"cut,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Ended       time.Time `json:"ended"`
	QueueMS     int64     `json:"queue_ms"`
	FirstByteMS int64     `json:"first_byte_ms"`
	MS          int64     `json:"ms"`
}

// WriteJSON writes the page as JSON. Its errors are those of w.
func (p *Page) WriteJSON(w io.Writer) error {
	d := document{
		Version: p.Version,
		Now:     p.Now.UTC(),
		Host:    hostJSON{URL: p.Target, Status: "up", Reason: p.Reason, Since: p.Since.UTC()},
		Waiting: []chatJSON{},
		Models:  []modelJSON{},
		Today:   []usageJSON{},
		Recent:  []requestJSON{},
	}
	if p.Reason != "" {
		d.Host.Status = "degraded"
	}
	if !p.LastPoll.IsZero() {
		last := p.LastPoll.UTC()
		d.Host.LastPoll = &last
	}
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
		d.Models = append(d.Models, modelJSON{m.Name, resident, m.Embedder, m.Remote})
	}
	for _, u := range p.Today {
		d.Today = append(d.Today, usageJSON{u.Client, u.Chats, u.Today.Milliseconds()})
	}
	for _, r := range p.Recent {
		d.Recent = append(d.Recent, requestJSON{
			r.ID, r.Method, r.Route, r.Model, r.Client, r.Beside, r.Status, r.Early, r.Cut, r.Err,
			r.Ended.UTC(), r.Queued.Milliseconds(), r.FirstByte.Milliseconds(), r.Duration.Milliseconds(),
		})
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

func (c Chat) json() chatJSON {
	j := chatJSON{
		ID: c.ID, Model: c.Model, Options: c.Options, Client: c.Client, Since: c.Since.UTC(),
		Answering: c.Answering, Bytes: c.Bytes, Position: c.Position, Next: c.Next,
	}
	if c.Estimate != nil {
		ms := c.Estimate.Milliseconds()
		j.EstimateMS = &ms
	}
	return j
}
