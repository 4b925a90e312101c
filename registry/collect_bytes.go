package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/berth-registry/berth/storage"
)

// claimTime is how long one of several processes has the bytes of a tombstone to
// itself. It deletes them in half of it, or leaves them. Who is killed meanwhile keeps
// others from pushing the same bytes for so long.
const claimTime = 5 * time.Minute

// claim keeps other processes from deleting the same bytes: the one that comes later
// would delete them from under a push that has come meanwhile. Where there are no
// others, nobody but a process that is dead can have claimed anything; there it has
// the next process do it first, as pushes of the same bytes wait for that.
func (c *changing) claim(t *tombstone, w *storage.Watch) error {
	end := c.now.Add(claimTime).UnixMicro()
	if !c.local.shared() {
		if end = c.now.UnixMicro(); t.due <= end {
			return nil
		}
	}
	t.key, t.due = storage.ReviewKey(end, storage.ReviewBlob, "", t.Digest), end
	return c.queue(storage.ReviewBlob, "", t.Digest, w, end, end)
}

// deleteBytes deletes the bytes of what has a tombstone since begin, or a little later,
// and then its row.
func (l *Local) deleteBytes(ctx context.Context, b *batch, begin time.Time) error {
	if len(b.bytes) == 0 {
		return nil
	}
	var failed, gone []tombstone
	for i, deleted := range l.deleteEach(ctx, b.bytes, begin) {
		t := b.bytes[i]
		if !deleted {
			b.failed[t.Digest] = true
			failed = append(failed, t)
			continue
		}
		gone = append(gone, t)
		delete(b.failed, t.Digest)
	}
	var removed []Garbage
	err := l.write(ctx, func(tx *changing) error {
		removed = nil
		for _, t := range gone {
			buried, err := tx.bury(t)
			if err != nil {
				return err
			}
			if buried {
				removed = append(removed, t.Garbage)
			}
		}
		if err := tx.countGone(removed); err != nil {
			return err
		}
		for _, t := range failed {
			if err := tx.backOff(t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.done.Removed = append(b.done.Removed, removed...)
	b.done.Failed = len(failed)
	return nil
}

// bury removes the row of bytes that are deleted, unless somebody else has done so.
func (c *changing) bury(t tombstone) (bool, error) {
	row, err := storage.Stored.Get(c, storage.Key(storage.DigestPart(t.Digest)))
	switch {
	case isNotFound(err), err == nil && (!row.Deleting || row.Due != t.due):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, errors.Join(
		storage.Stored.Delete(c, storage.Key(storage.DigestPart(t.Digest))),
		storage.Damages.Delete(c, storage.Key(storage.DigestPart(t.Digest))),
		storage.Reviews.Delete(c, t.key))
}

// countGone counts bytes that are no longer stored.
func (c *changing) countGone(removed []Garbage) error {
	var size int64
	for _, g := range removed {
		size += g.Size
	}
	return errors.Join(
		storage.Add(c, storage.CountBlobs, -int64(len(removed))),
		storage.Add(c, storage.CountBytes, -size))
}

// backOff has bytes that could not be deleted tried again, later each time.
func (c *changing) backOff(t tombstone) error {
	wait := min(time.Minute<<min(t.tries, 10), 12*time.Hour)
	return watchedBlobs.change(c, "", t.Digest, func(w *storage.Watch) error {
		if w.Due != t.due {
			return nil // somebody else has it
		}
		if err := c.unqueue(storage.ReviewBlob, "", t.Digest, w); err != nil {
			return err
		}
		w.Lease, w.Due = 0, c.now.Add(wait).UnixMicro()
		return storage.Reviews.Put(c, storage.ReviewKey(w.Due, storage.ReviewBlob, "", t.Digest),
			storage.Review{Kind: storage.ReviewBlob, Digest: string(t.Digest), Since: t.Since, Tries: t.tries + 1})
	})
}

// deleters is how many deletions run at once: a file system has most of them wait for
// what others have it write, and a store behind a network has all of them wait.
const deleters = 16

// deleteEach deletes the bytes of tombstones, and says which of them are gone. It
// leaves those that it has not come to when half of the claim on them is over, which
// began at begin, and gives up what lasts for much longer.
func (l *Local) deleteEach(ctx context.Context, bytes []tombstone, begin time.Time) (gone []bool) {
	gone = make([]bool, len(bytes))
	ctx, cancel := context.WithDeadline(ctx, begin.Add(claimTime*3/4))
	defer cancel()
	var done sync.WaitGroup
	for first := range min(deleters, len(bytes)) {
		done.Go(func() {
			for i := first; i < len(bytes) && time.Since(begin) <= claimTime/2; i += deleters {
				d := bytes[i].Digest
				err := l.blobs.Delete(ctx, d)
				if gone[i] = err == nil || isNotFound(err); !gone[i] {
					l.log.WarnContext(ctx, "cannot delete garbage; will try again", "digest", d, "error", err)
				}
			}
		})
	}
	done.Wait()
	return gone
}
