package replicating

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

const (
	// MaxItems is how many items a Status tells of at most.
	MaxItems = 100
	// maxLooked is how many rows a Status looks at for them.
	maxLooked = 100_000
)

// Status is how a replication goes.
type Status struct {
	Name, URL string
	Pending   int64     // tags and manifests that wait
	Broken    int64     // of these, that cannot be replicated, and are tried seldom
	Oldest    time.Time // since when the first of them waits; zero if none does
	// Paused is until when the target is left alone by this process, and Reason why;
	// zero if it is not.
	Paused time.Time
	Reason string
	Done   int64     // that were replicated, ever
	Bytes  int64     // that were sent, ever
	Last   time.Time // when something was done last, to within a minute; zero for never
	Items  []Item    // that have failed, the first MaxItems
}

// Item is a tag or manifest that waits.
type Item struct {
	Repo, Tag string
	Digest    digest.Digest // if there is no tag
	Deleted   bool          // is to be deleted at the target
	Queued    time.Time     // since when it waits
	Due       time.Time     // when it is tried again
	Failed    time.Time     // when it was tried last
	Tries     int
	Broken    bool
	Problem   string
}

// Status tells how each replication goes, in the order of the rules.
func (r *Replicator) Status(ctx context.Context) ([]Status, error) {
	list := []Status{}
	for _, t := range *r.targets.Load() {
		s, err := r.status(ctx, t)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (r *Replicator) status(ctx context.Context, t *target) (s Status, err error) {
	err = r.meta.View(ctx, func(tx storage.Tx) (err error) {
		s, err = queue{tx, t.name}.status()
		return err
	})
	s.Name, s.URL = t.name, t.url
	if wait, why := r.left(t); wait > 0 {
		s.Paused, s.Reason = r.now().Add(wait), why
	}
	return s, err
}

func (q queue) status() (s Status, err error) {
	for name, n := range map[string]*int64{countPending: &s.Pending, countBroken: &s.Broken, countDone: &s.Done, countBytes: &s.Bytes} {
		if *n, err = storage.Total(q.tx, name+q.name); err != nil {
			return s, err
		}
	}
	sum, err := storage.Replicated.Get(q.tx, storage.Key(q.name))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return s, err
	}
	s.Last = sum.Last
	looked, prefix := 0, storage.Key(q.name, "")
	for e, err := range storage.Replications.Scan(q.tx, prefix, nil) {
		if err != nil {
			return s, err
		}
		if s.Oldest.IsZero() || e.Value.Queued.Before(s.Oldest) {
			s.Oldest = e.Value.Queued
		}
		if e.Value.Problem != "" && len(s.Items) < MaxItems {
			i, err := readItem(e.Rest)
			if err != nil {
				return s, err
			}
			s.Items = append(s.Items, newItem(row{i, e.Value}))
		}
		if looked++; looked == maxLooked {
			break
		}
	}
	return s, nil
}

func newItem(r row) Item {
	return Item{
		Repo: r.repo, Tag: r.ref.Tag, Digest: r.ref.Digest, Deleted: r.Deleted, Queued: r.Queued, Due: time.UnixMicro(r.Due),
		Failed: r.Failed, Tries: r.Tries, Broken: r.Broken, Problem: r.Problem,
	}
}

// Retry has all tried again now that has failed, and says how much that is. It fails
// with ErrUnknown.
func (r *Replicator) Retry(ctx context.Context, name string) (int, error) {
	t, err := r.named(name)
	if err != nil {
		return 0, err
	}
	n, err := r.free(ctx, t, func(w row) bool { return w.Taken == "" && w.Problem != "" })
	t.leave.succeed() // the target is asked at once, too
	for range t.jobs {
		notify(t.wake)
	}
	return n, err
}
