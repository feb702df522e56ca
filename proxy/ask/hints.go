package ask

import (
	"net/http"
	"regexp"
	"strings"
)

// Header fields by which a request may say that it can wait.
const (
	priorityField = "Priority"
	taskField     = "X-Openwebui-Task"
)

// CanWait reports whether the header of a request says that it can wait: with a Priority
// whose urgency is 5 to 7 (RFC 9218, section 4.1), or with an X-OpenWebUI-Task, in which
// Open WebUI names what it asks for by itself, such as title_generation. Odd is the field
// that was to say so, perhaps, and does not: its value is no urgency, or a template that
// nobody has filled in.
func CanWait(header http.Header) (can bool, odd string) {
	if task := strings.Join(header[taskField], ","); strings.Contains(task, "{") {
		odd = taskField
	} else if task != "" {
		return true, ""
	}
	if priority := header[priorityField]; len(priority) > 0 {
		urgency, ok := urgencyOf(strings.Join(priority, ", "))
		if !ok {
			odd = priorityField
		}
		can = urgency >= 5
	}
	return can, odd
}

var (
	// A member of a dictionary (RFC 9651, section 3.2): what is behind its key up to the next
	// comma, and the strings in it, which may have commas.
	dictMember = regexp.MustCompile(`^[ \t]*([a-z*][a-z0-9_.*-]*)((?:[^,"]|"(?:[^"\\]|\\.)*")*)(?:,|$)`)
	integer    = regexp.MustCompile(`^=0*([0-7])[ \t]*(?:;.*)?$`)
)

// urgencyOf returns the urgency in the value of a Priority field: the last u there, as in
// every dictionary. It is not ok where that is no integer from 0 to 7, or the value no
// dictionary.
func urgencyOf(priority string) (urgency int, ok bool) {
	const usual = 3
	urgency = usual
	for ok = true; priority != ""; {
		m := dictMember.FindStringSubmatch(priority)
		if m == nil {
			return usual, false
		}
		priority = priority[len(m[0]):]
		if m[1] != "u" {
			continue
		}
		urgency, ok = usual, false
		if n := integer.FindStringSubmatch(m[2]); n != nil {
			urgency, ok = int(n[1][0]-'0'), true
		}
	}
	return urgency, ok
}
