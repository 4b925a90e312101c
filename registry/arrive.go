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

const (
	// deletingTime is how long a push waits until bytes are deleted that it has
	// again.
	deletingTime = 30 * time.Second
	// deletingPause is how long it waits before it looks.
	deletingPause = 5 * time.Millisecond
)

// arrive makes content that is about to be stored safe from a collection that
// found the same bytes to be garbage: it gives them a lease, or waits until they
// are gone. It also waits while damaged ones are moved away. The caller has them among
// the arrivals.
func (l *Local) arrive(ctx context.Context, d digest.Digest) error {
	end := time.Now().Add(deletingTime)
	for {
		var row storage.Blob
		get := func(tx storage.Tx) (err error) {
			row, err = storage.Stored.Get(tx, storage.Key(storage.DigestPart(d)))
			if err == nil && !row.Deleting {
				row.Deleting, err = isMoving(tx, d) // nothing else is made of the row
			}
			return err
		}
		err := l.meta.View(ctx, get)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case !row.Deleting && !l.shared() && row.Due == 0:
			return nil // arrivals keep it
		case !row.Deleting:
			err = l.change(ctx, func(tx *changing) error {
				if err := get(tx); err != nil || row.Deleting {
					return err
				}
				return watchedBlobs.touch(tx, "", d)
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

// stored runs fn, a transaction that makes the bytes d needed which were just
// stored. If a collection deletes them at the same time, or a scrub moves what was
// damaged away, it waits until that is done and runs fn again, if the bytes are still
// there.
func (l *Local) stored(ctx context.Context, d digest.Digest, fn func(*changing) error) error {
	end := time.Now().Add(deletingTime)
	seen := false // the bytes, after what was damaged of them was moved away
	for {
		err := l.change(ctx, func(tx *changing) error {
			tx.seen = seen
			return fn(tx)
		})
		if !isPassing(err) {
			return l.refused(ctx, d, err)
		}
		if seen = errors.Is(err, errDamaged); !seen {
			if err := pause(ctx, end); err != nil {
				return err
			}
			if err := l.arrive(ctx, d); err != nil {
				return err
			}
		}
		if _, serr := l.blobs.Size(ctx, d); serr != nil {
			return err // they went with the old ones
		}
	}
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
