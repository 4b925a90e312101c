// Package fs keeps blobs in a directory: blobs/<algorithm>/<two digits>/<hash>
// for what is whole, uploads/<stage id> for what is on its way.
//
// It promises what storage.Blobs does, on a file system that keeps what was
// synced. It does not lock the directory: its opener does, once for all that is
// in it.
package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

// Blobs is a directory of blobs.
type Blobs struct {
	blobs, uploads string // directories
}

var _ storage.Blobs = (*Blobs)(nil)

// Open opens the directory dir, and makes it if need be.
func Open(dir string) (*Blobs, error) {
	b := &Blobs{blobs: filepath.Join(dir, "blobs"), uploads: filepath.Join(dir, "uploads")}
	for _, d := range []string{b.blobs, b.uploads} {
		if err := durable.MkdirAll(d); err != nil {
			return nil, storage.Classify(err)
		}
	}
	return b, nil
}

func (b *Blobs) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(b.blobs, string(d.Algorithm()), hex[:2], hex)
}

func (b *Blobs) stagePath(id string) string { return filepath.Join(b.uploads, id) }

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

// Delete removes a blob.
func (b *Blobs) Delete(_ context.Context, d digest.Digest) error {
	return storage.Classify(durable.Remove(b.path(d)))
}

// Stage opens a stage.
func (b *Blobs) Stage(_ context.Context, id string, off int64) (storage.Stage, error) {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return nil, fmt.Errorf("stage id %q is no file name", id)
	}
	path := b.stagePath(id)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	created := errors.Is(err, fs.ErrNotExist) && off == 0
	if created {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, storage.Classify(err)
	}
	if !created {
		if err := rewind(f, off); err != nil {
			_ = f.Close()
			return nil, storage.Classify(err)
		}
	}
	return &stage{blobs: b, file: f, fresh: created, end: off, written: off}, nil
}

// rewind makes off the end of the file, from where writing goes on.
func rewind(f *os.File, off int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < off {
		return fmt.Errorf("stage has %d bytes, not %d: %w", fi.Size(), off, fs.ErrNotExist)
	}
	if err := f.Truncate(off); err != nil {
		return err
	}
	_, err = f.Seek(off, io.SeekStart)
	return err
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

// stage is a file under uploads.
type stage struct {
	blobs   *Blobs
	file    *os.File
	fresh   bool  // its name in the directory is not known to be durable
	end     int64 // of the file
	written int64 // up to here the kernel was told to start writing to disk
}

// writeAhead is how many bytes are gathered before the kernel is told to start
// writing them to disk. Without it all the writing starts with the sync at the
// end, and the disk idles while the bytes come in.
const writeAhead = 8 << 20

func (s *stage) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.end += int64(n)
	if s.end-s.written >= writeAhead {
		startWriting(s.file, s.written, s.end-s.written)
		s.written = s.end
	}
	return n, storage.Classify(err)
}

func (s *stage) Reader() (io.ReadCloser, error) {
	f, err := os.Open(s.file.Name())
	if err != nil {
		return nil, storage.Classify(err)
	}
	return f, nil
}

func (s *stage) Sync() error {
	if err := s.file.Sync(); err != nil {
		return storage.Classify(err)
	}
	if s.fresh {
		if err := durable.SyncDir(s.blobs.uploads); err != nil {
			return storage.Classify(err)
		}
		s.fresh = false
	}
	return nil
}

func (s *stage) Commit(d digest.Digest) error {
	if err := s.file.Sync(); err != nil {
		return storage.Classify(err)
	}
	return storage.Classify(durable.Rename(s.file.Name(), s.blobs.path(d)))
}

func (s *stage) Close() error { return storage.Classify(s.file.Close()) }
