package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestEmbedsTakeTurns: clients go in turn, each one's own in order of arrival; whoever has
// left is passed over, also if the turn has just come.
func TestEmbedsTakeTurns(t *testing.T) {
	e := newEmbeds(1)
	waits := map[string]*embedWait{}
	join := func(names ...string) {
		t.Helper()
		for _, name := range names {
			w, err := e.join(name[:1])
			if w == nil || err != nil {
				t.Fatalf("%s: %v, %v; want it to wait", name, w, err)
			}
			waits[name] = w
		}
	}
	expect := func(next string) {
		t.Helper()
		var settled []string
		for name, w := range waits {
			select {
			case <-w.settled:
				settled = append(settled, name)
				delete(waits, name)
			default:
			}
		}
		if got := strings.Join(settled, " "); got != next {
			t.Errorf("got the turn: %q; want %q", got, next)
		}
		if atHost, waiting := e.count(); atHost != 1 || waiting != len(waits) {
			t.Errorf("%d at the target, %d wait; want 1, %d", atHost, waiting, len(waits))
		}
	}
	if w, err := e.join("A"); w != nil || err != nil {
		t.Fatalf("the first: %v, %v; want no wait", w, err)
	}
	join("A2", "A3", "A4", "A5", "B1", "C1", "B2")
	for _, next := range []string{"A2", "B1"} {
		e.leave()
		expect(next)
	}
	join("C2", "D1")
	c1, b2 := waits["C1"], waits["B2"]
	e.giveUp(c1)
	expect("C1")
	for _, next := range []string{"C2", "A3"} {
		e.leave()
		expect(next)
	}
	e.leave()
	expect("B2")
	e.giveUp(b2) // its turn has come
	expect("D1")
	e.leave()
	expect("A4")
	a5 := waits["A5"]
	e.close()
	expect("A5")
	if _, err := e.join("A"); err != errShuttingDown || a5.err != errShuttingDown {
		t.Errorf("closed: %v, and who waited %v; want %v", err, a5.err, errShuttingDown)
	}
	e.leave()
	if atHost, _ := e.count(); atHost != 0 {
		t.Errorf("%d at the target; want none", atHost)
	}
}

// An embedding is a foreman that lets a few embeddings at a stub, where a barrier stops
// them. It lives in a bubble.
type embedding struct {
	*front
	barrier
	stub *stub
}

func newEmbedding(t *testing.T, n int) embedding {
	stub, b := newStubIn(t), newBarrier()
	stub.embed = b.then(stub.embed)
	f := stub.front(t, func(o *Options) { o.Embeds, o.Token, o.ClientHeader = n, clientToken, "X-Client" })
	return embedding{f, b, stub}
}

// ask asks for an embedding as a client. The answer comes out of the channel.
func (e embedding) ask(t *testing.T, client, path string) <-chan answer {
	c := make(chan answer, 1)
	go func() {
		c <- e.do(t, "POST", path, embedBody, "Authorization", "Bearer "+clientToken, "X-Client", client)
	}()
	synctest.Wait()
	return c
}

// impatient asks for one as a client that can leave.
func (e embedding) impatient(t *testing.T) *wire {
	w := connect(t, e.front).send(t, postOf("/api/embed", embedBody, "Authorization: Bearer "+clientToken+"\r\n", "X-Client: impatient\r\n"))
	synctest.Wait()
	return w
}

// TestEmbedsAtOnce: with FOREMAN_EMBEDS no more than so many are at the target, on all
// paths; the others wait their turn, are counted, and disturb no chat.
func TestEmbedsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEmbedding(t, 2)
		token := []string{"Authorization", "Bearer " + clientToken, "Accept", "application/json"}
		count := func(atHost, waiting int) {
			t.Helper()
			synctest.Wait()
			json := fmt.Sprintf("\"embeds\": {\n    \"at_host\": %d,\n    \"waiting\": %d\n  }", atHost, waiting)
			if a := e.do(t, "GET", "/status", "", token...); !strings.Contains(a.body, json) {
				t.Errorf("/status has not %s:\n%s", json, a.body)
			}
			samples := fmt.Sprintf("\nforeman_embeds_in_flight %d\n", atHost)
			if a := e.do(t, "GET", "/metrics", "", token...); !strings.Contains(a.body, samples) || !strings.Contains(a.body, fmt.Sprintf("\nforeman_embeds_waiting %d\n", waiting)) {
				t.Errorf("/metrics has not %d at the target and %d waiting", atHost, waiting)
			}
			if got := len(e.arrived); got != atHost {
				t.Errorf("%d have come to the target; want %d", got, atHost)
			}
		}
		var ingestion []<-chan answer
		for _, path := range slices.Concat(embedPaths, embedPaths) {
			ingestion = append(ingestion, e.ask(t, "ingestion", path))
		}
		count(2, 4)
		person := e.ask(t, "person", "/api/embed")
		leaver := e.impatient(t)
		count(2, 6)
		leaver.Close()
		count(2, 5)
		if a := e.do(t, "POST", "/api/chat", chatBody, token...); a.status != http.StatusOK || a.header.Get("Server-Timing") != "queue;dur=0.000" {
			t.Errorf("a chat: %d, Server-Timing %q; want 200 at once", a.status, a.header.Get("Server-Timing"))
		}
		time.Sleep(3 * time.Second)
		for range 2 {
			<-e.arrived
			e.release <- struct{}{}
			synctest.Wait()
		}
		count(2, 3)
		close(e.release)
		for i, answers := range append(ingestion, person) {
			if a := <-answers; a.status != http.StatusOK || a.err != nil {
				t.Errorf("embedding %d: %d %s, %v; want 200", i, a.status, a.body, a.err)
			}
		}
		e.expectIdle(t)
		waited := 0
		for _, record := range e.log.access(t, 9) {
			if record["queue_ms"] == 3000. {
				waited++
			}
		}
		if waited != 5 { // and not the two that went at once
			t.Errorf("the log has %d that waited for 3 s; want 5", waited)
		}
	})
}

// TestEmbedsThatWait end with foreman, when others need the room of their bodies, and, all
// at once, when the target has gone away.
func TestEmbedsThatWait(t *testing.T) {
	for _, test := range []struct {
		name     string
		happens  func(*testing.T, embedding)
		atTarget int // what becomes of the one that is there
		text     string
	}{
		{"closed", func(_ *testing.T, e embedding) { e.Close() }, 200, errShuttingDown.text},
		{"no room", func(t *testing.T, e embedding) {
			e.passes.bodies.limit = e.held() - int64(len(embedBody))
			e.impatient(t).Close()
		}, 200, errNoRoom.text},
		{"away", func(t *testing.T, e embedding) {
			e.stub.answerPolls(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, 504, errUnreachable.text},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			e := newEmbedding(t, 1)
			there := e.ask(t, "ingestion", "/api/embed")
			first := e.ask(t, "ingestion", "/api/embed")
			second := e.ask(t, "ingestion", "/api/embed")
			test.happens(t, e)
			a := <-first
			at := time.Now()
			for _, a := range []answer{a, <-second} {
				if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, test.text) || a.header.Get("Retry-After") == "" {
					t.Errorf("got %d %v %s; want 503, %s", a.status, a.header, a.body, test.text)
				}
			}
			if waited := time.Since(at); waited > 0 {
				t.Errorf("the second had its answer %v later", waited)
			}
			if got := len(e.arrived); got != 1 {
				t.Errorf("%d have come to the target; want 1", got)
			}
			close(e.release)
			if a := <-there; a.status != test.atTarget {
				t.Errorf("at the target: %d %s; want %d", a.status, a.body, test.atTarget)
			}
			e.expectIdle(t)
		})
	}
}
