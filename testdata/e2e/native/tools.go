//go:build tools

// Package native is a module of its own for an Ollama that runs its models
// itself: its C++ is llama.cpp, and needs a header of malgo.
package native

import _ "github.com/gen2brain/malgo"
