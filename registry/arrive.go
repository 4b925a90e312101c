package registry

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// errDeleting says that bytes are just being deleted, or moved away.
var errDeleting = ErrUnavailable.With("the registry is just removing what it had of this content; push it again")

// errLate says that bytes were stored so long after it was seen to that they stay that
// they may be gone.
var errLate = ErrUnavailable.With("the registry took too long to store this content; push it again")

const (
	// deletingTime is how long a push waits until bytes are deleted that it has
	// again.
	deletingTime = 30 * time.Second
	// deletingPause is how long it waits before it looks.
	deletingPause = 5 * time.Millisecond
)

// arrival is bytes that a push is about to store, or has stored and not made known
// yet. A collection that finds the same bytes to be garbage leaves them: one of this
// process as they are among the arrivals, one of another process because of the lease
// in their row. If there is no row, whoever writes one gives it a lease.
type arrival struct {
	local  *Local
	digest digest.Digest
	safe   time.Time // when it was last seen to that they stay
	end    func()    // must be called
}

// arriving begins the arrival of bytes.
func (l *Local) arriving(d digest.Digest) *arrival {
	return &arrival{local: l, digest: d, end: l.arrivals.begin(d)}
}

// prepare makes bytes that are about to be stored safe from a collection that found
// the same bytes to be garbage: it gives them a lease, or waits until they are gone. It
// also waits while damaged ones are moved away.
func (a *arrival) prepare(ctx context.Context) error {
	end := time.Now().Add(deletingTime)
	for {
		a.safe = a.local.now() // or later
		var row storage.Blob
		get := func(tx storage.Tx) (err error) {
			row, err = storage.Stored.Get(tx, storage.Key(storage.DigestPart(a.digest)))
			if err == nil && !row.Deleting {
				row.Deleting, err = isMoving(tx, a.digest) // nothing else is made of the row
			}
			return err
		}
		err := a.local.meta.View(ctx, get)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case !row.Deleting && !a.local.stale(row.Watch):
			return nil
		case !row.Deleting:
			err = a.local.change(ctx, func(tx *changing) error {
				if err := get(tx); err != nil || row.Deleting {
					return err
				}
				return watchedBlobs.touch(tx, "", a.digest)
			})
			if !row.Deleting && !isNotFound(err) {
				return err
			}
		}
		if err := pause(ctx, end); err != nil {
			return err
		}
	}
}

// isLate says that prepare was so long ago that other processes may have deleted the
// bytes since: a part of the lease is left for the transaction that asks.
func (a *arrival) isLate(now time.Time) bool {
	lease, _ := a.local.leaseTime()
	return a.local.shared() && now.Sub(a.safe) > lease/4
}

// stored runs fn, a transaction that makes the bytes needed which were just stored. If a
// collection deletes them at the same time, or a scrub moves what was damaged away, or
// it took very long to store them, it waits until that is done and runs fn again, if
// the bytes are still there.
func (a *arrival) stored(ctx context.Context, fn func(*changing) error) error {
	end := time.Now().Add(deletingTime)
	seen := false // the bytes, after what was damaged of them was moved away
	for {
		err := a.local.change(ctx, func(tx *changing) error {
			if a.isLate(tx.now) {
				return errLate
			}
			tx.seen = seen
			return fn(tx)
		})
		if !isPassing(err) {
			return a.local.refused(ctx, a.digest, err)
		}
		if seen = errors.Is(err, errDamaged); !seen {
			if err := pause(ctx, end); err != nil {
				return err
			}
			if err := a.prepare(ctx); err != nil {
				return err
			}
		}
		if _, serr := a.local.blobs.Size(ctx, a.digest); serr != nil {
			return err // they went with the old ones
		}
	}
}

// isPassing says that an error of a transaction that makes bytes needed passes.
func isPassing(err error) bool {
	return errors.Is(err, errDeleting) || errors.Is(err, errDamaged) || errors.Is(err, errLate)
}

// pause waits a little, but no longer than until end.
func pause(ctx context.Context, end time.Time) error {
	if time.Now().After(end) {
		return errDeleting
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deletingPause):
		return nil
	}
}
