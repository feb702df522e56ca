package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"foreman/e2e/lab"
)

// TestForemanIsStopped stops foreman for longer than it lets clients and the host be
// silent. They were not: what they sent meanwhile is there when it goes on.
func TestForemanIsStopped(t *testing.T) {
	needStandIn(t)
	t.Parallel()
	own := startOllama(t, lab.Pace{Rate: 20}.Env()...)
	foreman := startForeman(t, own.URL, "FOREMAN_EMBED_MODEL=", "FOREMAN_STALL_TIMEOUT=20s")
	resp, err := http.Post(foreman.URL+"/api/chat", "application/json", strings.NewReader(fmt.Sprintf(
		`{"model":%q,"messages":[{"role":"user","content":"hello"}],"options":{"num_predict":1000}}`, lab.ChatModel)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan()
	upload, err := net.Dial("tcp", strings.TrimPrefix(foreman.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	body := fmt.Sprintf(`{"model":%q,"input":"hello"}`, lab.EmbedModel)
	fmt.Fprintf(upload, "POST /api/embed HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:10])
	answers := textproto.NewReader(bufio.NewReader(upload))
	if line, err := answers.ReadLine(); err != nil || line != "HTTP/1.1 100 Continue" { // now it waits for the body
		t.Fatalf("upload: got %q, %v; want 100 Continue", line, err)
	}
	answers.ReadLine() // an empty one
	foreman.Sleep()
	t.Cleanup(foreman.Wake)
	fmt.Fprint(upload, body[10:])
	<-time.After(40 * time.Second)
	foreman.Wake()
	if answer, err := http.ReadResponse(answers.R, nil); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("upload: got %+v, %v; want 200", answer, err)
	}
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	if err := lines.Err(); err != nil || !strings.Contains(last, `"done":true`) {
		t.Errorf("chat: got %v after %s; want a whole answer", err, last)
	}
}
