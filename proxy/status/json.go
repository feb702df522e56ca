package status

import (
	"encoding/json"
	"io"
	"math"
	"time"
)

// WriteJSON writes the page as JSON. Its errors are those of w.
func (p *Page) WriteJSON(w io.Writer) error {
	page := *p // of which no list is null
	page.Now = p.Now.UTC()
	if p.Pause != nil {
		page.Pause = new(*p.Pause)
		page.Pause.Since, page.Pause.Until = p.Pause.Since.UTC(), p.Pause.Until.UTC()
	}
	if p.Running != nil {
		page.Running = new(p.Running.inUTC())
	}
	page.Waiting = []Chat{}
	for _, c := range p.Waiting {
		page.Waiting = append(page.Waiting, c.inUTC())
	}
	page.Models = append([]Model{}, p.Models...)
	for i, m := range page.Models {
		page.Models[i].Expires = m.Expires.UTC()
	}
	page.Shares = append([]Share{}, p.Shares...)
	page.Chats = append([]Record{}, p.Chats...)
	page.Others = append([]Record{}, p.Others...)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(page)
}

func (c Chat) inUTC() Chat {
	c.Since = c.Since.UTC()
	return c
}

// utc returns a time as JSON has it; nil: it is zero.
func utc(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

// MarshalJSON writes a host as README.md explains it.
func (h Host) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		URL      string     `json:"url"`
		Status   string     `json:"status"`
		Reason   string     `json:"reason,omitempty"`
		Waking   time.Time  `json:"waking_since,omitzero"`
		Since    time.Time  `json:"since"`
		LastPoll *time.Time `json:"last_poll"`
		NextPoll *time.Time `json:"next_poll"`
	}{h.URL, h.State(), h.Reason, h.Waking.UTC(), h.Since.UTC(), utc(h.LastPoll), utc(h.NextPoll)})
}

// A Span is a time that something took, or takes.
type Span time.Duration

// MarshalJSON writes a span in milliseconds.
func (s Span) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(s).Milliseconds()) }

// String returns a span for people.
func (s Span) String() string { return formatDuration(time.Duration(s)) }

// MarshalJSON writes a record as README.md explains it.
func (r Record) MarshalJSON() ([]byte, error) {
	type fields Record // without this method
	return json.Marshal(struct {
		fields
		Reason           string    `json:"reason,omitempty"`
		Ended            time.Time `json:"ended"`
		QueueMS          int64     `json:"queue_ms"`
		FirstByteMS      int64     `json:"first_byte_ms"`
		MS               int64     `json:"ms"`
		LoadMS           int64     `json:"load_ms,omitempty"`
		PromptMS         int64     `json:"prompt_ms,omitempty"`
		PromptTokens     int64     `json:"prompt_tokens,omitempty"`
		CachedTokens     int64     `json:"cached_tokens,omitempty"`
		CompletionTokens int64     `json:"completion_tokens,omitempty"`
		TokensPerS       float64   `json:"tokens_per_s,omitempty"`
	}{
		fields(r), r.Why(), r.Ended.UTC(), r.Queued.Milliseconds(), r.FirstByte.Milliseconds(), r.Duration.Milliseconds(),
		r.Usage.Load.Milliseconds(), r.Usage.Prompt.Milliseconds(), r.Usage.PromptTokens, r.Usage.CachedTokens, r.Usage.CompletionTokens,
		math.Round(r.Usage.TokensPerSecond()*10) / 10,
	})
}
