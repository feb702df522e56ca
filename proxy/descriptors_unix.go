//go:build unix

package proxy

import (
	"math"
	"syscall"
)

// descriptorLimit returns how many file descriptors the process may have open.
func descriptorLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32
	}
	return int(min(uint64(limit.Cur), math.MaxInt32)) // may stand for infinity
}
