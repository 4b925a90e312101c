package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Errors of who steers a rollout.
var (
	// ErrUnknown says that nobody follows the tag, or ever did.
	ErrUnknown = errors.New("no node follows this tag")
	// ErrState says that a rollout is not in a state for what is asked, and why.
	ErrState = errors.New("the rollout is not in that state")
)

func stateError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrState}, args...)...)
}

// pause has nobody else deploy until resume, whatever the tag comes to name, unless it is
// moved back.
func pause(s *State, by string, now time.Time) error {
	r := &s.Rollout
	switch {
	case r.Digest == "":
		return ErrUnknown
	case returns(r):
		return stateError("the nodes return to %s: that does not wait", r.Digest)
	case r.State == Failed:
		return stateError("it is stopped already")
	}
	r.State, r.PausedBy = Paused, cmp.Or(by, "-")
	steered(r, now)
	return nil
}

// resume goes on. If failures have stopped it, they do not count any more: the nodes
// that failed try again.
func resume(s *State, now time.Time) error {
	r := &s.Rollout
	switch {
	case r.Digest == "":
		return ErrUnknown
	case returns(r):
		return stateError("the nodes return to %s: push, or move the tag, for another version", r.Digest)
	case r.State != Paused && r.State != Failed:
		return stateError("it is not paused")
	}
	if r.State == Failed || r.Reason != "" {
		beginAttempt(r, s.Nodes)
	}
	r.State, r.Reason, r.PausedBy, r.Back = Running, "", "", false
	steered(r, now)
	return nil
}

// steered has everybody ask again.
func steered(r *storage.Rollout, now time.Time) {
	r.Changed++
	r.Updated = now.UTC()
}

// undoable is the digest that the tag is to be moved back to.
func undoable(s *State) (to string, err error) {
	r := &s.Rollout
	switch {
	case r.Digest == "":
		return "", ErrUnknown
	case s.Tag.Digest == "":
		return "", stateError("the tag was deleted")
	case returns(r):
		return "", stateError("the nodes return to %s already", r.Digest)
	case r.Previous == "" || r.Previous == r.Digest:
		return "", stateError("there is no earlier version that all nodes ran")
	}
	return r.Previous, nil
}
