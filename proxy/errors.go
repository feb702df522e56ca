package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/target"
)

// A refusal is the answer to a request that foreman refuses or cannot serve. Its text
// has no address, token or other detail of the inside; the log has the error that wraps
// it.
type refusal struct {
	status int
	reason string        // for log and metrics, one of reasons; empty: the target refuses, and not foreman
	text   string        // for the client
	code   string        // OpenAI's; empty: it has none
	allow  string        // methods that the path has, for the Allow field; empty: another method would not help
	retry  time.Duration // after which a client may try again; 0: see retryAfter
}

func (e *refusal) Error() string { return e.text }

// statusClientLeft is what the log says where the client left before the end of
// its answer (nginx's number; it is never sent).
const statusClientLeft = 499

// What foreman finds wrong with a request, or cannot do now.
var (
	errNoRoute       = &refusal{status: http.StatusNotFound, reason: "path", text: "foreman has no such path"}
	errCrossOrigin   = &refusal{status: http.StatusForbidden, reason: "cross-origin", text: "cross-site form rejected"}
	errToken         = &refusal{status: http.StatusUnauthorized, reason: "token", text: "a valid token is required, as Authorization: Bearer or as x-api-key, and not those of two clients", code: "invalid_api_key"}
	errRevoked       = &refusal{status: http.StatusUnauthorized, reason: "token", text: "this token is no longer valid", code: "invalid_api_key"}
	errNotStoppable  = &refusal{status: http.StatusNotFound, reason: "no such chat", text: "no such chat waits or runs: it may have ended"}
	errNotOwner      = &refusal{status: http.StatusForbidden, reason: "not the owner", text: "only the owner of the Ollama host may pause it: whoever has FOREMAN_TOKEN, or a token marked owner in FOREMAN_TOKENS_FILE"}
	errManage        = &refusal{status: http.StatusForbidden, reason: "management off", text: "model management is off; whoever runs foreman can turn it on with FOREMAN_MANAGE=true"}
	errManageSome    = &refusal{status: http.StatusForbidden, reason: "management off", text: "this token is for some models alone, and manages none"}
	errLoop          = &refusal{status: http.StatusLoopDetected, reason: "loop", text: target.ErrLoop.Error()}
	errEncoding      = &refusal{status: http.StatusUnsupportedMediaType, reason: "content encoding", text: "only Content-Encoding: identity is supported here"}
	errZstd          = &refusal{status: http.StatusUnsupportedMediaType, reason: "content encoding", text: errEncoding.text + "; in Codex, enable_request_compression=false sees to that"}
	errBadUpload     = &refusal{status: http.StatusBadRequest, reason: "bad request", text: "the request body is broken off or badly framed"}
	errSlowUpload    = &refusal{status: http.StatusRequestTimeout, reason: "slow upload", text: "the request body came too slowly"}
	errNoRoom        = &refusal{status: http.StatusServiceUnavailable, reason: "bytes waiting", text: "too many bytes are waiting"}
	errQueueFull     = &refusal{status: http.StatusServiceUnavailable, reason: "queue full", text: "too many chats are waiting"}
	errQueueTimeout  = &refusal{status: http.StatusServiceUnavailable, reason: "queue timeout", text: "waited too long for a turn"}
	errNoPlace       = &refusal{status: http.StatusServiceUnavailable, reason: "connections", text: "too many clients are connected"}
	errNotPolled     = &refusal{status: http.StatusServiceUnavailable, reason: "degraded", text: "the Ollama host's models are not known yet"}
	errUnreachable   = &refusal{status: http.StatusServiceUnavailable, reason: "unreachable", text: "the Ollama host is unreachable"}
	errDescriptors   = &refusal{status: http.StatusServiceUnavailable, reason: "no descriptors", text: "foreman has no file descriptors left; try again"}
	errAsleep        = &refusal{status: http.StatusGatewayTimeout, reason: revokedAsleep, text: "the Ollama host has gone silent"}
	errStall         = &refusal{status: http.StatusGatewayTimeout, reason: revokedStall, text: "the Ollama host said nothing for too long"}
	errMaxEmbed      = &refusal{status: http.StatusGatewayTimeout, reason: revokedMaxTurn, text: "this embedding took longer than FOREMAN_MAX_TURN"}
	errMaxTurn       = &refusal{status: http.StatusGatewayTimeout, reason: revokedMaxTurn, text: "this chat's turn took longer than FOREMAN_MAX_TURN"}
	errNonsense      = &refusal{status: http.StatusBadGateway, reason: "bad answer", text: "the Ollama host answered nonsense"}
	errDefect        = &refusal{status: http.StatusInternalServerError, reason: "defect", text: "foreman failed; its log says why"}
	errShuttingDown  = &refusal{status: http.StatusServiceUnavailable, reason: "shutting down", text: "foreman is shutting down"}
	errClientLeft    = &refusal{status: statusClientLeft, text: "the client left"}
	errClientStalled = &refusal{status: statusClientLeft, text: "the client took no byte for too long"}
)

// ErrShuttingDown is the cause with which a server cancels the requests that are
// still running when its time to drain is over.
var ErrShuttingDown error = errShuttingDown

// reasons are the reasons that a refusal can have.
var reasons = []string{
	"bad request", "method", "body too large", "path", "host", "token", "management off", "loop", "content encoding",
	"slow upload", "unknown model", "shutting down", "queue full", "queue timeout", "bytes waiting", "connections", "degraded", reasonPaused,
	revokedAsleep, revokedMaxTurn, revokedStopped, "cross-origin", "no such chat", "not the owner", "no descriptors", "unreachable", "bad answer", "defect",
}

// Why a turn is taken away before the target has said all.
const (
	revokedLeft    = "client left"
	revokedStalled = "client stalled"
	revokedAsleep  = "host asleep"
	revokedStall   = "stall timeout"
	revokedMaxTurn = "max turn"
	revokedStopped = "stopped"
	revokedToken   = "token revoked"
)

// badRequest refuses a request for what is wrong with it.
func badRequest(text string) *refusal {
	return &refusal{status: http.StatusBadRequest, reason: "bad request", text: text}
}

// methodRefused refuses a request for its method.
func methodRefused(allowed string) *refusal {
	return &refusal{status: http.StatusMethodNotAllowed, reason: "method", text: "method not allowed; allowed: " + allowed, allow: allowed}
}

// hostRefused refuses a request for its Host.
func hostRefused(host string) *refusal {
	shown := fmt.Sprintf("%.253s", strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '?'
	}, host))
	return &refusal{status: http.StatusForbidden, reason: "host", text: "this Host name is not accepted; whoever runs foreman can allow it: FOREMAN_HOSTS=" + shown + " (several with commas)"}
}

// modelNotFound refuses a request for a model that the target does not hold.
func modelNotFound(model, why string) *refusal {
	return &refusal{status: http.StatusNotFound, reason: "unknown model", text: fmt.Sprintf("model '%.8000s' not found", model) + why, code: "model_not_found"}
}

// modelUnknown refuses a request for a model of which foreman cannot know if the target
// holds it.
func modelUnknown(model string) *refusal {
	text := fmt.Sprintf("model '%.8000s' unknown, and the Ollama host does not tell its models now", model)
	return &refusal{status: http.StatusServiceUnavailable, reason: "degraded", text: text}
}

// modelRefused returns why a chat cannot have its model.
func modelRefused(asked string, err error) error {
	switch {
	case errors.Is(err, inventory.ErrCloud):
		return modelNotFound(asked, ": a cloud model would run on the account of the Ollama host's owner, who must pull it first")
	case errors.Is(err, inventory.ErrNotFound):
		return modelNotFound(asked, "")
	case errors.Is(err, inventory.ErrDegraded) && !errors.Is(err, target.ErrLoop):
		return fmt.Errorf("%w: %w", modelUnknown(asked), err)
	default:
		return err
	}
}

// paused refuses a request while the target is kept for its owner. End is as in
// [status.Pause], and now what the same clock shows.
func paused(end, now time.Time) *refusal {
	e := &refusal{status: http.StatusServiceUnavailable, reason: reasonPaused, retry: resumeSoon, text: "the Ollama host is paused until its owner resumes it"}
	if !end.IsZero() {
		e.text, e.retry = "the Ollama host is paused until "+end.Format("2006-01-02 15:04 MST"), max(end.Sub(now), time.Second)
	}
	return e
}

const (
	reasonPaused = "paused"
	resumeSoon   = time.Minute // when somebody may have resumed
)

// stopped ends a chat that somebody has stopped on the status page. Its status is none at
// which clients try again by themselves. By is a token's name, or empty.
func stopped(by string) *refusal {
	text := "this chat was stopped on foreman's status page"
	if by != "" {
		text += " by " + by
	}
	return &refusal{status: http.StatusForbidden, reason: revokedStopped, text: text}
}

// explain returns the answer to a request that ends with an error.
func explain(err error) *refusal {
	var (
		why     *refusal
		bad     ask.Error
		tooLong *http.MaxBytesError
	)
	switch {
	case errors.As(err, &why):
		return why
	case errors.As(err, &bad):
		return badRequest(bad.Error())
	case errors.As(err, &tooLong):
		return &refusal{status: http.StatusRequestEntityTooLarge, reason: "body too large", text: fmt.Sprintf("request body larger than %d bytes", tooLong.Limit)}
	case errors.Is(err, target.ErrLoop):
		return errLoop
	case errors.Is(err, gate.ErrClosed):
		return errShuttingDown
	case errors.Is(err, gate.ErrFull):
		return errQueueFull
	case errors.Is(err, context.Canceled):
		return errClientLeft
	case errors.Is(err, target.ErrLocal):
		return errDescriptors
	case errors.Is(err, target.ErrUnreachable):
		return errUnreachable
	default:
		return errNonsense
	}
}

// answerLimit is how many bytes of an error are read that the target answers with.
const answerLimit = 64 << 10

// refusedByTarget reads an answer that is no success, in the shape of any API, for a
// client that has the header of its answer already. It always has a text: clients take an
// error without one for none.
func refusedByTarget(resp *http.Response) *refusal {
	e := &refusal{status: resp.StatusCode}
	e.text = strings.TrimSpace(fmt.Sprintf("the Ollama host answered %d %s", e.status, http.StatusText(e.status)))
	body, _ := io.ReadAll(io.LimitReader(resp.Body, answerLimit)) // what has come has to do
	var (
		text   string
		answer struct {
			Error json.RawMessage `json:"error"`
		}
		inner struct {
			Message any `json:"message"`
			Code    any `json:"code"` // a number in some
		}
	)
	json.Unmarshal(body, &answer) // what cannot be read has no text
	if json.Unmarshal(answer.Error, &text) != nil && json.Unmarshal(answer.Error, &inner) == nil {
		text, _ = inner.Message.(string)
		e.code, _ = inner.Code.(string)
	}
	if strings.TrimSpace(text) != "" {
		e.text = text
	}
	return e
}
