package storage

import "time"

// The tables of rollouts; the comments name the parts of their keys.
var (
	// Rollouts: repository, tag. What the nodes that follow a tag are to run.
	Rollouts = Table[Rollout]{"rollouts"}
	// Followers: repository, tag, node. What a node that follows a tag has reported.
	Followers = Table[Follower]{"followers"}
	// FollowerLogs: repository, tag, node. The log of what failed there last.
	FollowerLogs = Table[FollowerLog]{"follower-logs"}
	// RolloutFailures: repository, tag. What nodes have failed to run last.
	RolloutFailures = Table[RolloutFailure]{"rollout-failures"}
	// Followed: node, repository, tag. Followers the other way round.
	Followed = Table[Mark]{"followed"}
	// Returns: repository, digest, tag. The manifests that a rollout may have nodes run,
	// which are no garbage meanwhile.
	Returns = Table[Mark]{"returns"}
)

type (
	// Rollout is how far the nodes that follow a tag have come.
	Rollout struct {
		Digest   string    `cbor:"1,keyasint"`           // that they are to run: what the tag named when it was looked at last
		Previous string    `cbor:"2,keyasint,omitempty"` // that they return to if need be; empty if there is none
		Bad      string    `cbor:"3,keyasint,omitempty"` // that they return from, to Digest; empty if they do not
		State    string    `cbor:"4,keyasint"`
		Reason   string    `cbor:"5,keyasint,omitempty"` // for the state, in words
		Policy   string    `cbor:"6,keyasint,omitempty"` // the annotation of Digest
		Started  time.Time `cbor:"7,keyasint"`
		By       string    `cbor:"8,keyasint,omitempty"`  // account that moved the tag
		PausedBy string    `cbor:"9,keyasint,omitempty"`  // account that paused it, or "-"; empty if none has
		Attempt  int64     `cbor:"10,keyasint"`           // grows when all begins anew
		Back     bool      `cbor:"11,keyasint,omitempty"` // the tag is to be moved back to Previous
		Changed  int64     `cbor:"12,keyasint"`           // grows when everybody may have something else to do
		Freed    int64     `cbor:"13,keyasint"`           // grows when those who wait for their turn may have it
		Free     int       `cbor:"14,keyasint"`           // turns that are free
		Next     time.Time `cbor:"15,keyasint"`           // when time alone may change something; zero for never
		Updated  time.Time `cbor:"16,keyasint"`           // of Changed
		Listen   time.Time `cbor:"18,keyasint"`           // who was not heard of before is not silent for that
		Good     string    `cbor:"17,keyasint,omitempty"` // the last that they all ran
	}
	// Follower is a node that follows a tag, as it has reported.
	Follower struct {
		By       string            `cbor:"1,keyasint,omitempty"` // account that reports for it
		Labels   map[string]string `cbor:"2,keyasint,omitempty"`
		Running  string            `cbor:"3,keyasint,omitempty"` // digest
		Target   string            `cbor:"4,keyasint,omitempty"` // digest
		State    string            `cbor:"5,keyasint"`
		Error    string            `cbor:"6,keyasint,omitempty"`
		Since    time.Time         `cbor:"7,keyasint"` // by the node's clock
		Interval time.Duration     `cbor:"8,keyasint"` // at which it reports at least, nanoseconds
		Heard    time.Time         `cbor:"9,keyasint"`
		Slot     string            `cbor:"10,keyasint,omitempty"` // digest that it has its turn for
		Turn     time.Time         `cbor:"11,keyasint"`           // since when it has
		Failed   string            `cbor:"12,keyasint,omitempty"` // digest that it failed to run
		Cause    string            `cbor:"13,keyasint,omitempty"` // of that
		Past     time.Time         `cbor:"14,keyasint"`           // Since of a failure that does not count any more
	}
	// FollowerLog is what a node has told of what failed.
	FollowerLog struct {
		Lines  []string `cbor:"1,keyasint"`
		Digest string   `cbor:"2,keyasint,omitempty"` // that failed
	}
	// RolloutFailure is a version that nodes have failed to run. It is kept until another
	// one has come through.
	RolloutFailure struct {
		Digest  string       `cbor:"1,keyasint"`
		Attempt int64        `cbor:"2,keyasint"`           // of the rollout
		Reason  string       `cbor:"3,keyasint,omitempty"` // how it ended, in words; empty if it has not
		At      time.Time    `cbor:"4,keyasint"`           // when the last of them failed
		Nodes   []FailedNode `cbor:"5,keyasint"`           // by name
		More    int          `cbor:"6,keyasint,omitempty"` // nodes that have failed, too
	}
	// FailedNode is a node that has failed to run a version.
	FailedNode struct {
		Name  string    `cbor:"1,keyasint"`
		Cause string    `cbor:"2,keyasint"`
		At    time.Time `cbor:"3,keyasint"` // when that was heard of
	}
)
