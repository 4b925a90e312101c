package registry

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// errDeleting says that bytes are just being deleted.
var errDeleting = ErrUnavailable.With("the registry is just deleting this content, which nothing needed; push it again")

const (
	// deletingTime is how long a push waits until bytes are deleted that it has
	// again.
	deletingTime = 30 * time.Second
	// deletingPause is how long it waits before it looks.
	deletingPause = 5 * time.Millisecond
)

// arrive makes content that is about to be stored safe from a collection that
// found the same bytes to be garbage: it gives them a lease, or waits until they
// are gone.
func (l *Local) arrive(ctx context.Context, d digest.Digest) error {
	end := time.Now().Add(deletingTime)
	for {
		var row storage.Blob
		get := func(tx storage.Tx) (err error) {
			row, err = storage.Stored.Get(tx, storage.Key(storage.DigestPart(d)))
			return err
		}
		err := l.meta.View(ctx, get)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case !row.Deleting && row.Due == 0:
			return nil
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
// stored. If a collection deletes them at the same time, it waits until that is
// done and runs fn again, if the bytes are still there.
func (l *Local) stored(ctx context.Context, d digest.Digest, fn func(*changing) error) error {
	end := time.Now().Add(deletingTime)
	for {
		err := l.change(ctx, fn)
		if !errors.Is(err, errDeleting) {
			return err
		}
		if err := pause(ctx, end); err != nil {
			return err
		}
		if err := l.arrive(ctx, d); err != nil {
			return err
		}
		if _, serr := l.blobs.Size(ctx, d); serr != nil {
			return err // they were deleted with the old ones
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
