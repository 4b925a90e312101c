package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Garbage is something that nothing needs.
type Garbage struct {
	Kind   storage.ReviewKind
	Repo   string // empty for bytes
	Digest digest.Digest
	Size   int64     // bytes that are free without it: 0 but for bytes
	Since  time.Time // when it came to be garbage
}

// Collected is what a collection has done.
type Collected struct {
	Reviewed int       // reviews that were done
	Removed  []Garbage // in their order
	Failed   int       // bytes that could not be deleted; they are tried again later
}

// Collect does the reviews that are due, and removes what nothing needs. With all
// set it does those too that are not due yet, but for what has a lease, and
// whatever comes to be garbage by that. It waits for a collection that runs in this
// process; with those of other processes it shares the work, and leaves to them what
// they have begun. progress, if not nil, is called again and
// again, with what was done since the last call. An error leaves what was not done
// for later.
func (l *Local) Collect(ctx context.Context, all bool, progress func(Collected)) error {
	if progress == nil {
		progress = func(Collected) {}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case l.collecting <- struct{}{}:
	}
	defer func() { <-l.collecting }()
	if err := l.expireNodes(ctx); err != nil {
		return err
	}
	failed := map[digest.Digest]bool{}
	for {
		removed, err := l.collectPass(ctx, all, failed, progress)
		if err != nil || !all || removed == 0 {
			return err
		}
	}
}

// collectPass goes through the queue once, and returns how much it removed.
func (l *Local) collectPass(ctx context.Context, all bool, failed map[digest.Digest]bool, progress func(Collected)) (removed int, err error) {
	var after []byte
	until := l.now().UnixMicro()
	for pace := l.newPace(); ; {
		b, err := l.collectSome(ctx, batch{all: all, until: until, limit: pace.step(), failed: failed}, after)
		if err != nil {
			return removed, err
		}
		removed += len(b.done.Removed)
		progress(b.done)
		if b.last == nil {
			return removed, nil
		}
		after = b.last
		if err := pace.rest(ctx); err != nil {
			return removed, err
		}
	}
}

// collectSome does the reviews behind the key after, as b says.
func (l *Local) collectSome(ctx context.Context, b batch, after []byte) (done batch, err error) {
	if l.shared() {
		if b.due, err = l.countDue(ctx, b, after); err != nil || b.due == 0 {
			return b, err
		}
	}
	l.holds.mu.Lock()
	defer l.holds.mu.Unlock()
	b.held = l.holds.n > 0
	begin := time.Now()
	err = l.write(ctx, func(tx *changing) error {
		done = b
		if l.shared() {
			return done.runBesideOthers(tx, after)
		}
		return done.run(tx, after)
	})
	if err == nil {
		err = l.deleteBytes(ctx, &done, begin)
	}
	return done, err
}

// countDue counts what a batch has before it, in a snapshot: where nothing is, nothing
// is written, and transactions that queue reviews are not met.
func (l *Local) countDue(ctx context.Context, b batch, after []byte) (n int, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		reviews, err := b.scan(tx, after)
		n = len(reviews)
		return err
	})
	return n, err
}

// Plan says what Collect would remove, in their order, and changes nothing.
func (l *Local) Plan(ctx context.Context, all bool) (garbage []Garbage, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		c := &changing{Tx: storage.Overlay(tx), local: l, now: l.now()}
		for {
			b := batch{all: all, until: c.now.UnixMicro(), limit: -1}
			if err := b.run(c, nil); err != nil {
				return err
			}
			for _, g := range b.bytes {
				b.done.Removed = append(b.done.Removed, g.Garbage)
				if err := errors.Join(storage.Stored.Delete(c, storage.Key(storage.DigestPart(g.Digest))), storage.Reviews.Delete(c, g.key)); err != nil {
					return err
				}
			}
			garbage = append(garbage, b.done.Removed...)
			if !all || len(b.done.Removed) == 0 {
				return ctx.Err()
			}
		}
	})
	return garbage, err
}

// batch is some reviews that are done in one transaction.
type batch struct {
	all   bool
	until int64 // what is due by then
	limit int   // reviews; -1 for any number
	due   int   // of these, that there were; where other processes collect, too
	held  bool  // bytes stay; see HoldCollection
	done  Collected
	bytes []tombstone // whose bytes are to be deleted now
	last  []byte      // key of the last review, if there are more

	failed map[digest.Digest]bool // bytes that the collection could not delete
}

// tombstone is bytes that are being deleted.
type tombstone struct {
	Garbage
	key   []byte // of its review
	due   int64  // of its review
	tries int
}

// queued is a review with its key.
type queued struct {
	storage.Review
	key []byte
	due int64
}

// run does the reviews behind the key after.
func (b *batch) run(tx *changing, after []byte) error {
	reviews, err := b.scan(tx, after)
	if err != nil {
		return err
	}
	return b.do(tx, reviews)
}

// runBesideOthers does reviews behind the key after that no other process is at.
func (b *batch) runBesideOthers(tx *changing, after []byte) error {
	reviews, err := b.take(tx, after)
	if err != nil {
		return err
	}
	if !b.held {
		if b.held, err = tx.held(); err != nil {
			return err
		}
	}
	if err := b.do(tx, reviews); err != nil || len(b.bytes) == 0 {
		return err
	}
	return tx.collects()
}

// do does reviews.
func (b *batch) do(tx *changing, reviews []queued) error {
	tx.cascade = tx.lease() // who was told of what is garbage now can still use it
	if b.all {
		tx.cascade = tx.now.UnixMicro()
	}
	for _, r := range reviews {
		if err := b.review(tx, r); err != nil {
			return fmt.Errorf("review of %s: %w", r.Digest, err)
		}
	}
	b.done.Reviewed = len(reviews)
	return nil
}

// take takes reviews from the queue, so that other processes leave them.
func (b *batch) take(tx *changing, after []byte) (reviews []queued, err error) {
	rows, err := storage.Reviews.Take(tx, nil, after, b.due)
	if err != nil {
		return nil, err
	}
	for _, e := range rows {
		due, err := storage.CutNumber(e.Key)
		if err != nil {
			return nil, err
		}
		if due > b.until && !b.all {
			break // those before it are taken by others
		}
		reviews = append(reviews, queued{e.Value, append([]byte(nil), e.Key...), due})
	}
	if len(reviews) == b.limit {
		b.last = reviews[b.limit-1].key
	}
	return reviews, nil
}

// scan reads reviews from the queue.
func (b *batch) scan(tx storage.Tx, after []byte) (reviews []queued, err error) {
	for e, err := range storage.Reviews.Scan(tx, nil, after) {
		if err != nil {
			return nil, err
		}
		due, err := storage.CutNumber(e.Key)
		if err != nil {
			return nil, err
		}
		if due > b.until && !b.all {
			break
		}
		if len(reviews) == b.limit {
			b.last = reviews[b.limit-1].key
			break
		}
		reviews = append(reviews, queued{e.Value, append([]byte(nil), e.Key...), due})
	}
	return reviews, nil
}

// review looks at one row that may be garbage.
func (b *batch) review(tx *changing, r queued) error {
	d := digest.Digest(r.Digest)
	switch r.Kind {
	case storage.ReviewManifest:
		return reviewRow(b, tx, watchedManifests, r, func(row *storage.Manifest) (string, int64, error) {
			return tx.needed(r.Repo, d, row)
		}, func(row storage.Manifest) error {
			b.removed(r, 0)
			if tx.quotas().caches.has(r.Repo) {
				_, err := tx.evict(r.Repo, d, row)
				return err
			}
			return removeManifest(tx, r.Repo, d, row)
		})
	case storage.ReviewLink:
		return reviewRow(b, tx, watchedLinks, r, func(*storage.Link) (why string, until int64, err error) {
			needed, err := hasAny(storage.Parents.Scan(tx, storage.Key(r.Repo, storage.DigestPart(d), ""), nil))
			if needed || err != nil {
				return "a manifest needs it", 0, err
			}
			return tx.cachedLink(r.Repo, d)
		}, func(row storage.Link) error {
			b.removed(r, 0)
			return tx.evicting(r.Repo, func() error { return deleteLink(tx, r.Repo, d, row) })
		})
	case storage.ReviewBlob:
		if b.held || b.failed[d] {
			return nil // it stays queued
		}
		return reviewRow(b, tx, watchedBlobs, r, func(row *storage.Blob) (why string, until int64, err error) {
			needed, err := hasAny(storage.Holders.Scan(tx, storage.Key(storage.DigestPart(d), ""), nil))
			if needed || err != nil {
				return "a repository needs it", 0, err
			}
			if !row.Deleting && tx.local.arrivals.has(d) { // else it waits for this
				return "a push is about to make it known", tx.now.Add(time.Minute).UnixMicro(), nil
			}
			if moving, err := isMoving(tx, d); moving || err != nil {
				return "it is damaged, and just moved away", tx.now.Add(time.Minute).UnixMicro(), err
			}
			return "", 0, nil
		}, func(row storage.Blob) error {
			row.Deleting = true
			t := tombstone{Garbage{r.Kind, "", d, row.Size, r.Since}, r.key, r.due, r.Tries}
			if err := tx.claim(&t, &row.Watch); err != nil {
				return err
			}
			b.bytes = append(b.bytes, t)
			return storage.Stored.Put(tx, watchedBlobs.key("", d), row)
		})
	}
	return storage.Reviews.Delete(tx, r.key) // of a kind that a later version knows
}

func (b *batch) removed(r queued, size int64) {
	b.done.Removed = append(b.done.Removed, Garbage{r.Kind, r.Repo, digest.Digest(r.Digest), size, r.Since})
}

// reviewRow removes a row, unless something needs it. needed says why it does, and
// until when if that is known.
func reviewRow[V any](b *batch, tx *changing, w watched[V], r queued, needed func(*V) (string, int64, error), remove func(V) error) error {
	d := digest.Digest(r.Digest)
	row, err := w.table.Get(tx, w.key(r.Repo, d))
	if err != nil && !isNotFound(err) {
		return err
	}
	watch := w.watch(&row)
	if isNotFound(err) || watch.Due != r.due { // it was removed, or put off
		return storage.Reviews.Delete(tx, r.key)
	}
	if until := max(watch.Lease, tx.local.told.get(toldKey{r.Kind, r.Repo, d})); until > tx.now.UnixMicro() {
		if b.all {
			return nil // it stays where it is
		}
		return w.queue(tx, r.Repo, d, until)
	}
	why, until, err := needed(&row)
	switch {
	case err != nil:
		return err
	case why == "":
		return remove(row)
	case until == 0:
		return w.clear(tx, r.Repo, d)
	case b.all && r.due > tx.now.UnixMicro():
		return nil // it stays where it is
	}
	return w.queue(tx, r.Repo, d, until)
}
