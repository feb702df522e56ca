package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/fs/ggml"
)

// The two models that every Ollama of the lab holds. Their weights are random
// but always the same, and differ from one model to the other. Either answers
// chats and embeds. A chat is gibberish of exactly num_predict syllables, the
// same ones for the same prompt.
const (
	ChatModel  = "tiny-chat"
	EmbedModel = "tiny-embed"
)

// Sizes of the models: just large enough for Ollama's llama architecture.
const (
	width         = 64
	feedForward   = 128
	blocks        = 2
	heads         = 4
	contextLength = 2048
)

// createModels writes the two models under dir, the home of Ollama, and gives
// them to it.
func createModels(ctx context.Context, client *api.Client, dir string) error {
	for i, name := range []string{ChatModel, EmbedModel} {
		if err := createModel(ctx, client, filepath.Join(dir, name+".gguf"), name, uint64(i)); err != nil {
			return fmt.Errorf("create %s: %w", name, err)
		}
		// Ollama lists its models by the second of their making, and in no
		// order within one second: make it the same list every time.
		manifest := filepath.Join(dir, "models/manifests/registry.ollama.ai/library", name, "latest")
		made := time.Now().Add(time.Duration(-i) * time.Hour)
		if err := os.Chtimes(manifest, made, made); err != nil {
			return err
		}
	}
	return nil
}

func createModel(ctx context.Context, client *api.Client, path, name string, seed uint64) error {
	if err := writeModel(path, name, seed); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	if err := client.CreateBlob(ctx, digest, bytes.NewReader(b)); err != nil {
		return err
	}
	return client.Create(ctx, &api.CreateRequest{
		Model: name,
		Files: map[string]string{filepath.Base(path): digest},
		// One thread: more would spin for each other, for ages on a busy machine.
		Parameters: map[string]any{"num_ctx": contextLength, "num_predict": 32, "num_thread": 1, "temperature": 0, "seed": 1},
	}, func(api.ProgressResponse) error { return nil })
}

// writeModel writes a llama of random weights, about a megabyte, as GGUF.
func writeModel(path, name string, seed uint64) error {
	vocab := newVocabulary()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = ggml.WriteGGUF(f, ggml.KV{
		"general.architecture":                   "llama",
		"general.name":                           name,
		"general.file_type":                      uint32(0), // F32
		"llama.context_length":                   uint32(contextLength),
		"llama.embedding_length":                 uint32(width),
		"llama.block_count":                      uint32(blocks),
		"llama.feed_forward_length":              uint32(feedForward),
		"llama.attention.head_count":             uint32(heads),
		"llama.attention.head_count_kv":          uint32(heads),
		"llama.attention.layer_norm_rms_epsilon": float32(1e-5),
		"llama.rope.dimension_count":             uint32(width / heads),
		"llama.vocab_size":                       uint32(len(vocab.tokens)),
		"tokenizer.ggml.model":                   "llama",
		"tokenizer.ggml.tokens":                  vocab.tokens,
		"tokenizer.ggml.scores":                  vocab.scores,
		"tokenizer.ggml.token_type":              vocab.types,
		"tokenizer.ggml.unknown_token_id":        uint32(0),
		"tokenizer.ggml.bos_token_id":            uint32(1),
		"tokenizer.ggml.eos_token_id":            uint32(2),
		"tokenizer.ggml.add_bos_token":           true,
	}, newTensors(vocab, rand.New(rand.NewPCG(seed, 0))))
	if err != nil {
		return err
	}
	return f.Close()
}

// A vocabulary is what a llama tokenizer needs: three special tokens, one for
// each byte, so that every prompt can be written, and syllables to answer in.
type vocabulary struct {
	tokens    []string
	scores    []float32
	types     []int32
	syllables int // index of the first one; the rest are syllables too
}

func newVocabulary() *vocabulary {
	const normal, unknown, control, byteToken = 1, 2, 3, 6
	v := new(vocabulary)
	add := func(token string, tokenType int32) {
		v.tokens = append(v.tokens, token)
		v.scores = append(v.scores, -float32(len(v.tokens)))
		v.types = append(v.types, tokenType)
	}
	add("<unk>", unknown)
	add("<s>", control)
	add("</s>", control)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), byteToken)
	}
	v.syllables = len(v.tokens)
	for _, vowel := range "aeiou" {
		for _, consonant := range "bdfgklm" {
			add("\u2581"+string(consonant)+string(vowel), normal) // begins a word
		}
		for _, consonant := range "nprstvz" {
			add(string(consonant)+string(vowel), normal)
		}
	}
	return v
}

func newTensors(vocab *vocabulary, rnd *rand.Rand) []ggml.Tensor {
	var tensors []ggml.Tensor
	add := func(name string, weight func() float32, shape ...uint64) floats {
		size := uint64(1)
		for _, n := range shape {
			size *= n
		}
		data := make(floats, size)
		for i := range data {
			data[i] = weight()
		}
		tensors = append(tensors, ggml.Tensor{Name: name + ".weight", Shape: shape, WriterTo: data})
		return data
	}
	one := func() float32 { return 1 }
	normal := func() float32 { return float32(rnd.NormFloat64()) }
	random := func() float32 { return normal() / 8 } // 8: the root of width

	size := uint64(len(vocab.tokens))
	embeddings := add("token_embd", normal, size, width)
	for i := range blocks {
		blk := fmt.Sprintf("blk.%d.", i)
		add(blk+"attn_norm", one, width)
		add(blk+"attn_q", random, width, width)
		add(blk+"attn_k", random, width, width)
		add(blk+"attn_v", random, width, width)
		add(blk+"attn_output", random, width, width)
		add(blk+"ffn_norm", one, width)
		add(blk+"ffn_gate", random, feedForward, width)
		add(blk+"ffn_up", random, feedForward, width)
		add(blk+"ffn_down", random, width, feedForward)
	}
	add("output_norm", one, width)

	// No token follows itself, for Ollama gives up on a model that repeats
	// itself: what resembles the last token scores less. Rows of zeros score
	// nothing, and the best of the syllables always scores more: the answer has
	// no stray bytes and does not end before its time.
	output := add("output", random, size, width)
	for i := range output {
		output[i] -= embeddings[i] / 4
	}
	clear(output[:vocab.syllables*width])
	return tensors
}

type floats []float32

func (f floats) WriteTo(w io.Writer) (int64, error) {
	return int64(4 * len(f)), binary.Write(w, binary.LittleEndian, []float32(f))
}
