package lab

import (
	"math/rand/v2"
	"os"
	"path/filepath"
)

// WriteModel writes a model to path, as GGUF: another one at each call, for
// tests that give models to Ollama and take them away again.
func WriteModel(path, name string) error {
	content, _, err := model(name, rand.Uint64(), nil)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}

// Models is the directory where Ollama keeps what it holds.
func (o *Ollama) Models() string { return filepath.Join(o.dir, "models") }
