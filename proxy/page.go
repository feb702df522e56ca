package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
)

// residentStale is how old the list of resident models may be on the page, before
// foreman asks for it again.
const residentStale = 5 * time.Second

// A page answers /status: with a page or, for a program that asks for it, JSON.
type page struct {
	bodies    *bodies
	embeds    *embeds // nil: nothing limits them
	inventory *inventory.Inventory
	gate      *gate.Gate
	pauser    *pauser
	books     *books
	log       *slog.Logger
	target    string // URL without secrets
	embedder  string // the model that is kept resident; empty: none
	version   string
	stall     time.Duration // for how long the target may say nothing before the page tells; 0: for ever
}

func (h *page) serve(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	if r.Method == http.MethodPost {
		return h.serveForm(x, r, cancel)
	}
	return h.write(x, http.StatusOK, h.read())
}

// wantsJSON reports whether a client asks for JSON and not for a page.
func wantsJSON(r *http.Request) bool {
	accept := strings.Join(r.Header["Accept"], ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// write answers with the page.
func (h *page) write(x *exchange, code int, page *status.Page) error {
	if x.only != nil {
		page = page.Of(x.Client, x.only.Match)
	}
	write, contentType := (*status.Page).Write, "text/html; charset=utf-8"
	if wantsJSON(x.request) {
		write, contentType = (*status.Page).WriteJSON, "application/json; charset=utf-8"
	}
	page.MayPause = x.owner
	var b bytes.Buffer
	if err := write(page, &b); err != nil {
		return err
	}
	header := x.Header()
	header.Set("Vary", "Accept")
	header.Set("Content-Security-Policy", status.ContentSecurityPolicy)
	header.Set("Referrer-Policy", "same-origin") // with no-referrer a form has Origin: null
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	x.answer(code, contentType, b.Bytes())
	return nil
}

// read returns what the status page shows now.
func (h *page) read() *status.Page {
	state := h.inventory.State()
	if time.Since(state.ResidentRead) > residentStale {
		h.inventory.Refresh() // for the next time that the page is loaded
	}
	now := time.Now()
	page := &status.Page{
		Version:         h.version,
		Now:             now,
		Host:            status.Host{URL: h.target, Reason: state.Reason, Slow: state.Slow, Waking: state.Waking, Since: state.Since, LastPoll: state.LastPoll, NextPoll: state.NextPoll},
		Affinity:        status.Span(h.gate.AffinityNow()),
		Turn:            status.Span(h.gate.MeanTurn()),
		Embedder:        h.embedder,
		ResidentUnknown: state.ResidentRead.IsZero(),
	}
	for _, c := range state.Changes {
		page.Host.Changes = append(page.Host.Changes, status.Change(c))
	}
	h.books.show(page)
	h.pauser.show(page)
	if h.embeds != nil {
		page.Embeds = new(status.Embeds)
		page.Embeds.AtHost, page.Embeds.Waiting = h.embeds.count()
	}
	holder, waiting := h.gate.Line()
	turn, rest := time.Duration(page.Turn), time.Duration(0) // until the first in line has its turn
	if holder != nil {
		held := time.Since(holder.Since)
		page.Running = new(newChat(*holder))
		page.Running.Silent = !page.Running.Answering && held >= h.stall && h.stall > 0 && state.Waking.IsZero()
		rest = max(turn-held, 0)
	}
	if page.Pause != nil {
		rest = max(rest, page.Pause.Until.Sub(h.pauser.wall()))
	}
	for _, place := range waiting {
		row := newChat(place)
		if turn > 0 && (page.Pause == nil || !page.Pause.Until.IsZero()) {
			row.Estimate = new(status.Span(rest + turn*time.Duration(place.Position-1)))
		}
		page.Waiting = append(page.Waiting, row)
	}
	for _, m := range state.Models() {
		expires, resident := state.Expires(m.Name)
		model := status.Model{Name: m.Name, Size: m.Size, Expires: expires, Embedder: inventory.Same(m.Name, h.embedder), Remote: m.Remote}
		if !page.ResidentUnknown {
			model.Resident = &resident
		}
		page.Models = append(page.Models, model)
	}
	return page
}

// newChat returns a chat as the page has it.
func newChat(place gate.Place) status.Chat {
	row := status.Chat{
		Key: place.ID, Model: place.Kind.Model, Options: place.Kind.Options, Client: place.Client, Weight: place.Weight,
		Since: place.Since, Position: place.Position, Next: place.Next,
	}
	if c, ok := place.Value.(*chat); ok {
		row.ID, row.Agent, row.Background, row.Joined = c.ID, c.Agent, c.Background, c.joined
		if progress := c.upstream.progress.Load(); progress > 0 {
			row.Answering, row.Bytes = true, progress-1
		}
	}
	return row
}

// serveForm does what the buttons of the page are for, which are forms, for whoever may see
// it: stop a chat, pause, resume. A browser sends the password along by itself, so a page of
// another site must not be able to have it sent: [http.CrossOriginProtection]. Where there
// is no password, that goes for pages under a name of their own that leads here, too (DNS
// rebinding).
func (h *page) serveForm(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return fmt.Errorf("%w: %w", errCrossOrigin, err)
	}
	if err := checkCoding(r); err != nil {
		return err
	}
	body, room, err := h.bodies.read(x, r, cancel)
	defer room.give()
	if err != nil {
		return err
	}
	if len(body) == 0 {
		return badRequest("missing request body")
	}
	form, err := url.ParseQuery(string(body))
	var asked []string
	for _, field := range []string{"stop", "stop-all", "pause", "resume"} {
		if form.Has(field) {
			asked = append(asked, field)
		}
	}
	if err != nil || len(asked) != 1 {
		return badRequest("want one of the form fields stop or stop-all with the key of a chat, pause with a time such as 1h or with on, or resume=1")
	}
	switch asked[0] {
	case "stop":
		return h.stop(x, h.find(form.Get("stop")))
	case "stop-all":
		return h.stop(x, h.findAll(form["stop-all"]))
	default:
		return h.pause(x, form)
	}
}

// stop stops chats, running or waiting.
func (h *page) stop(x *exchange, victims []*chat) error {
	victims = slices.DeleteFunc(victims, func(victim *chat) bool { return x.only != nil && victim.Client != x.Client })
	if len(victims) == 0 {
		if wantsJSON(x.request) {
			return errNotStoppable
		}
		page := h.read()
		page.Notice = "What you wanted to stop had ended."
		return h.write(x, http.StatusNotFound, page)
	}
	h.end(x, victims...)
	return h.done(x)
}

// end stops chats in the name of whoever has asked for it.
func (h *page) end(x *exchange, victims ...*chat) {
	by := ""
	if x.Named {
		by = x.Client
	}
	for _, victim := range victims {
		if victim.stop(fmt.Errorf("stopped by %s: %w", x.Client, stopped(by))) {
			h.log.Info("chat stopped", "by", x.Client, "addr", x.Addr, "id", victim.ID, "client", victim.Client, "model", victim.Model)
		}
	}
}

// pause pauses, after the running chat or now, or resumes: for the owner alone.
func (h *page) pause(x *exchange, form url.Values) error {
	if !x.owner {
		return errNotOwner
	}
	if form.Has("resume") {
		if form.Get("resume") != "1" || form.Has("now") {
			return badRequest("want resume=1 alone")
		}
		h.pauser.resume(x.Client)
		return h.done(x)
	}
	length, err := time.ParseDuration(form.Get("pause"))
	if on := form.Get("pause") == "on"; !on && (err != nil || length < time.Second) {
		return badRequest("want pause with a time of at least 1s, such as 15m or 1h, or pause=on: until somebody resumes")
	}
	if form.Has("now") && form.Get("now") != "1" {
		return badRequest("want now=1, or leave it out: then the running chat may end")
	}
	until := h.pauser.pause(x.Client, length)
	h.log.Info("paused", "by", x.Client, "addr", x.Addr, unlessZero("until", until), "now", form.Has("now"))
	if holder, _ := h.gate.Line(); form.Has("now") && holder != nil {
		if running, ok := holder.Value.(*chat); ok {
			h.end(x, running)
		}
	}
	return h.done(x)
}

// done answers whoever has pressed a button.
func (h *page) done(x *exchange) error {
	if wantsJSON(x.request) {
		return h.write(x, http.StatusOK, h.read())
	}
	x.Header().Set("Location", "status") // beside this path, also behind a proxy that has it under another
	x.Header().Set("X-Request-Id", x.ID)
	x.WriteHeader(http.StatusSeeOther)
	return nil
}

// find returns the chat with a key, which waits or runs; nil: it has ended.
func (h *page) find(key string) []*chat {
	holder, waiting := h.gate.Line()
	if holder != nil {
		waiting = append(waiting, *holder)
	}
	for _, place := range waiting {
		if c, ok := place.Value.(*chat); ok && place.ID == key {
			return []*chat{c}
		}
	}
	return nil
}

// findAll returns of the chats with some keys the last that waits, and those of its client
// that came before it and wait, too: what came later was not on the page that the keys are
// from.
func (h *page) findAll(keys []string) (all []*chat) {
	_, waiting := h.gate.Line()
	named, last := map[string]bool{}, -1
	for _, key := range keys {
		named[key] = true
	}
	for i, place := range waiting {
		if named[place.ID] {
			last = i
		}
	}
	if last < 0 {
		return nil
	}
	for _, place := range waiting[:last+1] {
		if c, ok := place.Value.(*chat); ok && c.Client == waiting[last].Client {
			all = append(all, c)
		}
	}
	return all
}
