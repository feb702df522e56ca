//go:build !unix

package proxy

import "math"

// descriptorLimit returns how many handles the process may have open.
func descriptorLimit() int { return math.MaxInt32 }
