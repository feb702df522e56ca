package ask

import (
	"net/http"
	"testing"
)

func TestCanWait(t *testing.T) {
	for _, test := range []struct {
		name, value string
		can         bool
		odd         string
	}{
		{"Priority", "u=5", true, ""},
		{"Priority", "u=7, i", true, ""},
		{"Priority", "i,u=06;x=\"a, u=1\"", true, ""},
		{"Priority", "u=1,\tu=6 ", true, ""},
		{"Priority", `a="x, u=1", b=("\",u=2" y), u=5`, true, ""},
		{"Priority", "u=4", false, ""},
		{"Priority", "u=6, u=0", false, ""},
		{"Priority", "i", false, ""},
		{"Priority", "", false, ""},
		{"Priority", "U=6", false, "Priority"},
		{"Priority", "u=8", false, "Priority"},
		{"Priority", "u=-5", false, "Priority"},
		{"Priority", "u=5.0", false, "Priority"},
		{"Priority", `u="5"`, false, "Priority"},
		{"Priority", "u=6, u", false, "Priority"},
		{"Priority", "u;u=6", false, "Priority"},
		{"Priority", "u=6 u=6", false, "Priority"},
		{"Priority", `u=6, x="`, false, "Priority"},
		{"Priority", "low", false, ""},
		{"X-OpenWebUI-Task", "title_generation", true, ""},
		{"X-OpenWebUI-Task", "", false, ""},
		{"X-OpenWebUI-Task", "{{TASK}}", false, "X-Openwebui-Task"},
	} {
		header := http.Header{}
		header.Set(test.name, test.value)
		if can, odd := CanWait(header); can != test.can || odd != test.odd {
			t.Errorf("%s: %s: got %v, %q; want %v, %q", test.name, test.value, can, odd, test.can, test.odd)
		}
	}
	for _, test := range []struct {
		header http.Header
		can    bool
		odd    string
	}{
		{nil, false, ""},
		{http.Header{"Priority": {"u=6", "u=0"}}, false, ""}, // two lines are one list
		{http.Header{"Priority": {"u=0", "u=6"}}, true, ""},
		{http.Header{"Priority": {"u=6"}, "X-Openwebui-Task": {"{{TASK}}"}}, true, "X-Openwebui-Task"},
		{http.Header{"Priority": {"u=0"}, "X-Openwebui-Task": {"tags"}}, true, ""},
	} {
		if can, odd := CanWait(test.header); can != test.can || odd != test.odd {
			t.Errorf("%v: got %v, %q; want %v, %q", test.header, can, odd, test.can, test.odd)
		}
	}
}
