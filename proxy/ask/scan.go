package ask

import (
	"bytes"
	"encoding/json"
	"iter"
	"strconv"
	"unicode/utf8"
)

// A body may have sixty megabytes of the smallest keys. So nothing is made of those that
// are not asked for: encoding/json says that they are valid, and then they are walked
// over as they stand. The walk over what is not valid ends somewhere.

// first returns the first JSON value in body, as it stands there.
func first(body []byte) ([]byte, error) {
	value, _ := cut(trim(body))
	if !json.Valid(value) {
		return nil, json.Unmarshal(body, new(struct{})) // which says why
	}
	return value, nil
}

// members are the keys, without their quotes, and the values of a JSON object.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for rest := trim(object[1:]); len(rest) > 0 && rest[0] == '"'; {
			var key, value []byte
			if key, rest = cut(rest); len(rest) == 0 {
				return
			}
			value, rest = cut(trim(rest[1:])) // behind the colon
			if len(value) == 0 || !yield(key[1:len(key)-1], value) {
				return
			}
			if len(rest) > 0 && rest[0] == ',' {
				rest = trim(rest[1:])
			}
		}
	}
}

// cut cuts the JSON value off that b begins with, and the white space behind it.
func cut(b []byte) (value, rest []byte) {
	n := end(b)
	return b[:n], trim(b[n:])
}

// trim cuts the white space off that b begins with.
func trim(b []byte) []byte {
	for i, c := range b {
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return b[i:]
		}
	}
	return nil
}

// end returns how many bytes the JSON value has that b begins with, 0 if it begins with
// none. What is no valid value has any number.
func end(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return endOfString(b)
	case '{', '[':
		return endOfNested(b)
	}
	for i, c := range b {
		switch c {
		case ' ', '\n', '\r', '\t', ',', ':', '"', '{', '}', '[', ']':
			return i
		}
	}
	return len(b)
}

func endOfString(b []byte) int {
	quote := 0
	for i := 1; i < len(b); {
		if quote < i {
			n := bytes.IndexByte(b[i:], '"')
			if n < 0 {
				break
			}
			quote = i + n
		}
		n := bytes.IndexByte(b[i:quote], '\\')
		if n < 0 {
			return quote + 1
		}
		i += n + len(`\"`)
	}
	return len(b)
}

func endOfNested(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += endOfString(b[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}

// appendFolded appends a key to name, which has room for the longest one, as encoding/json
// compares it: in lower case. It reports false for what cannot be a name of ASCII letters.
func appendFolded(name, key []byte) ([]byte, bool) {
	for len(key) > 0 && len(name) < cap(name) {
		r, size := next(key)
		switch {
		case 'A' <= r && r <= 'Z':
			r += 'a' - 'A'
		case r == 'ſ':
			r = 's'
		case r == '\u212a': // Kelvin
			r = 'k'
		case r >= utf8.RuneSelf:
			return nil, false
		}
		name, key = append(name, byte(r)), key[size:]
	}
	return name, len(key) == 0
}

// isSame reports whether two values are written alike, or are strings that say the same.
func isSame(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a[0] != '"' || b[0] != '"' {
		return false
	}
	for len(a) > 0 && len(b) > 0 {
		r, sizeOfA := next(a)
		s, sizeOfB := next(b)
		if r != s || r == utf8.RuneError {
			return false
		}
		a, b = a[sizeOfA:], b[sizeOfB:]
	}
	return len(a) == len(b)
}

// next returns the rune that part of a JSON string begins with, and how many bytes it has
// there. Of escapes it knows those that a name may have.
func next(b []byte) (r rune, size int) {
	if b[0] != '\\' && b[0] < utf8.RuneSelf {
		return rune(b[0]), 1
	}
	text := string(b[:min(len(`\u0000`), len(b))])
	r, _, rest, err := strconv.UnquoteChar(text, '"')
	if err != nil {
		return utf8.RuneError, 1
	}
	return r, len(text) - len(rest)
}
