package lab

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A store is the directory where an Ollama keeps its models: blobs under their
// digests, and for each model a manifest that names its blobs. Every version of
// Ollama reads it as it is here.
type store string

// A layer is how a manifest names a blob.
type layer struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int    `json:"size"`
}

// blob keeps some content.
func (s store) blob(mediaType string, content []byte) (layer, error) {
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	file := filepath.Join(string(s), "blobs", "sha256-"+sum)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return layer{}, err
	}
	return layer{mediaType, "sha256:" + sum, len(content)}, os.WriteFile(file, content, 0o600)
}

func (s store) jsonBlob(mediaType string, content any) (layer, error) {
	b, err := json.Marshal(content)
	if err != nil {
		return layer{}, err
	}
	return s.blob(mediaType, b)
}

// manifest is where the manifest of a model is.
func (s store) manifest(name string) string {
	return filepath.Join(string(s), "manifests/registry.ollama.ai/library", name, "latest")
}

// add writes the manifest of a model, made so long ago: Ollama lists its models by
// the second of their making, and in no order within one second.
func (s store) add(name string, ago time.Duration, config any, layers ...layer) error {
	configLayer, err := s.jsonBlob("application/vnd.docker.container.image.v1+json", config)
	if err != nil {
		return err
	}
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.docker.distribution.manifest.v2+json",
		"config":        configLayer,
		"layers":        append([]layer{}, layers...),
	})
	if err != nil {
		return err
	}
	file := s.manifest(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return err
	}
	made := time.Now().Add(-ago)
	return os.Chtimes(file, made, made)
}

// addModel adds a model whose weights are random, but always the same for a seed.
// More keys, or another value for a key of its GGUF, go in more, and more layers in layers.
func (s store) addModel(name string, seed uint64, more map[string]any, layers ...layer) error {
	content, numbers, err := model(name, seed, more)
	if err != nil {
		return err
	}
	weights, err := s.blob("application/vnd.ollama.image.model", content)
	if err != nil {
		return err
	}
	length := any(contextLength)
	if other, ok := more["llama.context_length"]; ok {
		length = other
	}
	// One thread: more would spin for each other, for ages on a busy machine.
	parameters, err := s.jsonBlob("application/vnd.ollama.image.params", map[string]any{
		"num_ctx": length, "num_predict": 32, "num_thread": 1, "temperature": 0, "seed": 1,
	})
	if err != nil {
		return err
	}
	return s.add(name, time.Duration(seed)*time.Hour, map[string]any{
		"model_format":   "gguf",
		"model_family":   "llama",
		"model_families": []string{"llama"},
		"model_type":     fmt.Sprintf("%.2fK", float64(numbers)/1000),
		"file_type":      "F32",
	}, append(layers, weights, parameters)...)
}

// addLabModels adds the models that every Ollama of the lab holds, if the store is
// new.
func (s store) addLabModels() error {
	if _, err := os.Stat(s.manifest(ChatModel)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i, name := range []string{ChatModel, EmbedModel} {
		if err := s.addModel(name, uint64(i), nil); err != nil {
			return err
		}
	}
	return nil
}

// AddModel adds a model that can chat, and differs from those of other seeds. The lab's
// own have 0 and 1.
func (o *Ollama) AddModel(name string, seed uint64) error {
	return store(o.Models()).addModel(name, seed, nil)
}

// AddLongModel does so with one of whose prompts nothing is left out, up to 64 KB.
func (o *Ollama) AddLongModel(name string, seed uint64) error {
	return store(o.Models()).addModel(name, seed, map[string]any{"llama.context_length": uint32(64 << 10)})
}

// AddCloudModel adds a model that runs elsewhere: a request for it goes to the
// server at host, under the name of remote. Ollama lists it with remote_host. It
// refuses to go to a host whose name is not in OLLAMA_REMOTES, or with
// OLLAMA_NO_CLOUD=1, which is what the lab sets.
func (o *Ollama) AddCloudModel(name, host, remote string) error {
	return store(o.Models()).add(name, 2*time.Hour, map[string]any{
		"model_format":     "",
		"model_family":     "llama",
		"model_families":   []string{"llama"},
		"remote_host":      host,
		"remote_model":     remote,
		"capabilities":     []string{"completion"},
		"context_length":   contextLength,
		"embedding_length": width,
	})
}

// AddEarModel adds a model that can hear, as its GGUF says: it takes what is sent to
// /v1/audio/transcriptions.
func (o *Ollama) AddEarModel(name string) error {
	return store(o.Models()).addModel(name, 3, map[string]any{"llama.audio.block_count": uint32(1)})
}
