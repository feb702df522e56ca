package main

import (
	"encoding/json"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// An agent gives its model tools and a task. So that one can be seen at work, the
// stand-in plays its model: for the task below, in a prompt of the lab's AgentTemplate, it
// says some words, if it may, and calls a tool that can do it, and when it has read what
// came of that it says so. A prompt of that template without the task has a short answer.

// task is what the user of an agent asks for. Line and file have no spaces: some agents
// wrap the text, quote it, or put it between tags.
var task = regexp.MustCompile(`([Ww]ithout a word,\s+)?[Ww]rite the line (\S+) to the file (\S+) and say so`)

// Where tools begin and end in a prompt of AgentTemplate, and where a message begins
// that says what came of a call.
const (
	toolsBegin, toolsEnd = "<tools>", "</tools>"
	resultBegin          = "<|im_start|>tool\n"
)

// agentBegin is what prompts of AgentTemplate begin with, and no others do.
const agentBegin = "<|agent|>"

// A tool is one that an agent offers.
type tool struct {
	Function struct {
		Name       string
		Parameters struct {
			Properties map[string]property
			Required   []string
		}
	}
}

// A property is one argument of a tool.
type property struct {
	Type  any // a name, or several
	Enum  []any
	Items struct{ Type any }
}

// play returns the words of an answer to a prompt, if the prompt is an agent's.
func play(model, prompt string) (words iter.Seq[string], ok bool) {
	if !strings.HasPrefix(prompt, agentBegin) {
		return nil, false
	}
	begin := newVoice(model, prompt).words(8)
	found := task.FindAllStringSubmatchIndex(prompt, -1)
	offered := toolsOf(prompt)
	if found == nil || len(offered) == 0 {
		return begin, true
	}
	last := found[len(found)-1]
	line, file := prompt[last[4]:last[5]], prompt[last[6]:last[7]]
	if strings.LastIndex(prompt, resultBegin) > last[0] {
		return slices.Values(strings.SplitAfter("I wrote the line "+line+" to the file.", " ")), true
	}
	name, arguments, ok := choose(offered, line, file)
	if !ok {
		return slices.Values(strings.SplitAfter("None of the tools can write a file.", " ")), true
	}
	call, err := json.Marshal(struct { // the name first: Ollama takes the first that it sees
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
	}{name, arguments})
	if err != nil {
		panic(err) // texts, numbers and lists can be written
	}
	called := strings.SplitAfter("<tool_call>"+string(call)+"</tool_call>", ":")
	if last[2] >= 0 { // without a word
		return slices.Values(called), true
	}
	said := slices.Collect(newVoice(model, prompt).words(defaultWords))
	return slices.Values(slices.Concat(strings.SplitAfter("I will do that: ", " "), said, []string{"\n"}, called)), true
}

// toolsOf returns the tools that a prompt offers.
func toolsOf(prompt string) (tools []tool) {
	_, rest, _ := strings.Cut(prompt, toolsBegin)
	list, _, _ := strings.Cut(rest, toolsEnd)
	if json.Unmarshal([]byte(list), &tools) != nil {
		return nil
	}
	return tools
}

// choose returns a call that writes the line to the file: of a tool that has a file and
// a content, or else of one that has a shell's command. Which argument is which their
// names say.
func choose(tools []tool, line, file string) (name string, arguments map[string]any, ok bool) {
	shell := "printf '%s\\n' " + line + " > " + file
	for _, want := range []map[string][]string{
		{file: {"file_path", "filePath", "filepath", "absolutePath", "path"}, line + "\n": {"content", "contents"}},
		{shell: {"command", "cmd", "commands"}},
	} {
		for _, t := range tools {
			if arguments, ok := t.fill(want); ok {
				return t.Function.Name, arguments, true
			}
		}
	}
	return "", nil, false
}

// fill returns arguments that have each wanted value under one of its names, and under
// what else the tool requires something of its type.
func (t *tool) fill(want map[string][]string) (arguments map[string]any, ok bool) {
	arguments = map[string]any{}
	properties := t.Function.Parameters.Properties
	for value, names := range want {
		i := slices.IndexFunc(names, func(name string) bool { _, ok := properties[name]; return ok })
		if i < 0 {
			return nil, false
		}
		arguments[names[i]] = any(value)
		if properties[names[i]].is("array") {
			list := []string{value}
			if names[i] == "command" { // Codex's, which is no shell
				list = []string{"sh", "-c", value}
			}
			arguments[names[i]] = list
		}
	}
	for _, name := range t.Function.Parameters.Required {
		if _, ok := arguments[name]; !ok {
			arguments[name] = properties[name].any()
		}
	}
	return arguments, true
}

// is tells whether a value may be of the type.
func (p property) is(kind string) bool {
	kinds, several := p.Type.([]any)
	return p.Type == any(kind) || several && slices.Contains(kinds, any(kind))
}

// any returns some value that may stand for p.
func (p property) any() any {
	switch {
	case len(p.Enum) > 0:
		return p.Enum[0]
	case p.is("boolean"):
		return false
	case p.is("number"), p.is("integer"):
		return 10000
	case p.is("array"):
		return []any{}
	case p.is("object"):
		return map[string]any{}
	default:
		return "as asked"
	}
}
