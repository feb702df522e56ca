package proxy

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
	"foreman/proxy/ask"
)

// What the target holds in these tests, and what ann may ask for of it.
const (
	someTags = `{"models":[{"name":"Llama3.2:latest", "size":7},{"name":"secret:latest"},{"name":"embed:latest"},{"name":"cloudy:120b-cloud","remote_host":"https://ollama.com:443"}],"more":[ 1]}`
	annsTags = `{"models":[{"name":"Llama3.2:latest", "size":7},{"name":"embed:latest"}],"more":[ 1]}`
	someList = `{"object":"list","data":[{"id":"Llama3.2:latest","owned_by":"library"},{"id":"secret:latest"},{"id":"embed:latest"}]}`
	annsList = `{"object":"list","data":[{"id":"Llama3.2:latest","owned_by":"library"},{"id":"embed:latest"}]}`
	somePS   = `{"models":[{"name":"secret:latest"},{"name":"embed:latest","size":3}]}`
	annsPS   = `{"models":[{"name":"embed:latest","size":3}]}`
	annsLine = "ann " + secret + "-of-ann models=llama3*,embed,absent\nbob " + secret + "-of-bob\n"
)

var (
	asAnn = []string{"Authorization", "Bearer " + secret + "-of-ann"}
	asBob = []string{"Authorization", "Bearer " + secret + "-of-bob"}
)

// newSome starts, in a bubble, a foreman for ann, who may ask for some models alone, and bob.
func newSome(t *testing.T) (*stub, *front) {
	stub := newStubIn(t)
	stub.tags, stub.ps = answerWith("application/json", someTags), answerWith("application/json", somePS)
	stub.anything = func(w http.ResponseWriter, r *http.Request) {
		if origin := r.Header.Get("Origin"); origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", origin)
		}
		if r.URL.Path == "/v1/models" {
			io.WriteString(w, someList)
		}
	}
	f := stub.front(t, func(o *Options) {
		o.Tokens, o.Manage = tokensOf(t, annsLine), true
		o.Inventory = inventory.New(o.Target, 30*time.Second, o.Log, KeptPaths...)
	})
	synctest.Wait() // for what is read after the poll
	return stub, f
}

// TestModelsOfAClient: a client asks for models that it may ask for, and finds no others,
// however it spells them and wherever it asks. Others notice nothing.
func TestModelsOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := func(model string) string { return fmt.Sprintf(`{"model":%q,"messages":[{}]}`, model) }
		type request struct{ method, path, body string }
		var with []func(model string) request // that names a model
		for _, path := range slices.Concat(workerPaths, embedPaths, []string{ask.ShowPath}) {
			with = append(with, func(model string) request { return request{"POST", path, named(model)} })
		}
		with = append(with,
			func(model string) request { return request{"POST", ask.TranscriptionsPath, form(formModel + model)} },
			func(model string) request {
				return request{"POST", "/api/chat", fmt.Sprintf(`{"MODEL":%q,"keep_alive":0}`, model)}
			},
			func(model string) request {
				return request{"POST", ask.ShowPath, fmt.Sprintf(`{"model":"","Name":%q}`, model)}
			},
		)
		inPath := func(model string) request { return request{"GET", "/v1/models/" + model, ""} }

		stub, f := newSome(t)
		expect := func(r request, who []string, status int, text string) {
			t.Helper()
			passed := func() (n int) {
				for _, seen := range stub.seen() {
					if seen != "GET /v1/models" { // read after polls
						n++
					}
				}
				return n
			}
			before := passed()
			a := f.do(t, r.method, r.path, r.body, append([]string{"Content-Type", multipartForm}, who...)...)
			if a.status != status || !strings.Contains(a.body, text) {
				t.Errorf("%s %s %s: %d %s; want %d, %s", r.method, r.path, r.body, a.status, a.body, status, text)
			}
			if got := passed() > before; got != (status == 200) {
				t.Errorf("%s %s %s: passed on: %t", r.method, r.path, r.body, got)
			}
		}
		for _, model := range []string{"secret", "secret:latest", "SECRET", " secret ", "secret:local", "library/secret", "registry.ollama.ai/library/Secret:latest", "cloudy:120b-cloud", "cloudy:120b:cloud", "nobody", "absent"} {
			for _, request := range with {
				expect(request(model), asAnn, 404, "model '"+model+"' not found")
			}
			if !strings.Contains(model, " ") {
				expect(inPath(model), asAnn, 404, "model '"+model+"' not found")
			}
		}
		expect(inPath("secret%3Alatest"), asAnn, 404, "model 'secret:latest' not found")
		for who, models := range map[*[]string][]string{
			&asAnn: {"llama3.2", "Llama3.2:latest", "library/LLAMA3.2", "embed"},
			&asBob: {"llama3.2", "secret", "cloudy:120b:cloud"},
		} {
			for _, model := range models {
				for _, request := range with {
					expect(request(model), *who, 200, "")
				}
				expect(inPath(model), *who, 200, "")
			}
		}

		// What Ollama could read in two ways, or in none, it does not get from ann.
		for _, path := range slices.Concat(embedPaths, []string{ask.ShowPath, "/api/chat"}) {
			for body, text := range map[string]string{
				`{"model":"embed","Model":"secret"}`: "more than one model",
				`{"model":"embed"`:                   "not JSON",
				`{"input":"x"}`:                      "model is required",
				``:                                   "missing request body",
			} {
				expect(request{"POST", path, body}, asAnn, 400, text)
			}
		}
		for _, body := range []string{`{"model":"embed","name":"secret"}`, `{"name":"embed","name":"secret"}`} {
			expect(request{"POST", ask.ShowPath, body}, asAnn, 400, "more than one model")
		}
		expect(request{"POST", "/v1/embeddings", `{"input":"x"}`}, asBob, 200, "")
		expect(request{"POST", ask.ShowPath, `{"model":"embed","name":"secret"}`}, asBob, 200, "")
		expect(request{"POST", ask.TranscriptionsPath + "?model=secret", form(formModel + "embed")}, asAnn, 400, "more than one model")

		for _, rt := range routes {
			if rt.class != manage {
				continue
			}
			path := strings.Replace(rt.path, "{digest}", "sha256:1", 1)
			for method := range strings.FieldsSeq(rt.methods) {
				text := "manages none"
				if method == http.MethodHead {
					text = ""
				}
				expect(request{method, path, `{"model":"embed"}`}, asAnn, 403, text)
				expect(request{method, path, `{"model":"embed"}`}, asBob, 200, "")
			}
		}
		expect(request{"GET", "/api/status", ""}, asAnn, 200, "")
		f.expectIdle(t)
	})
}

// TestListsOfAClient: such a client's lists are those of the last poll, without what it may
// not ask for, also for web pages, and while the target is away.
func TestListsOfAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const origin = "https://page.example"
		stub, f := newSome(t)
		expect := func(path, ann, bob string) {
			t.Helper()
			a := f.do(t, "GET", path, "", append(asAnn, "Origin", origin)...)
			if a.status != 200 || a.body != ann || a.header.Get("Age") == "" || a.header.Get("Access-Control-Allow-Origin") != origin {
				t.Errorf("%s as ann: %d %v %s; want %s", path, a.status, a.header, a.body, ann)
			}
			if a := f.do(t, "GET", path, "", asBob...); a.status != 200 || a.body != bob {
				t.Errorf("%s as bob: %d %s; want %s", path, a.status, a.body, bob)
			}
		}
		expect("/api/tags", annsTags, someTags)
		expect("/v1/models", annsList, someList)
		expect("/api/ps", annsPS, somePS)
		if a := f.do(t, "HEAD", "/api/tags", "", asAnn...); a.status != 200 || a.header.Get("Content-Length") != fmt.Sprint(len(annsTags)) {
			t.Errorf("HEAD: %d %v", a.status, a.header)
		}
		if got, want := stub.seen(), []string{"GET /v1/models", "OPTIONS /api/tags", "GET /v1/models", "GET /api/ps"}; !slices.Equal(got, want) {
			t.Errorf("at the target: %q; want %q", got, want)
		}

		stub.answerPolls(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		f.Inventory.Repoll(t.Context())
		expect("/api/tags", annsTags, someTags)
		expect("/v1/models", annsList, someList)
		if a := f.do(t, "GET", "/api/ps", "", asAnn...); a.status != 503 || !strings.Contains(a.body, errUnreachable.text) {
			t.Errorf("/api/ps while away: %d %s; want 503", a.status, a.body)
		}
	})
}

// TestStatusOfAClient: such a client sees its own chats, and stops no others.
func TestStatusOfAClient(t *testing.T) {
	f, target := newHeldFront(t, func(o *Options) { o.Tokens, o.Embeds = tokensOf(t, strings.ReplaceAll(annsLine, "embed", "chat")), 1 })
	send := func(who []string, mark string) *wire {
		c := connect(t, f).send(t, postOf("/api/chat", marked(mark), who[0]+": "+who[1]+"\r\n"))
		return c
	}
	for _, who := range [][]string{asBob, asAnn} {
		c := send(who, "first")
		target.next(t, "first").finish()
		c.status(t)
		f.do(t, "GET", "/"+who[1][len("Bearer "+secret+"-of-"):]+"s", "", who...)
	}
	bobs := send(asBob, "bob's")
	running := target.next(t, "bob's")
	anns := send(asAnn, "ann's")
	await(t, func() bool { n, _ := f.Gate.Len(); return n == 1 })

	for _, test := range []struct {
		path  string
		has   []string
		hides []string
	}{
		{"/status", []string{`"client": "ann"`, `"running": null`, `"position": 1`, `"chats": 1,`, `"name": "chat:latest"`, `"totals"`, `"route": "/anns"`}, []string{"bob", "embed", `"chats": 2,`}},
		{"/metrics", []string{`foreman_chat_seconds_total{client="ann"}`, `foreman_client_tokens_total{client="ann",kind="prompt"} 0`}, []string{"bob", `client="other"`, "foreman_requests_total"}},
	} {
		a := f.do(t, "GET", test.path, "", append(asAnn, "Accept", "application/json")...)
		for _, text := range test.has {
			if !strings.Contains(a.body, text) {
				t.Errorf("%s as ann has no %s:\n%s", test.path, text, a.body)
			}
		}
		for _, text := range test.hides {
			if strings.Contains(a.body, text) {
				t.Errorf("%s as ann has %s:\n%s", test.path, text, a.body)
			}
			if a := f.do(t, "GET", test.path, "", append(asBob, "Accept", "application/json")...); !strings.Contains(a.body, text) {
				t.Errorf("%s as bob has no %s:\n%s", test.path, text, a.body)
			}
		}
	}

	if a := f.do(t, "GET", "/status", "", asAnn...); a.status != 200 || !strings.Contains(a.body, "</html>") || strings.Contains(a.body, "bob") {
		t.Errorf("the page as ann: %d, with bob: %t", a.status, strings.Contains(a.body, "bob"))
	}

	page := f.page.read()
	if a := f.stop(t, page.Running.Key, asAnn...); a.status != 404 || strings.Contains(a.body, "bob") {
		t.Errorf("ann stops bob's: %d %s; want 404", a.status, a.body)
	}
	if a := f.stop(t, page.Waiting[0].Key, asAnn...); a.status != 303 {
		t.Errorf("ann stops her own: %d; want 303", a.status)
	}
	anns.expect(t, 403, "ann's")
	running.finish()
	bobs.expect(t, 200, "bob's")
}

// TestWarnOfModels: a pattern that no model matches is told once, at a poll.
func TestWarnOfModels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := newStubIn(t)
		f := stub.front(t, nil)
		file := tokensOf(t, "ann "+secret+"-of-ann models=chat,x*,embed:8b\nbob "+secret+"-of-bob\ncarl "+secret+"-of-carl models=x*\n")
		stub.answerPolls(refuseWith(500))
		f.Inventory.Repoll(t.Context())
		go WarnOfModels(t.Context(), file, f.Inventory, f.Log)
		synctest.Wait()
		said := func() int { return strings.Count(f.log.String(), "is it misspelt?") }
		if got := said(); got != 0 {
			t.Errorf("%d warnings while the models cannot be read; want none", got)
		}
		stub.answerPolls(answerWith("application/json", string(fixture(t, "tags.json"))))
		time.Sleep(2 * time.Minute) // many polls
		if log := f.log.String(); said() != 3 || !strings.Contains(log, `"client":"ann","models":"x*"`) || !strings.Contains(log, `"client":"ann","models":"embed:8b"`) || !strings.Contains(log, `"client":"carl","models":"x*"`) {
			t.Errorf("%d warnings; want 3, each once:\n%s", said(), log)
		}
	})
}
