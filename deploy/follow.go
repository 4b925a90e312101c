package deploy

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// Following is how a stack of this host is doing that follows a tag of a registry.
type Following struct {
	Stack string
	Ref   string
	Node  string

	State   runner.FollowState
	Since   time.Time     // it is in this state
	Running digest.Digest `json:",omitempty"` // in service; empty: nothing of this tag
	Target  digest.Digest `json:",omitempty"` // that is deployed, or has failed
	Tag     digest.Digest `json:",omitempty"` // what the tag named when the registry answered last
	Reason  string        `json:",omitempty"` // why Tag is waited with
	Error   string        `json:",omitempty"` // why Target has failed
	Log     []string      `json:",omitempty"` // last lines of what has failed
	// Step is the step of the deployment that is being taken.
	Step string `json:",omitempty"`

	Heard   time.Time // when the registry answered last; zero: not yet
	Away    string    `json:",omitempty"` // why it does not answer now
	Watched bool      // the registry tells of changes by itself
}
