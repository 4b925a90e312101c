package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// rowBatch is how many rows are written in one transaction, and batchBytes how many
// bytes about.
const (
	rowBatch   = 20_000
	batchBytes = 16 << 20
)

// RestoreOptions are what a restore can be told.
type RestoreOptions struct {
	// Snapshot is the name of the snapshot; empty for the newest.
	Snapshot string
	// Older has the newest snapshot restored that is not damaged, if Snapshot is
	// empty. Skipped is told of those that are.
	Older   bool
	Skipped func(name string, err error)
	// Jobs, Temp, Now and Progress are as in Options.
	Jobs     int
	Temp     string
	Now      func() time.Time
	Progress func(Progress)
}

// Restore copies a snapshot into a store, whose metadata must be empty; its blobs need
// not be. Bytes that are damaged or missing at the target are told, and known to be
// missing then: nobody sees them, and a push of the same brings them back. When it
// returns without an error, all is durable. What notes say of the registry is written
// anew by the next registry.Local's Snapshot.
func Restore(ctx context.Context, from Target, blobs storage.Blobs, meta storage.Meta, o RestoreOptions) (res Result, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s, err := newSpool(o.Temp)
	if err != nil {
		return res, err
	}
	defer func() { _ = s.Close() }() // it has no name, and is of no more use
	found, sums, err := fetch(ctx, from, s, o)
	if err != nil {
		return res, err
	}
	res.Snapshot = found
	c := newCopier(&res, o.Jobs, o.Progress, sums)
	if err := c.toStore(ctx, from, blobs, s); err != nil {
		return res, err
	}
	if err := c.rows(ctx, meta, s, o.Now()); err != nil {
		return res, fmt.Errorf("write the metadata: %w", err)
	}
	return res, nil
}

// fetch copies the snapshot that is wanted to s, and reads it to its end: it is whole.
func fetch(ctx context.Context, from Target, s *spool, o RestoreOptions) (found Snapshot, sums trailer, err error) {
	all, err := snapshotNames(ctx, from)
	if err != nil {
		return found, sums, err
	}
	for i, snapshot := range all {
		if o.Snapshot != "" && snapshot.Name != o.Snapshot {
			continue
		}
		sums, err = fetchOne(ctx, from, s, &snapshot)
		if err == nil {
			return snapshot, sums, nil
		}
		err = fmt.Errorf("snapshot %s: %w", snapshot.Name, err)
		if !errors.Is(err, ErrDamaged) || o.Snapshot != "" {
			return found, sums, err
		}
		if !o.Older {
			if i+1 < len(all) {
				err = fmt.Errorf("%w; the one before it is %s", err, all[i+1].Name)
			}
			return found, sums, err
		}
		if o.Skipped != nil {
			o.Skipped(snapshot.Name, err)
		}
	}
	if err == nil {
		err = noSnapshot(o.Snapshot)
	}
	return found, sums, err
}

func fetchOne(ctx context.Context, from Target, s *spool, snapshot *Snapshot) (sums trailer, err error) {
	if err := s.Truncate(0); err != nil {
		return sums, err
	}
	if _, err := s.rewind(); err != nil {
		return sums, err
	}
	f, err := from.Open(ctx, snapshotPath(snapshot.Name))
	if err != nil {
		return sums, err
	}
	_, err = io.Copy(s, f)
	_ = f.Close() // it was only read
	if err != nil {
		return sums, fmt.Errorf("copy it: %w", err)
	}
	if _, err := s.rewind(); err != nil {
		return sums, err
	}
	r, err := readSnapshot(s)
	if err != nil {
		return sums, err
	}
	defer r.Close()
	if err := r.eachBlob(func(stored) error { return ctx.Err() }); err != nil {
		return sums, err
	}
	snapshot.Created, snapshot.Blobs, snapshot.Bytes = r.Created, r.sums.Blobs, r.sums.Bytes
	return r.sums, nil
}

// rows writes the rows of a snapshot, when its blobs are copied.
func (c *copier) rows(ctx context.Context, meta storage.Meta, s *spool, now time.Time) error {
	if _, err := s.rewind(); err != nil {
		return err
	}
	r, err := readSnapshot(s)
	if err != nil {
		return err
	}
	defer r.Close()
	var batch []row
	size := 0
	flush := func() error {
		err := meta.Update(ctx, func(tx storage.Tx) error {
			for _, r := range batch {
				if err := tx.Put(r.Table, r.Key, r.Value); err != nil {
					return err
				}
			}
			return nil
		})
		batch, size = nil, 0
		return err
	}
	for {
		next, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if next.Table == storage.Damages.Name() {
			continue // what was damaged then need not be now, and the other way round
		}
		batch = append(batch, next)
		if size += len(next.Key) + len(next.Value); len(batch) == rowBatch || size > batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	return meta.Update(ctx, func(tx storage.Tx) error { return c.finish(tx, now) })
}

// finish writes what a restored registry knows that the old one did not.
func (c *copier) finish(tx storage.Tx, now time.Time) error {
	for d, kind := range c.bad {
		key := storage.Key(storage.DigestPart(d))
		blob, err := storage.Stored.Get(tx, key)
		if err != nil {
			return err
		}
		if err := storage.Damages.Put(tx, key, storage.Damage{Kind: kind, Since: now, Size: blob.Size}); err != nil {
			return err
		}
	}
	return registry.ForgetNotes(tx)
}
