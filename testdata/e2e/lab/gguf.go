package lab

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// A tensor is a named array of numbers, row by row.
type tensor struct {
	name  string
	shape []uint64
	data  []float32
}

// alignment is that of each tensor's data in a GGUF file, unless it says otherwise.
const alignment = 32

// gguf returns a file of GGUF version 3 with these keys and tensors:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
func gguf(keys map[string]any, tensors []tensor) ([]byte, error) {
	b := new(ggufBuffer)
	b.WriteString("GGUF")
	b.number(uint32(3))
	b.number(uint64(len(tensors)))
	b.number(uint64(len(keys)))
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		b.text(key)
		if err := b.value(keys[key]); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	offset := 0
	for _, t := range tensors {
		b.text(t.name)
		b.number(uint32(len(t.shape)))
		for _, n := range slices.Backward(t.shape) { // the length of a row comes first
			b.number(n)
		}
		b.number(uint32(0)) // 32-bit floats
		b.number(uint64(offset))
		offset += aligned(4 * len(t.data))
	}
	for _, t := range tensors {
		b.Write(make([]byte, aligned(b.Len())-b.Len()))
		b.number(t.data)
	}
	return b.Bytes(), nil
}

// aligned returns the first aligned offset that is not below n.
func aligned(n int) int { return (n + alignment - 1) / alignment * alignment }

// A ggufBuffer is a buffer that nothing can fail to be written to.
type ggufBuffer struct{ bytes.Buffer }

func (b *ggufBuffer) number(v any) {
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		panic(err) // v has no fixed size
	}
}

func (b *ggufBuffer) text(s string) {
	b.number(uint64(len(s)))
	b.WriteString(s)
}

// value writes the number of a value's type, and the value.
func (b *ggufBuffer) value(v any) error {
	const uint32Type, int32Type, float32Type, boolType, stringType, arrayType = 4, 5, 6, 7, 8, 9
	array := func(kind uint32, n int) {
		b.number([]uint32{arrayType, kind})
		b.number(uint64(n))
	}
	switch v := v.(type) {
	case uint32:
		b.number(uint32(uint32Type))
		b.number(v)
	case float32:
		b.number(uint32(float32Type))
		b.number(v)
	case bool:
		b.number(uint32(boolType))
		b.number(v)
	case string:
		b.number(uint32(stringType))
		b.text(v)
	case []int32:
		array(int32Type, len(v))
		b.number(v)
	case []float32:
		array(float32Type, len(v))
		b.number(v)
	case []string:
		array(stringType, len(v))
		for _, s := range v {
			b.text(s)
		}
	default:
		return fmt.Errorf("%T is not a type that the lab writes", v)
	}
	return nil
}
