package ask

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"
)

// worst are bodies that are costly to read, about n bytes long.
func worst(n int) map[string]string {
	fill := func(begin, repeated, end string) string {
		return begin + strings.Repeat(repeated, n/len(repeated)) + end
	}
	const rest = `"messages":[{"role":"user","content":"x"}]}`
	return map[string]string{
		"short keys in options":       fill(`{"model":"chat","options":{`, `"a":1,`, `"b":2},`+rest),
		"empty keys":                  fill(`{"model":"chat",`, `"":1,`, rest),
		"keys as long as a name":      fill(`{"model":"chat",`, `"modex":1,"streax":2,`, rest),
		"escaped keys":                fill(`{"model":"chat",`, `"\u006dodex":1,"\u0061":2,`, rest),
		"escaped keys, long ones":     fill(`{"model":"chat",`, `"\u006b\u0065\u0065\u0070\u005f\u0061\u006c\u0069\u0076\u0066":1,`, rest),
		"one model again and again":   fill(`{`, `"model":"a",`, rest),
		"it is spelt in two ways":     fill(`{`, `"model":"a","Model":"\u0061",`, rest),
		"a long one, in two ways":     fill(`{`, `"model":"`+strings.Repeat(`a\u006d`, 500)+`","Model":"`+strings.Repeat(`\u0061m`, 500)+`",`, rest),
		"keys that begin like a name": fill(`{"model":"chat","options":{`, `"draft_num_predicu":1,`, `"b":2},`+rest),
		"options again and again":     fill(`{"model":"chat",`, `"options":{"num_ctx":1},`, rest),
		"an option again and again":   fill(`{"model":"chat","options":{`, `"num_ctx":1,`, `"b":2},`+rest),
		"nothing in anything":         fill(`{"model":"chat","x":[`, `[],{},`, `0],`+rest),
		"nested":                      fill(`{"model":"chat","x":[`, strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+",", `0],`+rest),
		"numbers":                     fill(`{"model":"chat","x":[`, `1,`, `0],`+rest),
		"words":                       fill(`{"model":"chat","x":[`, `true,null,`, `0],`+rest),
		"a string of letters":         fill(`{"model":"chat","x":"`, `letters `, `",`+rest),
		"a string of escapes":         fill(`{"model":"chat","x":"`, `\"\\`, `",`+rest),
		"white space":                 fill(`{"model":"chat",`, "\n", rest),
		"white space in a value":      fill(`{"model":"chat","x":[`, "\n", `],`+rest),
		"a model's name":              fill(`{"model":"`, `\u0061`, `",`+rest),
		"spaces around a name":        fill(`{"model":"`, ` `, `chat",`+rest),
		"keep_alive":                  fill(`{"model":"chat","keep_alive":[`, `[],`, `0],"messages":[]}`),
		"more behind it":              `{"model":"chat",` + rest + fill(``, `{"model":"b"}`, ``),
		"behind it what is no object": fill(`{"model":"chat","options":{`, `"a":1,`, `"b":2},`+rest) + "x",
		"cut off":                     fill(`{"model":"chat","options":{`, `"a":1,`, ``),
	}
}

// TestCost: to read a body costs at most four times what encoding/json takes to check it,
// and no memory. Of many runs the fastest counts, which nothing else on the machine has
// disturbed.
func TestCost(t *testing.T) {
	for name, text := range worst(128 << 10) {
		body := []byte(text)
		check, read := time.Hour, time.Hour
		affordable := func() bool { return read <= 4*check }
		for run := 0; run < 20 || run < 300 && !affordable(); run++ {
			began := time.Now()
			json.Valid(body)
			checked := time.Now()
			JSON("/api/chat", body)
			check, read = min(check, checked.Sub(began)), min(read, time.Since(checked))
		}
		if name != "more behind it" && !affordable() { // encoding/json reads only the beginning of that
			t.Errorf("%s: %v; want at most four times %v", name, read, check)
		}
		allocated := uint64(1 << 30)
		for run := 0; run < 20 && allocated > 32<<10; run++ { // encoding/json keeps its memory, as a rule
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			JSON("/api/chat", body)
			runtime.ReadMemStats(&after)
			allocated = min(allocated, after.TotalAlloc-before.TotalAlloc)
		}
		if allocated > 32<<10 {
			t.Errorf("%s: %d KiB allocated; want a few", name, allocated>>10)
		}
		t.Logf("%s: %.1f times %v", name, float64(read)/float64(check), check)
	}
}
