package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
)

func TestFaultHostFallsAsleep(t *testing.T) {
	for _, when := range []string{"before the first byte", "in mid-stream"} {
		for _, connecting := range []string{"succeeds", "hangs", "succeeds, polls are rare"} {
			inBubble(t, when+"/connecting "+connecting, func(t *testing.T) {
				target := newHolder(t)
				f := newFrontIn(t, target, func(o *Options) {
					switch connecting {
					case "succeeds":
						return
					case "succeeds, polls are rare":
						o.Inventory = inventory.New(o.Target, time.Hour, o.Log)
						return
					}
					target.hangDials(o)
				})
				victim := connect(t, f).post(t, "/v1/messages", "victim")
				running := target.next(t, "victim")
				if when == "in mid-stream" {
					running.say(t, "{}\n")
					victim.begun(t)
				}
				queued := connect(t, f).chat(t, "queued")
				synctest.Wait()

				target.sleep(true)
				began := time.Now()
				expectGivenUp(t, victim, when, "the Ollama host has gone silent")
				if took := time.Since(began); took < 10*time.Second {
					t.Errorf("given up after %v; want 10s at least", took)
				}
				queued.expect(t, http.StatusServiceUnavailable, "queued chat")
				limit := 50 * time.Second
				if connecting == "hangs" {
					limit = 20 * time.Second
				}
				if took := time.Since(began); took > limit {
					t.Errorf("the turn was free after %v; want %v at most", took, limit)
				}
				running.gone()
				target.none(t)
				f.expectIdle(t)

				target.sleep(false)
				time.Sleep(10 * time.Second) // a poll while degraded
				target.serves(t, f, "next")
			})
		}
	}
}

// expectGivenUp reads the answer to what /v1/messages was asked for: it must be a 504,
// or in mid-stream a cut.
func expectGivenUp(t *testing.T, c *wire, when, text string) {
	t.Helper()
	resp, body, err := c.answer(t)
	if when != "in mid-stream" {
		errorSeen{504, text, "timeout_error"}.check(t, "/v1/messages", answer{resp.StatusCode, resp.Header, body, err})
	} else if resp.StatusCode != http.StatusOK || err == nil {
		t.Errorf("status %d, %q and a clean end; want 200 and a cut", resp.StatusCode, body)
	}
}

// What passes the gate by waits no longer for a host that is asleep.
func TestFaultHostFallsAsleepUnderAnEmbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		victim := connect(t, f).post(t, "/api/embed", "victim")
		running := target.next(t, "victim")
		target.sleep(true)
		began := time.Now()
		victim.expect(t, http.StatusGatewayTimeout, "victim")
		if took := time.Since(began); took > 50*time.Second {
			t.Errorf("answered after %v; want 50s at most", took)
		}
		running.gone()
		began = time.Now()
		late := connect(t, f).post(t, "/api/embed", "late")
		late.expect(t, http.StatusServiceUnavailable, "an embed while the host sleeps")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("refused after %v; want 10s at most", took)
		}
		target.none(t)

		target.sleep(false)
		next := connect(t, f).post(t, "/api/embed", "next")
		target.next(t, "next").finish()
		next.expect(t, http.StatusOK, "embed after the host woke")
		f.expectIdle(t)
	})
}

// A living host may be silent for FOREMAN_STALL_TIMEOUT within an answer. Before one, which
// comes in one piece without a stream, it may be for FOREMAN_MAX_TURN.
func TestFaultLivingHostIsSilent(t *testing.T) {
	for _, when := range []string{"before the first byte", "in mid-stream"} {
		for _, silence := range []time.Duration{9 * time.Minute, 11 * time.Minute, 59 * time.Minute} {
			inBubble(t, when+"/"+silence.String(), func(t *testing.T) {
				f, target := newHeldFrontIn(t, nil)
				silent := connect(t, f).post(t, "/v1/messages", "silent")
				running := target.next(t, "silent")
				began, spoke := time.Now(), time.Duration(0)
				for when == "in mid-stream" && spoke < 16*time.Minute { // silences of their own
					spoke += 8 * time.Minute
					time.AfterFunc(spoke, func() { running.say(t, "{}\n") })
				}
				time.AfterFunc(spoke+silence, running.finish)
				least := spoke + silence
				switch {
				case when == "in mid-stream" && silence > 10*time.Minute:
					expectGivenUp(t, silent, when, "")
					least = spoke + 10*time.Minute
				case silence > 10*time.Minute:
					time.Sleep(10*time.Minute - time.Second)
					if f.page.read().Running.Silent {
						t.Error("told on the page before 10 minutes")
					}
					time.Sleep(3 * time.Second)
					f.log.await(t, `"level":"WARN","msg":"a chat has had nothing from the target for FOREMAN_STALL_TIMEOUT; whoever knows that nothing will come can stop it on /status","silent":600`)
					if !f.page.read().Running.Silent {
						t.Error("not told on the page after 10 minutes")
					}
					fallthrough
				default:
					silent.expect(t, http.StatusOK, "silent chat")
				}
				if got, want := strings.Count(f.log.String(), "nothing from the target"), silence > 10*time.Minute && when != "in mid-stream"; got > 1 || got == 1 != want {
					t.Errorf("told %d times in the log; want it once: %t", got, want)
				}
				if took := time.Since(began); took < least || took > least+2*time.Second {
					t.Errorf("answered after %v; want %v", took, least)
				}
				target.serves(t, f, "next")
				f.expectIdle(t)
			})
		}
	}
}

// A turn ends after FOREMAN_MAX_TURN, whatever the host does: nothing, or a model that
// repeats itself. The client hears it in its API's words, and is told not to try again.
func TestFaultTurnTakesTooLong(t *testing.T) {
	const text = "this chat's turn took longer than FOREMAN_MAX_TURN"
	limit := errorSeen{504, text, "timeout_error"}
	for _, test := range []struct {
		name, path, line, end string
		stream, ungated       bool
	}{
		{name: "silent", path: "/api/chat", stream: true},
		{name: "silent, OpenAI", path: "/v1/chat/completions", stream: true},
		{name: "silent, Anthropic, no stream", path: "/v1/messages"},
		{name: "silent, a cloud model", path: "/api/chat", ungated: true},
		{name: "talking", path: "/api/chat", stream: true, line: "{}\n", end: limit.in("/api/chat")},
		{name: "talking, OpenAI", path: "/v1/chat/completions", stream: true, line: "data: {}\n\n", end: "data: " + limit.in("/v1/chat/completions") + "\n"},
		{name: "talking, Anthropic", path: "/v1/messages", stream: true, line: "event: ping\ndata: {}\n\n", end: "event: error\ndata: " + limit.in("/v1/messages") + "\n"},
		{name: "talking, no stream", path: "/api/chat", line: "{\n"},
	} {
		inBubble(t, test.name, func(t *testing.T) {
			target := newHolder(t)
			if test.ungated {
				target.tags = func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, `{"models":[{"name":"chat:latest","remote_host":"https://ollama.com"}]}`)
				}
			}
			f := newFrontIn(t, target, nil)
			victim := connect(t, f)
			began := time.Now()
			victim.send(t, postOf(test.path, fmt.Sprintf(`{"model":"chat","stream":%t,"messages":[{}]}`, test.stream)))
			running := target.any(t)
			said := ""
			var talking sync.WaitGroup
			if test.line != "" {
				talking.Go(func() {
					for {
						select {
						case running.lines <- test.line:
							<-running.said
							time.Sleep(time.Second)
						case <-running.ctx.Done():
							return
						}
					}
				})
				said = strings.Repeat(test.line, 3600)
			}
			resp, body, err := victim.answer(t)
			if took := time.Since(began); took < time.Hour || took > time.Hour+time.Second {
				t.Errorf("answered after %v; want 1h", took)
			}
			if test.line == "" {
				limit.check(t, test.path, answer{resp.StatusCode, resp.Header, body, err})
			} else if resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, said) || strings.TrimPrefix(strings.TrimPrefix(body, said), test.line) != test.end || err == nil {
				t.Errorf("got %d, %d bytes, %.300q at the end, %v; want %q behind the words, and a cut", resp.StatusCode, len(body), body[max(len(body)-300, 0):], err, test.end)
			}
			running.gone()
			talking.Wait()
			target.serves(t, f, "next")
			f.expectIdle(t)
			revoked := map[bool]string{true: "0", false: "1"}[test.ungated] // it had no turn
			wantSamples(t, f, map[string]string{`foreman_turns_revoked_total{reason="max turn"}`: revoked})
			f.log.await(t, `"err":"`+text)
		})
	}
}

// Nobody's turn is too long who has only waited for it.
func TestMaxTurnIsOfTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		first := connect(t, f).chat(t, "first")
		running := target.next(t, "first")
		second := connect(t, f).chat(t, "second")
		time.Sleep(50 * time.Minute)
		running.finish()
		first.expect(t, http.StatusOK, "first")
		running = target.next(t, "second")
		time.Sleep(50 * time.Minute)
		running.finish()
		second.expect(t, http.StatusOK, "second")
		f.expectIdle(t)
	})
}

// What the client has of an answer must not look whole. To one that speaks HTTP/1.0 the
// end of the connection is the end of the answer, unless it is an RST.
func TestFaultTargetDiesInMidStream(t *testing.T) {
	const (
		line    = `{"done":false}` + "\n"
		chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	for framing, begin := range map[string]string{
		"chunked":                   chunked + "f\r\n" + line + "\r\n",
		"nonsense for a chunk":      chunked + "f\r\n" + line + "\r\nSSH\r\n",
		"Content-Length":            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + line,
		"HTTP/1.0":                  "HTTP/1.0 200 OK\r\n\r\n" + line,
		"HTTP/1.1 without a length": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + line,
	} {
		for how, die := range map[string]func(*net.TCPConn) error{"FIN": (*net.TCPConn).Close, "RST": resetTCP} {
			for _, path := range append(dialects, "/api/embed", "/api/chat HTTP/1.0") {
				t.Run(path[1:]+"/"+framing+"/"+how, func(t *testing.T) {
					seen := make(chan bool) // the client has the line
					target := newRawTarget(t, func(c *net.TCPConn, _ int, body string) bool {
						if body == marked("next") {
							io.WriteString(c, answerOf("{}"))
							return true
						}
						io.WriteString(c, begin)
						<-seen
						die(c)
						return false
					})
					f := newFront(t, target.URL, nil)
					victim, next := connect(t, f), connect(t, f)
					victim.send(t, strings.Replace(postOf(path, marked("victim")), "HTTP/1.0 HTTP/1.1", "HTTP/1.0", 1))
					resp, err := http.ReadResponse(victim.in, nil)
					if err != nil {
						t.Fatal(err)
					}
					got := make([]byte, len(line))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != line || resp.StatusCode != http.StatusOK {
						t.Fatalf("status %d, %q, %v; want 200 and the line", resp.StatusCode, got, err)
					}
					next.chat(t, "next")
					seen <- true
					if rest, err := io.ReadAll(resp.Body); err == nil {
						t.Errorf("clean end after %q; want a cut", rest)
					}
					next.expect(t, http.StatusOK, "next chat")
					if got := target.chats(); len(got) != 2 {
						t.Errorf("target got %q; want each chat once", got)
					}
					f.expectIdle(t)
				})
			}
		}
	}
}

// A host that takes its time to tell its models, or does not tell them at all, is alive:
// nobody is turned away, nobody who waits for long is cut, and what is known is told at once.
func TestFaultHostIsSlow(t *testing.T) {
	for _, takes := range []time.Duration{4500 * time.Millisecond, 6 * time.Second, 40 * time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f, target := newHeldFrontIn(t, nil)
			target.takes.Store(int64(takes))
			time.Sleep(35 * time.Second) // a poll has been under way for 5 s
			health := f.do(t, "GET", "/healthz", "")
			began := time.Now()
			if tags := f.do(t, "GET", "/api/tags", ""); tags.status != 200 || time.Since(began) > 0 {
				t.Errorf("%v: tags %d after %v; want 200 at once", takes, tags.status, time.Since(began))
			}
			if ready := f.do(t, "GET", "/readyz", ""); ready.status != 200 || takes > 5*time.Second && !strings.Contains(health.body, `"status":"slow"`) {
				t.Errorf("%v: readyz %d, healthz %s; want 200 and slow", takes, ready.status, health.body)
			}
			chat := connect(t, f).post(t, "/v1/messages", "chat")
			running := target.next(t, "chat")
			queued := connect(t, f).chat(t, "queued")
			embed := connect(t, f).post(t, "/api/embed", "embed")
			embedding := target.next(t, "embed")
			for range 18 {
				time.Sleep(30 * time.Second)
				if up := scrape(t, f)["foreman_target_up"]; up != "1" && takes < time.Hour {
					t.Errorf("%v: foreman_target_up is %s; want 1", takes, up)
				}
			}
			running.finish()
			chat.expect(t, http.StatusOK, fmt.Sprint(takes, ": a chat silent for 9 minutes"))
			target.next(t, "queued").finish()
			queued.expect(t, http.StatusOK, fmt.Sprint(takes, ": the chat behind it"))
			embedding.finish()
			embed.expect(t, http.StatusOK, fmt.Sprint(takes, ": an embedding"))
			f.expectIdle(t)
		})
	}
}

// foreman's own lack of descriptors or ports says nothing of the host: what runs goes on,
// and whoever needs a connection is told.
func TestFaultForemanHasNoDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		var lack atomic.Bool
		f := newFrontIn(t, target, func(o *Options) {
			dialBy(o, func(dial func() (net.Conn, error)) (net.Conn, error) {
				if lack.Load() {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
				}
				return dial()
			})
		})
		chat := connect(t, f).chat(t, "running")
		running := target.next(t, "running")
		queued := connect(t, f).chat(t, "queued")
		lack.Store(true)
		time.Sleep(5 * time.Minute)
		if state := f.Inventory.State(); state.Degraded() || state.Polls.Unreachable != 0 {
			t.Errorf("reason %q, %+v; want the host as it was", state.Reason, state.Polls)
		}
		errorSeen{503, "foreman has no file descriptors left; try again", "overloaded_error"}.check(t, "/api/embed", f.do(t, "POST", "/api/embed", embedBody))
		if a := f.do(t, "GET", "/api/tags", "", "Origin", "http://page.example"); a.status != http.StatusOK {
			t.Errorf("tags: %d; want the last known", a.status)
		}
		lack.Store(false)
		running.finish()
		chat.expect(t, http.StatusOK, "the running chat")
		target.next(t, "queued").finish()
		queued.expect(t, http.StatusOK, "the chat in line")
		f.expectIdle(t)
	})
}

// One poll that is missed, on a busy host perhaps, does not turn a whole line away.
func TestFaultOneMissedPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, target := newHeldFrontIn(t, nil)
		var line []*wire
		for range 6 {
			line = append(line, connect(t, f).chat(t, "same"))
			synctest.Wait()
		}
		target.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(inventoryMisses)
		target.sleep(false)
		if state := f.Inventory.State(); state.Reason != inventory.Unreachable || state.Asleep() {
			t.Fatalf("reason %q, asleep %t; want one missed poll", state.Reason, state.Asleep())
		}
		for i, c := range line {
			target.next(t, "same").finish()
			c.expect(t, http.StatusOK, fmt.Sprint("chat ", i))
		}
	})
}

// A host that falls asleep in the middle of what is not a chat.
func TestFaultHostFallsAsleepWithinAPassedAnswer(t *testing.T) {
	for _, path := range []string{"/api/embed", "/api/show", "/api/pull"} {
		synctest.Test(t, func(t *testing.T) {
			f, target := newHeldFrontIn(t, func(o *Options) { o.Manage = true })
			c := connect(t, f).post(t, path, "half")
			running := target.next(t, "half")
			running.say(t, "{}\n")
			c.begun(t)
			time.Sleep(20 * time.Minute) // for a pull that has nothing to tell
			target.sleep(true)
			began := time.Now()
			if _, body, err := c.answer(t); err == nil {
				t.Errorf("%s: got a whole answer, %q; want it cut", path, body)
			}
			if took := time.Since(began); took > 50*time.Second {
				t.Errorf("%s: cut after %v; want 50 s at most", path, took)
			}
			running.gone()
		})
	}
}

// A lossy connection loses what is written to it, silently, once it is lost.
type lossy struct {
	net.Conn
	lost *atomic.Bool
}

func (l lossy) Write(b []byte) (int, error) {
	if l.lost.Load() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// The way to the host is another one after an outage, and the connections that were
// kept lead nowhere without knowing it.
func TestFaultKeptConnectionsAreLostInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		var lost atomic.Pointer[atomic.Bool] // of connections that are made now
		lost.Store(new(atomic.Bool))
		f := newFrontIn(t, target, func(o *Options) {
			dialBy(o, func(dial func() (net.Conn, error)) (net.Conn, error) {
				c, err := dial()
				return lossy{c, lost.Load()}, err
			})
		})
		target.serves(t, f, "before")
		lost.Swap(new(atomic.Bool)).Store(true)
		target.sleep(true)
		f.Inventory.Refresh()
		time.Sleep(30 * time.Second)
		target.sleep(false)
		time.Sleep(10 * time.Second)

		began := time.Now()
		target.serves(t, f, "after")
		if took := time.Since(began); took > 0 {
			t.Errorf("chat after: answered after %v; want it at once", took)
		}
	})
}

// The first request that finds the target gone, or that it leaves in mid-stream, tells
// the poller, which tells everybody.
func TestFailureAsksForAPoll(t *testing.T) {
	for _, path := range []string{"/api/chat", "/api/embed", "/api/show"} {
		for when, begin := range map[string]string{"before the first byte": "", "in mid-stream": "{}\n"} {
			inBubble(t, when+path, func(t *testing.T) {
				stub, f := timedFront(t, nil)
				die := func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if begin != "" {
						io.WriteString(w, begin)
						w.(http.Flusher).Flush()
					}
					stub.net.reset(true)
				}
				stub.chat, stub.embed, stub.anything = die, die, die
				time.Sleep(10 * time.Second)
				if a := f.do(t, "POST", path, chatBody); begin == "" && a.status != 503 || begin != "" && a.err != io.ErrUnexpectedEOF {
					t.Errorf("%d, ended with %v; want 503 or a cut", a.status, a.err)
				}
				synctest.Wait()
				if got := f.Inventory.State().Reason; got != inventory.Unreachable {
					t.Errorf("reason %q at once; want %q", got, inventory.Unreachable)
				}
			})
		}
	}
}

// A page is told the models that were last known, also by the request that finds
// the host away.
func TestFaultHostIsAwayWhenAPageAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, nil)
		stub.net.reset(true)
		a := f.do(t, "GET", "/api/tags", "", "Origin", "http://page.example")
		if a.status != http.StatusOK || a.body != string(fixture(t, "tags.json")) || a.header.Get("Age") == "" {
			t.Errorf("got %d, Age %q, %q; want the last known", a.status, a.header.Get("Age"), a.body)
		}
		time.Sleep(time.Second)
		if got := f.Inventory.State().Reason; got != inventory.Unreachable {
			t.Errorf("reason %q a second later; want %q", got, inventory.Unreachable)
		}
	})
}

// An Ollama goes away in the middle of a chat, at 65 s, and comes back, at 98 s. Polls are
// at 0, 30 and 60 s.
func TestTwoMinutesOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub, f := timedFront(t, nil)
		began := time.Now()
		until := func(s int) { time.Sleep(time.Duration(s)*time.Second - time.Since(began)) }
		whole := stub.chat
		stub.chat = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Long") == "" {
				whole(w, r)
				return
			}
			io.Copy(io.Discard, r.Body)
			time.Sleep(time.Second / 2)
			for r.Context().Err() == nil { // a token a second
				io.WriteString(w, "{}\n")
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
			}
		}
		chat := func() answer { return f.do(t, "POST", "/api/chat", chatBody) }
		expect := func(what string, status int, a answer) {
			t.Helper()
			if a.status != status || a.err != nil || (a.header.Get("Retry-After") != "") != (status == 503) {
				t.Errorf("after %v: %s: %d %s, %v; want %d", time.Since(began), what, a.status, a.body, a.err, status)
			}
		}
		until(50)
		long, queued := make(chan answer), make(chan answer)
		go func() { long <- f.do(t, "POST", "/api/chat", chatBody, "X-Long", "1") }()
		synctest.Wait()
		go func() { queued <- chat() }()
		until(65)
		stub.net.reset(true)
		if a := <-long; a.status != 200 || a.err != io.ErrUnexpectedEOF || len(a.body) != 3*15 {
			t.Errorf("chat under way: %d, %d bytes, %v; want it cut after 15 lines", a.status, len(a.body), a.err)
		}
		expect("chat in line", 503, <-queued)
		if took := time.Since(began); took > 66*time.Second {
			t.Errorf("both were told after %v; want 65s: at once", took)
		}

		until(70)
		expect("chat", 503, chat())
		expect("embed", 503, f.do(t, "POST", "/api/embed", embedBody))
		expect("ready", 503, f.do(t, "GET", "/readyz", ""))
		expect("health", 200, f.do(t, "GET", "/healthz", ""))
		tags := f.do(t, "GET", "/api/tags", "")
		expect("tags", 200, tags)
		if tags.body != string(fixture(t, "tags.json")) || tags.header.Get("Age") != "10" {
			t.Errorf("tags of age %s: %q; want the last known, 10 s old", tags.header.Get("Age"), tags.body)
		}

		until(98)
		stub.net.reset(false)
		expect("first chat after the return", 200, chat()) // its check polls at once
		synctest.Wait()
		expect("ready", 200, f.do(t, "GET", "/readyz", ""))
		if got := f.Inventory.State().Reason; got != "" {
			t.Errorf("reason %q after the return; want none", got)
		}
		f.expectIdle(t)
	})
}

// A host that answers nothing, not even a connection, costs a whole line one time
// limit, not one for each chat.
func TestFaultLineBehindAHostThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		f := newFrontIn(t, target, target.hangDials)
		var line []*wire
		for range 10 {
			line = append(line, connect(t, f).chat(t, "any"))
			synctest.Wait()
		}
		target.next(t, "any")
		target.sleep(true)
		line[0].expect(t, http.StatusGatewayTimeout, "the running chat")
		began := time.Now()
		for i, c := range line[1:] {
			c.expect(t, http.StatusServiceUnavailable, fmt.Sprintf("chat %d in line", i))
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("the last of the line got its answer after %v; want 4 s at most", took)
		}
		target.sleep(false)
		time.Sleep(10 * time.Second) // Transport goes on with dials that nobody wants any more
		f.expectIdle(t)
	})
}
