package storage

import "time"

var (
	// Replications is the table of what is to be replicated to other registries. Its
	// keys are the name of a rule, a repository, and a tag or manifest of it; see
	// package replicating.
	Replications = Table[Replication]{"replications"}
	// ReplicationsDue is the same in the order of time. Its keys are the name of a rule,
	// when it is due (NumberPart of microseconds since 1970), and what follows the name
	// in those of Replications.
	ReplicationsDue = Table[Mark]{"replications-due"}
	// Replicated is the table of what rules have done. Its keys are their names.
	Replicated = Table[ReplicationSum]{"replicated"}
)

type (
	// Replication is something that may be another one in the registry that it is
	// replicated to. What it is now is seen when it is worked on.
	Replication struct {
		Deleted bool      `cbor:"1,keyasint,omitempty"` // was deleted here, when it changed last
		Queued  time.Time `cbor:"2,keyasint"`           // since when it waits
		Due     int64     `cbor:"3,keyasint"`           // microseconds since 1970
		Changes int64     `cbor:"4,keyasint"`           // while it waits
		Tries   int       `cbor:"5,keyasint,omitempty"` // that failed since it changed last
		Problem string    `cbor:"6,keyasint,omitempty"` // of the last try
		Failed  time.Time `cbor:"7,keyasint,omitempty"` // when the last try did
		// Broken says that to try again soon would be of no use.
		Broken bool `cbor:"8,keyasint,omitempty"`
		// Taken is who works on it, until Due at most; empty for nobody.
		Taken string `cbor:"9,keyasint,omitempty"`
	}
	// ReplicationSum is what a rule of replication has done, beside its counters.
	ReplicationSum struct {
		Last time.Time `cbor:"1,keyasint"` // when it did something last, to within a minute
	}
)
