package main

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// All times are seconds of simulated time, from the start of the run.

// A Request is a chat, or an embedding, with its simulated sizes.
type Request struct {
	ID                  int
	Client, Kind, Model string
	Conv                string // requests of one conversation share the beginning of their prompts
	Prompt, Out         int    // tokens; the prompt has all that the conversation had before
	Stream              bool
	At                  float64 // it is not sent before this time
	Gap                 float64 // nor sooner after the end of the request before it in its lane
}

// The kinds of requests.
const (
	people, titles, agents, batch, editor, embeddings = "people", "titles", "agents", "batch", "editor", "embeddings"
)

// A Lane is a row of requests that are sent one after the other, until some time. Open arrivals are lanes of one.
type Lane struct {
	Requests []Request
	Until    float64
}

// knots are quantiles of a published distribution: standard normal z and value. Between them the logarithm is
// interpolated linearly in z, and beyond them with the slope next to them, up to most.
type knots struct {
	z, v []float64
	most float64
}

var (
	z2 = []float64{0, 1.2816}         // p50, p90
	z3 = []float64{0, 1.2816, 2.3263} // p50, p90, p99

	// Azure LLM inference traces 2023 (Patel et al., Splitwise, ISCA 2024; github.com/Azure/AzurePublicDataset).
	convIn  = knots{z3, []float64{1020, 2735, 4142}, 8000}
	convOut = knots{z3, []float64{129, 424, 601}, 1000}
	codeIn  = knots{z3, []float64{1469, 5194, 7436}, 8000}
	codeOut = knots{z3, []float64{13, 90, 252}, 1000}
	// Steps of coding agents (TraceLab, arXiv 2606.30560): what a step appends to the prompt, and its answer.
	stepIn  = knots{z2, []float64{857, 5342}, 20000}
	stepOut = knots{z2, []float64{252, 1671}, 4000}
	// What a person types between two answers: an assumption.
	typed = knots{z2, []float64{60, 250}, 2000}
)

const (
	convCV = 1.09 // coefficient of variation of the arrivals in the Azure trace of conversations
	codeCV = 13.2 // and of code

	agentSteps  = 8.0   // in a request of an agent's user, on average (TraceLab)
	agentSystem = 8000  // tokens of an agent's system prompt and tools: an assumption
	agentLimit  = 48000 // tokens at which a session begins anew: an assumption
	agentPause  = 60.0  // seconds between two requests of an agent's user, on average: an assumption

	batchIn, batchOut, batchWide = 2000, 30, 8

	burst      = 200   // embeddings at once
	burstEvery = 120.0 // seconds
)

// draw draws a number of tokens.
func (k knots) draw(r *rand.Rand) int {
	z, i := r.NormFloat64(), 0
	for i < len(k.z)-2 && z > k.z[i+1] {
		i++
	}
	slope := math.Log(k.v[i+1]/k.v[i]) / (k.z[i+1] - k.z[i])
	return int(math.Round(min(max(1, k.v[i]*math.Exp(slope*(z-k.z[i]))), k.most)))
}

// gamma draws from a gamma distribution of scale 1 (Marsaglia and Tsang, 2000).
func gamma(r *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(r, shape+1) * math.Pow(r.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	for {
		x := r.NormFloat64()
		v := math.Pow(1+x/math.Sqrt(9*d), 3)
		if v > 0 && math.Log(1-r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// arrivals returns n times in [0, horizon) whose gaps are Gamma distributed with a coefficient of variation.
// The gaps are scaled to fill the horizon, so that each seed brings as much work.
func arrivals(r *rand.Rand, n int, cv, horizon float64) []float64 {
	times, sum := make([]float64, n), 0.0
	for i := range times {
		sum += gamma(r, 1/(cv*cv))
		times[i] = sum
	}
	sum += gamma(r, 1/(cv*cv))
	for i := range times {
		times[i] *= horizon / sum
	}
	return times
}

// A work is the seeded work of all clients.
type work struct {
	seed      uint64
	horizon   float64
	clients   []string
	lanes     []Lane
	id, convs int
}

// newWork makes the work at one host: four people who chat, of whom one does nearly half of it, two coding agents, a
// batch that runs for two thirds of the time, an editor that completes code, and one who embeds. They are
// about as unequal as in ServeGen's m-small (Xiang et al., 2025), whose first 1, 3 and 5 clients have 30, 63 and 77 % of the
// requests.
func newWork(seed uint64, horizon float64) *work {
	w := &work{seed: seed, horizon: horizon}
	for i, share := range []float64{0.45, 0.27, 0.17, 0.11} {
		w.person(fmt.Sprintf("person%d", i+1), int(math.Round(144*share*horizon/3600)))
	}
	w.agent("agent1")
	w.agent("agent2")
	w.batch("batch", horizon/6, horizon*5/6)
	w.editor("editor", int(180*horizon/3600))
	w.client("embedder")
	for at := burstEvery / 2; at < horizon; at += burstEvery {
		for range burst {
			w.lane(w.request(Request{Client: "embedder", Kind: embeddings, At: at}))
		}
	}
	return w
}

// client adds a client and returns its random numbers.
func (w *work) client(name string) *rand.Rand {
	w.clients = append(w.clients, name)
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

func (w *work) request(r Request) Request {
	w.id++
	r.ID = w.id
	return r
}

func (w *work) lane(requests ...Request) { w.lanes = append(w.lanes, Lane{requests, w.horizon}) }

// conv begins a conversation: it has a name of its own and one of two models, 60 to 40.
func (w *work) conv(client string, r *rand.Rand) (conv, model string) {
	w.convs++
	model = "a"
	if r.Float64() >= 0.6 {
		model = "b"
	}
	return fmt.Sprintf("%s-%d", client, w.convs), model
}

// person makes n turns of growing conversations, at times that do not depend on the answers: what a slow host
// does to one turn does not hide in the next. After a conversation's first turn comes a call for its title.
func (w *work) person(client string, n int) {
	r := w.client(client)
	var conv, model string
	prompt := 0
	for _, at := range arrivals(r, n, convCV, w.horizon) {
		first := conv == "" || r.Float64() < 0.25
		if first {
			conv, model = w.conv(client, r)
			prompt = convIn.draw(r)
		} else {
			prompt += typed.draw(r)
		}
		turn := Request{Client: client, Kind: people, Model: model, Conv: conv, Prompt: prompt, Out: convOut.draw(r), Stream: true, At: at}
		prompt += turn.Out
		lane := []Request{w.request(turn)}
		if first {
			lane = append(lane, w.request(Request{Client: client, Kind: titles, Model: model, Conv: conv + "-title", Prompt: prompt + 300, Out: 12, Gap: 0.5}))
		}
		w.lane(lane...)
	}
}

// agent makes the sessions of a coding agent: a closed loop of steps whose prompt grows.
func (w *work) agent(client string) {
	r := w.client(client)
	var lane []Request
	var conv, model string
	prompt := agentLimit
	for len(lane) < int(w.horizon/3) {
		gap := agentPause * gamma(r, 1)
		for steps := 1 + int(r.ExpFloat64()*(agentSteps-0.5)); steps > 0; steps-- {
			if prompt >= agentLimit {
				conv, model = w.conv(client, r)
				prompt = agentSystem
			}
			prompt += stepIn.draw(r)
			step := Request{Client: client, Kind: agents, Model: model, Conv: conv, Prompt: prompt, Out: stepOut.draw(r), Stream: true, Gap: gap}
			lane = append(lane, w.request(step))
			prompt += step.Out
			gap = 0.5 + 4.5*r.Float64()
		}
	}
	w.lane(lane...)
}

// batch makes a closed loop of some requests at once, from one time to another. It changes its model now and then.
func (w *work) batch(client string, from, to float64) {
	r := w.client(client)
	lanes := make([]Lane, batchWide)
	for i := range int(to - from) {
		conv, _ := w.conv(client, r)
		model := "a"
		if i%400 >= 240 {
			model = "b"
		}
		l := &lanes[i%batchWide]
		l.Until = to
		l.Requests = append(l.Requests, w.request(Request{Client: client, Kind: batch, Model: model, Conv: conv, Prompt: batchIn, Out: batchOut, At: from}))
	}
	w.lanes = append(w.lanes, lanes...)
}

// editor makes n code completions that share nothing, in bursts; twenty in a row are for the same model.
func (w *work) editor(client string, n int) {
	r := w.client(client)
	model := ""
	for i, at := range arrivals(r, n, codeCV, w.horizon) {
		conv, m := w.conv(client, r)
		if i%20 == 0 {
			model = m
		}
		w.lane(w.request(Request{Client: client, Kind: editor, Model: model, Conv: conv, Prompt: codeIn.draw(r), Out: codeOut.draw(r), Stream: true, At: at}))
	}
}

// hash tells two works apart.
func (w *work) hash() string {
	h := fnv.New32a()
	fmt.Fprint(h, w.lanes)
	return fmt.Sprintf("%08x", h.Sum32())
}
