package replicating

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// Progress is how far a Resync is.
type Progress struct {
	Checked int // tags and manifests that were compared so far
	Differ  int // of these, so far
	// Waiting is how many of those that differ are not replicated yet, and Broken how
	// many of them have failed for good. Both are 0 while it compares.
	Waiting, Broken int
	// Item is one that differs, found just now; nil if none was.
	Item *Item
}

// TargetError says that a target does not answer what it is asked.
type TargetError struct{ Err error }

// Error is fit for users.
func (e *TargetError) Error() string { return text(e.Err) }

// Unwrap returns what went wrong.
func (e *TargetError) Unwrap() error { return e.Err }

// Resync compares all that a rule matches with what the target has, replicates what
// differs, and waits until that is done. With dryRun it only compares. It tells
// progress, one call at a time. It needs Run to run somewhere for what is to be done,
// unless it is dry. To end it by ctx loses nothing: what was found to differ is
// replicated later.
//
// It fails with ErrUnknown, or a *TargetError.
func (r *Replicator) Resync(ctx context.Context, name string, dryRun bool, progress func(Progress)) error {
	t, err := r.named(name)
	if err != nil {
		return err
	}
	source, to := r.source.Load(), r.o.Target(t.name)
	if source == nil || to == nil {
		return &TargetError{errNoTarget}
	}
	s := &resync{r: r, t: t, source: *source, target: to, dry: dryRun, tell: progress}
	for repo, err := range s.source.Repositories(ctx, "") {
		if err != nil {
			return err
		}
		if t.matches(repo, r.mirrored(repo)) {
			s.repos = append(s.repos, repo)
		}
	}
	for _, repo := range s.repos {
		if err := s.repository(ctx, repo); err != nil {
			return fmt.Errorf("compare %s: %w", repo, err)
		}
	}
	if dryRun {
		return nil
	}
	return s.wait(ctx)
}

// resync is a Resync under way.
type resync struct {
	r      *Replicator
	t      *target
	source registry.Registry
	target registry.Registry
	dry    bool
	tell   func(Progress)
	repos  []string
	done   Progress
	differ []item
}

// compared is what is compared at once: how much one transaction queues.
const compared = 200

// repository compares a repository.
func (s *resync) repository(ctx context.Context, repo string) error {
	there, err := s.t.there(repo)
	if err != nil {
		return err
	}
	var here map[string]bool
	if s.t.deletes {
		here = map[string]bool{}
	}
	err = s.inBatches(ctx, s.tags(ctx, repo, here), func(ctx context.Context, i item) (bool, error) {
		return s.differs(ctx, i, there)
	}, false)
	if err != nil {
		return err
	}
	err = s.inBatches(ctx, s.manifests(ctx, repo), func(ctx context.Context, i item) (bool, error) {
		return s.differs(ctx, i, there)
	}, false)
	if err != nil || !s.t.deletes {
		return err
	}
	return s.inBatches(ctx, s.gone(ctx, repo, there, here), func(context.Context, item) (bool, error) { return true, nil }, true)
}

// tags yields the tags of a repository that the rule is about, and remembers them all
// in here, unless it is nil.
func (s *resync) tags(ctx context.Context, repo string, here map[string]bool) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		for tag, err := range s.source.Tags(ctx, repo, "") {
			if err != nil {
				if !errors.Is(err, registry.ErrNameUnknown) { // it has just gone
					yield(item{}, err)
				}
				return
			}
			if here != nil {
				here[tag] = true
			}
			i := tagOf(repo, tag)
			wanted := s.t.wantsTag(tag)
			if _, attaches := attachedTo(tag); !wanted && attaches {
				if wanted, err = s.r.wanted(ctx, s.t, i); err != nil {
					yield(i, err)
					return
				}
			}
			if wanted && !yield(i, nil) {
				return
			}
		}
	}
}

// gone yields tags that the target has and that are not here.
func (s *resync) gone(ctx context.Context, repo, there string, here map[string]bool) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		for tag, err := range s.target.Tags(ctx, there, "") {
			if err != nil {
				if !errors.Is(err, registry.ErrNameUnknown) {
					yield(item{}, &TargetError{err})
				}
				return
			}
			if !here[tag] && s.t.wantsTag(tag) && registry.ValidTag(tag) && !yield(tagOf(repo, tag), nil) {
				return
			}
		}
	}
}

// manifests yields the manifests of a repository that no tag and no index brings
// along: those that were pushed by digest, if the rule is about all tags, and what
// refers to others.
func (s *resync) manifests(ctx context.Context, repo string) iter.Seq2[item, error] {
	return func(yield func(item, error) bool) {
		prefix, after := storage.Key(repo, ""), []byte(nil)
		for {
			var some []item
			err := s.r.meta.View(ctx, func(tx storage.Tx) (err error) {
				some = nil
				looked := 0
				for e, err := range storage.Manifests.Scan(tx, prefix, after) {
					if err != nil {
						return err
					}
					d, _, err := storage.CutDigest(e.Rest)
					if err != nil {
						return err
					}
					after = storage.Key(repo, storage.DigestPart(d))
					alone, err := s.alone(tx, repo, d, e.Value)
					if err != nil {
						return err
					}
					if alone {
						some = append(some, manifestOf(repo, d))
					}
					if looked++; looked == batch {
						return nil
					}
				}
				after = nil
				return nil
			})
			if err != nil {
				yield(item{}, err)
				return
			}
			for _, i := range some {
				if !yield(i, nil) {
					return
				}
			}
			if after == nil {
				return
			}
		}
	}
}

// alone says whether a manifest is to be compared by its digest.
func (s *resync) alone(tx storage.Tx, repo string, d digest.Digest, m storage.Manifest) (bool, error) {
	if m.Subject != "" {
		return s.t.reaches(tx, repo, d)
	}
	if len(s.t.tags) > 0 {
		return false, nil
	}
	for _, table := range []storage.Table[storage.Mark]{storage.Tagged, storage.Parents} {
		for _, err := range table.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil) {
			return false, err
		}
	}
	return true, nil
}

// differs says whether something is another one at the target, or not there.
func (s *resync) differs(ctx context.Context, i item, there string) (bool, error) {
	here, err := s.source.StatManifest(ctx, i.repo, i.ref)
	if errors.Is(err, registry.ErrManifestUnknown) {
		return false, nil // it has just gone
	}
	if err != nil {
		return false, err
	}
	desc, err := s.target.StatManifest(ctx, there, i.ref)
	if errors.Is(err, registry.ErrManifestUnknown) || errors.Is(err, registry.ErrNameUnknown) {
		return true, nil
	}
	if err != nil {
		return false, &TargetError{err}
	}
	return desc.Digest != here.Digest, nil
}

// inBatches compares items, several at once, and queues those that differ.
func (s *resync) inBatches(ctx context.Context, items iter.Seq2[item, error], differs func(context.Context, item) (bool, error), deleted bool) error {
	var some []item
	flush := func() error {
		found := make([]bool, len(some))
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(s.t.jobs)
		for n, i := range some {
			g.Go(func() (err error) {
				found[n], err = differs(gctx, i)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		var queue []item
		for n, i := range some {
			if found[n] {
				queue = append(queue, i)
			}
		}
		s.done.Checked += len(some)
		some = some[:0]
		return s.queue(ctx, queue, deleted)
	}
	for i, err := range items {
		if err != nil {
			return err
		}
		if some = append(some, i); len(some) == compared {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// queue has items replicated, and tells of them.
func (s *resync) queue(ctx context.Context, items []item, deleted bool) error {
	now := s.r.now()
	if !s.dry && len(items) > 0 {
		err := s.r.meta.Update(ctx, func(tx storage.Tx) error {
			for _, i := range items {
				if err := (queue{tx, s.t.name}).want(i, deleted, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.differ = append(s.differ, items...)
		notify(s.t.wake)
	}
	for _, i := range items {
		s.done.Differ++
		p := s.done
		p.Item = &Item{Repo: i.repo, Tag: i.ref.Tag, Digest: i.ref.Digest, Deleted: deleted, Queued: now, Due: now}
		s.tell(p)
	}
	if len(items) == 0 {
		s.tell(s.done)
	}
	return nil
}

// lookAgain is how often wait looks how far the queue is.
const lookAgain = 300 * time.Millisecond

// wait waits until all that differs is replicated or has failed for good.
func (s *resync) wait(ctx context.Context) error {
	ticker := time.NewTicker(lookAgain)
	defer ticker.Stop()
	for {
		var waiting []item
		for at := 0; at < len(s.differ); at += batch {
			some, broken, err := s.look(ctx, s.differ[at:min(at+batch, len(s.differ))])
			if err != nil {
				return err
			}
			waiting = append(waiting, some...)
			s.done.Broken += broken
		}
		s.done.Waiting, s.differ = len(waiting), waiting
		s.tell(s.done)
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// look says which items wait still, and how many have failed for good.
func (s *resync) look(ctx context.Context, items []item) (waiting []item, broken int, err error) {
	err = s.r.meta.View(ctx, func(tx storage.Tx) error {
		waiting, broken = nil, 0
		for _, i := range items {
			w, there, err := queue{tx, s.t.name}.get(i)
			switch {
			case err != nil:
				return err
			case there && w.Broken && w.Taken == "":
				broken++
			case there:
				waiting = append(waiting, i)
			}
		}
		return nil
	})
	return waiting, broken, err
}
