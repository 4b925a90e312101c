package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/berth-registry/berth/registry"
)

// Replicator pushes what changes to other registries. What it returns of
// ErrReplicationUnknown and ErrReplication is told to the client as it is.
type Replicator interface {
	// Replications says how each goes, in the order of the configuration.
	Replications(ctx context.Context) ([]Replication, error)
	// RetryReplication has all tried again now that has failed, and says how much.
	RetryReplication(ctx context.Context, name string) (int, error)
	// RunReplication compares all with what the other registry has, and replicates what
	// differs; with dry it only compares. It tells what it finds until tell fails.
	RunReplication(ctx context.Context, name string, dry bool, tell func(ReplicationStep) error) error
}

// Errors of replication.
var (
	ErrReplicationUnknown = &registry.Error{Code: "REPLICATION_UNKNOWN", Status: http.StatusNotFound, Message: "no such replication"}
	ErrReplication        = &registry.Error{Code: "REPLICATION_FAILED", Status: http.StatusBadGateway, Message: "the other registry cannot be compared"}
)

type (
	// Replication is how the replication to another registry goes.
	Replication struct {
		Name    string           `json:"name"`
		URL     string           `json:"url"`
		Pending int64            `json:"pending"`          // tags and manifests that wait
		Broken  int64            `json:"broken"`           // of these, that cannot be replicated
		Oldest  *time.Time       `json:"oldest,omitempty"` // since when the first of them waits
		Paused  *time.Time       `json:"paused,omitempty"` // until when the other registry is left alone
		Reason  string           `json:"reason,omitempty"` // why
		Done    int64            `json:"done"`             // replicated, ever
		Bytes   int64            `json:"bytes"`            // sent, ever
		Last    *time.Time       `json:"last,omitempty"`   // when something was, to within a minute
		Failed  []ReplicatedItem `json:"failed"`           // the first of those that have failed
	}
	// ReplicatedItem is a tag or manifest that is to be replicated.
	ReplicatedItem struct {
		Repo    string     `json:"repository"`
		Tag     string     `json:"tag,omitempty"`
		Digest  string     `json:"digest,omitempty"` // if there is no tag
		Deleted bool       `json:"deleted"`          // is to be deleted there
		Since   time.Time  `json:"since"`            // when it was queued
		Failed  *time.Time `json:"failed,omitempty"` // when it was tried last
		Tries   int        `json:"tries,omitempty"`
		Next    *time.Time `json:"next,omitempty"`    // when it is tried again
		Broken  bool       `json:"broken,omitempty"`  // cannot be replicated, and is tried seldom
		Problem string     `json:"problem,omitempty"` // of the last try
	}
	// ReplicationStep is a part of what a comparison has found, and of what is done.
	ReplicationStep struct {
		Item    *ReplicatedItem `json:"item,omitempty"` // that differs
		Checked int             `json:"checked"`        // so far
		Differ  int             `json:"differ"`         // of these
		Waiting int             `json:"waiting"`        // of those that differ, still, once all is compared
		Broken  int             `json:"broken"`         // of those that differ, for good
	}
	// ReplicationRetried says how much is tried again.
	ReplicationRetried struct {
		Retried int `json:"retried"`
	}

	replicationList struct {
		Replications []Replication `json:"replications"`
	}
)

// listReplications says how they go.
func (c *call) listReplications() (int, any, error) {
	if c.Replicator == nil {
		return 0, nil, errNotOffered
	}
	list, err := c.Replicator.Replications(c.r.Context())
	for i := range list {
		list[i].Failed = nonNil(list[i].Failed)
	}
	return http.StatusOK, replicationList{nonNil(list)}, err
}

// retryReplication has all tried again that has failed.
func (c *call) retryReplication() (int, any, error) {
	if c.Replicator == nil {
		return 0, nil, errNotOffered
	}
	n, err := c.Replicator.RetryReplication(c.r.Context(), c.params[0])
	return http.StatusOK, ReplicationRetried{n}, err
}

// planReplication tells what differs.
func (c *call) planReplication() (int, any, error) { return c.runReplication(true) }

// replicate replicates what differs. A client that goes ends the comparison; what was
// found until then is replicated.
func (c *call) replicate() (int, any, error) { return c.runReplication(false) }

func (c *call) runReplication(dry bool) (int, any, error) {
	if c.Replicator == nil {
		return 0, nil, errNotOffered
	}
	return steps(c, func(ctx context.Context, tell func(ReplicationStep) error) error {
		return c.Replicator.RunReplication(ctx, c.params[0], dry, tell)
	})
}

// Replications says how the replication to each other registry goes.
func (c *Client) Replications(ctx context.Context) ([]Replication, error) {
	var list replicationList
	err := c.call(ctx, http.MethodGet, "replications", nil, &list)
	return list.Replications, err
}

// RetryReplication has all tried again now that has failed, and says how much.
func (c *Client) RetryReplication(ctx context.Context, name string) (r ReplicationRetried, err error) {
	err = c.callNamed(ctx, http.MethodPost, "replications/", name, "/retry", ErrReplicationUnknown, struct{}{}, &r)
	return r, err
}

// PlanReplication tells each what differs at the other registry.
func (c *Client) PlanReplication(ctx context.Context, name string, each func(ReplicationStep) error) error {
	return c.streamReplication(ctx, http.MethodGet, name, each)
}

// Replicate replicates what differs at the other registry, and tells each how far it
// is. To cancel ctx ends the comparison.
func (c *Client) Replicate(ctx context.Context, name string, each func(ReplicationStep) error) error {
	return c.streamReplication(ctx, http.MethodPost, name, each)
}

func (c *Client) streamReplication(ctx context.Context, method, name string, each func(ReplicationStep) error) error {
	if !validPart(name) {
		return ErrReplicationUnknown
	}
	return c.stream(ctx, method, "replications/"+url.PathEscape(name), eachOf(each))
}
