package status

import (
	"cmp"
	"time"

	"foreman/proxy/usage"
)

// A Record is what is remembered of a request that has ended, and the parts of its time.
type Record struct {
	ID         string      `json:"id"` // X-Request-Id
	Method     string      `json:"method"`
	Route      string      `json:"route"` // path in the route table, or other; in [Recent] the path itself
	Path       string      `json:"-"`     // that was asked, where it is not the route's
	IsChat     bool        `json:"-"`
	Model      string      `json:"model,omitempty"`      // of a chat: as asked, or as the target spells it, once it is known to hold it
	Client     string      `json:"client"`               // who asks: a name, or an address; the page leaves out its port
	Named      bool        `json:"-"`                    // that is the name of a token
	Weight     int         `json:"weight,omitempty"`     // of a chat's client, as its token has it; 0: it has none
	Background string      `json:"background,omitempty"` // what says that a chat can wait: file, header or tier; empty: nothing does
	Addr       string      `json:"-"`                    // from where, with port
	Agent      string      `json:"agent,omitempty"`      // User-Agent
	Ungated    string      `json:"ungated,omitempty"`    // why a chat needed no turn, from a closed set; empty: it did
	Status     int         `json:"status"`               // what it came to, also where the client got an early 200; 499: the client left before the end; 0: nothing was answered
	Early      bool        `json:"early,omitempty"`      // the client got the header of its answer, 200, with a heartbeat
	Cut        bool        `json:"cut,omitempty"`        // the answer did not come to its end
	Reason     string      `json:"-"`                    // why foreman itself refused, from a closed set; empty: it did not
	Revoked    string      `json:"-"`                    // why the turn was taken away, from a closed set; empty: it was not
	Unlogged   int         `json:"-"`                    // records before this one that the log has not
	Err        error       `json:"-"`                    // for the log alone
	Bytes      int64       `json:"-"`                    // of the answer's body
	Usage      usage.Usage `json:"-"`                    // of a chat whose answer came to its end: what the target says of it

	Began     time.Time     `json:"-"`
	Ended     time.Time     `json:"-"` // as the clock says then: not Began and Duration, if it was set meanwhile
	Arriving  time.Duration `json:"-"` // from Began until a chat joined the line: its body came and its model was looked up
	WasQueued bool          `json:"-"` // a chat stood in line until its turn came or it left
	Queued    time.Duration `json:"-"` // a chat's wait for its turn, from then on; an embedding's until fewer were at the target
	Held      time.Duration `json:"-"` // how long it had its turn; 0: it had none
	Idle      time.Duration `json:"-"` // from when it had its turn until it was sent: the target had nothing to do
	FirstByte time.Duration `json:"-"` // from Began to the answer's header; 0: there was none
	Duration  time.Duration `json:"-"`
}

// Why is why foreman refused a request, or took its turn away; empty: it did neither.
func (r Record) Why() string { return cmp.Or(r.Revoked, r.Reason) }
