// Command manifests checks a file of testdata/deploy as those do who read it, and prints
// what they make of it as JSON:
//
//	manifests compose FILE       as Docker Compose, with its own parser and schema
//	manifests kubernetes FILE    as the API server of Kubernetes, with its own validation
//
// It is a module of its own, so that what it needs changes nothing for the tests.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	checks := map[string]func(ctx context.Context, file string) (any, error){
		"compose":    compose,
		"kubernetes": kubernetes,
	}
	if len(args) != 2 || checks[args[0]] == nil {
		return errors.New("usage: manifests compose|kubernetes FILE")
	}
	made, err := checks[args[0]](ctx, args[1])
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(made)
}
