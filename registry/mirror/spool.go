package mirror

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// spools is the directory of files that are under way.
type spools struct {
	dir string

	mu       sync.Mutex
	promised int64 // bytes that are still to come
}

const (
	spoolPattern = "fill-*"
	// spare is how many bytes of the file system are left to others.
	spare = 64 << 20
)

// newSpools makes the directory, and removes what a crash has left in it.
func newSpools(dir string) (*spools, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of mirrors: %w", err)
	}
	s := &spools{dir: dir}
	if err := s.close(); err != nil {
		return nil, err
	}
	return s, nil
}

// close removes what is left.
func (s *spools) close() error {
	left, err := filepath.Glob(filepath.Join(s.dir, spoolPattern))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// spool is a file that grows to a size that is known.
type spool struct {
	of   *spools
	file *os.File
	left int64 // bytes that are still to come
}

// errFull says that the file system has too little left.
var errFull = errors.New("the disk of the mirror's transfers is full")

// open makes a file for size bytes, or fails with errFull before there is really
// nothing left: others need some, too.
func (s *spools) open(size int64) (*spool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return nil, err
	}
	free := int64(min(fs.Bavail, 1<<40)) * fs.Bsize
	s.mu.Lock()
	defer s.mu.Unlock()
	if size > free-spare-s.promised {
		return nil, fmt.Errorf("%w: %d bytes are to come, and %d are free", errFull, size, free)
	}
	f, err := os.CreateTemp(s.dir, spoolPattern)
	if err != nil {
		return nil, err
	}
	s.promised += size
	return &spool{s, f, size}, nil
}

// writeAt writes at an offset what comes next.
func (s *spool) writeAt(p []byte, off int64) error {
	if _, err := s.file.WriteAt(p, off); err != nil {
		return err
	}
	s.came(int64(len(p)))
	return nil
}

func (s *spool) came(n int64) {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	s.of.promised -= n
	s.left -= n
}

// close removes the file: it is gone when nobody reads it any more.
func (s *spool) close() error {
	s.came(s.left)
	return errors.Join(os.Remove(s.file.Name()), s.file.Close())
}
