package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"foreman/proxy/tokens"
)

// What says that a chat can wait, and the weight of its client, stand in the line and in
// the log.
func TestWeightAndBackground(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("ann "+secret+"-of-ann weight=3\nbob "+secret+"-of-bob background\neve "+secret+"-of-eve\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		of, more, fields string
		weight           int
		background       string
	}{
		{"ann", "", "", 3, ""},
		{"eve", "", "", 1, ""},
		{"bob", "", "", 0, "file"},
		{"clients", "", "", 0, ""},
	} {
		f, target := newHeldFront(t, func(o *Options) {
			named, err := tokens.Open(file, o.Log)
			if err != nil {
				t.Fatal(err)
			}
			o.Token, o.Tokens = clientToken, named
		})
		send := func(of, mark, more, fields string) *wire {
			c := connect(t, f)
			c.send(t, postOf("/api/chat", `{"model":"chat","mark":"`+mark+`"`+more+`}`, "Authorization: Bearer "+secret+"-of-"+of+"\r\n"+fields))
			return c
		}
		running := send("ann", "running", "", "")
		chat := target.next(t, "running")
		waiting := send(test.of, "waiting", test.more, test.fields)
		await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })
		if _, line := f.Gate.Line(); line[0].Weight != test.weight || line[0].Background != (test.background != "") {
			t.Errorf("%+v: got %+v in line", test, line[0].Request)
		}
		chat.finish()
		running.expect(t, 200, "the first chat")
		target.next(t, "waiting").finish()
		waiting.expect(t, 200, "the second chat")
		record := f.log.access(t, 2)[1]
		if got, want := fmt.Sprint(record["weight"], record["background"]), fmt.Sprint(orNil(test.weight), orNil(test.background)); got != want {
			t.Errorf("%+v: the log has weight and background %s; want %s", test, got, want)
		}
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
