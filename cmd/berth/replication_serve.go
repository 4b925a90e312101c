package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/replicating"
	"github.com/berth-registry/berth/storage"
)

// replicationQueue notes what is to be replicated when a server runs again.
func replicationQueue(c config.Config, meta storage.Meta) (*replicating.Replicator, error) {
	rules, err := replicationRules(c)
	if err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	o := &others{mirrors: c.Mirrors}
	return replicating.New(replicating.Options{Mirrored: o.mirrored, Meta: meta}, rules), nil
}

// replications has the replication of a server administered: it implements
// admin.Replicator.
type replications struct{ replicator *replicating.Replicator }

// Replications implements admin.Replicator.
func (r replications) Replications(ctx context.Context) ([]admin.Replication, error) {
	all, err := r.replicator.Status(ctx)
	list := make([]admin.Replication, 0, len(all))
	for _, s := range all {
		one := admin.Replication{
			Name: s.Name, URL: s.URL, Pending: s.Pending, Broken: s.Broken, Oldest: pointTo(s.Oldest), Paused: pointTo(s.Paused),
			Reason: s.Reason, Done: s.Done, Bytes: s.Bytes, Last: pointTo(s.Last),
		}
		for _, i := range s.Items {
			one.Failed = append(one.Failed, replicatedItem(i))
		}
		list = append(list, one)
	}
	return list, err
}

func replicatedItem(i replicating.Item) admin.ReplicatedItem {
	return admin.ReplicatedItem{
		Repo: i.Repo, Tag: i.Tag, Digest: string(i.Digest), Deleted: i.Deleted, Since: i.Queued.UTC(), Failed: pointTo(i.Failed),
		Tries: i.Tries, Next: pointTo(i.Due), Broken: i.Broken, Problem: i.Problem,
	}
}

// RetryReplication implements admin.Replicator.
func (r replications) RetryReplication(ctx context.Context, name string) (int, error) {
	n, err := r.replicator.Retry(ctx, name)
	return n, replicationError(ctx, name, err)
}

// RunReplication implements admin.Replicator.
func (r replications) RunReplication(ctx context.Context, name string, dry bool, tell func(admin.ReplicationStep) error) error {
	err := r.replicator.Resync(ctx, name, dry, func(p replicating.Progress) {
		step := admin.ReplicationStep{Checked: p.Checked, Differ: p.Differ, Waiting: p.Waiting, Broken: p.Broken}
		if p.Item != nil {
			step.Item = &admin.ReplicatedItem{Repo: p.Item.Repo, Tag: p.Item.Tag, Digest: string(p.Item.Digest), Deleted: p.Item.Deleted, Since: p.Item.Queued.UTC()}
		}
		_ = tell(step) // which ends ctx when it fails
	})
	return replicationError(ctx, name, err)
}

func replicationError(ctx context.Context, name string, err error) error {
	var compared *replicating.TargetError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, replicating.ErrUnknown):
		return admin.ErrReplicationUnknown.With("there is no replication %q", name)
	case ctx.Err() != nil:
		return registry.ErrUnavailable.With("the comparison was given up")
	case errors.As(err, &compared):
		return admin.ErrReplication.With("%v", compared)
	}
	return fmt.Errorf("replication %s: %w", name, err)
}
