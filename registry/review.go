package registry

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Nothing is garbage at once. Whatever may make something garbage queues a review
// of it in the same transaction, which is due after a grace period; Collect looks
// at what is due then, by index, and removes what nothing needs. While a review is
// queued, what a client is told about its subject gives it a lease: until that
// ends it is not removed, whatever else happens. So a client that was told that a
// blob is there can push a manifest with it, and one that comes later is told that
// it is absent. What no review is queued of can come to be garbage within that time,
// and somebody may ask for its collection at once: see told.
//
// Where several processes share the metadata, all that keeps something is in its row:
// whoever is told of something has its lease written there, once in half the time that
// it holds at most, and bytes have one from the moment that their row is written. A
// lease holds for clockSkew longer there, so that clocks may differ by that.
//
// Bytes are deleted behind a tombstone: a transaction marks their row, which
// nothing can come to need from then on (putStored), before they are deleted, and
// another one removes the row after that. A crash leaves a review that is done
// again.

// Keeping says what is kept, and for how long.
type Keeping struct {
	// Grace is how long something must have been garbage before it is removed.
	Grace time.Duration
	// Lease is how long a client that was told of something may take to use it: half of
	// it at least. It is a minute at least where several processes share the metadata.
	Lease time.Duration
	// Untagged keeps manifests that nothing names, for ever.
	Untagged bool
	// History is how long what a tag has named is kept after that.
	History time.Duration
	// Moves is how many of the manifests that a tag has named last are kept in any
	// case.
	Moves int
}

// defaultKeeping is what holds unless SetKeeping is called.
var defaultKeeping = Keeping{Grace: 24 * time.Hour, Lease: time.Hour, History: 7 * 24 * time.Hour}

// SetKeeping sets what is kept from now on.
func (l *Local) SetKeeping(k Keeping) { l.keeping.Store(&k) }

// jitter spreads reviews that were queued together: up to a tenth of the grace
// period.
func jitter(d time.Duration) time.Duration {
	if d < 10 {
		return 0
	}
	return rand.N(d / 10) //nolint:gosec // it keeps no secret
}

// afterGrace is when a review of what may be garbage from now on is due.
func (c *changing) afterGrace() int64 {
	grace := c.local.keeping.Load().Grace
	return c.now.Add(grace + jitter(grace)).UnixMicro()
}

const (
	// clockSkew is by how much the clocks of processes may differ that share a store.
	clockSkew = 30 * time.Second
	// minLease is how long a lease holds there at least, as a push relies on it.
	minLease = time.Minute
)

// leaseTime is for how long something is kept that a client was told of, and how much
// longer a lease holds because of other clocks.
func (l *Local) leaseTime() (lease, skew time.Duration) {
	lease = l.keeping.Load().Lease
	if l.shared() {
		return max(lease, minLease), clockSkew
	}
	return lease, 0
}

// lease is until when something is kept that a client is told of now.
func (c *changing) lease() int64 {
	lease, skew := c.local.leaseTime()
	return c.now.Add(lease + skew).UnixMicro()
}

// keep gives a row a lease that the caller has to write in any case, if other processes
// have to know that somebody was told of it.
func (c *changing) keep(w *storage.Watch) {
	if c.local.shared() {
		w.Lease = max(w.Lease, c.lease())
	}
}

// queue makes a review due at a time, in place of one that is queued, and notes
// that in w, which the caller has to write.
func (c *changing) queue(kind storage.ReviewKind, repo string, d digest.Digest, w *storage.Watch, due, lease int64) error {
	review := storage.Review{Kind: kind, Repo: repo, Digest: string(d), Since: c.now}
	if w.Due != 0 {
		old, err := storage.Reviews.Get(c, storage.ReviewKey(w.Due, kind, repo, d))
		if err == nil {
			review.Since, review.Tries = old.Since, old.Tries
		}
		if err := c.unqueue(kind, repo, d, w); err != nil {
			return err
		}
	}
	w.Due, w.Lease = due, max(w.Lease, lease)
	return storage.Reviews.Put(c, storage.ReviewKey(due, kind, repo, d), review)
}

// unqueue forgets a review, and what w says of it. The lease stays.
func (c *changing) unqueue(kind storage.ReviewKind, repo string, d digest.Digest, w *storage.Watch) error {
	if w.Due == 0 {
		return nil
	}
	due := w.Due
	w.Due = 0
	return storage.Reviews.Delete(c, storage.ReviewKey(due, kind, repo, d))
}

// watched is a table of rows that may be garbage.
type watched[V any] struct {
	kind  storage.ReviewKind
	table storage.Table[V]
	watch func(*V) *storage.Watch
}

var (
	watchedManifests = watched[storage.Manifest]{storage.ReviewManifest, storage.Manifests, func(m *storage.Manifest) *storage.Watch { return &m.Watch }}
	watchedLinks     = watched[storage.Link]{storage.ReviewLink, storage.Links, func(l *storage.Link) *storage.Watch { return &l.Watch }}
	watchedBlobs     = watched[storage.Blob]{storage.ReviewBlob, storage.Stored, func(b *storage.Blob) *storage.Watch { return &b.Watch }}
)

// key is the key of a row; repo is empty for bytes.
func (w watched[V]) key(repo string, d digest.Digest) []byte {
	if w.kind == storage.ReviewBlob {
		return storage.Key(storage.DigestPart(d))
	}
	return storage.Key(repo, storage.DigestPart(d))
}

// change changes the watch of a row, if the row is there.
func (w watched[V]) change(c *changing, repo string, d digest.Digest, fn func(*storage.Watch) error) error {
	row, err := w.table.Get(c, w.key(repo, d))
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	watch := w.watch(&row)
	before := *watch
	if err := fn(watch); err != nil || *watch == before {
		return err
	}
	return w.table.Put(c, w.key(repo, d), row)
}

// queue makes a review of a row due at a time, if the row is there.
func (w watched[V]) queue(c *changing, repo string, d digest.Digest, due int64) error {
	return w.change(c, repo, d, func(watch *storage.Watch) error { return c.queue(w.kind, repo, d, watch, due, 0) })
}

// clear forgets the review of a row that something needs.
func (w watched[V]) clear(c *changing, repo string, d digest.Digest) error {
	return w.change(c, repo, d, func(watch *storage.Watch) error {
		if watch.Due == 0 {
			return nil
		}
		if !c.local.shared() { // else whoever needs it now may not need it for long
			watch.Lease = 0
		}
		return c.unqueue(w.kind, repo, d, watch)
	})
}

// touch gives a row a lease, if a review of it is queued, or other processes have to
// know that somebody was told of it.
func (w watched[V]) touch(c *changing, repo string, d digest.Digest) error {
	return w.change(c, repo, d, func(watch *storage.Watch) error {
		switch {
		case !c.local.stale(*watch): // somebody else has just done it
			return nil
		case watch.Due == 0:
			c.keep(watch)
			return nil
		}
		return c.queue(w.kind, repo, d, watch, max(watch.Due, c.afterGrace()), c.lease())
	})
}

// tellOthers gives a row a lease that other processes have to know of, and leaves the
// review of it where it is.
func (w watched[V]) tellOthers(c *changing, repo string, d digest.Digest) error {
	return w.change(c, repo, d, func(watch *storage.Watch) error {
		if c.local.unknownToOthers(*watch) {
			c.keep(watch)
		}
		return nil
	})
}

// stale says whether a lease that a client needs now must be written: not each
// time that it asks.
func (l *Local) stale(w storage.Watch) bool {
	if w.Due == 0 {
		return l.unknownToOthers(w)
	}
	return l.ends(w) || w.Due < l.now().Add(l.keeping.Load().Grace/2).UnixMicro()
}

// unknownToOthers says whether a lease must be written only as other processes have to
// know of it. What a cache holds needs no other: its review finds by itself what was
// pulled.
func (l *Local) unknownToOthers(w storage.Watch) bool { return l.shared() && l.ends(w) }

// ends says whether a lease ends so soon that it must be written anew.
func (l *Local) ends(w storage.Watch) bool {
	lease, skew := l.leaseTime()
	return w.Lease < l.now().Add(lease/2+skew).UnixMicro()
}

// shared says that other processes may change the metadata, too.
func (l *Local) shared() bool { return l.known.meta == nil }

// leased returns err, the outcome of giving a lease. A store that cannot be
// written to removes nothing either.
func leased(err error) error {
	if errors.Is(err, storage.ErrReadOnly) || errors.Is(err, storage.ErrNoSpace) {
		return nil
	}
	return err
}
