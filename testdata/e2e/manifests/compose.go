package main

import (
	"context"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// compose returns the project that a compose file makes where no variable is set.
func compose(ctx context.Context, file string) (any, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: types.ToConfigFiles([]string{file}),
		Environment: types.Mapping{},
	})
}
