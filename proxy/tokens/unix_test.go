//go:build unix

package tokens

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A pipe or a device in the place of the file is refused. Opening the one waits for
// whoever writes into it, and reading the other has no end.
func TestNotAFile(t *testing.T) {
	f, path := open(t, "ann sesame-1\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reloadTwice(f)
	if f.Find("sesame-1") == nil || !strings.Contains(f.done, "not a regular file") {
		t.Errorf("got %v, %q; want the tokens from before", f.Find("sesame-1"), f.done)
	}
	for _, path := range []string{path, "/dev/zero"} {
		if _, err := Open(path, f.log); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: got %v; want it refused", path, err)
		}
	}
}

// A token that is taken out is revoked, also while the process has no descriptor left.
func TestReloadWithoutDescriptors(t *testing.T) {
	f, path := open(t, "ann sesame-1\nbob sesame-2\n")
	ann := f.Find("sesame-1")
	write(t, path, "bob sesame-2\n")

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for {
		file, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	reloadTwice(f)
	if ann.Revoked().Err() == nil || f.Find("sesame-2") == nil {
		t.Errorf("got %q; want ann's token revoked", f.done)
	}

	// Without the one in reserve nothing changes until there are descriptors again.
	f.spare.Close()
	thief, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	reloadTwice(f)
	if f.Find("sesame-2") == nil || !strings.Contains(f.done, "too many open files") {
		t.Error("got no error; want one, and the tokens from before")
	}
	thief.Close()
	reloadTwice(f)
	if strings.Contains(f.done, "open") || f.spare == nil {
		t.Errorf("got %q, %v; want the file read, and a descriptor in reserve again", f.done, f.spare)
	}
}
