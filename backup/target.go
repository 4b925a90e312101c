package backup

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Target is where backups are kept: bytes by name. Names are made of components of
// letters, digits, "." and "-", separated by "/".
//
//	blobs/<algorithm>/<two digits>/<hash>   bytes
//	snapshots/<time>.rows                   metadata (snapshot.go)
//
// All methods may be called concurrently. Errors match those of package storage where
// they can. A directory is locked against other processes as long as it is open (Dir);
// a bucket cannot be.
type Target interface {
	// Put stores size bytes of r durably under a name, in place of what was there.
	// If r fails or has fewer, nothing changes.
	Put(ctx context.Context, name string, r io.Reader, size int64) error
	// Open opens what a name has, or fails with storage.ErrNotFound.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List lists what there is whose name starts with prefix, which ends in "/", in
	// the byte order of the names.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
	// Remove removes what a name has, if there is anything.
	Remove(ctx context.Context, name string) error
	// Close lets go of the target.
	Close() error
}

// Object is something that a target has.
type Object struct {
	Name string
	Size int64 // bytes
}

const (
	blobPrefix     = "blobs/"
	snapshotPrefix = "snapshots/"
	snapshotSuffix = ".rows"
	// nameTime is how a snapshot's name tells when it was made, in UTC.
	nameTime = "20060102T150405.000Z"
)

// Snapshot is a snapshot of a target.
type Snapshot struct {
	Name    string
	Size    int64 // of the metadata, bytes
	Created time.Time
	Blobs   int64 // that it needs; 0 if nobody has counted
	Bytes   int64 // in them
}

func snapshotName(t time.Time) string { return t.UTC().Format(nameTime) }
func snapshotPath(name string) string { return snapshotPrefix + name + snapshotSuffix }
func blobPath(d digest.Digest) string { return blobPrefix + blobRest(d) }
func blobRest(d digest.Digest) string {
	return path.Join(string(d.Algorithm()), d.Encoded()[:2], d.Encoded())
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, a...)...)
}

// blobOf is the digest whose bytes a name has.
func blobOf(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, blobPrefix)
	alg, _, _ := strings.Cut(rest, "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(alg), path.Base(rest))
	return d, ok && d.Validate() == nil && blobPath(d) == name
}

// List lists the snapshots of a target, the newest first.
func List(ctx context.Context, t Target) ([]Snapshot, error) { return snapshotNames(ctx, t) }

// Has fails with storage.ErrNotFound if a target has no snapshot of that name; if it
// is empty, none at all.
func Has(ctx context.Context, t Target, name string) error {
	all, err := snapshotNames(ctx, t)
	if err != nil || name == "" && len(all) > 0 || slices.ContainsFunc(all, func(s Snapshot) bool { return s.Name == name }) {
		return err
	}
	return noSnapshot(name)
}

func noSnapshot(name string) error {
	return fmt.Errorf("there is no snapshot %s: %w", cmp.Or(name, "at all"), storage.ErrNotFound)
}

func snapshotNames(ctx context.Context, t Target) (all []Snapshot, err error) {
	for o, err := range t.List(ctx, snapshotPrefix) {
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Name, snapshotPrefix), snapshotSuffix)
		created, err := time.Parse(nameTime, name)
		if ok && err == nil {
			all = append(all, Snapshot{Name: name, Size: o.Size, Created: created})
		}
	}
	slices.Reverse(all)
	return all, nil
}

// listed walks a target's blobs beside digests that come in order.
type listed struct {
	next func() (Object, error, bool)
	stop func()
	now  Object
	end  bool
}

func listBlobs(ctx context.Context, t Target) *listed {
	l := &listed{}
	l.next, l.stop = iter.Pull2(t.List(ctx, blobPrefix))
	return l
}

// step goes on to the next blob.
func (l *listed) step() error {
	o, err, ok := l.next()
	if !ok {
		l.end = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("list what there is: %w", err)
	}
	if o.Name <= l.now.Name {
		return fmt.Errorf("%w: it lists %q behind %q", storage.ErrUnreadable, o.Name, l.now.Name)
	}
	l.now = o
	return nil
}

// has says whether there is a blob of that digest and size. Digests must come in
// order.
func (l *listed) has(d digest.Digest, size int64) (bool, error) {
	name := blobPath(d)
	for !l.end && l.now.Name < name {
		if err := l.step(); err != nil {
			return false, err
		}
	}
	return !l.end && l.now.Name == name && l.now.Size == size, nil
}
