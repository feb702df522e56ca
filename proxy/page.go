package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/status"
)

// residentStale is how old the list of resident models may be on the page, before
// foreman asks for it again.
const residentStale = 5 * time.Second

// serveStatus answers /status: a page or, for a program that asks for it, JSON.
func (p *Proxy) serveStatus(x *exchange) error {
	return p.writePage(x, http.StatusOK, p.page())
}

// wantsJSON reports whether a client asks for JSON and not for a page.
func wantsJSON(r *http.Request) bool {
	accept := strings.Join(r.Header["Accept"], ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// writePage answers with the page.
func (p *Proxy) writePage(x *exchange, code int, page *status.Page) error {
	write, contentType := (*status.Page).Write, "text/html; charset=utf-8"
	if wantsJSON(x.request) {
		write, contentType = (*status.Page).WriteJSON, "application/json; charset=utf-8"
	}
	var b bytes.Buffer
	if err := write(page, &b); err != nil {
		return err
	}
	h := x.Header()
	h.Set("Content-Type", contentType)
	h.Set("Vary", "Accept")
	h.Set("Content-Security-Policy", status.ContentSecurityPolicy)
	h.Set("Referrer-Policy", "same-origin") // with no-referrer a form has Origin: null
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	x.WriteHeader(code)
	x.Write(b.Bytes())
	return nil
}

// page returns what the status page shows now.
func (p *Proxy) page() *status.Page {
	state := p.Inventory.State()
	if time.Since(state.ResidentRead) > residentStale {
		p.Inventory.Refresh() // for the next time that the page is loaded
	}
	now := time.Now()
	page := &status.Page{
		Version:         p.Version,
		Now:             now,
		Host:            status.Host{URL: p.Target.String(), Reason: state.Reason, Slow: state.Slow, Since: state.Since, LastPoll: state.LastPoll, NextPoll: state.NextPoll},
		Day:             p.recent.Today(now),
		Embedder:        p.EmbedModel,
		ResidentUnknown: state.ResidentRead.IsZero(),
	}
	page.Chats, page.Others = p.recent.Latest()
	holder, waiting := p.Gate.Line()
	turn := p.Gate.MeanTurn()
	if holder != nil {
		page.Running = new(p.newChat(*holder))
	}
	for _, place := range waiting {
		chat := p.newChat(place)
		if turn > 0 {
			chat.Estimate = new(status.Span(max(turn-time.Since(holder.Since), 0) + turn*time.Duration(place.Position-1)))
		}
		page.Waiting = append(page.Waiting, chat)
	}
	for _, m := range state.Models() {
		expires, resident := state.Expires(m.Name)
		model := status.Model{Name: m.Name, Size: m.Size, Expires: expires, Embedder: inventory.Same(m.Name, p.EmbedModel), Remote: m.Remote}
		if !page.ResidentUnknown {
			model.Resident = &resident
		}
		page.Models = append(page.Models, model)
	}
	return page
}

// newChat returns a chat as the page has it.
func (p *Proxy) newChat(place gate.Place) status.Chat {
	chat := status.Chat{
		Key: place.ID, Model: place.Kind.Model, Options: place.Kind.Options, Client: place.Client,
		Since: place.Since, Position: place.Position, Next: place.Next,
	}
	x, call := p.underway.chat(place.ID)
	if x != nil { // else it is about to leave
		chat.ID, chat.Agent = x.ID, x.Agent
	}
	if call != nil {
		chat.Bytes, chat.Answering = call.received.Load(), call.answered.Load() > 0
	}
	return chat
}

// serveStop stops a chat, running or waiting, for whoever may see the page: the button
// there is a form. A browser sends the password along by itself, so a page of another
// site must not be able to have it sent: [http.CrossOriginProtection].
func (p *Proxy) serveStop(x *exchange, r *http.Request) error {
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return fmt.Errorf("%w: %w", errCrossOrigin, err)
	}
	body, held, err := p.readBody(x, r)
	defer held.give()
	if err != nil {
		return err
	}
	x.bodyRead = true
	form, err := url.ParseQuery(string(body))
	if err != nil || !form.Has("stop") {
		return badRequest("want the form field stop, with the key of a chat")
	}
	victim, first := p.underway.stop(form.Get("stop"), &stopError{x.Client, x.Named})
	if victim == nil {
		if wantsJSON(r) {
			return errNotStoppable
		}
		page := p.page()
		page.Notice = "The chat that you wanted to stop had ended."
		return p.writePage(x, http.StatusNotFound, page)
	}
	if first {
		p.Log.Info("chat stopped", "by", x.Client, "addr", x.Addr, "id", victim.ID, "client", victim.Client, "model", victim.Model)
	}
	if wantsJSON(r) {
		return p.serveStatus(x)
	}
	x.Header().Set("Location", "status") // beside this path, also behind a proxy that has it under another
	x.WriteHeader(http.StatusSeeOther)
	return nil
}
