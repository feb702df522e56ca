package main

import (
	"encoding/xml"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

var host = Host{LoadTime: 8, PromptRate: 2000, DecodeRate: 80, Keep: 4}

func near(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	if !(math.Abs(got-want) <= part*math.Abs(want)) {
		t.Errorf("%s: got %.4g; want %.4g within %.0f %%", what, got, want, 100*part)
	}
}

func TestSameSeedSameWork(t *testing.T) {
	one, again, other := newWork(1, 3600).hash(), newWork(1, 3600).hash(), newWork(2, 3600).hash()
	if one != again || one == other {
		t.Error("a seed must make the same work, and another seed another")
	}
}

func TestDistributions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, k := range []knots{convIn, convOut, codeIn, codeOut, stepIn, stepOut} {
		var drawn []float64
		for range 100_000 {
			drawn = append(drawn, float64(k.draw(r)))
		}
		slices.Sort(drawn)
		for i, q := range []float64{0.5, 0.9, 0.99}[:len(k.z)] {
			near(t, "a quantile", quantile(drawn, q), k.v[i], 0.05)
		}
	}
	for _, cv := range []float64{convCV, codeCV} {
		const n = 1_000_000
		last, sum, squares := 0.0, 0.0, 0.0
		for _, at := range arrivals(r, n, cv, n) {
			sum, squares, last = sum+at-last, squares+(at-last)*(at-last), at
		}
		near(t, "a coefficient of variation", math.Sqrt(squares/n-math.Pow(sum/n, 2))/(sum/n), cv, 0.05)
	}
}

// The host's time adds up, one chat at a time, whatever the policy.
func TestSimulationAddsUp(t *testing.T) {
	for _, p := range policies {
		run := Run{Horizon: 3600, Chats: simulate(newWork(1, 3600), host, p, 300)}
		checkRecords(t, p.name, run.Chats)
		f := figuresOf([]Run{run})
		near(t, p.name+": the host's time, by its model", f.Ratio, 1, 1e-9)
		if hold := p.hold > 0; f.Use > 1 || f.Idle > 0 != hold {
			t.Errorf("%s: the host works for %v of the time, and is idle for %v while somebody waits", p.name, f.Use, f.Idle)
		}
	}
}

func checkRecords(t *testing.T, name string, records []*Record) {
	t.Helper()
	const round = 1e-6
	var served []*Record
	for _, r := range records {
		if r.Sent < r.Due-round || r.End < r.Sent || r.Cached >= r.Prompt ||
			r.Stop > 0 && (r.Start < r.Sent-round || r.Stop < r.Start) ||
			r.Outcome == ok && (r.First < r.Start-round || r.End < r.First || r.Stop-r.Start < r.total()-round) {
			t.Fatalf("%s: impossible: %+v", name, *r)
		}
		if r.Stop > 0 {
			served = append(served, r)
		}
	}
	slices.SortFunc(served, func(a, b *Record) int { return int(math.Copysign(1, a.Start-b.Start)) })
	for i := 1; i < len(served); i++ {
		if served[i].Start < served[i-1].Stop-round {
			t.Fatalf("%s: two chats on the host at once: %+v and %+v", name, *served[i-1], *served[i])
		}
	}
}

// With Poisson arrivals of equal chats the mean wait is that of Pollaczek and Khinchine.
func TestSimulationAgainstTheory(t *testing.T) {
	const n, rho = 20_000, 0.7
	w, h := &work{horizon: n / rho}, Host{PromptRate: 1, DecodeRate: 1, Keep: 1}
	for i, at := range arrivals(rand.New(rand.NewPCG(1, 2)), n, 1, w.horizon) {
		w.lane(Request{ID: i + 1, Client: "c", Conv: string(rune(i + 1)), Prompt: 1, Stream: true, At: at})
	}
	var waits float64
	for _, r := range simulate(w, h, policy{}, 300) {
		waits += r.Start - r.Sent
	}
	near(t, "the mean wait", waits/n, rho/(2*(1-rho)), 0.05)
}

// What the clients of a policy get is what its rules say: shares by weight, and background only when nobody else waits.
func TestSimulatedShares(t *testing.T) {
	w := &work{horizon: 10_000}
	for _, client := range []string{"person1", "other", batch} {
		var lane []Request
		for range 10_000 {
			lane = append(lane, w.request(Request{Client: client, Kind: people, Conv: client, Prompt: 1, Out: 1, Stream: true}))
		}
		w.lane(lane...)
		w.lane(lane...)
	}
	for _, test := range []struct {
		shares shares
		want   [3]float64
	}{{shares{}, [3]float64{1, 1, 1}}, {shares{people: 3}, [3]float64{3, 1, 1}}, {shares{people: 3, background: true}, [3]float64{3, 1, 0}}} {
		time := map[string]float64{}
		for _, r := range simulate(w, Host{PromptRate: 1, DecodeRate: 1, Keep: 9}, policy{fair: true, shares: test.shares}, forever) {
			time[r.Client] += r.Stop - r.Start
		}
		sum := time["person1"] + time["other"] + time[batch]
		for i, client := range []string{"person1", "other", batch} {
			if want := test.want[i] / (test.want[0] + test.want[1] + test.want[2]); math.Abs(time[client]/sum-want) > 0.01 {
				t.Errorf("%+v: %s had %.3f of the time; want %.3f", test.shares, client, time[client]/sum, want)
			}
		}
	}
}

// What clients send directly to the stub fares as in the simulation.
func TestLiveIsAsSimulated(t *testing.T) {
	const horizon = 600
	s := settings{horizon: horizon, patience: 300, scale: 60, host: host}
	run, err := s.once(fronts[0], newWork(1, horizon), host.LoadTime)
	if err != nil {
		t.Fatal(err)
	}
	checkRecords(t, "live", run.Chats)
	live := figuresOf([]Run{run})
	simulated := figuresOf([]Run{{Horizon: horizon, Chats: simulate(newWork(1, horizon), host, policies[0], 300)}})
	least := math.Inf(1) // of chats that the machine did not hold up
	for _, r := range run.Chats {
		if r.Outcome == ok {
			least = min(least, (r.Stop-r.Start)/r.total())
		}
	}
	near(t, "the time of a chat, by the host's model", least, 1, 0.02)
	near(t, "chats done", live.Done, simulated.Done, 0.3) // on a busy machine, too
	near(t, "the host's time", live.Use, simulated.Use, 0.15)
}

// Figures of a run of few chats, reckoned by hand.
func TestFigures(t *testing.T) {
	chat := func(kind, client string, sent, start, stop float64, outcome Outcome) *Record {
		return &Record{
			Request: Request{Kind: kind, Client: client, Prompt: 100, Out: 10}, Due: sent, Sent: sent, First: start + 1, End: stop, Outcome: outcome,
			Start: start, Stop: stop, Cost: Cost{Load: 1, Read: stop - start - 1, Cached: 25},
		}
	}
	left := &Record{Request: Request{Kind: people, Client: "person1"}, Due: 10, Sent: 10, End: 310, Outcome: gaveUp}
	f := figuresOf([]Run{{Horizon: 300, People: 3, Chats: []*Record{
		chat(agents, "person2", 0, 0, 100, ok), chat(batch, batch, 0, 110, 290, ok), chat(agents, "person2", 100, 290, 300, ok), left,
	}}})
	for _, test := range []struct {
		what      string
		got, want float64
	}{
		{"use", f.Use, 290.0 / 300}, {"idle", f.Idle, 10.0 / 300}, {"done", f.Done, 3}, {"tokens", f.Tokens, 30}, {"loads", f.Loads, 1}, {"warm", f.Warm, 0.25},
		{"gave up", float64(f.GaveUp), 1}, {"a wait", f.Waits[people][0], 300}, {"Jain", f.Jain, math.Pow(110.0/3+180, 2) / (3 * (math.Pow(110.0/3, 2) + 180*180))},
	} {
		near(t, test.what, test.got, test.want, 1e-9)
	}
}

// The pictures are SVG in which each front has its place, and tables have a figure for each goal.
func TestWhatIsShown(t *testing.T) {
	s := settings{horizon: 900, patience: 300, host: host, loads: []float64{3, 8}, seeds: []int{1, 2}}
	runs := s.simulate()
	text := tables(runs)
	for _, want := range []string{"**loads in 3 s**", "| foreman's goal | loads in 3 s | loads in 8 s |\n", "\n| Jain's index: at least 0.95 | "} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s; want %q in it", text, want)
		}
	}
	g := groupsOf(runs)[1]
	for _, picture := range []string{drawWaits(g), drawTurns(g), drawResources([]Sample{{0, 20, 9, 12}, {60, 21, 10, 12}})} {
		checkSVG(t, picture)
	}
}

func checkSVG(t *testing.T, picture string) {
	t.Helper()
	paths := 0
	for tokens := xml.NewDecoder(strings.NewReader(picture)); ; {
		token, err := tokens.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("no SVG: %v:\n%.2000s", err, picture)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "path" {
			paths++
		}
	}
	if paths < 5 || strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
		t.Errorf("got a picture of %d paths; want more, and numbers alone:\n%.2000s", paths, picture)
	}
}
