package rollout

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/berth-registry/berth/storage"
)

// MaxFailed is how many nodes a Failure names.
const MaxFailed = 32

// Failure is what nodes have failed to run last. It is told of until another version has
// come through, so also after all nodes have returned.
type Failure struct {
	Digest  string       `json:"digest"`
	Attempt int64        `json:"attempt"`
	Reason  string       `json:"reason,omitempty"` // how the rollout ended; none: it has not
	At      time.Time    `json:"at"`               // when the last of the nodes failed
	Nodes   []FailedNode `json:"nodes"`            // by name, at most MaxFailed
	More    int          `json:"more,omitempty"`   // other nodes that failed
}

// FailedNode is a node that has failed.
type FailedNode struct {
	Name  string    `json:"name"`
	Error string    `json:"error"`
	At    time.Time `json:"at"` // when that was heard of
	Log   []string  `json:"log,omitempty"`
}

// recordFailures records which nodes have failed to run what the tag names, unless they
// return. If it has come through, there is nothing to tell of.
func (d *decision) recordFailures() {
	r := &d.Rollout
	if r.State == Done {
		d.Failure = nil
	}
	if r.Digest == "" || r.State == Done || returns(r) {
		return
	}
	was := d.Failure
	if was == nil || was.Digest != r.Digest || was.Attempt != r.Attempt {
		was = &storage.RolloutFailure{Digest: r.Digest, Attempt: r.Attempt}
	}
	is := *was
	is.More = 0
	is.Nodes = slices.DeleteFunc(slices.Clone(was.Nodes), func(f storage.FailedNode) bool {
		i, known := d.find(f.Name)
		return was.Reason == "" && known && d.Nodes[i].runs(r.Digest) // after all
	})
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if n.Failed == r.Digest && d.chosen(n) && !addFailed(&is, n.Name, n.Cause, d.now) {
			is.More++
		}
	}
	switch {
	case len(is.Nodes) > 0:
		d.setFailure(is)
	case d.Failure == was:
		d.Failure = nil
	}
}

// recordLate records the failure of a node to run what the tag names no more: it had begun.
func (d *decision) recordLate(n *Node, old *storage.Follower) {
	f := d.Failure
	if f == nil || f.Digest == d.Rollout.Digest || n.State != NodeFailed || n.Target != f.Digest {
		return
	}
	is := *f
	is.Nodes = slices.Clone(f.Nodes)
	if !addFailed(&is, n.Name, cmp.Or(n.Error, "failed"), d.now) && (old.State != NodeFailed || old.Target != n.Target) {
		is.More++
	}
	d.setFailure(is)
}

// endFailure records how the rollout ends of which nodes have failed.
func (d *decision) endFailure(reason string) {
	if f := d.Failure; f != nil && f.Digest == d.Rollout.Digest && f.Reason == "" {
		is := *f
		is.Reason = reason
		d.setFailure(is)
	}
}

// setFailure replaces what is recorded if it is not the same.
func (d *decision) setFailure(is storage.RolloutFailure) {
	if was := d.Failure; was != nil && was.Digest == is.Digest && was.Attempt == is.Attempt && was.Reason == is.Reason &&
		was.More == is.More && slices.Equal(was.Nodes, is.Nodes) {
		return
	}
	d.Failure = &is
}

// addFailed adds a node, and says whether there was room, or it is there.
func addFailed(f *storage.RolloutFailure, name, cause string, now time.Time) bool {
	i, there := slices.BinarySearchFunc(f.Nodes, name, func(n storage.FailedNode, name string) int { return cmp.Compare(n.Name, name) })
	switch {
	case there && f.Nodes[i].Cause == cause:
		return true
	case there:
		f.Nodes[i].Cause, f.Nodes[i].At = cause, now
	case len(f.Nodes) >= MaxFailed:
		return false
	default:
		f.Nodes = slices.Insert(f.Nodes, i, storage.FailedNode{Name: name, Cause: cause, At: now})
	}
	f.At = now
	return true
}

// readFailure reads what nodes have failed to run last; nil if nothing is known.
func readFailure(tx storage.Tx, ref Ref) (*storage.RolloutFailure, error) {
	f, err := storage.RolloutFailures.Get(tx, storage.Key(ref.Repo, ref.Tag))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil //nolint:nilnil // most have not failed
	}
	return &f, err
}

// writeFailure writes what nodes have failed to run last, if that is not as before.
func writeFailure(tx storage.Tx, ref Ref, was, is *storage.RolloutFailure) error {
	key := storage.Key(ref.Repo, ref.Tag)
	switch {
	case was == is:
		return nil
	case is == nil:
		return storage.RolloutFailures.Delete(tx, key)
	}
	return storage.RolloutFailures.Put(tx, key, *is)
}

// lastFailure is what is told of what nodes have failed to run last; nil for nothing.
func lastFailure(tx storage.Tx, ref Ref, f *storage.RolloutFailure) (*Failure, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // most have not failed
	}
	told := &Failure{Digest: f.Digest, Attempt: f.Attempt, Reason: f.Reason, At: f.At.UTC(), Nodes: []FailedNode{}, More: f.More}
	for _, n := range f.Nodes {
		log, err := storage.FollowerLogs.Get(tx, storage.Key(ref.Repo, ref.Tag, n.Name))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
		if log.Digest != f.Digest {
			log.Lines = nil // of another version
		}
		told.Nodes = append(told.Nodes, FailedNode{Name: n.Name, Error: n.Cause, At: n.At.UTC(), Log: log.Lines})
	}
	return told, nil
}
