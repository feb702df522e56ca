package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// A job is what launchd takes from its property list, of the keys that the files use.
type job struct {
	Label                string
	ProgramArguments     []string
	UserName             string
	EnvironmentVariables environment
	KeepAlive            any // whether, or when
	ExitTimeOut          int
	SoftResourceLimits   struct{ NumberOfFiles int }
	StandardErrorPath    string
}

// plistReader has Python's own parser, which is as strict as Apple's, print a property list
// as JSON.
const plistReader = `import json, plistlib, sys
json.dump(plistlib.load(open(sys.argv[1], "rb"), fmt=plistlib.FMT_XML), sys.stdout)`

// readJob reads a property list.
func readJob(t *testing.T, file string) (made job, err error) {
	python := need(t, "the test of the property lists needs Python (Debian: apt-get install python3)", "python3")
	content, err := exec.CommandContext(t.Context(), python, "-c", plistReader, file).Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return made, errors.New(string(exit.Stderr))
	}
	var keys map[string]json.RawMessage
	if err := errors.Join(err, json.Unmarshal(content, &keys), json.Unmarshal(content, &made)); err != nil {
		return made, err
	}
	for key := range keys { // launchd passes over what it does not know, and so over another case
		if _, ok := reflect.TypeFor[job]().FieldByName(key); !ok {
			return made, fmt.Errorf("an unexpected key: %s", key)
		}
	}
	if want := strings.TrimSuffix(filepath.Base(file), ".plist"); made.Label != want {
		return made, fmt.Errorf("the label is %q; want that of the file, %q", made.Label, want)
	}
	return made, nil
}

// TestLaunchd has a property list's parser read what a Mac is given, looks at what must
// agree between the files and foreman, and runs what they run: launchd itself is on no
// other machine.
func TestLaunchd(t *testing.T) {
	t.Parallel()
	const foremanFile, awakeFile = "../deploy/foreman.plist", "../deploy/foreman-awake.plist"
	t.Run("mistakes", func(t *testing.T) {
		wantRefused(t, foremanFile, []edit{
			{"no end", "</plist>", "", "no element found"},
			{"a key without a value", "<string>nobody</string>", "", "unexpected key"},
			{"no number", "<integer>40</integer>", "<integer>forty</integer>", "forty"},
			{"misspelt key", "<key>ExitTimeOut", "<key>ExitTimeout", "an unexpected key: ExitTimeout"},
			{"a number in the environment", "<string>4</string>", "<integer>4</integer>", "job.EnvironmentVariables of type string"},
			{"another label", "<string>foreman</string>", "<string>fireman</string>", "fireman"},
		}, func(file string) error { _, err := readJob(t, file); return err })
	})
	foreman, err := readJob(t, foremanFile)
	if err != nil {
		t.Fatal(err)
	}
	foreman.EnvironmentVariables.wantDrains(t, time.Duration(foreman.ExitTimeOut)*time.Second)
	if n := foreman.SoftResourceLimits.NumberOfFiles; n < 4*512 {
		t.Errorf("foreman may have %d descriptors; want 2,048", n)
	}
	foreman.EnvironmentVariables.start(t)

	awake, err := readJob(t, awakeFile)
	if err != nil {
		t.Fatal(err)
	}
	if args := awake.ProgramArguments; len(args) != 3 || args[0] != "/bin/sh" || args[1] != "-c" || awake.KeepAlive != true {
		t.Fatalf("got %q, kept alive: %v; want a line for the shell, for ever", args, awake.KeepAlive)
	}
	need(t, "the line that keeps a Mac awake needs curl (Debian: apt-get install curl)", "curl")
	programs := t.TempDir()
	for name, text := range map[string]string{
		"sleep":      `echo "sleep $*"; mkdir "$0.done" 2>/dev/null`, // for one turn of the loop
		"caffeinate": `echo "caffeinate $*"`,
	} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	const address = "http://localhost" + ":8080"
	if want := foreman.EnvironmentVariables.port(t); !strings.HasSuffix(address, ":"+want) {
		t.Errorf("the Mac asks at %s; foreman listens on port %s", address, want)
	}
	run := func(at string) string {
		line := strings.Replace(awake.ProgramArguments[2], address, at, 1)
		if line == awake.ProgramArguments[2] {
			t.Fatalf("%s asks nobody at %s", line, address)
		}
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", line)
		cmd.Env = []string{"PATH=" + programs + ":" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err := os.Remove(filepath.Join(programs, "sleep.done")); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		return string(out)
	}
	busy, release := holdTurn(t)
	defer release()
	line := startForeman(t, ollama.URL).URL
	const awoken = "caffeinate -is -t 30\n"
	if got := run(busy); strings.Count(got, awoken) != 1 {
		t.Errorf("while a chat runs: got %s; want %s", got, awoken)
	}
	for name, at := range map[string]string{"no chat": line, "no foreman": "http://" + lab.ChatModel + ".invalid"} {
		if got := run(at); strings.Contains(got, "caffeinate") {
			t.Errorf("%s: got %s; want a Mac that may sleep", name, got)
		}
	}
}
