package registry

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// What a repository holds that is a cache of another registry's can be fetched again.
// So nothing is kept there because a tag or an index leads to it, but only because it
// was fetched or pulled lately, or because a node runs it. A review is queued of each
// manifest for when nobody has pulled it for long enough, unless it is kept for ever;
// what was pulled since then is found by the review, not written to it. A manifest
// goes with its tags and their history, and nobody is told: nothing has changed
// upstream.

// Cache is where content of another registry is cached; see package mirror.
type Cache struct {
	Prefix string        // of its repositories: hub is that of hub/library/nginx
	Keep   time.Duration // how long what nobody pulls is kept; 0 for ever
}

// cacheSet is all the caches that there are, those with the longest prefixes first.
type cacheSet []Cache

// SetCaches sets which repositories are caches from now on: those below a prefix, or
// below the longest of several. What they hold is in no quota, and counts for itself;
// see CacheUsage. LookCaches has what is there already kept as they say, and Recount
// counts it.
func (l *Local) SetCaches(caches []Cache) {
	set := slices.Clone(cacheSet(caches))
	slices.SortFunc(set, func(a, b Cache) int {
		return cmp.Or(cmp.Compare(len(b.Prefix), len(a.Prefix)), cmp.Compare(a.Prefix, b.Prefix))
	})
	l.wanted.mu.Lock()
	defer l.wanted.mu.Unlock()
	l.wanted.caches = set
	l.quotas.Store(newQuotaSet(l.wanted.quotas, set))
}

// Cached says whether a repository is a cache.
func (l *Local) Cached(repo string) bool { return l.quotas.Load().caches.has(repo) }

// of finds the cache that a repository is in.
func (s cacheSet) of(repo string) (Cache, bool) {
	for _, c := range s {
		if n := len(c.Prefix); n > 0 && n < len(repo) && repo[n] == '/' && strings.HasPrefix(repo, c.Prefix) {
			return c, true
		}
	}
	return Cache{}, false
}

func (s cacheSet) has(repo string) bool {
	_, ok := s.of(repo)
	return ok
}

// in says whether a repository is in the cache with a prefix.
func (s cacheSet) in(repo, prefix string) bool {
	c, ok := s.of(repo)
	return ok && c.Prefix == prefix
}

// name is a name for which repositories are caches; empty if none are.
func (s cacheSet) name() string {
	var b strings.Builder
	for _, c := range s {
		b.WriteString("\x00" + c.Prefix)
	}
	return b.String()
}

// pullSlack is how much later than its row says something may have been pulled: pulls
// are written down once an hour.
const pullSlack = time.Hour

// keptUntil is until when a cache keeps what was used at a time.
func (c Cache) keptUntil(used time.Time) time.Time {
	return used.Add(c.Keep).Add(pullSlack)
}

// cached says why a cache keeps a manifest, and until when if that is known, in
// microseconds since 1970; or nothing.
func (c *changing) cached(cache Cache, repo string, d digest.Digest, row *storage.Manifest) (why string, until int64, err error) {
	if cache.Keep <= 0 {
		return "its cache keeps it for ever", 0, nil
	}
	used, err := c.used(repo, d, row)
	if err != nil {
		return "", 0, err
	}
	if end := cache.keptUntil(used); end.After(c.now) {
		why, until = "it was pulled lately", end.UnixMicro()
	}
	runs, err := c.runningNear(repo, d, row)
	if runs = min(runs, c.now.Add(runningAgain).UnixMicro()); runs > until {
		why, until = "a node runs it", runs
	}
	return why, until, err
}

// runningAgain is how soon it is looked again whether a node runs what is near a
// manifest: it does not say so when it no longer does.
const runningAgain = 24 * time.Hour

// used is when a manifest of a cache was fetched or pulled last, but for pullSlack.
func (c *changing) used(repo string, d digest.Digest, row *storage.Manifest) (time.Time, error) {
	part := storage.DigestPart(d)
	at, err := c.pulled(storage.PulledDigests, storage.Key(repo, part), row.Pushed)
	if err != nil {
		return at, err
	}
	for e, err := range storage.Tagged.Scan(c, storage.Key(repo, part, ""), nil) {
		if err != nil {
			return at, err
		}
		if at, err = c.pulled(storage.PulledTags, storage.Key(repo, string(e.Rest)), at); err != nil {
			return at, err
		}
	}
	return at, nil
}

// pulled is when something was pulled last, or at, whichever is later.
func (c *changing) pulled(table storage.Table[storage.Pull], key []byte, at time.Time) (time.Time, error) {
	row, err := table.Get(c, key)
	if isNotFound(err) {
		return at, nil
	}
	if row.At.After(at) {
		at = row.At
	}
	return at, err
}

// maxAbove is how many indexes of indexes are looked at above a manifest.
const maxAbove = 4

// runningNear is until when nodes keep a manifest because they run it, an index that
// leads to it, or what it leads to itself as an index; 0 if none does.
func (c *changing) runningNear(repo string, d digest.Digest, row *storage.Manifest) (until int64, err error) {
	for refs := row.Refs; len(refs) > 0; {
		ref, rest, err := storage.CutDigest(refs)
		if err != nil {
			return 0, err
		}
		at, err := c.running(storage.DigestPart(ref))
		if err != nil {
			return 0, err
		}
		until, refs = max(until, at), rest
	}
	above, err := c.runningAbove(repo, storage.DigestPart(d), maxAbove)
	return max(until, above), err
}

func (c *changing) runningAbove(repo, part string, most int) (until int64, err error) {
	if until, err = c.running(part); err != nil || most == 0 {
		return until, err
	}
	for e, err := range storage.Parents.Scan(c, storage.Key(repo, part, ""), nil) {
		if err != nil {
			return 0, err
		}
		at, err := c.runningAbove(repo, string(e.Rest), most-1)
		if err != nil {
			return 0, err
		}
		until = max(until, at)
	}
	return until, nil
}

// cachedLink says why a cache keeps a blob that no manifest needs, and until when; or
// nothing.
func (c *changing) cachedLink(repo string, d digest.Digest) (why string, until int64, err error) {
	cache, ok := c.quotas().caches.of(repo)
	if !ok {
		return "", 0, nil
	}
	row, err := storage.PulledDigests.Get(c, storage.Key(repo, storage.DigestPart(d)))
	switch end := cache.keptUntil(row.At); {
	case isNotFound(err):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	case cache.Keep <= 0:
		return "its cache keeps it for ever", 0, nil
	case end.After(c.now):
		return "it was pulled lately", end.UnixMicro(), nil
	}
	return "", 0, nil
}

// clearManifest forgets the review of a manifest that something needs. In a cache
// that is no reason to keep it.
func (c *changing) clearManifest(repo string, d digest.Digest) error {
	if c.quotas().caches.has(repo) {
		return nil
	}
	return watchedManifests.clear(c, repo, d)
}

// orphanManifest queues a review of a manifest that may not be needed any more. In a
// cache it has its own.
func (c *changing) orphanManifest(repo string, d digest.Digest, due int64) error {
	if c.quotas().caches.has(repo) {
		return nil
	}
	return watchedManifests.queue(c, repo, d, due)
}

// fixed says whether a tag can be neither moved nor removed. That of a cache is as it
// is upstream.
func (c *changing) fixed(repo, tag string) bool {
	return (*c.local.fixed.Load())(repo, tag) && !c.quotas().caches.has(repo)
}

// forgetPull forgets when a blob of a cache was pulled.
func (c *changing) forgetPull(repo string, d digest.Digest) error {
	if !c.quotas().caches.has(repo) {
		return nil
	}
	key := storage.Key(repo, storage.DigestPart(d))
	manifest, err := storage.Manifests.Has(c, key)
	if manifest || err != nil {
		return err
	}
	return storage.PulledDigests.Delete(c, key)
}

// evicting runs fn, of whose changes nobody is told if the repository is a cache.
func (c *changing) evicting(repo string, fn func() error) error {
	if !c.quotas().caches.has(repo) {
		return fn()
	}
	c.evicts = true
	defer func() { c.evicts = false }()
	return fn()
}

// evict removes a manifest from a cache, with its tags, which it returns.
func (c *changing) evict(repo string, d digest.Digest, row storage.Manifest) (tags []string, err error) {
	err = c.evicting(repo, func() error {
		for e, err := range storage.Tagged.Scan(c, storage.Key(repo, storage.DigestPart(d), ""), nil) {
			if err != nil {
				return err
			}
			tags = append(tags, string(e.Rest))
		}
		for _, tag := range tags {
			if err := c.evictTag(repo, tag, d); err != nil {
				return err
			}
		}
		return removeManifest(c, repo, d, row)
	})
	return tags, err
}

// evictTag removes a tag from a cache as if it had never been there.
func (c *changing) evictTag(repo, tag string, d digest.Digest) error {
	if err := countMove(c, repo, tag, string(d), ""); err != nil {
		return err
	}
	key := storage.Key(repo, tag)
	return errors.Join(
		storage.Tags.Delete(c, key),
		storage.Tagged.Delete(c, storage.Key(repo, storage.DigestPart(d), tag)),
		storage.PulledTags.Delete(c, key),
		storage.Mirrored.Delete(c, key),
		c.forgetMoves(repo, tag))
}

// forgetMoves forgets the history of a tag.
func (c *changing) forgetMoves(repo, tag string) error {
	var keys, past [][]byte
	for e, err := range storage.History.Scan(c, storage.Key(repo, tag, ""), nil) {
		if err != nil {
			return err
		}
		keys = append(keys, bytes.Clone(e.Key))
		if e.Value.Digest != "" {
			past = append(past, storage.Key(repo, storage.DigestPart(digest.Digest(e.Value.Digest)), tag, string(e.Rest)))
		}
	}
	for _, key := range keys {
		if err := storage.History.Delete(c, key); err != nil {
			return err
		}
	}
	for _, key := range past {
		if err := storage.Past.Delete(c, key); err != nil {
			return err
		}
	}
	return nil
}
