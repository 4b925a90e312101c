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

// LeastUsed lists up to most of what can be removed from a cache, what was pulled
// longest ago first. It reads all rows of the cache, in many snapshots.
func (l *Local) LeastUsed(ctx context.Context, e Eviction, most int) ([]CachedContent, error) {
	return e.leastUsed(func(fn func(*changing) error) error {
		return l.meta.View(ctx, func(tx storage.Tx) error {
			return cmp.Or(ctx.Err(), fn(&changing{Tx: tx, local: l, now: l.now()}))
		})
	}, most)
}

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
