// Package fs keeps blobs in a directory of a Linux file system:
//
//	blobs/<algorithm>/<two digits>/<hash>   what is whole, a plain file each
//	uploads/<stage id>                      what is on its way
//	journal/<number>                        small blobs that may not be on disk yet
//	quarantine/<algorithm>/<hash>           what was a blob, and is damaged
//
// It promises what storage.Blobs does, on a file system that keeps what was
// synced. It does not lock the directory: its opener does, once for all that is
// in it.
//
// A large blob is synced, renamed to its place, and the directory synced. To
// sync a small one like that costs far more than to write it, so small blobs are
// written to their place and made durable by a journal that all of them share
// (journal.go).
package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

// Blobs is a directory of blobs.
type Blobs struct {
	blobs, uploads string // directories
	quarantine     string // directory, made when it is needed
	notes          string // directory, made when it is needed
	journal        *journal
	locks          [256]sync.Mutex // by digest: who changes a blob's file
}

var _ storage.Blobs = (*Blobs)(nil)

// Open opens the directory dir, and makes it if need be. It first finishes what
// a crash left undone. log, which may be nil, receives what goes wrong in the
// background.
func Open(dir string, log *slog.Logger) (*Blobs, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Blobs{blobs: filepath.Join(dir, "blobs"), uploads: filepath.Join(dir, "uploads"), quarantine: filepath.Join(dir, "quarantine"), notes: filepath.Join(dir, "notes")}
	journalDir := filepath.Join(dir, "journal")
	for _, d := range []string{b.blobs, b.uploads, journalDir} {
		if err := durable.MkdirAll(d); err != nil {
			return nil, storage.Classify(err)
		}
	}
	if err := replay(journalDir, b.restore); err != nil {
		return nil, fmt.Errorf("finish what a crash left undone: %w", storage.Classify(err))
	}
	b.journal = openJournal(journalDir, b.rewrite, log)
	return b, nil
}

// Close ends what Blobs does in the background. No method may be called any
// more.
func (b *Blobs) Close() error { return storage.Classify(b.journal.close()) }

func (b *Blobs) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(b.blobs, string(d.Algorithm()), hex[:2], hex)
}

// lock keeps others from changing the file of d until unlock is called.
func (b *Blobs) lock(d digest.Digest) (unlock func()) {
	hex := d.Encoded()
	// One is held while a blob is synced, so that few of those that come at once
	// should have the same: two digits tell 256 apart.
	m := &b.locks[digit(hex[len(hex)-2])<<4|digit(hex[len(hex)-1])]
	m.Lock()
	return m.Unlock
}

// digit is the value of a hexadecimal digit.
func digit(c byte) byte {
	if c <= '9' {
		return c & 0xf
	}
	return c&0xf + 9
}

// Open returns an *os.File.
func (b *Blobs) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	f, err := os.Open(b.path(d))
	if err != nil {
		return nil, storage.Classify(err)
	}
	return f, nil
}

// Size returns the size of a blob in bytes.
func (b *Blobs) Size(_ context.Context, d digest.Digest) (int64, error) {
	fi, err := os.Stat(b.path(d))
	if err != nil {
		return 0, storage.Classify(err)
	}
	return fi.Size(), nil
}

// Delete removes a blob. It does not wait for the disk, which would take most of the
// time of deleting many: the blob is back if the machine goes down within seconds,
// but not if only the process does.
func (b *Blobs) Delete(_ context.Context, d digest.Digest) error {
	defer b.lock(d)()
	if err := os.Remove(b.path(d)); err != nil {
		return storage.Classify(err)
	}
	return storage.Classify(b.journal.remove(d, false))
}

// Discard removes a stage.
func (b *Blobs) Discard(_ context.Context, id string) error {
	err := os.Remove(b.stagePath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return storage.Classify(err)
}

// Stages lists the files that are stages.
func (b *Blobs) Stages(ctx context.Context) iter.Seq2[storage.StageInfo, error] {
	return func(yield func(storage.StageInfo, error) bool) {
		entries, err := os.ReadDir(b.uploads)
		for _, e := range entries {
			if ctx.Err() != nil {
				err = ctx.Err()
				break
			}
			fi, ferr := e.Info()
			if ferr != nil {
				continue // gone since
			}
			if !yield(storage.StageInfo{ID: e.Name(), Modified: fi.ModTime()}, nil) {
				return
			}
		}
		if err != nil {
			yield(storage.StageInfo{}, storage.Classify(err))
		}
	}
}

// putSmall makes a blob durable by way of the journal.
func (b *Blobs) putSmall(d digest.Digest, data []byte) error {
	defer b.lock(d)()
	if err := b.write(d, data); err != nil {
		return err
	}
	return b.journal.put(d, data)
}

// putStage makes the file of a stage, which is synced, a blob.
func (b *Blobs) putStage(d digest.Digest, path string) error {
	defer b.lock(d)()
	if err := durable.Rename(path, b.path(d)); err != nil || !b.journal.holds(d) {
		return err
	}
	// The journal may say that the blob was removed, and would do so again.
	data, err := os.ReadFile(b.path(d))
	if err == nil && d.Algorithm().FromBytes(data) != d {
		err = fmt.Errorf("blob %s is not what was written: %w", d, storage.ErrUnreadable)
	}
	if err != nil {
		return err
	}
	return b.journal.put(d, data)
}

// restore does again what a record of the journal says.
func (b *Blobs) restore(r record) error {
	if r.kind == kindPut {
		return b.write(r.digest, r.data)
	}
	err := os.Remove(b.path(r.digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// write writes a blob to its place, unless it is there. It syncs nothing.
func (b *Blobs) write(d digest.Digest, data []byte) error {
	path := b.path(d)
	err := create(path, data)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		err = create(path, data)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return replace(path, data) // what is there is damaged
}

// rewrite writes a blob of the journal to its place again, unless it has been
// removed since.
func (b *Blobs) rewrite(r record) error {
	defer b.lock(r.digest)()
	path := b.path(r.digest)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || r.kind != kindPut {
		return nil
	}
	return replace(path, r.data)
}

// replace puts a new file in the place of one that somebody may be reading.
func replace(path string, data []byte) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(temp, data); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// create makes a new file, or none.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
