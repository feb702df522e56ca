// Package tokens keeps the bearer tokens of named clients. They stand in a file, which
// is read again when it has changed and nobody writes it any more.
package tokens

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxTokens   = 1000
	maxBytes    = 1 << 20 // of the file
	minTokenLen = 8       // bytes
	maxNameLen  = 64      // bytes
	maxWeight   = 100
	maxProblems = 20 // that an error tells
)

// Other is what metrics call all clients without a name, and so is no name.
const Other = "other"

// A Token is that of one client. What changes in its line makes another of it; requests
// that have come keep what they came with.
type Token struct {
	Name       string
	Weight     int      // of its share of the host's time, from 1; 0: Background
	Background bool     // all that it asks for can wait
	Models     []string // what it may ask for, in lower case: names, or their beginnings with * behind; nil: any
	Owner      bool     // the machine is its

	revoked context.Context // ends when the token is no longer in the file
	revoke  context.CancelFunc
}

// Revoked returns a context that ends when the token is no longer valid.
func (t *Token) Revoked() context.Context { return t.revoked }

// tokens are by their digest. The time of a look-up tells nothing of them: nobody can
// choose the bytes of a digest.
type tokens map[[sha256.Size]byte]*Token

// A File has the tokens. Open one with [Open].
type File struct {
	path string
	log  *slog.Logger

	// These are for Open, and then for the goroutine of Run alone.
	spare *os.File // whose descriptor is for the file when there is no other; nil: there was none for it either
	seen  string   // what was last found at path: the digest of the content, or the error
	done  string   // what last came to something: other tokens, or an error in the log

	valid atomic.Pointer[tokens] // replaced as a whole, by reload
}

// Open reads a file of tokens: a line each, name and token, with white space between, and
// behind them in any order what the client may and is worth: weight=N, from 1 to 100,
// without which it is 1, or background; models=a,b*; owner. Empty lines say nothing, nor
// does what stands behind a # that begins a line or one of these words. The last line ends
// in a line break, too: one without may be cut short. The error tells all that is wrong,
// line by line.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log}
	content, found, err := f.look()
	if err != nil {
		return nil, err
	}
	valid, err := parse(path, content)
	if err != nil {
		return nil, err
	}
	f.valid.Store(&valid)
	f.done = found
	return f, nil
}

// Find returns the token that a client has sent; nil: it is none of the file's.
func (f *File) Find(sent string) *Token {
	return (*f.valid.Load())[sha256.Sum256([]byte(sent))]
}

// All returns the tokens, in no order.
func (f *File) All() []*Token {
	return slices.Collect(maps.Values(*f.valid.Load()))
}

// Run looks at the file every so often, until ctx ends, and takes the tokens from it once
// two looks have found the same: whoever writes it may not be done before. A file with
// anything wrong in it changes nothing but the log.
func (f *File) Run(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload looks at the file. It compares the content: a file may change and be as long and
// as old as before.
func (f *File) reload() {
	content, found, err := f.look()
	settled := found == f.seen
	f.seen = found
	if !settled || found == f.done {
		return
	}
	f.done = found
	var now tokens
	if err == nil {
		now, err = parse(f.path, content)
	}
	if err != nil {
		f.log.Error("tokens file not usable: the tokens from before stay valid", "err", err)
		return
	}
	var removed []*Token
	for digest, old := range *f.valid.Load() {
		if t := now[digest]; t != nil && t.Name == old.Name {
			t.revoked, t.revoke = old.revoked, old.revoke
		} else {
			removed = append(removed, old)
		}
	}
	f.valid.Store(&now)
	for _, t := range removed {
		t.revoke()
	}
	f.log.Info("tokens file read again", "tokens", len(now), "removed", len(removed))
}

// look reads the file. What it has found is the digest of the content, or the error.
func (f *File) look() (content []byte, found string, err error) {
	if content, err = f.read(); err != nil {
		return nil, err.Error(), err
	}
	return content, fmt.Sprintf("%x", sha256.Sum256(content)), nil
}

// read returns what is in the file. It works where the process has no descriptor left:
// there a token that is taken out must not stay valid. Nothing else than a file is read,
// and opening a pipe does not wait for somebody to write into it.
func (f *File) read() ([]byte, error) {
	f.spare.Close()
	defer func() { f.spare, _ = os.Open(os.DevNull) }() // when the file is closed
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", f.path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBytes {
		return nil, fmt.Errorf("%s is larger than 1 MiB: expected at most %d tokens", f.path, maxTokens)
	}
	return content, nil
}

// parse reads tokens. Files of Windows may begin with a byte order mark, and their lines
// end in CR LF.
func parse(path string, content []byte) (tokens, error) {
	var (
		found    = tokens{}
		names    = map[string]int{} // the lines where they stand
		digests  = map[[sha256.Size]byte]int{}
		problems []error
		line     int
	)
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s:%d: %s", path, line, fmt.Sprintf(format, args...)))
	}
	for text := range strings.Lines(strings.TrimPrefix(string(content), "\ufeff")) {
		line++
		fields := strings.Fields(text)
		if !strings.HasSuffix(text, "\n") {
			problem("expected a line break at the end: the file may be cut short")
		}
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			problem("expected a name and a token, with a space between; got one word")
			continue
		}
		name, token := fields[0], fields[1]
		digest := sha256.Sum256([]byte(token))
		switch {
		case !isTokenName(name) || len(name) > maxNameLen:
			problem("expected a name of at most %d printable ASCII characters, that is no address and not other", maxNameLen)
		case len(token) < minTokenLen || strings.ContainsFunc(token, notVisible):
			problem("expected the token of %s to have at least %d characters, all of them visible ASCII", name, minTokenLen)
		case max(names[name], digests[digest]) > 0:
			problem("the name or the token of %s stands in line %d already", name, max(names[name], digests[digest]))
		}
		names[name], digests[digest] = line, line
		t := &Token{Name: name[:min(len(name), maxNameLen)]} // one that is longer was told of
		for _, wrong := range t.set(fields[2:]) {
			problem("%s", wrong)
		}
		t.revoked, t.revoke = context.WithCancel(context.Background())
		found[digest] = t
	}
	switch {
	case len(problems) > maxProblems:
		problems = append(problems[:maxProblems], fmt.Errorf("%s: and %d problems more", path, len(problems)-maxProblems))
	case len(found) == 0 && len(problems) == 0:
		problems = append(problems, fmt.Errorf("%s has no token: expected lines with a name and a token", path))
	case len(found) > maxTokens:
		problems = append(problems, fmt.Errorf("%s has %d tokens: expected at most %d", path, len(found), maxTokens))
	}
	return found, errors.Join(problems...)
}

// set reads the words behind a token, and returns what is wrong with them.
func (t *Token) set(words []string) (wrong []string) {
	given := map[string]bool{}
	for i, word := range words {
		if strings.HasPrefix(word, "#") {
			break
		}
		key, value, hasValue := strings.Cut(word, "=")
		switch {
		case key == "weight" && hasValue:
			n, err := strconv.ParseUint(value, 10, 0)
			if t.Weight = int(n); err != nil || n < 1 || n > maxWeight {
				wrong = append(wrong, fmt.Sprintf("expected the weight of %s to be a whole number from 1 to %d; got %.60q", t.Name, maxWeight, value))
			}
		case word == "background":
			t.Background = true
		case key == "models" && hasValue:
			t.Models = strings.Split(strings.ToLower(value), ",")
			for _, pattern := range t.Models {
				if pattern == "" || strings.Contains(pattern[:len(pattern)-1], "*") {
					wrong = append(wrong, fmt.Sprintf("expected the models of %s to be names with commas between and no space, * at the end of one at most; got %.60q", t.Name, pattern))
				}
			}
		case word == "owner":
			t.Owner = true
		default: // perhaps a token, behind a name of two words: it must not be told
			wrong = append(wrong, fmt.Sprintf("expected weight=N, background, models=a,b* or owner as word %d, behind the token of %s", i+3, t.Name))
			continue
		}
		if given[key] {
			wrong = append(wrong, fmt.Sprintf("%s stands twice behind the token of %s", key, t.Name))
		}
		given[key] = true
	}
	switch {
	case !t.Background && !given["weight"]:
		t.Weight = 1
	case t.Background && given["weight"]:
		wrong = append(wrong, fmt.Sprintf("expected weight or background behind the token of %s, not both: what can wait has no weight", t.Name))
	}
	return wrong
}

// isTokenName reports whether a token may have the name s: not that of all who have none,
// nor an address, which is what a client without a token goes by.
func isTokenName(s string) bool {
	_, errAddr := netip.ParseAddr(s)
	_, errPrefix := netip.ParsePrefix(s)
	return !strings.ContainsFunc(s, notVisible) && s != Other && s != Other+"s" && errAddr != nil && errPrefix != nil
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }
