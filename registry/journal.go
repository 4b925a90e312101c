package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Change is something that changed in a repository.
type Change struct {
	Kind      ChangeKind
	Repo      string
	Tag       string        // that was moved or deleted
	Tags      []string      // that a manifest was pushed with, moved or not
	Digest    digest.Digest // of what was pushed or deleted, or what a tag names now
	Was       digest.Digest // what a tag named before; empty for a new one
	MediaType string        // of a manifest
	Size      int64         // of a manifest, bytes
	Collected bool          // deleted because nothing needed it, not because somebody said so
}

// ChangeKind is what has changed.
type ChangeKind uint8

// The kinds of changes.
const (
	PushedManifest ChangeKind = iota // also if it was there
	DeletedManifest
	MovedTag // or created; not if it named the manifest already
	DeletedTag
	DeletedBlob
)

// Journal is told of changes.
type Journal interface {
	// Write is called in the transaction that makes the changes, once and last; what
	// it writes to tx is durable if and only if they are. It may be called again
	// for a transaction that is run again. An error ends the transaction.
	Write(ctx context.Context, tx storage.Tx, changes []Change) error
	// Done is called when the changes are durable, before the method that made them
	// returns. It should be quick.
	Done(ctx context.Context, changes []Change)
}

// changing is a transaction that changes what a repository shows, and what it has
// changed so far.
type changing struct {
	storage.Tx
	local   *Local
	now     time.Time
	by      string // account that makes the changes
	cascade int64  // when what comes to be garbage is due for review; 0 for after the grace period
	seen    bool   // bytes that were just stored; see heal
	changes []Change
	evicts  bool     // what goes now makes room in a cache: nobody is told
	evicted []string // repositories of what went like that

	quotaSet *quotaSet // see quotas
	tallies  *tallies  // see tally
}

// Unwrap implements storage.Wrapper.
func (c *changing) Unwrap() storage.Tx { return c.Tx }

// orphaned is when a review of what has just come to be garbage is due.
func (c *changing) orphaned() int64 {
	if c.cascade != 0 {
		return c.cascade
	}
	return c.afterGrace()
}

func (c *changing) note(change Change) {
	if c.evicts {
		c.evicted = append(c.evicted, change.Repo)
		return
	}
	change.Collected = c.cascade != 0
	c.changes = append(c.changes, change)
}

// touchChanged has the repositories noted whose manifests or tags have changed.
func (c *changing) touchChanged() error {
	last := ""
	for _, change := range c.changes {
		if change.Repo == last || change.Kind == DeletedBlob {
			continue
		}
		last = change.Repo
		if err := c.touch(last); err != nil {
			return err
		}
	}
	for _, repo := range slices.Compact(c.evicted) {
		if err := c.touch(repo); err != nil {
			return err
		}
	}
	return nil
}

// change is write for whoever is waited for: a collection gives way.
func (l *Local) change(ctx context.Context, fn func(*changing) error) error {
	l.changes.Add(1)
	return l.write(ctx, fn)
}

// write runs fn in a transaction, and tells the journal what it has changed.
func (l *Local) write(ctx context.Context, fn func(*changing) error) error {
	var done []Change
	err := l.meta.Update(ctx, func(tx storage.Tx) error {
		c := &changing{Tx: tx, local: l, now: l.now()}
		if l.actor != nil {
			c.by = l.actor(ctx)
		}
		err := fn(c)
		if err == nil {
			err = errors.Join(c.settle(), c.touchChanged())
		}
		done = c.changes
		if l.journal == nil {
			done = nil
		}
		if err != nil || len(done) == 0 {
			return err
		}
		return l.journal.Write(ctx, tx, done)
	})
	if err == nil && len(done) > 0 {
		l.journal.Done(ctx, done)
	}
	return err
}
