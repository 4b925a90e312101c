package storage

import "time"

// The tables of processes that share a store; the comments name the parts of their
// keys.
var (
	// Leases: name of a job. Which process does what one does at a time; see package
	// lease.
	Leases = Table[Lease]{"leases"}
	// Holds: id. Who needs stored bytes to stay for a while.
	Holds = Table[Hold]{"holds"}
	// Collecting: a small number (NumberPart). A transaction that gives bytes a
	// tombstone reads Holds and writes here, one that holds bytes reads this and writes
	// Holds: so of two at a time one sees the other.
	Collecting = Table[Counter]{"collecting"}
)

type (
	// Lease says who does a job.
	Lease struct {
		Holder string        `cbor:"1,keyasint"`           // random; another one each time it is taken
		Owner  string        `cbor:"2,keyasint,omitempty"` // for people
		Beat   int64         `cbor:"3,keyasint"`           // grows each time it is renewed
		TTL    time.Duration `cbor:"4,keyasint"`           // for how long it need not be renewed
		Since  time.Time     `cbor:"5,keyasint"`           // when it was taken, by its holder's clock
	}
	// Hold says until when bytes stay.
	Hold struct {
		Until time.Time `cbor:"1,keyasint"`
	}
)
