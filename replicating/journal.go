package replicating

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// settle is how long a manifest without a tag waits: a tag, or an index, that brings
// it along mostly follows at once.
const settle = 10 * time.Second

// Journal returns a journal that notes what is to be replicated, in the transaction
// that changes it, and hands changes on to next, which may be nil.
func (r *Replicator) Journal(next registry.Journal) registry.Journal { return &journal{r, next} }

type journal struct {
	r    *Replicator
	next registry.Journal
}

// Write implements registry.Journal.
func (j *journal) Write(ctx context.Context, tx storage.Tx, changes []registry.Change) error {
	for _, t := range *j.r.targets.Load() {
		if err := j.r.note(tx, t, changes); err != nil {
			return err
		}
	}
	if j.next == nil {
		return nil
	}
	return j.next.Write(ctx, tx, changes)
}

// Done implements registry.Journal.
func (j *journal) Done(ctx context.Context, changes []registry.Change) {
	j.r.wake()
	if j.next != nil {
		j.next.Done(ctx, changes)
	}
}

// wake has each target look whether there is something to do.
func (r *Replicator) wake() {
	for _, t := range *r.targets.Load() {
		notify(t.wake)
	}
}

// mirrored is what the name of a repository starts with if it is a cache.
func (r *Replicator) mirrored(repo string) string {
	if r.o.Mirrored != nil {
		if prefix, ok := r.o.Mirrored(repo); ok {
			return prefix
		}
	}
	return ""
}

// noting is changes of a transaction that are noted for a target.
type noting struct {
	queue
	t   *target
	now time.Time
}

// note writes down which changes concern a target.
func (r *Replicator) note(tx storage.Tx, t *target, changes []registry.Change) error {
	n := noting{queue: queue{tx, t.name}, t: t, now: r.now()}
	for _, c := range changes {
		deleted := c.Kind == registry.DeletedTag || c.Kind == registry.DeletedManifest
		if c.Kind == registry.DeletedBlob || deleted && (c.Collected || !t.deletes) || !t.matches(c.Repo, r.mirrored(c.Repo)) {
			continue
		}
		if err := n.change(c); err != nil {
			return err
		}
	}
	return nil
}

func (n noting) change(c registry.Change) error {
	switch c.Kind {
	case registry.MovedTag:
		return n.tag(c.Repo, c.Tag, false)
	case registry.PushedManifest:
		return n.pushed(c)
	case registry.DeletedTag:
		return n.tag(c.Repo, c.Tag, true)
	case registry.DeletedManifest:
		return n.add(manifestOf(c.Repo, c.Digest), true, n.now, n.now)
	case registry.DeletedBlob:
	}
	return nil
}

// tag notes a tag, if the rule is about it. One that attaches something is looked at
// when it is its turn.
func (n noting) tag(repo, tag string, deleted bool) error {
	if _, attaches := attachedTo(tag); !attaches && !n.t.wantsTag(tag) {
		return nil
	}
	return n.add(tagOf(repo, tag), deleted, n.now, n.now)
}

// pushed notes a manifest: by its tags, or if it has none by its digest.
func (n noting) pushed(c registry.Change) error {
	for _, tag := range c.Tags {
		if err := n.tag(c.Repo, tag, false); err != nil {
			return err
		}
	}
	if len(c.Tags) > 0 && len(n.t.tags) == 0 {
		return nil
	}
	m, err := storage.Manifests.Get(n.tx, storage.Key(c.Repo, storage.DigestPart(c.Digest)))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil // it was removed again
	case err != nil:
		return err
	case m.Subject != "":
		return n.add(manifestOf(c.Repo, c.Digest), false, n.now, n.now)
	case len(n.t.tags) == 0:
		return n.add(manifestOf(c.Repo, c.Digest), false, n.now, n.now.Add(settle))
	}
	return nil
}

// maxVisited is how many manifests reaches looks at before it gives up.
const maxVisited = 10_000

// reaches says whether a manifest is replicated along with a tag of the rule: whether
// such a tag names it, or something that references it, or what it refers to.
func (r *Rule) reaches(tx storage.Tx, repo string, d digest.Digest) (bool, error) {
	if len(r.tags) == 0 {
		return true, nil
	}
	seen := map[digest.Digest]bool{d: true}
	for next := []digest.Digest{d}; len(next) > 0 && len(seen) < maxVisited; next = next[1:] {
		at := storage.DigestPart(next[0])
		for e, err := range storage.Tagged.Scan(tx, storage.Key(repo, at, ""), nil) {
			if err != nil || r.wantsTag(string(e.Rest)) {
				return err == nil, err
			}
		}
		above, err := above(tx, repo, at)
		if err != nil {
			return false, err
		}
		for _, up := range above {
			if !seen[up] {
				seen[up], next = true, append(next, up)
			}
		}
	}
	return false, nil
}

// above are the manifests that bring one along: those that reference it, and the one
// that it refers to.
func above(tx storage.Tx, repo, part string) (list []digest.Digest, err error) {
	for e, err := range storage.Parents.Scan(tx, storage.Key(repo, part, ""), nil) {
		if err != nil {
			return nil, err
		}
		d, _, err := storage.CutDigest(e.Rest)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	m, err := storage.Manifests.Get(tx, storage.Key(repo, part))
	if errors.Is(err, storage.ErrNotFound) {
		return list, nil
	}
	if m.Subject != "" {
		list = append(list, digest.Digest(m.Subject))
	}
	return list, err
}
