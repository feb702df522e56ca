package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"foreman/gate"
	"foreman/inventory"
	"foreman/proxy/ask"
	"foreman/proxy/dialect"
	"foreman/proxy/target"
)

// ErrShuttingDown is the cause with which a server cancels the requests that are
// still running when its time to drain is over.
var ErrShuttingDown = errors.New("shutting down")

// What foreman itself finds wrong.
var (
	errNoRoute       = errors.New("no such path")
	errHost          = errors.New("host not accepted")
	errCrossOrigin   = errors.New("request from another site")
	errToken         = errors.New("token missing or wrong")
	errRevoked       = errors.New("token taken out of FOREMAN_TOKENS_FILE")
	errNotPolled     = errors.New("no good poll yet")
	errManage        = errors.New("management is off")
	errEncoding      = errors.New("content coding not supported")
	errZstd          = fmt.Errorf("%w: zstd", errEncoding)
	errSlowUpload    = errors.New("upload too slow")
	errNoRoom        = errors.New("too many bytes waiting")
	errNoPlace       = errors.New("too many connections")
	errQueueTimeout  = errors.New("waited too long for a turn")
	errSwitched      = errors.New("target switched protocols unasked, or answered with no status")
	errCompressed    = errors.New("target compressed its answer unasked")
	errAsleep        = errors.New("target silent and not answering polls")
	errStall         = errors.New("target silent for FOREMAN_STALL_TIMEOUT")
	errBrokenOff     = errors.New("target broke its answer off")
	errClientStalled = errors.New("client took no byte for too long")
	errDefect        = errors.New("panic")
	errNotStoppable  = errors.New("no such chat in line or running")
)

// A stopError is why a chat ends that somebody has stopped on the status page.
type stopError struct {
	by    string // see [Proxy.clientOf]
	named bool   // that is the name of a token
}

func (e *stopError) Error() string { return "stopped by " + e.by }

// badRequest is a 400 and its text.
type badRequest = ask.Error

// A methodError is a 405 and the methods that are allowed.
type methodError string

func (e methodError) Error() string { return "method not allowed; allowed: " + string(e) }

// retryAfter is when a client that got a 503 may try again, unless that follows from
// the line: the longest time that a target can be back without foreman knowing.
const retryAfter = 5 * time.Second

// A verdict is what foreman answers for an error, and the reason from a closed set.
type verdict struct {
	status int
	reason string // one of reasons; empty: foreman has nothing against it
	text   string
}

// explain is the ladder of errors. They wrap one another, so the more telling
// come first. Its texts have no address, token or other
// detail of the inside; the log has the error itself.
func (x *exchange) explain(err error) verdict {
	var (
		bad      badRequest
		method   methodError
		tooLong  *http.MaxBytesError
		answered *targetError
		stop     *stopError
	)
	switch {
	// The client's request.
	case errors.As(err, &bad):
		return verdict{http.StatusBadRequest, "bad request", bad.Error()}
	case errors.As(err, &method):
		return verdict{http.StatusMethodNotAllowed, "method", err.Error()}
	case errors.As(err, &tooLong):
		return verdict{http.StatusRequestEntityTooLarge, "body too large", fmt.Sprintf("request body larger than %d bytes", tooLong.Limit)}
	case errors.Is(err, errNoRoute):
		return verdict{http.StatusNotFound, "path", "foreman has no such path"}
	case errors.Is(err, errHost):
		return verdict{http.StatusForbidden, "host", "this Host name is not accepted; whoever runs foreman can allow it: FOREMAN_HOSTS=" + shownHost(x.request.Host) + " (several with commas)"}
	case errors.Is(err, errToken):
		return verdict{http.StatusUnauthorized, "token", "a valid token is required, once, as Authorization: Bearer or as x-api-key"}
	case errors.Is(err, errRevoked):
		return verdict{http.StatusUnauthorized, "token", "this token is no longer valid"}
	case errors.As(err, &stop): // no status with which clients try again by themselves
		text := "this chat was stopped on foreman's status page"
		if stop.named {
			text += " by " + stop.by
		}
		return verdict{http.StatusForbidden, revokedStopped, text}
	case errors.Is(err, errCrossOrigin):
		return verdict{http.StatusForbidden, "cross-origin", "cross-site form rejected"}
	case errors.Is(err, errNotStoppable):
		return verdict{http.StatusNotFound, "no such chat", "no such chat waits or runs: it may have ended"}
	case errors.Is(err, errManage):
		text := "model management is off; whoever runs foreman can turn it on with FOREMAN_MANAGE=true"
		if x.route.path == "/api/pull" { // what `ollama run` asks for when it does not find the model
			text = "model not pulled: is its name in the list of models? " + text
		}
		return verdict{http.StatusForbidden, "management off", text}
	case errors.Is(err, target.ErrLoop):
		return verdict{http.StatusLoopDetected, "loop", target.ErrLoop.Error()}
	case errors.Is(err, errEncoding):
		text := "only Content-Encoding: identity is supported here"
		if errors.Is(err, errZstd) {
			text += "; in Codex, enable_request_compression=false sees to that"
		}
		return verdict{http.StatusUnsupportedMediaType, "content encoding", text}
	case errors.Is(err, errSlowUpload):
		return verdict{http.StatusRequestTimeout, "slow upload", "the request body came too slowly"}
	case errors.Is(err, inventory.ErrCloud):
		return verdict{http.StatusNotFound, "unknown model", fmt.Sprintf("model '%.8000s' not found: a cloud model would run on the account of the Ollama host's owner, who must pull it first", x.Model)}
	case errors.Is(err, inventory.ErrNotFound):
		return verdict{http.StatusNotFound, "unknown model", fmt.Sprintf("model '%.8000s' not found", x.Model)}

	// Not now.
	case errors.Is(err, ErrShuttingDown), errors.Is(err, gate.ErrClosed):
		return verdict{http.StatusServiceUnavailable, "shutting down", "foreman is shutting down"}
	case errors.Is(err, gate.ErrFull):
		return verdict{http.StatusServiceUnavailable, "queue full", "too many chats are waiting"}
	case errors.Is(err, errQueueTimeout):
		return verdict{http.StatusServiceUnavailable, "queue timeout", "waited too long for a turn"}
	case errors.Is(err, errNoRoom):
		return verdict{http.StatusServiceUnavailable, "bytes waiting", "too many bytes are waiting"}
	case errors.Is(err, errNoPlace):
		return verdict{http.StatusServiceUnavailable, "connections", "too many clients are connected"}
	case errors.Is(err, inventory.ErrDegraded):
		return verdict{http.StatusServiceUnavailable, "degraded", fmt.Sprintf("model '%.8000s' unknown, and the Ollama host does not tell its models now", x.Model)}
	case errors.Is(err, errNotPolled):
		return verdict{http.StatusServiceUnavailable, "degraded", "the Ollama host's models are not known yet"}
	case errors.Is(err, errDefect):
		return verdict{http.StatusInternalServerError, "defect", "foreman failed; its log says why"}

	// The target.
	case errors.As(err, &answered):
		return verdict{answered.status, "", answered.text}
	case errors.Is(err, errAsleep):
		return verdict{http.StatusGatewayTimeout, revokedAsleep, "the Ollama host has gone silent"}
	case errors.Is(err, errStall):
		return verdict{http.StatusGatewayTimeout, revokedStall, "the Ollama host said nothing for too long"}
	case errors.Is(err, context.Canceled):
		return verdict{statusClientLeft, "", ""}
	case errors.Is(err, errUpload):
		return verdict{http.StatusBadRequest, "bad request", "the request body is broken off or badly framed"}
	case errors.Is(err, target.ErrLocal):
		return verdict{http.StatusServiceUnavailable, "no descriptors", "foreman has no file descriptors left; try again"}
	case errors.Is(err, target.ErrUnreachable):
		return verdict{http.StatusServiceUnavailable, "unreachable", "the Ollama host is unreachable"}
	default:
		return verdict{http.StatusBadGateway, "bad answer", "the Ollama host answered nonsense"}
	}
}

// shownHost returns the name in a Host field as it may be shown, and set if it is one.
func shownHost(hostport string) string {
	return fmt.Sprintf("%.253s", strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_' {
			return r
		}
		return '?'
	}, hostName(hostport)))
}

var reasons = []string{
	"bad request", "method", "body too large", "path", "host", "token", "management off", "loop", "content encoding",
	"slow upload", "unknown model", "shutting down", "queue full", "queue timeout", "bytes waiting", "connections", "degraded",
	revokedAsleep, revokedStall, revokedStopped, "cross-origin", "no such chat", "no descriptors", "unreachable", "bad answer", "defect",
}

// fail ends an exchange with an error.
func (p *Proxy) fail(x *exchange, err error) {
	x.Err = err
	if errors.Is(err, target.ErrUnreachable) {
		p.Inventory.Refresh()
	}
	v := x.explain(err)
	if v.status == statusClientLeft {
		panic(http.ErrAbortHandler) // an empty 200 would be a lie, should the client still read
	}
	if method, ok := errors.AsType[methodError](err); ok {
		x.Header().Set("Allow", string(method))
	}
	if x.Class != own && x.Class != none && v.status != http.StatusUnauthorized && v.status != http.StatusForbidden {
		p.cors.Apply(x.request.Header.Get("Origin"), x.Header())
	}
	p.refuse(x, v)
}

// refuse writes an error in the dialect of the path: as the answer, or where the client
// has the header of one already, as the end of its stream.
func (p *Proxy) refuse(x *exchange, v verdict) {
	x.Reason = v.reason
	words := dialect.Of(x.request.URL.Path)
	failure := dialect.Failure{Status: v.status, Code: openAICodes[v.reason], Text: v.text}
	if answered, ok := errors.AsType[*targetError](x.Err); ok {
		failure.Code = answered.code
	}
	if x.Early {
		x.WriteHeader(v.status) // to be noted
		x.Write(words.StreamError(failure))
		return
	}
	h := x.Header()
	switch {
	case v.status == http.StatusServiceUnavailable:
		h.Set("Retry-After", p.retryAfter(v))
	case v.status == http.StatusUnauthorized && x.route.path == statusPath:
		h.Set("WWW-Authenticate", `Basic realm="foreman", charset="UTF-8"`)
	case v.status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="foreman"`)
	}
	if v.reason == "shutting down" || !x.admitted { // whoever has no token may not keep a connection with it
		h.Set("Connection", "close")
	}
	x.abandonBody()
	h.Set("X-Request-Id", x.ID)
	if x.hadTurn {
		h.Set("Server-Timing", x.serverTiming())
	}
	writeJSON(x, v.status, words.Error(failure))
}

// tellStopped has a client whose stream was stopped in the middle hear why, as an error
// of its API: a person wants to know. The stream is cut behind it all the same, for
// clients that do not look.
func (p *Proxy) tellStopped(x *exchange) {
	stop, ok := errors.AsType[*stopError](x.Err)
	words := dialect.Of(x.Route)
	if !ok || x.call == nil || x.Status != http.StatusOK || !x.asked.Stream || x.sized || x.Header().Get("Content-Encoding") != "" ||
		!x.call.tail.EndsWith(words.Separator()) {
		return
	}
	v := x.explain(stop)
	x.Write(words.StreamError(dialect.Failure{Status: v.status, Text: v.text}))
	x.FlushError() // whoever does not take it gets the cut alone
}

// retryAfter is the value of the Retry-After field of a 503 (RFC 9110, section 10.2.3):
// for a chat that the line has no time or place for, when those who wait now will have
// had their turns, if turns take as long as they did lately.
func (p *Proxy) retryAfter(v verdict) string {
	after := retryAfter
	if turn := p.Gate.MeanTurn(); turn > 0 && (v.reason == "queue full" || v.reason == "queue timeout") {
		waiting, _ := p.Gate.Len()
		after = min(max(turn*time.Duration(waiting), time.Second), 10*time.Minute)
	}
	return strconv.Itoa(int(math.Ceil(after.Seconds())))
}

// openAICodes are OpenAI's codes for what foreman finds wrong, where it has one.
var openAICodes = map[string]string{
	"token":         "invalid_api_key",
	"unknown model": "model_not_found",
}

// writeJSON writes an answer of foreman's own.
func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	w.Write(body)
}
