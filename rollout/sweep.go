package rollout

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/berth-registry/berth/storage"
)

// sweepPause is how long it is between two sweeps.
const sweepPause = time.Hour

// Run forgets, now and then, until ctx ends: nodes that were not heard of for KeepNodes,
// and rollouts that no node is left of.
func (s *Store) Run(ctx context.Context) {
	t := time.NewTicker(sweepPause)
	defer t.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "cannot forget old rollouts; will try again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Sweep forgets what is old.
func (s *Store) Sweep(ctx context.Context) error {
	var refs []Ref
	err := s.meta.View(ctx, func(tx storage.Tx) error {
		all, err := refsOf(storage.Rollouts.Scan(tx, nil, nil))
		if err != nil {
			return err
		}
		// A server of an earlier version knows of no failures, and leaves them.
		failed, err := refsOf(storage.RolloutFailures.Scan(tx, nil, nil))
		refs = slices.Concat(all, failed)
		slices.SortFunc(refs, func(a, b Ref) int { return cmp.Or(cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Tag, b.Tag)) })
		refs = slices.Compact(refs)
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range refs {
		if ctx.Err() != nil {
			break
		}
		errs = append(errs, s.Tick(ctx, ref), s.drop(ctx, ref))
	}
	return errors.Join(errs...)
}

// refsOf lists the tags that rows are of.
func refsOf[V any](rows iter.Seq2[storage.Entry[V], error]) (refs []Ref, err error) {
	for e, err := range rows {
		if err != nil {
			return nil, err
		}
		ref, err := cutRef(e.Key)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// drop forgets a rollout that no node is left of: at once if its tag is gone, too.
func (s *Store) drop(ctx context.Context, ref Ref) error {
	key := storage.Key(ref.Repo, ref.Tag)
	old := func(tx storage.Tx) (row storage.Rollout, old bool, err error) {
		row, err = storage.Rollouts.Get(tx, key)
		if errors.Is(err, storage.ErrNotFound) {
			old, err = storage.RolloutFailures.Has(tx, key)
		}
		if err != nil || row.Digest == "" {
			return row, old, err
		}
		nodes, err := readNodes(tx, ref)
		if err != nil || len(nodes) > 0 {
			return row, false, err
		}
		there, err := storage.Tags.Has(tx, key)
		return row, !there || s.now().Sub(row.Updated) > KeepNodes, err
	}
	is := false
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		_, is, err = old(tx)
		return err
	})
	if err == nil && is {
		err = s.meta.Update(ctx, func(tx storage.Tx) error {
			row, is, err := old(tx)
			if err != nil || !is {
				return err
			}
			return errors.Join(storage.Rollouts.Delete(tx, key), storage.RolloutFailures.Delete(tx, key), writeReturns(tx, ref, row, storage.Rollout{}))
		})
	}
	return err
}

// Forget removes a node from all tags that it follows, and says how many there were.
func (s *Store) Forget(ctx context.Context, node string) (n int, err error) {
	if !nodeName.MatchString(node) {
		return 0, nil
	}
	err = s.meta.Update(ctx, func(tx storage.Tx) error {
		refs, err := followed(tx, node)
		n = len(refs)
		for _, ref := range refs {
			err = errors.Join(err, forget(tx, ref, node))
		}
		return err
	})
	return n, err
}
