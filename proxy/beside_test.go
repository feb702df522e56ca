package proxy

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"foreman/warm"
)

// While a chat has the turn, what the target does no work for passes beside it.
func TestWhatNeedsNoTurn(t *testing.T) {
	stub := newStub(t)
	stub.tags = answerWith("application/json", `{"models":[{"name":"chat:latest"},{"name":"gpt-oss:120b-cloud","remote_host":"https://ollama.com:443"}]}`)
	barrier := newBarrier()
	chat := stub.chat
	stub.chat = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Mark") == "turn" {
			barrier.then(chat)(w, r)
			return
		}
		chat(w, r)
	}
	f := newFront(t, stub.URL, nil)
	done := make(chan answer, 1)
	go func() { done <- f.do(t, "POST", "/api/chat", chatBody, "X-Mark", "turn") }()
	<-barrier.arrived

	for _, test := range []struct{ path, body, beside string }{
		{"/api/generate", `{"model":"chat","keep_alive":0}`, ungatedUnload},
		{"/api/chat", `{"model":"chat","messages":[],"keep_alive":0}`, ungatedUnload},
		{"/api/chat", `{"model":"gpt-oss:120b-cloud","messages":[{"role":"user","content":"x"}]}`, ungatedRemote},
		{"/v1/chat/completions", `{"model":" gpt-oss:120b:cloud ","messages":[]}`, ungatedRemote},
	} {
		if a := f.do(t, "POST", test.path, test.body); a.status != http.StatusOK || a.header.Get("Server-Timing") != "" {
			t.Errorf("%s %s: %d %s, Server-Timing %q; want 200 and no wait", test.path, test.body, a.status, a.body, a.header.Get("Server-Timing"))
		}
		f.log.await(t, `"queue_ms":0,"ungated":"`+test.beside+`"`)
		if row := latest(f)[0]; row.Ungated != test.beside {
			t.Errorf("%s %s: on the page %q; want %q", test.path, test.body, row.Ungated, test.beside)
		}
	}
	if a := f.do(t, "POST", "/api/generate", `{"model":"unknown","keep_alive":0}`); a.status != http.StatusNotFound {
		t.Errorf("unload of an unknown model: %d; want 404", a.status)
	}
	unclear := make(chan answer, 1) // what may be no unload stands in line
	go func() {
		unclear <- f.do(t, "POST", "/api/chat", `{"model":"chat","keep_alive":0,"messages":[{}],"Messages":[]}`)
	}()
	await(t, func() bool { waiting, _ := f.Gate.Len(); return waiting == 1 })
	if waiting, busy := f.Gate.Len(); waiting != 1 || !busy {
		t.Errorf("%d wait, busy %v; want the first chat and one more", waiting, busy)
	}
	close(barrier.release)
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("the chat with the turn: %d; want 200", a.status)
	}
	if a := <-unclear; a.status != http.StatusOK || a.header.Get("Server-Timing") == "" {
		t.Errorf("what may be no unload: %d, Server-Timing %q; want 200 after a turn", a.status, a.header.Get("Server-Timing"))
	}
	if strings.Contains(f.log.String(), `"ungated":""`) {
		t.Error("a chat that had its turn is marked too")
	}
	f.expectIdle(t)
}

// An embedding with another model has the embedder looked at and warmed at once; one
// with the embedder itself has not, nor has one that failed.
func TestEmbeddingWithAnotherModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := newStubIn(t)
		var warms atomic.Int32
		var asked atomic.Value
		var evicted atomic.Bool
		embed, resident := stub.embed, stub.ps
		stub.embed = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Header.Get("User-Agent") == "foreman":
				body, _ := io.ReadAll(r.Body)
				asked.Store(string(body))
				warms.Add(1)
				evicted.Store(false)
			case r.Header.Get("X-Mark") == "other":
				evicted.Store(true)
			case r.Header.Get("X-Mark") == "fails":
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			embed(w, r)
		}
		stub.ps = func(w http.ResponseWriter, r *http.Request) {
			if evicted.Load() {
				answerWith("application/json", `{"models":[{"name":"other"}]}`)(w, r)
				return
			}
			resident(w, r)
		}
		f := stub.front(t, func(o *Options) {
			o.EmbedModel, o.MaxBody = "embed", 4<<20
			o.Warmer = warm.New(o.Target, o.Inventory, o.Gate, o.EmbedModel, o.Log)
		})
		start(t, f.Warmer.Run)
		time.Sleep(time.Second)
		polls := stub.polled()
		for _, path := range embedPaths {
			f.do(t, "POST", path, embedBody)
			f.do(t, "POST", path, `{"model":"other"}`, "X-Mark", "fails")
		}
		f.do(t, "POST", "/api/embed", `{"input":"`+strings.Repeat("x", 2<<20)+`","model":"embed","options":{"num_ctx":512}}`)
		f.do(t, "POST", "/api/embed", `{"model":"embed","options":{"num_ctx":0}}`, "X-Mark", "fails")
		time.Sleep(time.Second)
		if got := stub.polled() - polls; got != 0 {
			t.Errorf("polled %d times after embeddings with the embedder; want none", got)
		}
		for i, body := range []string{`{"model":"other","input":"x"}`, `{"input":"` + strings.Repeat("x", 2<<20) + `","model":"other"}`} {
			f.do(t, "POST", "/api/embed", body, "X-Mark", "other")
			time.Sleep(time.Second)
			if got := int(warms.Load()); got != i+1 {
				t.Errorf("warmed %d times within a second of embedding %d; want each time", got, i)
			}
			if got := asked.Load().(string); !strings.Contains(got, `,"options":{"num_ctx":512}}`) {
				t.Errorf("warmed with %s; want the options of the last embedding that went well", got)
			}
		}
	})
}
