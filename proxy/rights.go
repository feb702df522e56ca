package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/tokens"
)

// A client whose token is for some models alone finds only these: what it asks for is looked
// up among them, and what lists models is foreman's own answer, from the last poll.

// serveReadOf serves what such a client reads of models.
func (h *passes) serveReadOf(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	state := h.inventory.State()
	model, isModel := strings.CutPrefix(r.URL.Path, "/v1/models/")
	switch {
	case isModel:
		if err := h.mayAsk(r.Context(), x, ask.Ask{Model: model}, nil); err != nil {
			return err
		}
		return h.serve(x, r, cancel)
	case x.Route == ask.ShowPath:
		return h.serveNamed(x, r, cancel)
	case x.Route == "/api/ps":
		return h.serveSome(x, inventory.Answer{Body: state.PS, Read: state.ResidentRead})
	case x.Route == "/v1/models":
		return h.serveSome(x, state.Kept[x.Route])
	}
	return errNoRoute // the table has a path that is not here
}

// serveNamed passes a request whose body names the model.
func (h *passes) serveNamed(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	body, room, err := h.bodies.read(x, r, cancel)
	defer room.give()
	if err != nil {
		return err
	}
	asked, err := ask.JSON(r.URL.Path, body)
	if err := h.mayAsk(r.Context(), x, asked, err); err != nil {
		return err
	}
	room.keep()
	return h.send(x, r, body)
}

// mayAsk returns why such a client cannot have what its body asks for, which was read with
// an error or without: what cannot be read for certain could be for any model.
func (h *passes) mayAsk(ctx context.Context, x *exchange, asked ask.Ask, err error) error {
	if err != nil {
		return err
	}
	_, err = h.inventory.Check(ctx, asked.Model, x.only)
	return modelRefused(asked.Model, err)
}

// serveSome answers with what the target said last of the models that a client may ask
// for. A page may read it if the target lets it.
func (h *passes) serveSome(x *exchange, last inventory.Answer) error {
	if last.Body == nil {
		return notRead(h.inventory.State())
	}
	body, err := x.only.Filter(last.Body)
	if err != nil {
		return fmt.Errorf("list of models: %w", err)
	}
	askGrant(x, h.cors, h.forwarder.target)
	h.serveLast(x, inventory.Answer{Body: body, Read: last.Read})
	return nil
}

// WarnOfModels warns at each poll, until ctx ends, of what a line of the tokens file lets its
// client ask for and no model is: once for each.
func WarnOfModels(ctx context.Context, file *tokens.File, inv *inventory.Inventory, log *slog.Logger) {
	warned := map[string]bool{}
	for seen := uint64(0); ; {
		state, err := inv.Next(ctx, seen)
		if err != nil {
			return
		}
		seen = state.Seq
		if state.Degraded() {
			continue
		}
		before := warned
		warned = map[string]bool{} // of those that are still in the file
		for _, token := range file.All() {
			for _, pattern := range inventory.Patterns(token.Models).Unmatched(state) {
				key := token.Name + " " + pattern
				if !before[key] {
					log.Warn("the tokens file lets a client ask for a model that is not there: is it misspelt?", "client", token.Name, "models", pattern)
				}
				warned[key] = true
			}
		}
	}
}
