package tokens

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	// As an editor does it: the new file in the place of the old one, with a time of its own.
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// open opens a file with this content.
func open(t *testing.T, content string) (f *File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "F")
	write(t, path, content)
	f, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f, path
}

// reloadTwice reloads a file as often as it takes to notice a change.
func reloadTwice(f *File) {
	f.reload()
	f.reload()
}

func TestParse(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "client%d token-of-%d\n", i, i)
		}
		return b.String()
	}
	const word = "expected a name and a token, with a space between; got one word"
	words := func(name string, number int) string {
		return fmt.Sprintf("expected weight=N, background, models=a,b* or owner as word %d, behind the token of %s", number, name)
	}
	weight := func(name, got string) string {
		return fmt.Sprintf("expected the weight of %s to be a whole number from 1 to 100; got %q", name, got)
	}
	models := func(name, got string) string {
		return fmt.Sprintf("expected the models of %s to be names with commas between and no space, * at the end of one at most; got %q", name, got)
	}
	const name = "expected a name of at most 64 printable ASCII characters, that is no address and not other"
	for _, test := range []struct{ name, content, want, err string }{
		{"two", "bob sesame-2\n# nobody\n\n  ann\tsesame-1  \n", "ann bob", ""},
		{"Windows", "\ufeffann sesame-1\r\n\r\nbob sesame-2\r\n", "ann bob", ""},
		{"as many as may be", many(1000), "client0", ""},
		{"empty", "", "", "F has no token: expected lines with a name and a token"},
		{"comments alone", "# ann sesame-1\n", "", "F has no token: expected lines with a name and a token"},
		{"no name", "sesame-1\n", "", "F:1: " + word},
		{"unknown words", "ann sesame-1 Owner\nbob sesame-2 background=yes weight\n", "", "F:1: " + words("ann", 3) + "\n" +
			"F:2: " + words("bob", 3) + "\nF:2: " + words("bob", 4)},
		{"a name of two words", "ann smithers sesame-1 sesame-1\n", "", "F:1: " + words("ann", 3) + "\nF:1: " + words("ann", 4)},
		{"a long name", strings.Repeat("n", 1000) + " sesame-1 Owner\n", "", "F:1: " + name + "\nF:1: " + words(strings.Repeat("n", 64), 3)},
		{"words twice", "ann sesame-1 weight=3 weight=3 owner owner\n", "", "F:1: weight stands twice behind the token of ann\nF:1: owner stands twice behind the token of ann"},
		{"weights", "ann sesame-1 weight=0\nbob sesame-2 weight=101\neve sesame-3 weight=+3\n", "", "F:1: " + weight("ann", "0") + "\nF:2: " + weight("bob", "101") + "\nF:3: " + weight("eve", "+3")},
		{"weight and background", "ann sesame-1 weight=3 background\n", "", "F:1: expected weight or background behind the token of ann, not both: what can wait has no weight"},
		{"patterns", "ann sesame-1 models=a,*b,,l*a*\nbob sesame-2 models=\n", "", "F:1: " + models("ann", "*b") + "\nF:1: " + models("ann", "") + "\nF:1: " + models("ann", "l*a*") + "\nF:2: " + models("bob", "")},
		{"name twice", "ann sesame-1\nbob sesame-2\nann sesame-3\n", "", "F:3: the name or the token of ann stands in line 1 already"},
		{"name of others", "other sesame-1\n", "", "F:1: " + name},
		{"an address", "192.0.2.7 sesame-1\n", "", "F:1: " + name},
		{"an address of IPv6", "::1 sesame-1\n", "", "F:1: " + name},
		{"a network", "2001:db8::/64 sesame-1\n", "", "F:1: " + name},
		{"token twice", "ann sesame-1\nbob sesame-1\n", "", "F:2: the name or the token of bob stands in line 1 already"},
		{"token of one byte", "ann x\n", "", "F:1: expected the token of ann to have at least 8 characters, all of them visible ASCII"},
		{"token with more than ASCII", "ann sesamé-12345\n", "", "F:1: expected the token of ann to have at least 8 characters, all of them visible ASCII"},
		{"long name", strings.Repeat("x", 65) + " sesame-1\n", "", "F:1: " + name},
		{"cut short", "ann sesame-1\nbob sesame-2", "", "F:2: expected a line break at the end: the file may be cut short"},
		{"all that is wrong", "ann\nbob x\nann sesame-1\nann sesame-1\n", "", "F:1: " + word + "\n" +
			"F:2: expected the token of bob to have at least 8 characters, all of them visible ASCII\nF:4: the name or the token of ann stands in line 3 already"},
		{"too many", many(1001), "", "F has 1001 tokens: expected at most 1000"},
		{"100,000 lines", many(100_000), "", "F is larger than 1 MiB: expected at most 1000 tokens"},
		{"a line of a megabyte", strings.Repeat("x", 1<<20-1) + "\n", "", "F:1: " + word},
		{"nonsense", strings.Repeat("x\n", 100), "", "and 80 problems more"},
	} {
		path := filepath.Join(t.TempDir(), "F")
		write(t, path, test.content)
		f, err := Open(path, slog.New(slog.DiscardHandler))
		if err != nil {
			got := strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", "")
			if test.err == "" || got != test.err && !(test.name == "nonsense" && strings.HasSuffix(got, test.err)) {
				t.Errorf("%s: got %s; want %s", test.name, got, test.err)
			}
			continue
		}
		var names []string
		for _, token := range *f.valid.Load() {
			names = append(names, token.Name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); test.err != "" || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %.60s; want %s, %s", test.name, got, test.want, test.err)
		}
	}
}

// What stands behind a token, in any order.
func TestWords(t *testing.T) {
	for line, want := range map[string]Token{
		"":                               {Weight: 1},
		" # weight=x":                    {Weight: 1},
		" weight=100":                    {Weight: 100},
		" background\t#not owner":        {Background: true},
		" owner models=Qwen3:8b,llama3*": {Weight: 1, Owner: true, Models: []string{"qwen3:8b", "llama3*"}},
		" models=* weight=3":             {Weight: 3, Models: []string{"*"}},
	} {
		f, _ := open(t, "ann sesame-1"+line+"\n")
		got := f.Find("sesame-1")
		if got.Weight != want.Weight || got.Background != want.Background || got.Owner != want.Owner || !slices.Equal(got.Models, want.Models) {
			t.Errorf("%q: got %+v; want %+v", line, got, want)
		}
	}
}

func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:                          "is not a regular file",
		filepath.Join(dir, "absent"): "no such file",
	} {
		if f, err := Open(path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v; want %s", path, f, err, want)
		}
	}
}

func TestFind(t *testing.T) {
	f, _ := open(t, "ann sesame-1\nbob sesame-2\n")
	for sent, want := range map[string]string{"sesame-1": "ann", "sesame-2": "bob", "sesame-3": "", "": "", "ann": "", "sesame-1 ": ""} {
		got := ""
		if token := f.Find(sent); token != nil {
			got = token.Name
		}
		if got != want {
			t.Errorf("%q: got %q; want %q", sent, got, want)
		}
	}
}

// A file that changes is read again; one with a mistake changes nothing. A token that is
// in it no more, or is another client's now, is revoked.
func TestReload(t *testing.T) {
	f, path := open(t, "ann sesame-1\nbob sesame-2\n")
	var log bytes.Buffer
	f.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	ann, bob := f.Find("sesame-1"), f.Find("sesame-2")
	want := func(when, logged string, annRevoked, bobRevoked bool) {
		t.Helper()
		if got := strings.ReplaceAll(log.String(), path, "F"); got != logged {
			t.Errorf("%s: logged %s; want %s", when, got, logged)
		}
		log.Reset()
		if got := ann.Revoked().Err() != nil; got != annRevoked {
			t.Errorf("%s: ann's token revoked: %v; want %v", when, got, annRevoked)
		}
		if got := bob.Revoked().Err() != nil; got != bobRevoked {
			t.Errorf("%s: bob's token revoked: %v; want %v", when, got, bobRevoked)
		}
	}
	reloadTwice(f)
	want("unchanged", "", false, false)
	write(t, path, "ann sesame-1\nann\n")
	reloadTwice(f)
	want("a mistake", `level=ERROR msg="tokens file not usable: the tokens from before stay valid" err="F:2: expected a name and a token, with a space between; got one word"`+"\n", false, false)
	reloadTwice(f)
	want("the same mistake", "", false, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	reloadTwice(f)
	want("gone", `level=ERROR msg="tokens file not usable: the tokens from before stay valid" err="open F: no such file or directory"`+"\n", false, false)
	reloadTwice(f)
	want("still gone", "", false, false)
	write(t, path, "eve sesame-3\nann sesame-1\n")
	reloadTwice(f)
	want("bob removed", `level=INFO msg="tokens file read again" tokens=2 removed=1`+"\n", false, true)
	if f.Find("sesame-2") != nil || f.Find("sesame-1").Revoked() != ann.Revoked() || f.Find("sesame-3") == nil {
		t.Error("got other tokens than those in the file")
	}
	write(t, path, "eve sesame-3\nann sesame-1 weight=7\n")
	reloadTwice(f)
	want("another weight", `level=INFO msg="tokens file read again" tokens=2 removed=0`+"\n", false, true)
	if got := f.Find("sesame-1").Weight; got != 7 || ann.Weight != 1 {
		t.Errorf("got weights %d, and %d before; want 7, and 1", got, ann.Weight)
	}
	write(t, path, "eve sesame-3\nbob sesame-1\n")
	reloadTwice(f)
	want("renamed", `level=INFO msg="tokens file read again" tokens=2 removed=1`+"\n", true, true)
	if got := f.Find("sesame-1"); got == nil || got.Name != "bob" {
		t.Errorf("got %v; want the new name", got)
	}
}

// A Secret or ConfigMap that Kubernetes mounts as a folder changes by a link: the file is
// a link through ..data, which comes to point to another folder, and then the folder from
// before goes. Here the new file is as long as the old one and as old.
func TestReloadThroughLinks(t *testing.T) {
	dir := t.TempDir()
	day := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	link := func(folder, content string) {
		t.Helper()
		file := filepath.Join(dir, folder, "tokens")
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, day, day); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(folder, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "ann sesame-1\n")
	path := filepath.Join(dir, "tokens")
	if err := os.Symlink(filepath.Join("..data", "tokens"), path); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ann := f.Find("sesame-1")
	link("..2", "bob sesame-2\n")
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	reloadTwice(f)
	if got := f.Find("sesame-2"); got == nil || got.Name != "bob" {
		t.Errorf("got %v; want bob, whose token is in the new file", got)
	}
	if ann.Revoked().Err() == nil {
		t.Error("ann's token was in the old file alone, and is not revoked")
	}
}

// A file that is being written in place changes nothing until it is whole, wherever the
// writer stops to think: at the end of a line or within a token.
func TestReloadOfAFileBeingWritten(t *testing.T) {
	const whole = "ann sesame-1\nbob sesame-2-long\neve sesame-3\n"
	f, path := open(t, whole)
	bob := f.Find("sesame-2-long")
	day := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	inPlace := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, day, day); err != nil {
			t.Fatal(err)
		}
	}
	for n := range len(whole) {
		inPlace(whole[:n])
		f.reload()
		inPlace(whole)
		f.reload()
		if bob.Revoked().Err() != nil || len(*f.valid.Load()) != 3 {
			t.Fatalf("%d bytes written: got %d tokens, bob's revoked: %v; want all as before", n, len(*f.valid.Load()), bob.Revoked().Err())
		}
	}
	inPlace("ann sesame-1\nbob sesame-2")
	reloadTwice(f)
	if bob.Revoked().Err() != nil || f.Find("sesame-2") != nil {
		t.Error("a token is valid that was cut short")
	}

	// A file may change and be as long and as old as before: two writes within a tick of
	// the file system's clock, or a tool that keeps times.
	inPlace(whole)
	reloadTwice(f)
	inPlace(strings.Replace(whole, "2-long", "2-last", 1))
	reloadTwice(f)
	if bob.Revoked().Err() == nil || f.Find("sesame-2-last") == nil {
		t.Error("the token in the file is not valid, or the one before is")
	}
}

func TestRun(t *testing.T) {
	f, path := open(t, "ann sesame-1\n")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Run(ctx, time.Millisecond) }()
	ann := f.Find("sesame-1")
	write(t, path, "bob sesame-2\n")
	select {
	case <-ann.Revoked().Done():
	case <-time.After(20 * time.Second):
		t.Error("the file was not read again")
	}
	cancel()
	<-ended
}
