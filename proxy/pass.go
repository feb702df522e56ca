package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/conns"
	"foreman/proxy/cors"
	"foreman/proxy/target"
	"foreman/warm"
)

// passes serves what passes to the target beside any number of others: embeddings, what
// is read, and what changes the target's models.
type passes struct {
	bodies    *bodies
	embeds    *embeds       // nil: any number of embeddings passes at once
	maxTurn   time.Duration // how long one of a limited number may take; 0: as long as it takes
	inventory *inventory.Inventory
	forwarder *forwarder
	pauser    *pauser
	cors      *cors.Memory
	warmer    *warm.Warmer // nil: no embedder is kept resident
	manage    bool         // let model management through

	preflights chan struct{} // has one for each that is at the target
}

// serve passes a request to the target and its answer back.
func (h *passes) serve(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead { // a body means nothing there (RFC 9110, section 9.3.1)
		x.abandonBody()
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
	}
	body, room, err := h.bodies.read(x, r, cancel)
	defer room.give()
	if err != nil {
		return err
	}
	room.keep()
	return h.send(x, r, body)
}

// send sends a request with a body that was read.
func (h *passes) send(x *exchange, r *http.Request, body []byte) error {
	if err := h.inventory.Reachable(r.Context()); err != nil {
		return err
	}
	return h.forwarder.forward(newPass(x, r, body), r)
}

// newPass gives a request its body, if it has one, and returns it as it goes to the target.
func newPass(x *exchange, r *http.Request, body []byte) *upstream {
	if len(body) > 0 {
		inMemory(r, body)
	}
	return &upstream{x: x}
}

// serveEmbed passes an embedding, for which the target may be woken, and tells the warmer
// which model has made it, and how it was loaded.
func (h *passes) serveEmbed(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	body, room, err := h.bodies.read(x, r, cancel)
	defer room.give()
	if err != nil {
		return err
	}
	var asked ask.Ask
	if x.only != nil {
		asked, err = ask.JSON(r.URL.Path, body)
		err = h.mayAsk(r.Context(), x, asked, err)
	} else if asked, err = ask.Peek(r.URL.Path, body); err != ask.ErrModels {
		err = nil // of what else is wrong with it the target tells in its own words
	}
	if err != nil {
		return err
	}
	model, _ := h.inventory.State().Find(asked.Model)
	if err := h.pauser.refusal(); err != nil && !model.Remote {
		return err // and not when its turn has come
	}
	if h.embeds != nil {
		if x.Queued, err = h.embeds.enter(r.Context(), x.Client); err != nil {
			return err
		}
		defer h.embeds.leave()
		if h.maxTurn > 0 { // others wait for its place
			defer time.AfterFunc(h.maxTurn, func() { cancel(errMaxEmbed) }).Stop()
		}
	}
	if !model.Remote {
		leave, err := h.pauser.enter()
		if err != nil {
			return err
		}
		defer leave()
	}
	room.keep()
	err = h.forwarder.forwardAwake(r.Context(), newPass(x, r, body), r, asked.Model)
	if h.warmer != nil && x.Status == http.StatusOK && asked.Model != "" {
		h.warmer.Embedded(asked.Model, asked.OptionsJSON())
	}
	return err
}

// A preflight needs no token, and so must cost little: no more of them than this are at
// the target at once, and none longer.
const (
	maxPreflights    = 8
	preflightTimeout = 10 * time.Second
)

// servePreflight passes a browser's question whether it may send a request.
func (h *passes) servePreflight(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	conns.Spare(r.Context())
	if err := noBody(x, r); err != nil {
		return err
	}
	defer time.AfterFunc(preflightTimeout, func() { cancel(errAsleep) }).Stop()
	select {
	case h.preflights <- struct{}{}:
		defer func() { <-h.preflights }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	return h.send(x, r, nil)
}

// noBody takes the body of a preflight, which has none: tunnels send an empty one in
// chunks. It waits for the end no longer than the target may take.
func noBody(x *exchange, r *http.Request) error {
	if r.ContentLength < 0 {
		upload := newUpload(x, r)
		upload.credit = preflightTimeout
		n, err := io.ReadFull(upload, make([]byte, 1))
		mayGoOn := upload.finish()
		switch {
		case n == 0 && err == io.EOF:
			x.bodyRead = mayGoOn
			r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		case n == 0:
			return err
		}
	}
	if r.ContentLength != 0 {
		return badRequest("a preflight has no body")
	}
	return nil
}

// serveManage passes a request that changes the target's models, if that is allowed. Who
// has read the whole answer finds the change in the inventory; and if the answer is cut,
// who knows what was done.
func (h *passes) serveManage(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	switch {
	case x.only != nil:
		return errManageSome
	case !h.manage:
		if x.route.path == "/api/pull" { // what `ollama run` asks for when it does not find the model
			pull := *errManage
			pull.text = "model not pulled: is its name in the list of models? " + pull.text
			return &pull
		}
		return errManage
	}
	defer h.inventory.Repoll(r.Context())
	if r.Method == http.MethodPost && strings.HasPrefix(x.route.path, blobs) {
		return h.stream(x, r)
	}
	return h.serve(x, r, cancel)
}

// stream sends a request whose body, a model's layer, may have any size: it goes on to the
// target as it comes.
func (h *passes) stream(x *exchange, r *http.Request) error {
	// The target may answer before it has read the whole body. Without this, net/http
	// would then read the rest of it, and Transport would cut the answer off.
	http.NewResponseController(x).EnableFullDuplex()
	body := newUpload(x, r)
	r.Body = body
	err := h.forwarder.forward(&upstream{x: x}, r)
	mayGoOn := body.finish()
	ended, cause := body.state()
	x.bodyRead = ended && mayGoOn
	if !ended { // net/http waits for the rest, if the answer came before it
		http.NewResponseController(x).SetReadDeadline(time.Now().Add(time.Second))
	}
	if err != nil && cause != nil {
		return cause
	}
	return err
}

// serveTags answers with the target's models as last polled. A web page's request
// goes on to the target while that answers: its CORS decides.
func (h *passes) serveTags(x *exchange, r *http.Request) error {
	if x.only != nil {
		state := h.inventory.State()
		return h.serveSome(x, inventory.Answer{Body: state.Tags, Read: state.LastPoll})
	}
	if r.Header.Get("Origin") != "" && !h.inventory.State().Degraded() {
		if err := h.send(x, r, nil); x.begun() || !errors.Is(err, target.ErrUnreachable) && !errors.Is(err, target.ErrLocal) && !errors.Is(err, errAsleep) {
			return err
		}
	}
	state := h.inventory.State()
	if state.Tags == nil {
		return notRead(state)
	}
	h.serveLast(x, inventory.Answer{Body: state.Tags, Read: state.LastPoll})
	return nil
}

// notRead is why there is no last answer of the target.
func notRead(state inventory.State) error {
	if state.Reason == inventory.Unreachable {
		return errUnreachable
	}
	return errNotPolled
}

// KeptPaths are the other paths where the target's last answer has to do while
// it is away.
var KeptPaths = []string{"/api/version", "/v1/models"}

// serveRead passes a request that reads from the target. While that is degraded, the
// last answer has to do, if there is one.
func (h *passes) serveRead(x *exchange, r *http.Request, cancel context.CancelCauseFunc) error {
	if x.only != nil && x.Route != "/api/version" && x.Route != "/api/status" { // which say nothing of models
		return h.serveReadOf(x, r, cancel)
	}
	state := h.inventory.State()
	if kept, ok := state.Kept[r.URL.Path]; ok && state.Degraded() {
		h.serveLast(x, kept)
		return nil
	}
	return h.serve(x, r, cancel)
}

// serveLast answers with what the target said at a time gone by.
func (h *passes) serveLast(x *exchange, last inventory.Answer) {
	contentType := jsonType
	if strings.HasPrefix(x.route.path, "/v1/") {
		contentType = "application/json" // as Ollama has it there
	}
	x.Header().Set("Age", strconv.Itoa(int(time.Since(last.Read).Seconds()))) // RFC 9111, section 5.1
	h.cors.Apply(x.request.Header.Get("Origin"), x.Header())
	x.answer(http.StatusOK, contentType, last.Body)
}

// serveRedirect sends a client whose path has one slash too many to the path without
// it, as Ollama's router does.
func (h *passes) serveRedirect(x *exchange, r *http.Request) error {
	x.abandonBody()
	x.Header().Set("X-Request-Id", x.ID)
	h.cors.Apply(r.Header.Get("Origin"), x.Header())
	status := http.StatusTemporaryRedirect // keeps the method and the body
	if r.Method == http.MethodGet {
		status = http.StatusMovedPermanently
	}
	to := url.URL{Path: strings.TrimSuffix(r.URL.Path, "/"), RawQuery: r.URL.RawQuery}
	http.Redirect(x, r, to.String(), status)
	return nil
}
