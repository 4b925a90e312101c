package registry

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
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

// LeastUsed lists up to most of what can be removed from a cache, what was pulled
// longest ago first. It reads all rows of the cache, in many snapshots.
func (l *Local) LeastUsed(ctx context.Context, e Eviction, most int) ([]CachedContent, error) {
	return e.leastUsed(func(fn func(*changing) error) error {
		return l.meta.View(ctx, func(tx storage.Tx) error {
			return cmp.Or(ctx.Err(), fn(&changing{Tx: tx, local: l, now: l.now()}))
		})
	}, most)
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

// leastUsed is LeastUsed on what view shows.
func (e Eviction) leastUsed(view func(func(*changing) error) error, most int) (list []CachedContent, err error) {
	oldest := func() {
		slices.SortFunc(list, func(a, b CachedContent) int {
			return cmp.Or(a.Used.Compare(b.Used), strings.Compare(a.Repo, b.Repo), cmp.Compare(a.Digest, b.Digest))
		})
		list = list[:min(len(list), most)]
	}
	add := func(item CachedContent, ok bool, err error) error {
		if ok && err == nil {
			if list = append(list, item); len(list) >= 2*most {
				oldest()
			}
		}
		return err
	}
	if err := eachCached(view, storage.Manifests, e.Prefix, func(c *changing, repo string, d digest.Digest, row storage.Manifest) error {
		return add(e.manifest(c, repo, d, &row))
	}); err != nil {
		return nil, err
	}
	if err := eachCached(view, storage.Links, e.Prefix, func(c *changing, repo string, d digest.Digest, _ storage.Link) error {
		return add(e.link(c, repo, d))
	}); err != nil {
		return nil, err
	}
	oldest()
	return list, nil
}

// eachCached calls fn for the rows of a cache, in chunks of what view shows.
func eachCached[V any](view func(func(*changing) error) error, table storage.Table[V], prefix string, fn func(c *changing, repo string, d digest.Digest, row V) error) error {
	var after []byte
	for {
		var last []byte
		err := view(func(c *changing) error {
			n := 0
			for e, err := range table.Scan(c, []byte(prefix+"/"), after) {
				if err != nil {
					return err
				}
				repo, d, err := cutContent(e.Key)
				if err != nil {
					return err
				}
				if c.quotas().caches.in(repo, prefix) {
					if err := fn(c, repo, d, e.Value); err != nil {
						return err
					}
				}
				if n++; n == lookRows {
					last = bytes.Clone(e.Key)
					break
				}
			}
			return nil
		})
		if err != nil || last == nil {
			return err
		}
		after = last
	}
}

// manifest says whether a manifest can be removed.
func (e Eviction) manifest(c *changing, repo string, d digest.Digest, row *storage.Manifest) (item CachedContent, ok bool, err error) {
	used, err := c.used(repo, d, row)
	if err != nil || e.spares(repo, d, used) {
		return item, false, err
	}
	runs, err := c.runningNear(repo, d, row)
	return CachedContent{storage.ReviewManifest, repo, d, used}, runs == 0, err
}

// link says whether a blob can be removed.
func (e Eviction) link(c *changing, repo string, d digest.Digest) (item CachedContent, ok bool, err error) {
	key := storage.Key(repo, storage.DigestPart(d))
	needed, err := hasAny(storage.Parents.Scan(c, append(bytes.Clone(key), 0), nil))
	if needed || err != nil {
		return item, false, err
	}
	used, err := c.pulled(storage.PulledDigests, key, time.Time{})
	return CachedContent{storage.ReviewLink, repo, d, used}, !e.spares(repo, d, used), err
}

// spares says whether something stays that was used at a time.
func (e Eviction) spares(repo string, d digest.Digest, used time.Time) bool {
	return !used.Before(e.Before) || e.Spare != nil && e.Spare(repo, d)
}

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
