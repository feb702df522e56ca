package proxy

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"foreman/inventory"
	"foreman/proxy/status"
	"foreman/proxy/target"
	"foreman/warm"
)

// scrape returns the samples of /metrics by name and labels.
func scrape(t *testing.T, f *front) map[string]string {
	t.Helper()
	a := f.do(t, "GET", "/metrics", "")
	if a.status != http.StatusOK || a.err != nil {
		t.Fatalf("/metrics: %d, %v", a.status, a.err)
	}
	samples := map[string]string{}
	for line := range strings.Lines(a.body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			name += "}"
		} else if name, value, ok = strings.Cut(strings.TrimSpace(line), " "); !ok {
			t.Fatalf("no sample: %q", line)
		}
		if _, twice := samples[name]; twice {
			t.Errorf("%s stands twice", name)
		}
		samples[name] = value
	}
	return samples
}

// await yields until cond holds: for what tells nobody when it happens.
func await(t *testing.T, cond func() bool) {
	t.Helper()
	for !cond() {
		if t.Context().Err() != nil {
			t.Fatal("the test has ended")
		}
		runtime.Gosched()
	}
}

func wantSamples(t *testing.T, f *front, want map[string]string) {
	t.Helper()
	got := scrape(t, f)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s = %q; want %q", name, got[name], value)
		}
	}
}

func TestMetricsTellOfRequests(t *testing.T) {
	stub := newStub(t)
	f := newFront(t, stub.URL, nil)
	f.do(t, "POST", "/api/chat", `{"model":"CHAT"}`)
	f.do(t, "POST", "/api/chat", `{"model":"nobody"}`)
	f.do(t, "POST", "/api/embed", `{"model":"embed"}`)
	f.do(t, "POST", "/anything/else", "")
	f.expectIdle(t)
	wantSamples(t, f, map[string]string{
		`foreman_requests_total{route="/api/chat",code="200"}`:                  "1",
		`foreman_requests_total{route="/api/chat",code="404"}`:                  "1",
		`foreman_requests_total{route="/api/embed",code="200"}`:                 "1",
		`foreman_requests_total{route="other",code="404"}`:                      "1",
		`foreman_rejected_total{reason="unknown model"}`:                        "1",
		`foreman_rejected_total{reason="path"}`:                                 "1",
		`foreman_rejected_total{reason="queue full"}`:                           "0",
		`foreman_queue_wait_seconds_count`:                                      "1",
		`foreman_request_duration_seconds_bucket{route="/api/embed",le="+Inf"}`: "1",
		`foreman_first_byte_seconds_count{route="/api/chat"}`:                   "2",
		`foreman_queue_depth`:                                                   "0",
		`foreman_chats_in_flight`:                                               "0",
		`foreman_target_up`:                                                     "1",
		`foreman_inventory_models`:                                              "2",
		`foreman_retries_total`:                                                 "0",
		`foreman_turns_revoked_total{reason="client left"}`:                     "0",
		`foreman_warms_total{result="ok"}`:                                      "0",
		`foreman_embedder_resident`:                                             "0",
	})
}

func TestMetricsTellOfTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stub := newStubIn(t)
		stub.ps = answerWith("application/json", `{"models":[{"name":"embed:latest"}]}`) // for how long it does not say
		var warmer *warm.Warmer
		f := stub.front(t, func(o *Options) {
			o.EmbedModel = "embed"
			warmer = warm.New(o.Target, o.Inventory, o.Gate, o.EmbedModel, o.Log)
			o.Warmer = warmer
		})
		start(t, warmer.Run)
		synctest.Wait()
		wantSamples(t, f, map[string]string{
			`foreman_polls_total{result="ok"}`:     "1",
			`foreman_warms_total{result="ok"}`:     "1",
			`foreman_warms_total{result="failed"}`: "0",
			`foreman_embedder_resident`:            "1",
		})
		stub.answerPolls(refuseWith(401))
		time.Sleep(31 * time.Second)
		stub.answerPolls(refuseWith(500))
		time.Sleep(5 * time.Second)
		stub.net.reset(true)
		time.Sleep(5 * time.Second)
		wantSamples(t, f, map[string]string{
			`foreman_polls_total{result="ok"}`:           "1",
			`foreman_polls_total{result="unreachable"}`:  "1",
			`foreman_polls_total{result="unauthorized"}`: "1",
			`foreman_polls_total{result="bad answer"}`:   "1",
			`foreman_embedder_resident`:                  "0",
		})
	})
}

// The age is that of the last good poll, and there is none before the first.
func TestMetricsTellTheInventorysAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := newHolder(t)
		target.sleep(true)
		f := newFrontIn(t, target, nil)
		if age, ok := scrape(t, f)["foreman_inventory_age_seconds"]; ok {
			t.Errorf("age %q before the first good poll; want none", age)
		}
		wantSamples(t, f, map[string]string{"foreman_target_up": "0", "foreman_inventory_models": "0"})
		target.sleep(false)
		f.Inventory.Repoll(t.Context())
		time.Sleep(7 * time.Second)
		target.sleep(true)
		wantSamples(t, f, map[string]string{"foreman_target_up": "1", "foreman_inventory_age_seconds": "7"})
		time.Sleep(40 * time.Second)
		wantSamples(t, f, map[string]string{"foreman_target_up": "0", "foreman_inventory_age_seconds": "47", "foreman_inventory_models": "2"})
	})
}

// TestREADME compares the table of metrics in their README with what is told.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("metrics/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| metric | type | labels |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	want := map[string]bool{}
	for _, match := range regexp.MustCompile("`(foreman_\\w+)`").FindAllStringSubmatch(table, -1) {
		want[match[1]] = true
	}
	got := map[string]bool{}
	f := newFront(t, newStub(t).URL, func(o *Options) { o.Embeds = 1 })
	f.books.recent.Add(status.Record{IsChat: true, Client: "ann", Named: true, Held: 1})
	page := f.do(t, "GET", "/metrics", "").body
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (foreman_\w+) `).FindAllStringSubmatch(page, -1) {
		got[match[1]] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("/metrics has %q; the README %q", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// Whatever clients send, each label's values come from a set that is known.
func TestLabelsAreClosedSets(t *testing.T) {
	f := newFront(t, newStub(t).URL, nil)
	for _, model := range []string{"chat", `"}\n{` + strings.Repeat("private", 50)} {
		body, err := json.Marshal(map[string]string{"model": model})
		if err != nil {
			t.Fatal(err)
		}
		for _, rt := range routes {
			for _, method := range append(strings.Fields(rt.methods), "OPTIONS", "PATCH") {
				f.do(t, method, strings.NewReplacer("{model...}", "a/b", "{digest}", "sha256:1").Replace(rt.path), string(body), "X-Request-Id", "private")
			}
		}
		f.do(t, "POST", "/private", string(body))
	}
	sets := map[string][]string{
		"route":  {noRoute.path},
		"reason": append(slices.Clone(reasons), revokedLeft, revokedStalled, revokedAsleep, revokedStall, revokedMaxTurn, revokedStopped, revokedToken),
		"result": {"ok", "failed", inventory.Unreachable, inventory.Unauthorized, inventory.BadAnswer},
		"le":     {"+Inf"}, "quantile": {"0", "0.25", "0.5", "0.75", "1"},
		"client": {"other"}, "kind": {promptTokens, completionTokens}, "version": {"v1.2.3", runtime.Version()}, "goversion": {runtime.Version()},
	}
	for _, rt := range routes {
		sets["route"] = append(sets["route"], rt.path)
	}
	for _, bound := range bounds {
		sets["le"] = append(sets["le"], strconv.FormatFloat(bound, 'g', -1, 64))
	}
	for code := range 600 {
		sets["code"] = append(sets["code"], strconv.Itoa(code))
	}
	samples := scrape(t, f)
	if n := len(samples); n < 300 || n > 3000 {
		t.Errorf("%d samples; want some hundreds", n)
	}
	for name := range samples {
		for _, match := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(name, -1) {
			if !slices.Contains(sets[match[1]], match[2]) {
				t.Errorf("%s: %q is in no known set", name, match[0])
			}
		}
	}
}

func TestReasonsAreAClosedSet(t *testing.T) {
	for _, err := range []error{
		badRequest(""), methodRefused(""), &http.MaxBytesError{}, errNoRoute, hostRefused(""), errToken, stopped(""), errCrossOrigin, errNotStoppable, errManage, errLoop, errEncoding, errSlowUpload,
		modelRefused("", inventory.ErrNotFound), ErrShuttingDown, errQueueTimeout, errNoRoom, modelRefused("", inventory.ErrDegraded), errNotPolled, errAsleep, errMaxTurn, errBadUpload,
		target.ErrLocal, target.ErrUnreachable, errSwitched, io.ErrNoProgress,
	} {
		a := explain(err)
		if !slices.Contains(reasons, a.reason) {
			t.Errorf("%v: reason %q is not in reasons", err, a.reason)
		}
	}
}
