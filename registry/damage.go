package registry

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Bytes that are damaged are marked, and from then on unknown to every repository:
// a client that has them pushes them again, and that takes the mark away. What is
// damaged is not for this package to find out, but what may be done about it is.
//
// A push of the same bytes can come at any time. So the mark is set first, and
// while it says Moving nobody can come to rely on the bytes (putStored); then they
// are checked once more, as a push that was done before the mark has replaced
// them, and moved away; then Moving is taken back. Whoever pushes after that has
// to see that the bytes are there before the mark goes: theirs may be what was
// moved away.
//
// Of several processes one moves bytes away: a second one that had found the old ones to
// be damaged would move away what was pushed since. So the mark says which one does,
// and the others leave it alone for movingTime after it was heard of.

// movingTime is for how long a process has it to itself to move bytes away, from when it
// has asked for it last. It does that in half of it, or leaves it.
const movingTime = 15 * time.Minute

// errDamaged says that bytes were damaged before they were pushed again.
var errDamaged = ErrUnavailable.With("what was stored of this content was damaged, and is just moved away; push it again")

// StoredBlob is bytes as the metadata knows them.
type StoredBlob struct {
	Digest  digest.Digest
	Size    int64 // bytes
	Damaged bool
}

// DamagedBlob is bytes that are damaged.
type DamagedBlob struct {
	Digest digest.Digest
	storage.Damage
	Repos []string // that need them
}

// StoredBlobs returns up to limit blobs behind a digest, in the byte order of their
// digests, but for those that are just being deleted. If there are fewer, next is
// empty; else it is the digest to go on behind.
func (l *Local) StoredBlobs(ctx context.Context, after digest.Digest, limit int) (blobs []StoredBlob, next digest.Digest, err error) {
	var from []byte
	if after != "" {
		from = storage.Key(storage.DigestPart(after))
	}
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		n := 0
		for e, err := range storage.Stored.Scan(tx, nil, from) {
			if err != nil {
				return err
			}
			d, err := cutOnlyDigest(e.Key)
			if err != nil {
				return err
			}
			damaged, err := storage.Damages.Has(tx, e.Key)
			if err != nil {
				return err
			}
			if !e.Value.Deleting {
				blobs = append(blobs, StoredBlob{Digest: d, Size: e.Value.Size, Damaged: damaged})
			}
			if n++; n == limit {
				next = d
				break
			}
		}
		return nil
	})
	return blobs, next, err
}

// cutOnlyDigest reads a key that is a digest.
func cutOnlyDigest(key []byte) (digest.Digest, error) {
	d, _, err := storage.CutDigest(key)
	return d, err
}

// StoredBlob returns a blob as the metadata knows it; ok is false for one that is
// unknown, or just being deleted.
func (l *Local) StoredBlob(ctx context.Context, d digest.Digest) (blob StoredBlob, ok bool, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Stored.Get(tx, storage.Key(storage.DigestPart(d)))
		if isNotFound(err) {
			return nil
		}
		if err == nil {
			blob, ok = StoredBlob{Digest: d, Size: row.Size}, !row.Deleting
			blob.Damaged, err = storage.Damages.Has(tx, storage.Key(storage.DigestPart(d)))
		}
		return err
	})
	return blob, ok, err
}

// Suspect marks bytes that seem to be damaged, so that they can be checked once more
// and moved away by this process. It says whether they were marked: not if they are
// about to be deleted, known to be damaged, or just moved away by another process.
func (l *Local) Suspect(ctx context.Context, d digest.Digest, kind storage.DamageKind) (marked bool, err error) {
	key := storage.Key(storage.DigestPart(d))
	err = l.change(ctx, func(tx *changing) error {
		marked = false
		row, err := storage.Stored.Get(tx, key)
		if isNotFound(err) || err == nil && row.Deleting {
			return nil
		}
		if err != nil {
			return err
		}
		old, err := storage.Damages.Get(tx, key)
		if !isNotFound(err) {
			if marked = err == nil && old.Moving && !tx.movedByOther(old); !marked { // else a crash has left it like that
				return err
			}
			return tx.putMoving(key, old)
		}
		marked = true
		return tx.putMoving(key, storage.Damage{Kind: kind, Since: tx.now, Size: row.Size, Moving: true})
	})
	return marked && err == nil, err
}

// putMoving marks bytes that this process moves away from now on.
func (c *changing) putMoving(key []byte, row storage.Damage) error {
	if c.local.shared() {
		row.Mover, row.Until = c.local.id, c.now.Add(movingTime)
	}
	return storage.Damages.Put(c, key, row)
}

// movedByOther says that it is for another process to move bytes away.
func (c *changing) movedByOther(row storage.Damage) bool {
	return row.Moving && c.local.shared() && row.Mover != c.local.id && c.now.Before(row.Until.Add(clockSkew))
}

// Moves says whether it is still for this process to move bytes away that Suspect has
// marked. If so, it has until then to do that.
func (l *Local) Moves(ctx context.Context, d digest.Digest) (until time.Time, ok bool, err error) {
	key := storage.Key(storage.DigestPart(d))
	until = time.Now().Add(movingTime / 2)
	err = l.change(ctx, func(tx *changing) error {
		ok = false
		row, err := storage.Damages.Get(tx, key)
		if isNotFound(err) || err == nil && (!row.Moving || l.shared() && row.Mover != l.id) {
			return nil
		}
		if ok = err == nil; ok && l.shared() {
			return tx.putMoving(key, row)
		}
		return err
	})
	return until, ok && err == nil, err
}

// Settle says what became of bytes that Suspect has marked: they are damaged, and
// were moved away. kept says that they can still be looked at.
func (l *Local) Settle(ctx context.Context, d digest.Digest, kind storage.DamageKind, kept bool) error {
	key := storage.Key(storage.DigestPart(d))
	return l.change(ctx, func(tx *changing) error {
		row, err := storage.Damages.Get(tx, key)
		if isNotFound(err) {
			return nil // it was deleted meanwhile
		}
		if err != nil {
			return err
		}
		if !row.Moving || l.shared() && row.Mover != l.id {
			return nil // another process has done it
		}
		row.Kind, row.Moving, row.Kept = kind, false, kept
		row.Mover, row.Until = "", time.Time{}
		return storage.Damages.Put(tx, key, row)
	})
}

// Sound takes the mark of damaged bytes back, which turned out to be as they should
// be.
func (l *Local) Sound(ctx context.Context, d digest.Digest) error {
	key := storage.Key(storage.DigestPart(d))
	return l.change(ctx, func(tx *changing) error {
		row, err := storage.Damages.Get(tx, key)
		if isNotFound(err) || err == nil && tx.movedByOther(row) {
			return nil
		}
		return errors.Join(err, storage.Damages.Delete(tx, key))
	})
}

// Damaged lists the bytes that are damaged, in the byte order of their digests.
func (l *Local) Damaged(ctx context.Context) iter.Seq2[DamagedBlob, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(DamagedBlob) bool) error {
		for e, err := range storage.Damages.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			d, err := cutOnlyDigest(e.Key)
			if err != nil {
				return err
			}
			blob := DamagedBlob{Digest: d, Damage: e.Value}
			for holder, err := range storage.Holders.Scan(tx, storage.Key(storage.DigestPart(d), ""), nil) {
				if err != nil {
					return err
				}
				blob.Repos = append(blob.Repos, string(holder.Rest))
			}
			if !yield(blob) {
				break
			}
		}
		return nil
	})
}

// SetDoubt has fn be told of bytes that could not be served as they should be. It
// must be quick.
func (l *Local) SetDoubt(fn func(digest.Digest)) { l.doubted.Store(&fn) }

// doubt tells of bytes that could not be served.
func (l *Local) doubt(d digest.Digest) {
	if fn := l.doubted.Load(); fn != nil {
		(*fn)(d)
	}
}

// isDamaged says whether bytes are marked.
func isDamaged(tx storage.Tx, d digest.Digest) (bool, error) {
	return storage.Damages.Has(tx, storage.Key(storage.DigestPart(d)))
}

// isMoving says whether bytes are marked, and may just be moved away.
func isMoving(tx storage.Tx, d digest.Digest) (bool, error) {
	row, err := storage.Damages.Get(tx, storage.Key(storage.DigestPart(d)))
	if isNotFound(err) {
		return false, nil
	}
	return row.Moving, err
}

// heal takes the mark away from bytes that were stored anew. It fails with
// errDeleting while the old ones are moved away, and with errDamaged unless the
// caller has seen, after that, that there are bytes.
func (c *changing) heal(d digest.Digest) error {
	row, err := storage.Damages.Get(c, storage.Key(storage.DigestPart(d)))
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return err
	case row.Moving:
		return errDeleting
	case !c.seen:
		return errDamaged
	}
	return storage.Damages.Delete(c, storage.Key(storage.DigestPart(d)))
}
