// Package lab runs foreman in front of a real Ollama, on 127.0.0.1 alone and
// with nothing left behind: Ollama is built from source by the go command, with a
// stand-in for the program that multiplies; its models are a megabyte of random
// numbers, its home is the caller's temporary directory. The program beside this
// package shows the result to people, the tests beside it drive it.
package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"time"
)

// Until waits until cond returns nil. When ctx ends first it returns cond's
// last error, which says what was still missing.
func Until(ctx context.Context, cond func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// here is the directory of the nested module, whatever the working directory.
func here() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// FreeAddr returns a free address of 127.0.0.1 below the ports that systems
// hand out to outgoing connections: one of those could take the port while its
// server is down for a restart.
func FreeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("no free port on 127.0.0.1")
}
