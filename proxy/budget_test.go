package proxy

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/proxy/status"
)

// Whoever holds most makes room with the last that may be turned away, whatever that
// holds; but not for a client that would hold as much.
func TestBudget(t *testing.T) {
	b := &budget{limit: 100}
	var away []string
	open := func(name string) *room {
		return b.open(name[:1], func(error) { away = append(away, name) })
	}
	want := func(what string, err, wantErr error, used int64, names ...string) {
		t.Helper()
		if err != wantErr || b.used != used || !slices.Equal(away, names) {
			t.Errorf("%s: got %v, %d used, %q turned away; want %v, %d, %q", what, err, b.used, away, wantErr, used, names)
		}
		away = nil
	}
	a1, a2, a3, a4 := open("A1"), open("A2"), open("A3"), open("A4")
	want("A1", a1.take(40), nil, 40)
	want("A2", a2.take(20), nil, 60)
	want("A3", a3.take(20), nil, 80)
	want("A is alone", a4.take(30), errNoRoom, 80)
	b1 := open("B1")
	want("B1 fits", b1.take(20), nil, 100)
	want("B1 grows", b1.take(5), nil, 85, "A3") // and not A4, which holds nothing
	want("A3 is gone", a3.take(1), errNoRoom, 85)
	a3.give()
	want("A3 is gone, and gives nothing back", nil, nil, 85)
	a2.keep()
	want("B1 grows", b1.take(30), nil, 75, "A1") // A2 is not turned away any more
	b2, c1 := open("B2"), open("C1")
	want("B has most", b2.take(30), errNoRoom, 75)
	want("B has most", c1.take(55), errNoRoom, 75) // C would have as much
	want("B has most", c1.take(45), nil, 65, "B1")
	want("C has most", b2.take(20), nil, 85)

	a5, d1 := open("A5"), open("D1")
	a5.canWait() // counts apart from what A has beside it
	want("A5 fits", a5.take(15), nil, 100)
	d1.canWait()
	want("D1 would be the larger one", d1.take(16), errNoRoom, 100)
	want("D1", d1.take(5), nil, 90, "A5")
	want("D1 grows alone", d1.take(15), errNoRoom, 90)
	want("C1 grows, and has most", c1.take(15), nil, 100, "D1")
	c1.give()
	want("all", b2.take(60), nil, 100)
	e1 := open("E1")
	want("several", e1.take(60), nil, 80, "B2")
	for _, r := range []*room{a1, a2, a4, b1, b2, e1, e1} {
		r.give()
	}
	if want("the end", nil, nil, 0); len(b.held) != 0 || b.rooms.Len() != 0 {
		t.Errorf("left are %v, and %d rooms; want none", b.held, b.rooms.Len())
	}
}

// byName lets whoever has the token say its name.
func byName(o *Options) { o.Gate.Fair, o.Token, o.ClientHeader = true, clientToken, "X-User" }

// postAs is a POST of a client with a name, see byName.
func postAs(name, body string) string {
	return postOf("/api/chat", body, "Authorization: Bearer "+clientToken+"\r\n", "X-User: "+name+"\r\n")
}

// wantFull reads a 503.
func (w *wire) wantFull(t *testing.T, whose, text string) {
	t.Helper()
	resp, body, err := w.answer(t)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, text) || err != nil {
		t.Errorf("%s: got %d %q, Retry-After %q, %v; want 503, %s", whose, resp.StatusCode, body, resp.Header.Get("Retry-After"), err, text)
	}
}

func TestFaultOneClientTakesAllPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "too many chats are waiting"
		f, target := newHeldFrontIn(t, byName)
		send := func(name, mark string) *wire {
			c := connect(t, f).send(t, postAs(name, marked(mark)))
			synctest.Wait()
			return c
		}
		var crowd []*wire
		for range 513 {
			crowd = append(crowd, send("crowd", "crowd"))
		}
		send("crowd", "crowd").wantFull(t, "one more", text)
		others := []*wire{send("Ann", "Ann"), send("Bob", "Bob"), send("Ann", "Ann too")}
		for i := range others {
			crowd[512-i].wantFull(t, "the last of the crowd", text)
		}
		if waiting, _ := f.Gate.Len(); waiting != 512 {
			t.Errorf("%d wait; want 512", waiting)
		}
		for i, mark := range []string{"crowd", "Ann", "Bob", "crowd", "Ann too"} {
			time.Sleep(time.Second)
			target.next(t, mark).finish()
			if c := []*wire{crowd[0], others[0], others[1], crowd[1], others[2]}[i]; c.status(t) != http.StatusOK {
				t.Errorf("%s: want its answer", mark)
			}
		}
		f.Gate.Close()
		for _, c := range crowd[3:510] {
			c.Close()
		}
		target.next(t, "crowd").finish()
		crowd[2].expect(t, http.StatusOK, "the running one")
		synctest.Wait()
		f.expectIdle(t)
		bob := status.Share{Client: "Bob (header)", Sum: status.Sum{Chats: 1, Held: status.Span(time.Second)}}
		if got := f.page.read().Shares; len(got) != 3 || !slices.Contains(got, bob) {
			t.Errorf("today: got %v; want three clients, and %v of them", got, bob)
		}
		if got := f.books.recent.Named(); len(got) != 1 || got[""].Chats != 5 {
			t.Errorf("in all: got %v; want the 5 of a second each, of clients without a token of their own", got)
		}
	})
}

// Uploads of whoever holds most end at once, and so do its chats in line, the last first.
func TestFaultOneClientTakesAllBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text, size = "too many bytes are waiting", 1 << 20
		f, target := newHeldFrontIn(t, byName)
		f.chats.bodies.limit = 8 * size
		large := func(name string) string {
			body := marked(name)
			return postAs(name, body+strings.Repeat(" ", size-len(body)))
		}
		send := func(request string) *wire {
			c := connect(t, f)
			go io.WriteString(c, request) // one that is refused is not read to its end
			synctest.Wait()
			return c
		}
		began := time.Now()
		first := send(postAs("crowd", marked("first")))
		running := target.next(t, "first")
		var crowd []*wire
		for range 6 {
			crowd = append(crowd, send(large("crowd")))
		}
		upload, another := send(large("crowd")[:size*9/10]), send(large("crowd")[:size*4/10])
		ann := send(large("Ann"))
		another.wantFull(t, "the last upload", text)
		upload.wantFull(t, "the upload before", text)
		send(large("crowd")).wantFull(t, "one more", text)
		bob := send(large("Bob"))
		crowd[5].wantFull(t, "the last in line", text)
		if waiting, _ := f.Gate.Len(); waiting != 7 || time.Since(began) != 0 {
			t.Errorf("%d wait, after %v; want 7, at once", waiting, time.Since(began))
		}
		time.Sleep(time.Second)
		running.finish()
		first.expect(t, http.StatusOK, "the running one")
		for i, c := range append([]*wire{ann, bob}, crowd[:5]...) {
			time.Sleep(time.Second)
			chat := target.any(t)
			if chat.finish(); !strings.HasPrefix(chat.body, marked([]string{"Ann", "Bob", "crowd"}[min(i, 2)])) {
				t.Errorf("the target got %.40s in turn %d", chat.body, i)
			}
			c.expect(t, http.StatusOK, "one in line")
		}
		synctest.Wait()
		f.expectIdle(t)
	})
}
