package lab

import (
	"context"
	"path/filepath"
)

// BuildCaddy builds the Caddy of the module caddy, which takes minutes the first time
// and nothing later on, and returns the binary's path in the go command's own cache.
func BuildCaddy(ctx context.Context, tmp string) (string, error) {
	return goCommand(ctx, filepath.Join(here(), "caddy"), tmp, "tool", "-n", "caddy")
}
