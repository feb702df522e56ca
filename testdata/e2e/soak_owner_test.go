package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// A soakOwner does with foreman what its owner may do while others ask, again and again.
type soakOwner struct {
	t       *testing.T
	base    string // of foreman's URLs, with the owner's token
	tokens  string // file
	clients int

	// How often it was done.
	pauses, stops, reloads int
}

// soakToken is the token of the client with a number.
func soakToken(number int) string { return fmt.Sprint("sesame-soaker-", number) }

// newSoakOwner writes a tokens file for so many clients and the owner.
func newSoakOwner(t *testing.T, clients int) *soakOwner {
	t.Helper()
	o := &soakOwner{t: t, tokens: filepath.Join(t.TempDir(), "tokens"), clients: clients}
	if err := o.writeTokens(-1); err != nil {
		t.Fatal(err)
	}
	return o
}

// writeTokens has all clients in the tokens file but one.
func (o *soakOwner) writeTokens(but int) error {
	var b strings.Builder
	b.WriteString("owner sesame-owner owner\n")
	for i := range o.clients {
		if i != but {
			fmt.Fprintf(&b, "soaker-%d %s\n", i, soakToken(i))
		}
	}
	if err := os.WriteFile(o.tokens+".new", []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(o.tokens+".new", o.tokens)
}

// reload takes one client's token after the other out of the file, and puts it back when
// foreman refuses it, until stop ends.
func (o *soakOwner) reload(stop context.Context) {
	for ; stop.Err() == nil; o.reloads++ {
		number := o.reloads % o.clients
		for _, step := range []struct{ but, status int }{{number, http.StatusUnauthorized}, {-1, http.StatusOK}} {
			if err := o.writeTokens(step.but); err != nil {
				o.t.Error(err)
				return
			}
			lab.Until(stop, func() error { return o.wantAdmission(number, step.status) }) // the next step comes in any case
		}
	}
}

// wantAdmission returns an error unless a client's request for what needs a token and no
// host has this status.
func (o *soakOwner) wantAdmission(number, status int) error {
	r, err := http.NewRequestWithContext(o.t.Context(), http.MethodGet, o.base+"/status", nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+soakToken(number))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("/status for client %d: got %d; want %d", number, resp.StatusCode, status)
	}
	return nil
}

// pause pauses until stop ends, every other time at the cost of the running chat, and
// resumes when the models are unloaded, or after a second: Ollama may be away.
func (o *soakOwner) pause(stop context.Context) {
	for ; stop.Err() == nil; o.pauses++ {
		form := url.Values{"pause": {"1h"}}
		if o.pauses%2 == 1 {
			form.Set("now", "1")
		}
		askStatus(o.t, o.base, http.MethodPost, form)
		limited, cancel := context.WithTimeout(stop, time.Second)
		lab.Until(limited, func() error { return wantUnloaded(o.t, o.base) })
		cancel()
		askStatus(o.t, o.base, http.MethodPost, url.Values{"resume": {"1"}})
		rest(stop, time.Second)
	}
}

// stop stops the running chat now and then, until stop ends.
func (o *soakOwner) stop(stop context.Context) {
	for ; stop.Err() == nil; rest(stop, 700*time.Millisecond) {
		var page struct{ Running *struct{ Stop string } }
		if err := json.Unmarshal([]byte(askStatus(o.t, o.base, http.MethodGet, nil)), &page); err != nil {
			o.t.Error(err)
			return
		}
		if page.Running == nil {
			continue
		}
		resp, err := http.PostForm(o.base+"/status", url.Values{"stop": {page.Running.Stop}})
		if err != nil {
			o.t.Error(err)
			return
		}
		resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK: // the page, to which a stop leads
			o.stops++
		case http.StatusNotFound: // it had ended
		default:
			o.t.Errorf("stop: got %s; want 200 or 404", resp.Status)
		}
	}
}

// check fails the test if any of it was not done.
func (o *soakOwner) check() error {
	if o.pauses == 0 || o.stops == 0 || o.reloads == 0 {
		return errors.New("want all of it done, or this was no soak")
	}
	return nil
}

func (o *soakOwner) String() string {
	return fmt.Sprintf("paused %d times, stopped %d chats, had the tokens file read anew %d times", o.pauses, o.stops, 2*o.reloads)
}

// rest waits, but no longer than stop goes on.
func rest(stop context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-stop.Done():
	}
}
