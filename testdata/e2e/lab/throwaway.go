package lab

import (
	"math/rand/v2"
	"path/filepath"
)

// WriteModel writes a model to path, as GGUF: another one at each call, for
// tests that give models to Ollama and take them away again.
func WriteModel(path, name string) error { return writeModel(path, name, rand.Uint64()) }

// Models is the directory where Ollama keeps what it holds.
func (o *Ollama) Models() string { return filepath.Join(o.dir, "models") }
