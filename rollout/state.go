package rollout

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/berth-registry/berth/storage"
)

// The states of a rollout.
const (
	Running = "running"
	Paused  = "paused"
	Done    = "done"   // all nodes that are there run the version
	Failed  = "failed" // too many nodes have failed: they return, or nobody else deploys
	Undone  = "undone" // somebody moved the tag back: the nodes return
)

// KeepNodes is how long a node that is not heard of is known.
const KeepNodes = 7 * 24 * time.Hour

// silence is how many of its intervals a node may say nothing before it is not there.
const silence = 3

// returning is how long it is given at least: a node that could not reach its registry
// tries again after up to ten seconds.
const returning = 20 * time.Second

// patience is for how long a node may say nothing before it is not there.
func (n *Node) patience() time.Duration { return max(silence*n.Interval, returning) }

// Target is what a tag names; its zero value says that there is no such tag.
type Target struct {
	Digest string
	Policy string    // the annotation of the manifest
	By     string    // account that moved the tag there
	Moved  time.Time // when it did
}

// State is all that is known of a tag.
type State struct {
	Tag     Target
	Rollout storage.Rollout // its Digest is empty if there is none
	Nodes   []Node          // by name
	// Failure is what nodes have failed to run last; nil if another version has come
	// through since. It is replaced, and never changed.
	Failure *storage.RolloutFailure
	Up      time.Time // since when nodes can be heard: the start of the server
}

// heard is when a node was heard of, or when it could be heard of again: while the
// registry is away, no node is silent.
func (s *State) heard(n *Node) time.Time {
	at := n.Heard
	for _, t := range []time.Time{s.Up, s.Rollout.Listen} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// there says whether a node is there.
func (s *State) there(n *Node, now time.Time) bool { return now.Sub(s.heard(n)) <= n.patience() }

// turnEnds is when a node loses its turn unless it is heard of.
func (s *State) turnEnds(n *Node) time.Time { return s.heard(n).Add(n.patience()) }

// Node is a node that follows the tag.
type Node struct {
	Name string
	storage.Follower
}

// alive says whether the node was heard of lately.
func (n *Node) alive(now time.Time) bool { return now.Sub(n.Heard) <= n.patience() }

// runs says whether the node runs a digest, and deploys nothing: it may have failed to run
// another one.
func (n *Node) runs(digest string) bool {
	return n.Running == digest && (n.State == NodeRunning || n.State == NodeFailed && n.Target != digest)
}

// busy says whether a node deploys, or is about to.
func (s *State) busy(n *Node, now time.Time) bool {
	return n.Slot != "" || n.State == NodeDeploying && s.there(n, now)
}

// returns says whether the nodes return to the rollout's digest, all at once.
func returns(r *storage.Rollout) bool { return r.Bad != "" }

// version is what a node waits with: the tag, and the numbers of what it may have to hear
// of. Who waits for a turn also hears of one that is free.
func version(tag string, r *storage.Rollout, waits bool) string {
	v := shortDigest(tag) + "." + strconv.FormatInt(r.Changed, 36)
	if waits {
		v += "." + strconv.FormatInt(r.Freed, 36)
	}
	return v
}

// Differs says whether there is something new for who waits with a version: the tag, or
// its rollout, is not what it was.
func Differs(v, tag string, r *storage.Rollout) bool {
	return v != version(tag, r, strings.Count(v, ".") == 2)
}

// shortDigest is enough of a digest to tell that it is another one.
func shortDigest(d string) string {
	algorithm, hash, _ := strings.Cut(d, ":")
	if hash == "" {
		return "-"
	}
	return algorithm[len(algorithm)-1:] + hash[:min(len(hash), 24)]
}

// failures says how many there were.
func failures(n int) string {
	if n == 1 {
		return "1 failure"
	}
	return fmt.Sprintf("%d failures", n)
}
