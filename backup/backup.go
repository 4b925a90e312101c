// Package backup copies a registry's content somewhere else while it is used, and
// back into an empty place.
//
// It promises that a snapshot shows the registry as it was at one moment, with all
// bytes that were stored then: the metadata is read in one transaction, and
// collection is held back until the bytes are copied. The snapshot is written last,
// so that a backup that is cut short leaves bytes that the next one need not copy,
// and nothing that looks like a backup. Bytes are kept by their digest, once for all
// snapshots of a target; they are hashed whenever they are copied, there and back,
// and what is damaged or missing is told and does not stop the rest.
//
// A snapshot holds all the rows of the metadata, and so hashes of passwords and the
// keys that sign tokens. Upload sessions are left out: their bytes are not stored yet.
//
// What is done here may be killed at any time and done again. Two backups to one
// target at the same time are for the caller to prevent, where the target cannot
// (see Target).
package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Source is what a backup is made of.
type Source struct {
	Meta  storage.Meta
	Blobs storage.Blobs
	// Hold keeps stored bytes from being deleted until release is called
	// (registry.Local's HoldCollection). Nil if nobody deletes anything.
	Hold func(context.Context) (release func(), err error)
}

// Options are what a backup can be told.
type Options struct {
	// Keep, if not 0, is how many snapshots are left at the target; older ones are
	// removed when the new one is there, and bytes that none of the rest needs.
	Keep int
	// Verify has the bytes read again that the target has already. Those that are
	// damaged there are copied anew.
	Verify bool
	// Jobs is how many blobs are copied at a time; 0 for 4.
	Jobs int
	// Temp is the directory for a file that lasts as long as the backup, about as
	// large as the snapshot; empty for the system's. The file has no name.
	Temp string
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Progress, if not nil, is told now and then how far it is, by one goroutine at
	// a time.
	Progress func(Progress)
}

// Progress is how far a backup or a restore is.
type Progress struct {
	Blobs, TotalBlobs int64 // that are done, copied or not; that there are
	Bytes, TotalBytes int64 // in them
	Problem           *Problem
}

// Problem is a blob that could not be copied.
type Problem struct {
	Digest digest.Digest
	Reason string // without names of places
}

// Result is what a backup or a restore has done.
type Result struct {
	Snapshot     Snapshot // that was made, or restored
	CopiedBlobs  int64
	CopiedBytes  int64
	PresentBlobs int64 // that were there already
	Problems     int64 // blobs that could not be copied

	RemovedSnapshots int // by Options.Keep
	RemovedBlobs     int64
	RemovedBytes     int64
}

// Backup makes a snapshot of a registry at a target. An error says that there is
// none, or, if Result names one, that older ones could not be removed as
// Options.Keep says.
func Backup(ctx context.Context, src Source, to Target, o Options) (res Result, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if src.Hold != nil {
		release, err := src.Hold(ctx)
		if err != nil {
			return res, err
		}
		defer release()
	}
	spool, err := newSpool(o.Temp)
	if err != nil {
		return res, err
	}
	defer func() { _ = spool.Close() }() // it has no name, and is of no more use
	head := Header{Created: o.Now().UTC()}
	sums, err := writeSnapshot(ctx, spool, src.Meta, &head)
	if err != nil {
		return res, fmt.Errorf("read the metadata: %w", err)
	}
	if err := sameRegistry(ctx, to, head.Registry); err != nil {
		return res, err
	}
	c := newCopier(&res, o.Jobs, o.Progress, sums)
	if err := c.toTarget(ctx, src.Blobs, to, spool, o.Verify); err != nil {
		return res, err
	}
	size, err := spool.rewind()
	if err != nil {
		return res, err
	}
	name := snapshotName(head.Created)
	if err := to.Put(ctx, snapshotPath(name), spool, size); err != nil {
		return res, fmt.Errorf("write the snapshot: %w", err)
	}
	res.Snapshot = Snapshot{Name: name, Size: size, Created: head.Created, Blobs: sums.Blobs, Bytes: sums.Bytes}
	if o.Keep > 0 {
		err = prune(ctx, to, o.Keep, &res)
	}
	return res, err
}

// errOtherRegistry says that a target has snapshots of another registry.
var errOtherRegistry = errors.New("it has backups of another registry: choose another place, each registry needs its own")

// sameRegistry fails if the newest snapshot of a target that can be read is of another
// registry.
func sameRegistry(ctx context.Context, t Target, id []byte) error {
	names, err := snapshotNames(ctx, t)
	if err != nil {
		return err
	}
	for _, s := range names {
		head, err := readHeader(ctx, t, s.Name)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && !bytes.Equal(head.Registry, id) {
			return errOtherRegistry
		}
		if err == nil {
			break
		}
	}
	return nil
}

// spool is a file without a name.
type spool struct{ *os.File }

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".berth-snapshot-*")
	if err != nil {
		return nil, storage.Classify(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spool{f}, nil
}

// rewind goes back to the start, and returns the size.
func (s *spool) rewind() (int64, error) {
	size, err := s.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = s.Seek(0, io.SeekStart)
	}
	return size, err
}
