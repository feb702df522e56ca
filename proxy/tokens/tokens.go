// Package tokens keeps the bearer tokens of named clients. They stand in a file, which
// is read again when it changes.
package tokens

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	limit    = 1000    // tokens: each request is compared with all of them
	maxBytes = 1 << 20 // of the file
	least    = 8       // bytes of a token
	longest  = 64      // bytes of a name
	shown    = 20      // problems that an error tells
)

// Other is what metrics call all clients without a name, and so is no name.
const Other = "other"

// A Token is that of one client.
type Token struct {
	Name string

	digest  [sha256.Size]byte
	revoked context.Context // ends when the token is in the file no more
	revoke  context.CancelFunc
}

// Revoked returns a context that ends when the token is valid no more.
func (t *Token) Revoked() context.Context { return t.revoked }

// A File has the tokens. Open one with [Open].
type File struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows
	tokens []*Token
	seen   os.FileInfo // of the file when it was last read, good or not
}

// Open reads a file of tokens: a line each, name and token, with white space between;
// empty lines and lines that begin with # say nothing. The error tells all that is
// wrong, line by line.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log}
	tokens, err := f.read()
	if err != nil {
		return nil, err
	}
	f.tokens = tokens
	return f, nil
}

// Find returns the token that a client has sent; nil: it is none of the file's. It takes
// as long whichever it is, and says nothing of the others by the time that it takes.
func (f *File) Find(sent string) (found *Token) {
	digest := sha256.Sum256([]byte(sent))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		if subtle.ConstantTimeCompare(digest[:], t.digest[:]) == 1 {
			found = t
		}
	}
	return found
}

// Run reads the file again when it has changed, until ctx ends. A file with anything
// wrong in it changes nothing but the log.
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

// reload reads the file if it is another one than before.
func (f *File) reload() {
	info, err := os.Stat(f.path)
	if err == nil && f.seen != nil && os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		return
	}
	if err != nil && f.seen == nil {
		return // as before
	}
	tokens, err := f.read()
	if err != nil {
		f.log.Error("tokens file not usable: the tokens from before stay valid", "err", err)
		return
	}
	f.mu.Lock()
	before := f.tokens
	f.tokens = tokens
	for i, t := range tokens {
		for j, old := range before {
			if old != nil && old.Name == t.Name && old.digest == t.digest {
				f.tokens[i], before[j] = old, nil
			}
		}
	}
	f.mu.Unlock()
	removed := 0
	for _, old := range before {
		if old != nil {
			old.revoke()
			removed++
		}
	}
	f.log.Info("tokens file read again", "tokens", len(tokens), "removed", removed)
}

// read reads the file, and notes which one that was.
func (f *File) read() ([]*Token, error) {
	f.seen = nil
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	f.seen = info
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a folder: expected a file", f.path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBytes {
		return nil, fmt.Errorf("%s is larger than 1 MiB: expected at most %d tokens", f.path, limit)
	}
	return parse(f.path, content)
}

// parse reads tokens. Files of Windows may begin with a byte order mark, and their lines
// end in CR LF.
func parse(path string, content []byte) ([]*Token, error) {
	var (
		tokens   []*Token
		problems []error
		names    = map[string]int{} // the lines where they stand
		digests  = map[[sha256.Size]byte]int{}
		line     int
	)
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s:%d: %s", path, line, fmt.Sprintf(format, args...)))
	}
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(content, []byte("\ufeff"))))
	lines.Buffer(nil, maxBytes+1)
	for lines.Scan() {
		line++
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			problem("expected a name and a token, with a space between; got %d words", len(fields))
			continue
		}
		name, token := fields[0], fields[1]
		digest := sha256.Sum256([]byte(token))
		switch {
		case !IsName(name):
			problem("expected a name of at most %d printable ASCII characters", longest)
		case name == Other || name == Other+"s":
			problem("the name %s is for clients without a token", name)
		case names[name] > 0:
			problem("the name %s stands in line %d already", name, names[name])
		case len(token) < least || strings.ContainsFunc(token, notVisible):
			problem("expected the token of %s to have at least %d characters, all of them visible ASCII", name, least)
		case digests[digest] > 0:
			problem("the token of %s stands in line %d already", name, digests[digest])
		}
		names[name], digests[digest] = line, line
		t := &Token{Name: name, digest: digest}
		t.revoked, t.revoke = context.WithCancel(context.Background())
		tokens = append(tokens, t)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case len(problems) > shown:
		problems = append(problems[:shown], fmt.Errorf("%s: and %d problems more", path, len(problems)-shown))
	case len(tokens) == 0 && len(problems) == 0:
		problems = append(problems, fmt.Errorf("%s has no token: expected lines with a name and a token", path))
	case len(tokens) > limit:
		problems = append(problems, fmt.Errorf("%s has %d tokens: expected at most %d", path, len(tokens), limit))
	}
	return tokens, errors.Join(problems...)
}

// IsName reports whether s can name a client: in a header, a log and a metric.
func IsName(s string) bool {
	return s != "" && len(s) <= longest && !strings.ContainsFunc(s, notVisible)
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }
