package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// nativeNeeds are headers that Ollama's C++ includes and no Go module brings, and
// the Debian packages that have them.
var nativeNeeds = []struct{ header, debian string }{
	{"cstddef", "g++"},
	{"nlohmann/json_fwd.hpp", "nlohmann-json3-dev"},
	{"stb/stb_image.h", "libstb-dev"},
}

// ErrMissing is part of the error of a build that needs what is not installed.
var ErrMissing = errors.New("not installed")

// BuildNative builds the Ollama of the module native, whose runner is llama.cpp
// itself, which takes minutes the first time and nothing later on, and returns
// the binary's path in the go command's own cache.
func BuildNative(ctx context.Context, tmp string) (string, error) {
	for _, need := range nativeNeeds {
		cmd := exec.CommandContext(ctx, "g++", "-E", "-x", "c++", "-include", need.header, os.DevNull)
		if err := cmd.Run(); ctx.Err() != nil {
			return "", context.Cause(ctx)
		} else if err != nil {
			return "", fmt.Errorf("real inference needs g++ and its header <%s>, which is %w (Debian: apt-get install %s)", need.header, ErrMissing, need.debian)
		}
	}
	dir := filepath.Join(here(), "native")
	malgo, err := goCommand(ctx, dir, tmp, "list", "-f={{.Dir}}", "github.com/gen2brain/malgo")
	if err != nil {
		return "", err
	}
	include, err := os.MkdirTemp(tmp, "include-")
	if err != nil {
		return "", err
	}
	if err := os.Symlink(malgo, filepath.Join(include, "miniaudio")); err != nil {
		return "", err
	}
	// Compilers also look for headers where CPATH says. It is no part of the
	// cache's key, as flags are: the next include folder asks for no new build.
	if others := os.Getenv("CPATH"); others != "" {
		include += string(os.PathListSeparator) + others
	}
	// Tiny models need no optimizer, which takes most of the time of a build.
	return goCommandWith(ctx, dir, tmp, []string{"CPATH=" + include, "CGO_CFLAGS=-O0", "CGO_CXXFLAGS=-O0"}, "tool", "-n", "ollama")
}
