package main

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"foreman/e2e/lab"
)

// TestJavaScript installs the clients of js/package-lock.json in a copy of js
// and runs the tests there against a foreman that wants a token.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	const advice = "the JavaScript clients need Node.js 18 or later, with npm (Debian: apt-get install nodejs npm)"
	node, npm := need(t, advice, "node"), need(t, advice, "npm")
	foreman := startForeman(t, startLeavable(t).URL, "FOREMAN_TOKEN=sesame")
	env := append(os.Environ(),
		"FOREMAN_URL="+foreman.URL,
		"FOREMAN_TOKEN=sesame",
		"CHAT_MODEL="+lab.ChatModel,
		"EMBED_MODEL="+lab.EmbedModel,
		"LEAVE_STREAMS="+strconv.FormatBool(mayLeaveStreams()))
	if standIn { // which hears nothing, but answers
		const ear = "tiny-ear"
		own := startOllama(t)
		if err := own.AddEarModel(ear); err != nil {
			t.Fatal(err)
		}
		env = append(env, "EAR_URL="+startForeman(t, own.URL, "FOREMAN_TOKEN=sesame").URL, "EAR_MODEL="+ear)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("js")); err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		t.Logf("%s %q:\n%s", program, args, out)
		if err != nil {
			t.Fatalf("%s %q: got %v; want exit status 0", program, args, err)
		}
	}
	run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	run(node, "--test", "--test-reporter=spec")
}
