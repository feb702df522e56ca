package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// newTap returns a target that answers one request on each connection and reads on
// until foreman hangs up. At the end of the test, when all connections are closed,
// check is called with the bytes that came on each, but for those of polls. A request
// that is broken off gets no answer.
func newTap(t testing.TB, check func(raw []string)) *rawTarget {
	t.Helper()
	var target *rawTarget
	t.Cleanup(func() { check(target.raw) }) // after the target's own: all connections are closed
	target = newRawTarget(t, nil)
	return target
}

// readStrictly reads the one request in raw as a suspicious server would: every
// line ends in CRLF, no field is folded, one field tells the length, and nothing
// follows the body.
func readStrictly(raw string) (body string, err error) {
	head, rest, ok := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if !ok || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00") {
		return "", fmt.Errorf("header badly framed")
	}
	framing := 0
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return "", fmt.Errorf("field %q", line)
		}
		switch strings.ToLower(name) {
		case "content-length":
			framing++
			if fmt.Sprint(len(rest)) != strings.TrimSpace(value) {
				return "", fmt.Errorf("%d bytes behind the header, %s", len(rest), line)
			}
			body = rest
		case "transfer-encoding":
			framing++
			in := bufio.NewReader(strings.NewReader(raw))
			r, err := http.ReadRequest(in)
			if err != nil {
				return "", err
			}
			b, err := io.ReadAll(r.Body)
			if err != nil || in.Buffered() != 0 || strings.TrimSpace(value) != "chunked" {
				return "", fmt.Errorf("%s: %v, %d bytes behind the body", line, err, in.Buffered())
			}
			body = string(b)
		}
	}
	if framing != 1 {
		return "", fmt.Errorf("%d fields tell the length", framing)
	}
	return body, nil
}

func TestFaultRequestSmuggling(t *testing.T) {
	const (
		embed  = `{"model":"chat"}` // 16 bytes; not only an embed may be sent with it
		chunks = "10\r\n" + embed + "\r\n0\r\n\r\n"
		length = "Content-Length: 16\r\n"
		te     = "Transfer-Encoding: chunked\r\n"
		end    = "Connection: close\r\n\r\n"
		hidden = "POST /api/delete HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n" + end
	)
	for _, test := range []struct {
		name   string
		raw    string // behind "Host: 127.0.0.1\r\n"
		passes bool   // as exactly one request with the body above; else as none
	}{
		{"length", length + end + embed, true},
		{"chunks", te + end + chunks, true},
		{"length and chunks", length + te + end + chunks, true},
		{"chunks and length", te + length + end + chunks, true},
		{"chunks and a length that reaches into a hidden request", te + "Content-Length: 30\r\n\r\n" + chunks + hidden, true},
		{"chunks and a length that ends early", te + "Content-Length: 3\r\n\r\n" + chunks + hidden, true},
		{"chunks and no length", te + "Content-Length: x\r\n" + end + chunks, false},
		{"a hidden request behind a length", length + "\r\n" + embed + hidden, true},
		{"two equal lengths", length + length + end + embed, true},
		{"two lengths", length + "Content-Length: 3\r\n" + end + embed, false},
		{"two lengths, the short one first", "Content-Length: 3\r\n" + length + end + embed, false},
		{"two lengths in one field", "Content-Length: 16, 16\r\n" + end + embed, false},
		{"length with a sign", "Content-Length: +16\r\n" + end + embed, false},
		{"length below zero", "Content-Length: -16\r\n" + end + embed, false},
		{"length in hex", "Content-Length: 0x10\r\n" + end + embed, false},
		{"length too large", "Content-Length: 99999999999999999999\r\n" + end + embed, false},
		{"empty length", "Content-Length: \r\n" + end + embed, false},
		{"two codings", te + te + end + chunks, false},
		{"two codings in one field", "Transfer-Encoding: chunked, chunked\r\n" + end + chunks, false},
		{"gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n" + end + chunks, false},
		{"identity", length + "Transfer-Encoding: identity\r\n" + end + embed, false},
		{"xchunked", length + "Transfer-Encoding: xchunked\r\n" + end + embed, false},
		{"chunked with a vertical tab", length + "Transfer-Encoding: \x0bchunked\r\n" + end + embed, false},
		{"chunked in quotes", length + "Transfer-Encoding: \"chunked\"\r\n" + end + embed, false},
		{"space before the colon", length + "Transfer-Encoding : chunked\r\n" + end + chunks, false},
		{"space before the name", " Transfer-Encoding: chunked\r\n" + length + end + embed, false}, // it is folded into the Host then
		{"folded coding", "Transfer-Encoding:\r\n chunked\r\n" + end + chunks, true},
		{"folded field", "X-Folded: a\r\n b\r\n\tc\r\n" + length + end + embed, true},
		{"chunk extension", te + end + "10;x=\"y\"\r\n" + embed + "\r\n0;z\r\n\r\n", true},
		{"trailer", te + "Trailer: X-T\r\n" + end + "10\r\n" + embed + "\r\n0\r\nX-T: 1\r\n\r\n", true},
		{"trailer that tells a length", te + end + "10\r\n" + embed + "\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", true},
		{"chunk size in hex with 0x", te + end + "0x10\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"chunk size too small", te + end + "f\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"chunk size too large", te + end + "11\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"chunk size below zero", te + end + "-10\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"chunk size that overflows", te + end + "10000000000000010\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"no chunk size", te + end + "\r\n" + embed + "\r\n0\r\n\r\n", false},
		{"chunk lines of LF", te + end + "10\n" + embed + "\n0\n\n", false},
		{"chunk data without a line break", te + end + "10\r\n" + embed + "0\r\n\r\n", false},
		{"NUL in a field", length + "X: a\x00b\r\n" + end + embed, false},
		{"NUL in a name", length + "X\x00: a\r\n" + end + embed, false},
		{"CR in a field", length + "X: a\rTransfer-Encoding: chunked\r\n" + end + embed, false},
		{"LF alone", "Content-Length: 16\nConnection: close\n\n" + embed, true},
		{"line without a colon", length + "nonsense\r\n" + end + embed, false},
		{"two hosts", "Host: 127.0.0.2\r\n" + length + end + embed, false},
	} {
		for _, path := range []string{"/api/chat", "/api/embed"} {
			t.Run(strings.ReplaceAll(path[1:], "/", " ")+"/"+test.name, func(t *testing.T) {
				target := newTap(t, func(got []string) {
					whole := 0
					for _, raw := range got {
						body, err := readStrictly(raw)
						switch {
						case path == "/api/chat" && !strings.Contains(raw, "\r\nContent-Length: 16\r\n"):
							t.Errorf("the target got a chat without its length: %q", raw)
						case err == nil && body == embed && strings.HasPrefix(raw, "POST "+path+" HTTP/1.1\r\n"):
							whole++
						case err == nil || test.passes:
							t.Errorf("the target got %q: body %q, %v; want %q", raw, body, err, embed)
						}
					}
					if want := map[bool]int{true: 1}[test.passes]; whole != want {
						t.Errorf("the target got %d whole requests; want %d", whole, want)
					}
				})
				f := newFront(t, target.URL, nil)
				c := connect(t, f).send(t, "POST "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n"+test.raw)
				b, _ := io.ReadAll(c) // foreman closes
				answer := string(b)
				switch {
				case test.passes && !strings.HasPrefix(answer, "HTTP/1.1 200 "):
					t.Errorf("answer %q; want 200", answer)
				case !test.passes && !strings.HasPrefix(answer, "HTTP/1.1 400 ") && !strings.HasPrefix(answer, "HTTP/1.1 501 "):
					t.Errorf("answer %q; want 400 or 501", answer)
				}
			})
		}
	}
}

func TestFaultSmugglingThroughThePath(t *testing.T) {
	target := newTap(t, func(got []string) {
		if len(got) != 0 {
			t.Errorf("the target got %q; want nothing", got)
		}
	})
	f := newFront(t, target.URL, nil)
	for _, line := range []string{
		"GET /v1/models/a\x00b HTTP/1.1",
		"GET /v1/models/a\rb HTTP/1.1",
		"GET /v1/models/a\tb HTTP/1.1",
		"GET /v1/models/a b HTTP/1.1",
		"GET /v1/models/a HTTP/1.1\rX: y",
		"GET /v1/models/a\x7f HTTP/1.1",
		"GET /v1/models/\xff\xfe HTTP/1.1",
		"GET /v1/models/a%00b HTTP/1.1",
		"GET /v1/models/a%0d%0aX:y HTTP/1.1",
		"GET /v1/models/a%0aX:y HTTP/1.1",
		"GET /v1/models/a%20HTTP/1.1%0d%0a%0d%0a HTTP/1.1",
		"GET /v1/models/a%2f.. HTTP/1.1",
		"GET\x00 /v1/models/a HTTP/1.1",
		"G(T /v1/models/a HTTP/1.1",
		"GET\t/v1/models/a\tHTTP/1.1",
		"GET /v1/models/a HTTP/1.1 x",
		"GET /v1/models/a HTTP/01.1",
	} {
		c := connect(t, f).send(t, line+"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		b, _ := io.ReadAll(c)
		if got := string(b); !strings.HasPrefix(got, "HTTP/1.1 40") {
			t.Errorf("%q: answer %q; want 400 or 404", line, got)
		}
	}
}
