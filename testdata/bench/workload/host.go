package main

import "slices"

// A Host is the time model of an Ollama host with OLLAMA_NUM_PARALLEL=1 and OLLAMA_MAX_LOADED_MODELS=2, one place of
// which an embedding model keeps: one chat at a time, one chat model loaded. It keeps the prompts of the last
// conversations, as llama-server's host cache does, until its model is unloaded.
type Host struct {
	LoadTime               float64 // seconds
	PromptRate, DecodeRate float64 // tokens a second
	Keep                   int     // conversations, the one in the slot among them

	loaded string // model
	kept   []kept // the last one first
}

type kept struct {
	conv   string
	tokens int
}

// A Cost is what a chat takes of the host: seconds, and the tokens of its prompt that the host still has.
type Cost struct {
	Load, Read, Decode float64
	Cached             int
}

func (c Cost) total() float64 { return c.Load + c.Read + c.Decode }

// peek returns what a chat would take now.
func (h *Host) peek(r Request) Cost {
	c := Cost{Decode: float64(r.Out) / h.DecodeRate}
	if h.loaded != r.Model {
		c.Load = h.LoadTime
	} else if i := slices.IndexFunc(h.kept, func(k kept) bool { return k.conv == r.Conv }); i >= 0 {
		c.Cached = min(h.kept[i].tokens, r.Prompt-1)
	}
	c.Read = float64(r.Prompt-c.Cached) / h.PromptRate
	return c
}

// begin begins a chat and returns what it takes.
func (h *Host) begin(r Request) Cost {
	c := h.peek(r)
	if c.Load > 0 {
		h.loaded, h.kept = r.Model, nil
	}
	h.kept = slices.DeleteFunc(h.kept, func(k kept) bool { return k.conv == r.Conv })
	h.kept = slices.Insert(h.kept, 0, kept{r.Conv, r.Prompt + r.Out})
	h.kept = h.kept[:min(len(h.kept), h.Keep)]
	return c
}

// end ends a chat after a time. One that was left while its model was loading leaves nothing loaded; one that was
// left later leaves what had been read.
func (h *Host) end(c Cost, ran float64) {
	switch {
	case ran < c.Load:
		h.loaded, h.kept = "", nil
	case ran < c.Load+c.Read:
		h.kept[0].tokens = c.Cached + int((ran-c.Load)*h.PromptRate)
	}
}

// A Record is what became of a chat: on the client's side and on the host's.
type Record struct {
	Request
	Due, Sent float64 // when it was to be sent, and when it was
	First     float64 // first byte that is no heartbeat; 0: none came
	End       float64
	Outcome   Outcome

	Start, Stop float64 // on the host, with the load of its model; 0: it never got there
	Cost
}

// An Outcome is how a chat ended.
type Outcome string

const (
	ok      Outcome = "ok"
	gaveUp  Outcome = "gave up" // its client did
	failed  Outcome = "failed"
	cutOff  Outcome = "cut off" // by the end of the run
	forever         = 1e9       // seconds
)

// waited is how long the client waited for the first byte, or in vain.
func (r *Record) waited() float64 {
	if r.First > 0 {
		return r.First - r.Sent
	}
	return r.End - r.Sent
}

// patience is for how long the client of a request hears nothing until it leaves. Scripts have no limit of their own.
func patience(r Request, seconds float64) float64 {
	if r.Kind == batch {
		return forever
	}
	return seconds
}
