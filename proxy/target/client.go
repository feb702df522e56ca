package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Read returns the body of the target's answer to GET path, of at most 32 MiB. Its
// errors wrap [ErrUnauthorized] where the target answered 401 or 403.
func (t *Target) Read(ctx context.Context, path string) ([]byte, error) {
	return t.ask(ctx, http.MethodGet, path, nil)
}

// Alive asks the target for HEAD /. An error is that of the way to the target: any answer
// at all proves that somebody is there.
func (t *Target) Alive(ctx context.Context) error {
	_, err := t.ask(ctx, http.MethodHead, "/", nil)
	if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrLocal) || ctx.Err() != nil {
		return err
	}
	return nil
}

// Preflight asks the target as a browser does before a page of the origin may POST to
// path, and returns the header of the answer, whatever that is. It uses the connections
// of requests that pass through.
func (t *Target) Preflight(ctx context.Context, path, origin string) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodOptions, (&url.URL{Path: path}).String(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Origin", origin)
	r.Header.Set("Access-Control-Request-Method", http.MethodPost)
	t.Address(r)
	resp, _, err := t.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	return resp.Header, nil
}

// Embed embeds a trivial text and asks the target to keep the model loaded, with the
// options in a JSON object, until another request says otherwise; nil: the model's own
// options. Its errors are those of [Target.Read].
func (t *Target) Embed(ctx context.Context, model string, options []byte) error {
	body, err := json.Marshal(struct {
		Model     string          `json:"model"`
		Input     string          `json:"input"`
		KeepAlive int             `json:"keep_alive"`
		Options   json.RawMessage `json:"options,omitempty"`
	}{model, "warm", -1, options})
	if err != nil {
		return err
	}
	_, err = t.ask(ctx, http.MethodPost, "/api/embed", body)
	return err
}

// Unload asks the target to unload a model when nobody uses it any more, as `ollama stop`
// does: an embedding model, too, for what a model can do is not looked at. Its errors are
// those of [Target.Read].
func (t *Target) Unload(ctx context.Context, model string) error {
	body, err := json.Marshal(struct {
		Model     string `json:"model"`
		KeepAlive int    `json:"keep_alive"`
	}{model, 0})
	if err != nil {
		return err
	}
	_, err = t.ask(ctx, http.MethodPost, "/api/generate", body)
	return err
}

// ask sends a request of foreman's own and returns the body of a 200. It follows
// no redirect, and uses a connection of its own: an old one to a host that fell
// asleep proves nothing. If the target is unreachable, the connections that were kept
// may be dead without knowing it, and are not used again.
func (t *Target) ask(ctx context.Context, method, path string, body []byte) (answer []byte, err error) {
	defer func() {
		if err == nil {
			return
		}
		if errors.Is(err, ErrUnreachable) {
			t.renew()
		}
		err = fmt.Errorf("%s %s: %w", method, t.url.Path+path, err)
	}()
	r, err := http.NewRequestWithContext(ctx, method, (&url.URL{Path: path}).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	t.Address(r)
	r.Header.Set("User-Agent", "foreman")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	var once attempt
	resp, err := once.send(t.fresh, r)
	if once.conn != nil {
		t.foundAt(once.conn.RemoteAddr())
	}
	if err != nil {
		return nil, Classify(ctx, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%w: %.500s", ErrUnauthorized, resp.Status)
	case http.StatusLoopDetected:
		return nil, ErrLoop
	default:
		return nil, fmt.Errorf("answered %.500s", resp.Status)
	}
	answer, err = io.ReadAll(io.LimitReader(resp.Body, int64(t.limit)+1))
	if err != nil {
		return nil, Classify(ctx, err)
	}
	if len(answer) > t.limit {
		return nil, fmt.Errorf("the answer is larger than %d MiB", t.limit>>20)
	}
	return answer, nil
}
