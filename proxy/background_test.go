package proxy

import (
	"fmt"
	"strings"
	"testing"
)

// What says that a chat can wait, and the weight of its client, stand in the line and in
// the log.
func TestWeightAndBackground(t *testing.T) {
	const lines = "ann " + secret + "-of-ann weight=3\nbob " + secret + "-of-bob background\neve " + secret + "-of-eve\n"
	for _, test := range []struct {
		of, more, fields string // more is in the body
		weight           int
		background       string
	}{
		{"ann", "", "", 3, ""},
		{"eve", "", "", 1, ""},
		{"bob", "", "", 0, "file"},
		{"clients", "", "", 0, ""},
		{"ann", "", "Priority: u=6\r\n", 3, "header"},
		{"clients", "", "X-OpenWebUI-Task: title_generation\r\n", 0, "header"},
		{"eve", `","service_tier":"flex`, "", 1, "tier"},
		{"eve", `","service_tier":"flex`, "Priority: u=7\r\n", 1, "header"},
		{"bob", `","service_tier":"default`, "Priority: u=0\r\n", 0, "file"}, // a hint only lowers
		{"eve", `","service_tier":"flex","Service_Tier":"auto`, "X-OpenWebUI-Task: {{TASK}}\r\n", 1, ""},
	} {
		f, target := newHeldFront(t, func(o *Options) { o.Token, o.Tokens = clientToken, tokensOf(t, lines) })
		send := func(of, mark, fields string) *wire {
			c := connect(t, f).send(t, postOf("/api/chat", marked(mark), "Authorization: Bearer "+secret+"-of-"+of+"\r\n"+fields))
			return c
		}
		running := send("ann", "running", "")
		chat := target.next(t, "running")
		waiting := send(test.of, "waiting"+test.more, test.fields)
		await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
		if _, line := f.Gate.Line(); line[0].Weight != test.weight || line[0].Background != (test.background != "") {
			t.Errorf("%+v: got %+v in line", test, line[0].Request)
		}
		if got := f.page.read().Waiting[0]; got.Weight != test.weight || got.Background != test.background {
			t.Errorf("%+v: got %+v on the page", test, got)
		}
		chat.finish()
		running.expect(t, 200, "the first chat")
		target.next(t, "waiting"+test.more).finish()
		waiting.expect(t, 200, "the second chat")
		record := f.log.access(t, 2)[1]
		if got, want := fmt.Sprint(record["weight"], record["background"]), fmt.Sprint(orNil(test.weight), orNil(test.background)); got != want {
			t.Errorf("%+v: the log has weight and background %s; want %s", test, got, want)
		}
	}
}

// A hint that is none is told of each client once, and nobody can fill the memory so.
func TestOddHints(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, func(o *Options) { o.Token, o.ClientHeader = clientToken, "X-User" })
	for _, user := range []string{"ann", "ann", "bob"} {
		f.do(t, "POST", "/api/chat", chatBody, "Authorization", "Bearer "+clientToken, "X-User", user, "Priority", "high, u=9")
	}
	f.log.access(t, 3)
	const text = `"msg":"not understood: the field does not say whether the chat can wait","field":"Priority","value":"high, u=9","client":"`
	for _, user := range []string{"ann", "bob"} {
		if got := strings.Count(f.log.String(), text+user+" (header)"); got != 1 {
			t.Errorf("told of %s %d times; want once: %s", user, got, f.log)
		}
	}
	for n := range 2 * maxTold {
		f.chats.tellOdd(&chat{Odd: "Priority", Client: fmt.Sprint(n)})
	}
	if got := len(f.chats.odd); got != maxTold {
		t.Errorf("%d clients are remembered; want %d", got, maxTold)
	}
}

// orNil returns what the log has of a value.
func orNil[T comparable](value T) any {
	var zero T
	if value == zero {
		return nil
	}
	return value
}
