package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

const (
	// small is the size in bytes up to which a blob goes through the journal, and
	// a stage is kept in memory until somebody wants it to last.
	small = 32 << 10
	// writeAhead is how many bytes of a large stage are gathered before the kernel
	// is told to start writing them to disk. Without it all the writing starts
	// with the sync at the end, and the disk idles while the bytes come in.
	writeAhead = 8 << 20
)

// stage is bytes in memory at first, then a file under uploads.
type stage struct {
	blobs     *Blobs
	path      string
	memory    []byte   // while file is nil
	file      *os.File // or nil
	fresh     bool     // its name in the directory is not known to be durable
	committed bool
	end       int64 // of the file
	written   int64 // up to here the kernel was told to start writing to disk
}

func (b *Blobs) stagePath(id string) string { return filepath.Join(b.uploads, id) }

// Stage opens a stage.
func (b *Blobs) Stage(_ context.Context, id string, off int64) (storage.Stage, error) {
	if id == "" || id != filepath.Base(id) || id[0] == '.' {
		return nil, fmt.Errorf("stage id %q is no file name", id)
	}
	s := &stage{blobs: b, path: b.stagePath(id), end: off, written: off}
	if off == 0 {
		err := os.Remove(s.path) // of another try
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, storage.Classify(err)
		}
		return s, nil
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return nil, storage.Classify(err)
	}
	if err := rewind(f, off); err != nil {
		_ = f.Close()
		return nil, storage.Classify(err)
	}
	s.file = f
	return s, nil
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

func (s *stage) Write(p []byte) (int, error) {
	if s.file == nil {
		if len(s.memory)+len(p) <= small {
			s.memory = append(s.memory, p...)
			return len(p), nil
		}
		if err := s.spill(); err != nil {
			return 0, storage.Classify(err)
		}
	}
	n, err := s.write(p)
	return n, storage.Classify(err)
}

func (s *stage) write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.end += int64(n)
	if s.end-s.written >= writeAhead {
		// A hint: the sync finds what goes wrong.
		_ = unix.SyncFileRange(int(s.file.Fd()), s.written, s.end-s.written, unix.SYNC_FILE_RANGE_WRITE)
		s.written = s.end
	}
	return n, err
}

// spill moves the stage from memory to its file.
func (s *stage) spill() (err error) {
	s.file, err = os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	s.fresh = true
	_, err = s.write(s.memory)
	s.memory = nil
	return err
}

func (s *stage) Reader() (io.ReadCloser, error) {
	if s.file == nil {
		return io.NopCloser(bytes.NewReader(s.memory)), nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, storage.Classify(err)
	}
	return f, nil
}

func (s *stage) Sync() error {
	if s.file == nil {
		if err := s.spill(); err != nil {
			return storage.Classify(err)
		}
	}
	if err := s.sync(); err != nil {
		return storage.Classify(err)
	}
	if s.fresh {
		if err := durable.SyncParent(s.path); err != nil {
			return storage.Classify(err)
		}
		s.fresh = false
	}
	return nil
}

// sync syncs the file. If that fails the stage is removed: the kernel may have
// forgotten what it could not write, and another sync would say nothing of it.
func (s *stage) sync() error {
	if err := s.file.Sync(); err != nil {
		return errors.Join(err, os.Remove(s.path))
	}
	return nil
}

func (s *stage) Commit(d digest.Digest) error {
	err := s.commit(d)
	s.committed = err == nil
	return storage.Classify(err)
}

func (s *stage) commit(d digest.Digest) error {
	if s.file == nil {
		return s.blobs.putSmall(d, s.memory)
	}
	if err := s.sync(); err != nil {
		return err
	}
	return s.blobs.putStage(d, s.path)
}

func (s *stage) Close() error {
	if s.file == nil && !s.committed {
		if err := s.spill(); err != nil {
			return storage.Classify(err)
		}
	}
	if s.file == nil {
		return nil
	}
	return storage.Classify(s.file.Close())
}
