package runner

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// FollowReport is what a node tells a registry about a tag that it follows.
type FollowReport struct {
	Node    string            // letters, digits, '.', '_' and '-'
	Labels  map[string]string // by which rollouts choose nodes
	Running digest.Digest     // that it runs; empty: nothing that this tag has named
	Target  digest.Digest     // that it deploys, or has failed to; empty: none
	State   FollowState
	Error   string   // why it failed, in a line
	Log     []string // the last lines of what failed
	Since   time.Time
	// Interval is how long it takes at most until the next report.
	Interval time.Duration
}

// FollowState is how a node that follows a tag is doing.
type FollowState string

// The states of a node that follows a tag.
const (
	FollowRunning   FollowState = "running"
	FollowDeploying FollowState = "deploying"
	FollowFailed    FollowState = "failed"
)

// FollowAnswer is what a registry has a node do.
type FollowAnswer struct {
	Digest  digest.Digest // to run now; empty: nothing
	Tag     digest.Digest // that the tag names; empty: there is none
	Version string        // to watch for another
	Reason  string        // why Digest is not Tag
	Rollout FollowRollout
}

// FollowRollout is the rollout that a node takes part in.
type FollowRollout struct {
	State string
	// Attempt changes with each rollout, and when one that had stopped is resumed: what
	// failed before may be tried again.
	Attempt int64
}
