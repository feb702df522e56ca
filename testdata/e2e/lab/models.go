package lab

import (
	"fmt"
	"maps"
	"math/rand/v2"
)

// The two models that every Ollama of the lab holds. Their weights are random
// but always the same, and differ from one model to the other. Either answers
// chats and embeds. A chat is gibberish of exactly num_predict tokens, the same
// ones for the same prompt: from an Ollama that multiplies the weights, and from
// one that has the stand-in for llama-server, which never reads them.
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

// model returns a llama of random weights as GGUF, about a megabyte, and how many
// numbers it has. More keys, or another value for a key, go in more.
func model(name string, seed uint64, more map[string]any) (content []byte, numbers int, err error) {
	vocab := newVocabulary()
	keys := map[string]any{
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
	}
	maps.Copy(keys, more)
	tensors := newTensors(vocab, rand.New(rand.NewPCG(seed, 0)))
	for _, t := range tensors {
		numbers += len(t.data)
	}
	content, err = gguf(keys, tensors)
	return content, numbers, err
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

func newTensors(vocab *vocabulary, rnd *rand.Rand) []tensor {
	var tensors []tensor
	add := func(name string, weight func() float32, shape ...uint64) []float32 {
		size := uint64(1)
		for _, n := range shape {
			size *= n
		}
		data := make([]float32, size)
		for i := range data {
			data[i] = weight()
		}
		tensors = append(tensors, tensor{name + ".weight", shape, data})
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
