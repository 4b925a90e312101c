package storage

import "time"

// MirrorJobs has, by the name of a job that copies from another registry on a schedule, how
// the job is, as far as it ever ran.
var MirrorJobs = Table[MirrorJob]{"mirror-jobs"}

type (
	// MirrorJob is how a scheduled job is.
	MirrorJob struct {
		Owner string    `cbor:"1,keyasint,omitempty"` // process that runs it; empty for none
		Until time.Time `cbor:"2,keyasint,omitempty"` // when Owner is taken for dead, unless it says otherwise before
		Now   MirrorRun `cbor:"3,keyasint"`           // that goes on; not begun if none does
		Last  MirrorRun `cbor:"4,keyasint"`           // that ended last; not begun if none did
		Good  time.Time `cbor:"5,keyasint,omitempty"` // end of the last run without a failure
		Again time.Time `cbor:"6,keyasint,omitempty"` // when to run before its time; zero for never
		Tries int       `cbor:"7,keyasint,omitempty"` // runs with a failure since one at its time
	}
	// MirrorRun is a run of a job.
	MirrorRun struct {
		Began    time.Time       `cbor:"1,keyasint,omitempty"`
		Ended    time.Time       `cbor:"2,keyasint,omitempty"`
		Outcome  string          `cbor:"3,keyasint,omitempty"`
		Reason   string          `cbor:"4,keyasint,omitempty"` // of an outcome that is not good, for the user
		Waits    time.Time       `cbor:"5,keyasint,omitempty"` // until when the upstream is not asked
		Counts   MirrorCounts    `cbor:"6,keyasint"`
		Failures []MirrorFailure `cbor:"7,keyasint,omitempty"` // the first of them
	}
	// MirrorCounts count what a run has done.
	MirrorCounts struct {
		Repos     int64 `cbor:"1,keyasint,omitempty"` // looked at
		Tags      int64 `cbor:"2,keyasint,omitempty"` // that the job is about
		Unchanged int64 `cbor:"3,keyasint,omitempty"` // of them
		Copied    int64 `cbor:"4,keyasint,omitempty"` // of them
		Failed    int64 `cbor:"5,keyasint,omitempty"` // of them, and repositories that could not be looked at
		Removed   int64 `cbor:"6,keyasint,omitempty"` // tags
		Bytes     int64 `cbor:"7,keyasint,omitempty"` // copied
	}
	// MirrorFailure is what went wrong with a tag or, if there is none, a repository.
	MirrorFailure struct {
		Repo   string `cbor:"1,keyasint"` // here
		Tag    string `cbor:"2,keyasint,omitempty"`
		Reason string `cbor:"3,keyasint"` // for the user
	}
)
