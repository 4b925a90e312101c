package registry

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// forgotten is how long it is remembered what was learnt of a tag that is not cached.
const forgotten = 24 * time.Hour

// LookCaches has all that caches hold reviewed in time: also what was there before its
// repository was a cache, and what was to be kept for longer, or for ever. It forgets
// what was learnt upstream a day ago of tags that are not cached. It reads all rows of
// all caches, in small transactions.
func (l *Local) LookCaches(ctx context.Context) error {
	for _, c := range l.quotas.Load().caches {
		if err := l.lookCache(ctx, c.Prefix); err != nil {
			return fmt.Errorf("look at the cache %s: %w", c.Prefix, err)
		}
	}
	return nil
}

func (l *Local) lookCache(ctx context.Context, prefix string) error {
	late := lateContent{}
	view := func(fn func(*changing) error) error {
		err := l.meta.View(ctx, func(tx storage.Tx) error {
			late.list = nil
			return cmp.Or(ctx.Err(), fn(&changing{Tx: tx, local: l, now: l.now()}))
		})
		return cmp.Or(err, late.queue(ctx, l))
	}
	if err := eachCached(view, storage.Manifests, prefix, func(c *changing, repo string, d digest.Digest, row storage.Manifest) error {
		return late.add(c, storage.ReviewManifest, repo, d, row.Due)
	}); err != nil {
		return err
	}
	if err := eachCached(view, storage.Links, prefix, func(c *changing, repo string, d digest.Digest, row storage.Link) error {
		return late.add(c, storage.ReviewLink, repo, d, row.Due)
	}); err != nil {
		return err
	}
	return l.forgetUpstreamed(ctx, prefix)
}

// lateContent is content of which no review is queued in time.
type lateContent struct{ list []toldKey }

// add takes content in, if it is like that.
func (s *lateContent) add(c *changing, kind storage.ReviewKind, repo string, d digest.Digest, due int64) error {
	want, err := c.reviewDue(kind, repo, d)
	if err == nil && want != 0 && (due == 0 || due > want) {
		s.list = append(s.list, toldKey{kind, repo, d})
	}
	return err
}

// queue queues the reviews.
func (s *lateContent) queue(ctx context.Context, l *Local) error {
	for some := range slices.Chunk(s.list, lookWrites) {
		if err := l.change(ctx, func(tx *changing) error {
			for _, k := range some {
				due, err := tx.reviewDue(k.kind, k.repo, k.digest)
				if err == nil && due != 0 {
					err = tx.reviewBy(k, due)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// reviewBy queues a review of content that is due at a time, unless one is that is
// due before.
func (c *changing) reviewBy(k toldKey, due int64) error {
	by := func(w *storage.Watch) error {
		if w.Due != 0 && w.Due <= due {
			return nil
		}
		return c.queue(k.kind, k.repo, k.digest, w, due, 0)
	}
	if k.kind == storage.ReviewManifest {
		return watchedManifests.change(c, k.repo, k.digest, by)
	}
	return watchedLinks.change(c, k.repo, k.digest, by)
}

// reviewDue is when a review of content of a cache is to be due; 0 for none.
func (c *changing) reviewDue(kind storage.ReviewKind, repo string, d digest.Digest) (due int64, err error) {
	var why string
	if kind == storage.ReviewManifest {
		row, err := storage.Manifests.Get(c, storage.Key(repo, storage.DigestPart(d)))
		if isNotFound(err) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		why, due, err = c.needed(repo, d, &row)
		if err != nil {
			return 0, err
		}
	} else {
		needed, err := hasAny(storage.Parents.Scan(c, storage.Key(repo, storage.DigestPart(d), ""), nil))
		if needed || err != nil {
			return 0, err
		}
		if why, due, err = c.cachedLink(repo, d); err != nil {
			return 0, err
		}
	}
	if why == "" {
		due = c.afterGrace()
	}
	return due, nil
}

// forgetUpstreamed forgets what was learnt of tags of a cache that are not there.
func (l *Local) forgetUpstreamed(ctx context.Context, prefix string) error {
	var after []byte
	for more := true; more; {
		var keys [][]byte
		last, before := after, l.now().Add(-forgotten)
		err := l.meta.View(ctx, func(tx storage.Tx) error {
			keys, last, more = nil, nil, false
			n := 0
			for e, err := range storage.Mirrored.Scan(tx, []byte(prefix+"/"), after) {
				if err != nil {
					return err
				}
				there, err := storage.Tags.Has(tx, e.Key)
				if err != nil {
					return err
				}
				last = bytes.Clone(e.Key)
				if !there && e.Value.Checked.Before(before) {
					keys = append(keys, last)
				}
				if n++; n == lookRows || len(keys) == lookWrites {
					more = true
					break
				}
			}
			return ctx.Err()
		})
		if err == nil && len(keys) > 0 {
			err = l.change(ctx, func(tx *changing) error { return tx.forgetTags(keys) })
		}
		if err != nil {
			return err
		}
		after = last
	}
	return nil
}

func (c *changing) forgetTags(keys [][]byte) error {
	for _, key := range keys {
		there, err := storage.Tags.Has(c, key) // it may have come meanwhile
		if err == nil && !there {
			err = storage.Mirrored.Delete(c, key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
