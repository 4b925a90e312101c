package registry

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// CacheUsage is what a cache holds.
type CacheUsage struct {
	Counted   bool  // false while it is still being counted: Bytes is too low then
	Bytes     int64 // of its repositories, each digest once
	Manifests int64 // of each repository, together
}

// CachedContent is what can be removed from a cache to make room: a manifest, with its
// tags and what nothing else needs, or a blob that no manifest of its repository needs.
type CachedContent struct {
	Kind   storage.ReviewKind // ReviewManifest or ReviewLink
	Repo   string
	Digest digest.Digest
	Used   time.Time // when it was fetched or pulled last, to within an hour
}

// Eviction says how much room is made in a cache, and at what.
type Eviction struct {
	Prefix string    // of the cache
	Target int64     // bytes that it may hold then
	Before time.Time // what was fetched or pulled since then stays
	// Spare, if set, says what stays, too. It is asked within transactions.
	Spare func(repo string, d digest.Digest) bool
}

// Evicted is what was removed from a cache.
type Evicted struct {
	CachedContent
	Tags  []string // that named it
	Bytes int64    // that the cache holds less
}

const (
	// evictAtOnce is how much is removed in one transaction, which pushes wait for.
	evictAtOnce = 32
	// evictGrace is how long the bytes of what was removed stay at most, for who has
	// just begun to read them.
	evictGrace = 10 * time.Minute
)

// CacheUsage says what the cache with a prefix holds; with an unknown one it fails
// with ErrNameUnknown. It reads a row for each of the cache's repositories.
func (l *Local) CacheUsage(ctx context.Context, prefix string) (u CacheUsage, err error) {
	set := l.quotas.Load()
	q := set.cache(prefix)
	if q == nil {
		return u, ErrNameUnknown.With("%s is no cache", prefix)
	}
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, counted, err := readTally(tx, q.id)
		if err != nil {
			return err
		}
		u = CacheUsage{Counted: counted, Bytes: row.Bytes}
		for e, err := range storage.Repos.Scan(tx, []byte(prefix+"/"), nil) {
			if err != nil {
				return err
			}
			if set.caches.in(string(e.Key), prefix) {
				u.Manifests += e.Value.Manifests
			}
		}
		return nil
	})
	return u, err
}

// cache is what counts the bytes of the cache with a prefix, or nil.
func (s *quotaSet) cache(prefix string) *quota {
	for _, q := range s.list {
		if q.cache && q.Name == prefix {
			return q
		}
	}
	return nil
}

// Evict removes what of some can be removed, in their order, until the cache holds no
// more than the eviction's target. It returns what went, and how much the cache holds
// then. A cache that is not counted loses nothing. An error leaves what did not go.
func (l *Local) Evict(ctx context.Context, e Eviction, some []CachedContent) (gone []Evicted, left int64, err error) {
	pace := l.newPace()
	for batch := range slices.Chunk(some, evictAtOnce) {
		pace.step()
		var now []Evicted
		err := l.write(ctx, func(tx *changing) (err error) {
			now, left, err = e.run(tx, batch)
			return err
		})
		if err != nil {
			return gone, left, err
		}
		if gone = append(gone, now...); left <= e.Target {
			break
		}
		if err := pace.rest(ctx); err != nil {
			return gone, left, err
		}
	}
	return gone, left, nil
}

// PlanEviction says what would be removed, and changes nothing.
func (l *Local) PlanEviction(ctx context.Context, e Eviction) (gone []Evicted, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		gone = nil
		c := &changing{Tx: storage.Overlay(tx), local: l, now: l.now()}
		for {
			some, err := e.leastUsed(func(fn func(*changing) error) error { return fn(c) }, planAtOnce)
			if err != nil {
				return err
			}
			now, left, err := e.run(c, some)
			gone = append(gone, now...)
			if len(now) == 0 || left <= e.Target || err != nil {
				return cmp.Or(err, ctx.Err())
			}
		}
	})
	return gone, err
}

// planAtOnce is how much a plan looks for at once.
const planAtOnce = 10_000

// run removes some content in a transaction, until it is enough.
func (e Eviction) run(c *changing, some []CachedContent) (gone []Evicted, left int64, err error) {
	q := c.quotas().cache(e.Prefix)
	if q == nil {
		return nil, 0, nil
	}
	all, err := c.tally()
	if err != nil {
		return nil, 0, err
	}
	tally, err := all.quota(c, q)
	if err != nil || tally.Phase != phaseCounted {
		return nil, 0, err
	}
	c.cascade = min(c.lease(), c.now.Add(evictGrace).UnixMicro())
	for _, item := range some {
		if tally.Bytes <= e.Target {
			break
		}
		before := tally.Bytes
		tags, ok, err := e.remove(c, item)
		if err != nil {
			return nil, 0, err
		}
		if ok {
			gone = append(gone, Evicted{item, tags, before - tally.Bytes})
		}
	}
	return gone, tally.Bytes, nil
}

// remove removes some content, if it still can be removed.
func (e Eviction) remove(c *changing, item CachedContent) (tags []string, ok bool, err error) {
	if item.Kind == storage.ReviewLink {
		ok, err = e.removeLink(c, item.Repo, item.Digest)
		return nil, ok, err
	}
	row, err := storage.Manifests.Get(c, storage.Key(item.Repo, storage.DigestPart(item.Digest)))
	if isNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if _, ok, err = e.manifest(c, item.Repo, item.Digest, &row); !ok || err != nil {
		return nil, false, err
	}
	if tags, err = c.evict(item.Repo, item.Digest, row); err != nil {
		return nil, false, err
	}
	for refs := row.Refs; len(refs) > 0; {
		ref, rest, err := storage.CutDigest(refs)
		if err != nil {
			return nil, false, err
		}
		if _, err := e.removeLink(c, item.Repo, ref); err != nil {
			return nil, false, err
		}
		refs = rest
	}
	return tags, true, nil
}

// removeLink removes a blob, if it is there and nothing needs it.
func (e Eviction) removeLink(c *changing, repo string, d digest.Digest) (bool, error) {
	link, err := storage.Links.Get(c, storage.Key(repo, storage.DigestPart(d)))
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, ok, err := e.link(c, repo, d); !ok || err != nil {
		return false, err
	}
	return true, c.evicting(repo, func() error { return deleteLink(c, repo, d, link) })
}
