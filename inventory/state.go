package inventory

import (
	"errors"
	"slices"
	"time"

	"foreman/proxy/target"
)

// Reasons to be degraded, coarse enough for everybody to know.
const (
	Starting     = "starting" // no poll has ended yet
	Unreachable  = "unreachable"
	Unauthorized = "unauthorized"
	BadAnswer    = "bad answer"
)

// State is what was known at one moment.
type State struct {
	Seq      uint64            // grows with every change that [Inventory.Next] reports; 0 before the first
	Tags     []byte            // the target's last good answer to GET /api/tags; nil before the first
	LastPoll time.Time         // when Tags was read
	NextPoll time.Time         // when the next poll is due, unless somebody asks for one before; zero: the first is under way
	Kept     map[string]Answer // the target's last good answers to GET, by kept path
	Reason   string            // why the state is degraded; empty: it is not
	Since    time.Time         // when the state became, or ceased to be, degraded
	Changes  []Change          // of Reason, the latest last; those long ago are left out
	Slow     bool              // the state is not degraded, and the target took 4 s or longer for the last poll, or takes so long now
	Polls    Polls             // polls since the start, by result
	Waking   time.Time         // since when the target is being woken; zero: it is not
	Wakes    Wakes             // attempts to wake it since the start, by result

	// Resident are the models in the memory of the target, in the order of its
	// last answer to GET /api/ps. ResidentRead is when that was read. If it is zero,
	// the resident models are not known, and Resident is nil: they were never
	// read, the last attempt to read them failed, or the state is degraded. PS is that answer,
	// or nil.
	Resident     []Resident
	ResidentRead time.Time
	PS           []byte

	models      models
	err         error     // of the last poll
	local       error     // why foreman could not make the last poll; nil: it could
	unanswered  time.Time // since when nothing that the target was asked was answered; zero: the last was
	unconnected int       // polls in a row that could not connect; those within 4 s of each other count once
	counted     time.Time // when unconnected last grew
	gaveUp      time.Time // when an attempt to wake the target last ended in vain
	resting     bool      // nobody has it woken; see [Inventory.Rest]

	// Polls are numbered from 1.
	requested, begun, ended int       // the last one that was
	beganAt                 time.Time // when the last one began
}

// A Change is when a state came to have a reason to be degraded, or another, or none.
type Change struct {
	At     time.Time
	Reason string
}

// changesLimit is how many changes are kept.
const changesLimit = 100

// An Answer is a body that the target sent, and when it was read.
type Answer struct {
	Body []byte
	Read time.Time
}

// A Resident is a model in the memory of the target.
type Resident struct {
	Name      string    // as the target spells it
	Size      int64     // bytes of memory in all
	SizeVRAM  int64     // bytes of them that are on GPUs
	ExpiresAt time.Time // when the target unloads an idle model; zero: the target did not say
}

// Polls counts polls by result.
type Polls struct {
	OK, Unreachable, Unauthorized, BadAnswer uint64
}

// Degraded reports whether the last poll failed, or none has ended yet.
func (s State) Degraded() bool { return s.Reason != "" }

func (s State) reachable() bool { return s.Reason != Unreachable }

// Asleep reports whether the target is asleep or gone, and not only unreachable for a
// moment: three polls in a row could not connect, or nothing has been answered for 40 s,
// not even HEAD / on a new connection.
func (s State) Asleep() bool {
	return s.unconnected >= asleepAfter || !s.unanswered.IsZero() && time.Since(s.unanswered) >= asleepTime
}

// Len returns how many models the target holds.
func (s State) Len() int { return len(s.models.listed) }

// Models returns the models that the target lists, in its order. The caller must not
// change them.
func (s State) Models() []Model { return s.models.listed }

// Holds reports whether the target holds the model, spelt in any way that Ollama
// accepts.
func (s State) Holds(model string) bool {
	_, ok := s.Find(model)
	return ok
}

// Find returns the model that the target holds, spelt in any way that Ollama accepts.
func (s State) Find(model string) (Model, bool) { return s.models.find(model, nil) }

// IsResident reports whether the model, spelt in any way that Ollama accepts, is
// known to be in the memory of the target.
func (s State) IsResident(model string) bool {
	_, ok := s.Expires(model)
	return ok
}

// Expires returns when the target unloads a resident model if nobody uses it; zero: it
// did not say.
func (s State) Expires(model string) (at time.Time, resident bool) {
	i := slices.IndexFunc(s.Resident, func(r Resident) bool { return Same(r.Name, model) })
	if i < 0 {
		return time.Time{}, false
	}
	return s.Resident[i].ExpiresAt, true
}

// reasonFor returns why a state is degraded whose last poll ended with err.
func reasonFor(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, target.ErrUnreachable):
		return Unreachable
	case errors.Is(err, target.ErrUnauthorized):
		return Unauthorized
	default:
		return BadAnswer
	}
}

// endPoll notes that the poll under way has ended with err. What a good poll has read is
// left to the caller.
func (s *State) endPoll(err error) {
	s.ended = s.begun
	s.local = nil
	if errors.Is(err, target.ErrLocal) {
		s.local = err
		return
	}
	s.err = err
	reason := reasonFor(err)
	s.become(reason, err == nil && time.Since(s.beganAt) >= pollTimeout)
	if err != nil {
		s.Seq++
	}
	switch reason {
	case "":
		s.Polls.OK++
	case Unreachable:
		s.Polls.Unreachable++
	case Unauthorized:
		s.Polls.Unauthorized++
	case BadAnswer:
		s.Polls.BadAnswer++
	}
	if reason == Unreachable {
		s.unansweredPoll()
	} else {
		s.answered()
	}
}

// unansweredPoll notes that the last poll was not answered.
func (s *State) unansweredPoll() {
	now := time.Now()
	if s.unanswered.IsZero() {
		// If HEAD / was answered meanwhile, that was in the time of one HEAD / and the pause
		// before it; and if foreman itself was stopped, the target need not have been.
		s.unanswered = now.Add(-min(now.Sub(s.beganAt), 2*pollTimeout))
	}
	switch {
	case !target.IsUnconnected(s.err):
		s.unconnected = 0
	case s.unconnected == 0 || now.Sub(s.counted) >= pollTimeout: // or several requests at one moment have caused several polls
		s.unconnected, s.counted = s.unconnected+1, now
	}
}

// answered notes that the target has answered something.
func (s *State) answered() { s.unanswered, s.unconnected = time.Time{}, 0 }

// becomeSlow notes that the target has answered HEAD / and not yet a poll that takes long.
func (s *State) becomeSlow() {
	reason := s.Reason
	switch {
	case reason == Unreachable && s.Tags == nil:
		reason, s.err = BadAnswer, errLate
	case reason == Unreachable:
		reason = ""
	}
	if reason != s.Reason {
		s.Seq++
	}
	s.become(reason, reason == "")
}

// become changes the reason to be degraded, or keeps it.
func (s *State) become(reason string, slow bool) {
	now := time.Now()
	if (reason != "") != s.Degraded() {
		s.Since = now
	}
	if reason != s.Reason {
		s.Changes = append(s.Changes[max(0, len(s.Changes)+1-changesLimit):], Change{now, reason})
	}
	s.Reason, s.Slow = reason, slow
	if s.reachable() && !s.Waking.IsZero() {
		s.Waking = time.Time{}
		s.Wakes.OK++
	}
	if s.Degraded() {
		s.Resident, s.ResidentRead, s.PS = nil, time.Time{}, nil
	}
}
