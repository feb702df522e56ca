package main

import (
	"hash/fnv"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
)

// A voice says words without meaning: the same ones for the same model and prompt.
type voice struct {
	rnd  *rand.Rand
	last string
}

func newVoice(model, prompt string) *voice { return &voice{rnd: seeded(model, prompt)} }

func seeded(texts ...string) *rand.Rand {
	h := fnv.New64a()
	for _, text := range texts {
		io.WriteString(h, text+"\x00") // a hash takes everything
	}
	return rand.New(rand.NewPCG(h.Sum64(), 0))
}

// word returns the next word, which is never the one before it: Ollama gives up on
// a model that repeats itself. All words but the first begin with a space.
func (v *voice) word(first bool) string {
	word := v.last
	for word == v.last {
		var b strings.Builder
		if !first {
			b.WriteByte(' ')
		}
		for range 1 + v.rnd.IntN(3) {
			b.WriteByte("bdfgklmnprstvz"[v.rnd.IntN(14)])
			b.WriteByte("aeiou"[v.rnd.IntN(5)])
		}
		word = b.String()
	}
	v.last = word
	return word
}

// words returns so many words.
func (v *voice) words(n int) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range n {
			if !yield(v.word(i == 0)) {
				return
			}
		}
	}
}

// dimensions is the length of an embedding: what the lab's models say of themselves.
const dimensions = 64

// embed returns numbers without meaning: the same ones for the same model and text.
func embed(model, text string) []float32 {
	rnd := seeded(model, text)
	numbers := make([]float32, dimensions)
	for i := range numbers {
		numbers[i] = float32(rnd.NormFloat64())
	}
	return numbers
}

// tokensOf returns one token for each byte, as a tokenizer does that knows no words.
// The numbers are those of the byte tokens in the lab's models.
func tokensOf(text string) []int {
	tokens := make([]int, len(text))
	for i := range len(text) {
		tokens[i] = firstByte + int(text[i])
	}
	return tokens
}

// firstByte is the token of byte 0.
const firstByte = 3

// textOf is the reverse of tokensOf. Tokens that are no bytes have no text.
func textOf(tokens []int) string {
	var b []byte
	for _, token := range tokens {
		if c := token - firstByte; c >= 0 && c < 256 {
			b = append(b, byte(c))
		}
	}
	return string(b)
}
