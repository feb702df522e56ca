package main

import (
	"cmp"
	"slices"
)

// A policy is how a simulated front chooses whose chat is next. The zero value is the order of arrival.
type policy struct {
	key, name string
	shares    shares
	silent    bool    // without heartbeats
	fair      bool    // by share, as foreman's gate has it
	affinity  float64 // of the seconds that autoAffinity says; 0: none
	session   string  // who may overtake by affinity, too. "last": the last chat's conversation; "kept": the chat of which the host keeps most
	hold      float64 // seconds for which the host idles at most if the last chat's lane goes on with its conversation by then
	people    bool    // go first of all, and nobody overtakes them: how short a line can make their wait
	shortest  bool    // the chat that takes the host for the least time now: the ideal for the mean wait of open arrivals
}

// autoAffinity is for how many seconds chats for the model loaded last may overtake, where a load takes so many.
func autoAffinity(load float64) float64 { return min(max(3*load, 20), 120) }

// policies are those of the fronts that can be simulated, and others.
var policies = []policy{
	{key: "none", name: "Ollama's own queue", silent: true, affinity: forever}, // see stub.passOn
	{name: "order of arrival", silent: true},
	{key: "arrival", name: "foreman, FAIR=false", affinity: 1},
	{key: "foreman", name: "foreman", fair: true, affinity: 1},
	{key: "weights", name: "foreman, people weigh 3", fair: true, affinity: 1, shares: shares{people: 3}},
	{key: "background", name: "foreman, batch in background", fair: true, affinity: 1, shares: shares{background: true}},
	{name: "foreman, people weigh 100", fair: true, affinity: 1, shares: shares{people: 100}},
	{name: "foreman, AFFINITY=0", fair: true},
	{name: "and the conversation of the last chat first", fair: true, affinity: 1, session: "last"},
	{name: "and conversations that the host still has first", fair: true, affinity: 1, session: "kept"},
	{name: "and 3 s held for the next step of the last", fair: true, affinity: 1, session: "last", hold: 3},
	{name: "people first of all", fair: true, affinity: 1, people: true},
	{name: "shortest first", shortest: true},
}

// A simulation replays a work through a policy and a host, without network and without time between two chats.
type simulation struct {
	policy        policy
	host          Host
	now, patience float64
	events        []event // in order of time
	line          []*job
	running, last *job
	held          float64 // nobody starts before
	overtaken     float64 // since when others are overtaken by affinity; negative: none is
	virtual       float64 // time: see elapse
	reckoned      float64 // until when virtual and the accounts are reckoned
	accounts      map[string]*account
	records       []*Record
}

type event struct {
	at float64
	do func()
}

// An account is where a client stands on the scale of virtual time.
type account struct {
	at      float64
	weight  int     // 0: it is in the background
	chats   int     // in line, or running
	lastRun float64 // when its last turn began, or it came
}

type job struct {
	*Record
	lane    Lane
	next    int // index in lane
	account *account
}

// simulate returns what becomes of a work.
func simulate(w *work, host Host, p policy, patience float64) []*Record {
	s := &simulation{policy: p, host: host, patience: patience, overtaken: -1, accounts: map[string]*account{}}
	for _, lane := range w.lanes {
		if lane.Requests[0].Kind != embeddings {
			s.follow(lane, 0)
		}
	}
	for len(s.events) > 0 && s.events[0].at <= w.horizon+patience {
		e := s.events[0]
		s.events, s.now = s.events[1:], e.at
		s.elapse()
		e.do()
	}
	for _, r := range s.records {
		if r.Outcome == "" {
			r.Outcome, r.End = cutOff, s.now
		}
	}
	if s.running != nil {
		s.running.Stop = s.now
	}
	return s.records
}

func (s *simulation) at(t float64, do func()) {
	i, _ := slices.BinarySearchFunc(s.events, t, func(e event, t float64) int { return cmp.Or(cmp.Compare(e.at, t), -1) })
	s.events = slices.Insert(s.events, i, event{t, do})
}

// elapse moves virtual time on, by the time since, divided by the weights of those who are here, and the account of
// whoever has the turn, by the time since, divided by its weight.
func (s *simulation) elapse() {
	took := s.now - s.reckoned
	s.reckoned = s.now
	if s.running == nil {
		return
	}
	sum := 0
	for _, a := range s.accounts {
		if a.chats > 0 {
			sum += a.weight
		}
	}
	s.virtual += took / float64(max(1, sum))
	s.running.account.at += took / float64(max(1, s.running.account.weight))
}

// follow sends a request of a lane, the one before which has ended now.
func (s *simulation) follow(lane Lane, next int) {
	if next >= len(lane.Requests) {
		return
	}
	r := lane.Requests[next]
	due := max(r.At, s.now+r.Gap)
	if due >= lane.Until {
		return
	}
	s.at(due, func() {
		s.join(&job{Record: &Record{Request: r, Due: due, Sent: due}, lane: lane, next: next + 1})
	})
}

func (s *simulation) join(j *job) {
	client := j.Client
	if !s.policy.fair {
		client = ""
	}
	if s.accounts[client] == nil {
		s.accounts[client] = &account{weight: s.policy.shares.weight(client)}
	}
	j.account = s.accounts[client]
	if j.account.chats == 0 {
		j.account.at, j.account.lastRun = max(j.account.at, s.virtual), s.now
	}
	j.account.chats++
	s.records, s.line = append(s.records, j.Record), append(s.line, j)
	if s.policy.silent || !j.Stream {
		s.at(s.now+patience(j.Request, s.patience), func() {
			if j.First == 0 || j.First > s.now {
				s.end(j, gaveUp)
			}
		})
	}
	s.dispatch()
}

// dispatch gives the turn to whoever is next.
func (s *simulation) dispatch() {
	if s.running != nil || len(s.line) == 0 || s.now < s.held {
		return
	}
	first := s.first(func(*job) bool { return true })
	j := s.choose(first)
	switch {
	case s.last == nil || !slices.ContainsFunc(s.line, func(o *job) bool { return o.Model != j.Model }) || j.Model != s.last.Model:
		s.overtaken = -1 // the kind has changed, or nobody of another waits
	case j != first && s.overtaken < 0:
		s.overtaken = s.now
	}
	s.line = slices.DeleteFunc(s.line, func(o *job) bool { return o == j })
	s.running, s.last, j.account.lastRun = j, j, s.now
	j.Start, j.Cost = s.now, s.host.begin(j.Request)
	if j.First = s.now + j.total(); j.Stream {
		j.First = s.now + j.Load + j.Read
	}
	s.at(s.now+j.total(), func() { s.end(j, ok) })
}

// choose returns whose turn is next: the first, or whoever may overtake it.
func (s *simulation) choose(first *job) *job {
	if s.policy.shortest {
		return slices.MinFunc(s.line, func(a, b *job) int {
			return cmp.Compare(s.host.peek(a.Request).total(), s.host.peek(b.Request).total())
		})
	}
	if !s.mayOvertake(first) {
		return first
	}
	behind := first.account.weight == 0 // then all that wait are in the background, or it waited for ten minutes
	fits := func(j *job) bool { return behind || j.account.weight > 0 }
	switch s.policy.session {
	case "last":
		if j := s.first(func(j *job) bool { return j.Conv == s.last.Conv && fits(j) }); j != nil {
			return j
		}
	case "kept":
		kept := func(j *job) int { return s.host.peek(j.Request).Cached }
		if j := slices.MaxFunc(s.line, func(a, b *job) int { return cmp.Compare(kept(a), kept(b)) }); kept(j) > 0 {
			return j
		}
	}
	if j := s.first(func(j *job) bool { return j.Model == s.last.Model && fits(j) }); j != nil && first.Model != s.last.Model {
		return j
	}
	return first
}

// mayOvertake reports whether others may go before the first by affinity. If it weighs more than the first of them, they
// may for as much shorter.
func (s *simulation) mayOvertake(first *job) bool {
	if s.policy.affinity == 0 || s.last == nil || s.policy.people && first.Kind == people {
		return false
	}
	limit := s.policy.affinity * autoAffinity(s.host.LoadTime)
	if same := s.first(func(j *job) bool { return j.Model == s.last.Model }); same != nil {
		limit *= min(1, float64(max(1, same.account.weight))/float64(max(1, first.account.weight)))
	}
	return s.overtaken < 0 || s.now-s.overtaken < limit
}

// first returns the first by share of those in line that fit; nil: there is none. Whoever is in the background and had a
// turn within ten minutes comes behind all others.
func (s *simulation) first(fits func(*job) bool) *job {
	const minutes = 600
	var first *job
	least := 0.0
	for _, j := range s.line {
		at := j.account.at
		switch {
		case s.policy.people && j.Kind == people:
			at -= forever
		case j.account.weight > 0:
		case s.now-j.account.lastRun < minutes:
			at += forever
		default:
			at = max(at, s.virtual)
		}
		if fits(j) && (first == nil || at < least) {
			first, least = j, at
		}
	}
	return first
}

// end ends a chat that runs or waits, if it has not ended yet, and goes on with its lane.
func (s *simulation) end(j *job, outcome Outcome) {
	if j.Outcome != "" {
		return
	}
	j.Outcome, j.End = outcome, s.now
	if j.First > s.now {
		j.First = 0
	}
	s.line = slices.DeleteFunc(s.line, func(o *job) bool { return o == j })
	if s.running == j {
		j.Stop, s.running = s.now, nil
		s.host.end(j.Cost, j.Stop-j.Start)
		s.hold(j)
	}
	if j.account.chats--; s.running == nil && len(s.line) == 0 {
		clear(s.accounts) // nobody is here
	}
	s.follow(j.lane, j.next)
	s.dispatch()
}

// hold holds the host for the next request of a lane, if that is sure to come soon and may overtake the first.
func (s *simulation) hold(j *job) {
	if s.policy.hold == 0 || len(s.line) == 0 || j.next >= len(j.lane.Requests) {
		return
	}
	next, first := j.lane.Requests[j.next], s.first(func(*job) bool { return true })
	if next.Conv == j.Conv && next.Gap <= s.policy.hold && s.mayOvertake(first) {
		s.held = s.now + next.Gap
		s.at(s.held, s.dispatch)
	}
}
