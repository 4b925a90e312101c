package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

const (
	// dirMark is a file that every directory of backups has.
	dirMark = "berth-backup"
	dirText = "Backups of a berth registry are kept here: 'berth backup' writes them, 'berth restore' reads them.\nThey hold secrets.\n"
	// dirTemp is the directory of files that are not whole yet.
	dirTemp = "tmp"
)

// Dir is a directory of backups. Its files have mode 0600, its directories 0700.
type Dir struct {
	dir    string
	unlock func() error // nil if it is only read
}

var _ Target = (*Dir)(nil)

// OpenDir opens a directory to read it.
func OpenDir(dir string) (*Dir, error) {
	_, err := os.Stat(filepath.Join(dir, dirMark))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no backups: %w", dir, storage.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return &Dir{dir: dir}, nil
}

// CreateDir opens a directory to write to it, and makes it if need be. One that has
// something else in it is left alone: an error. It is locked until Close; if another
// process has locked it, the error is durable.ErrLocked.
func CreateDir(dir string) (d *Dir, err error) {
	if err := isDirFree(dir); err != nil {
		return nil, err
	}
	unlock, err := durable.Lock(dir)
	if err != nil {
		return nil, storage.Classify(err)
	}
	d = &Dir{dir: dir, unlock: unlock}
	defer func() {
		if err != nil {
			err = errors.Join(storage.Classify(err), unlock())
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, dirMark)); errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile(filepath.Join(dir, dirMark), []byte(dirText)); err != nil {
			return nil, err
		}
	}
	temp := filepath.Join(dir, dirTemp)
	if err := os.RemoveAll(temp); err != nil { // what a crash has left
		return nil, err
	}
	return d, durable.MkdirAll(temp)
}

// isDirFree fails if a directory holds something else than backups.
func isDirFree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return storage.Classify(err)
	}
	other := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == dirMark:
			return nil
		case name != "lock" && name != "lost+found" && !strings.HasPrefix(name, ".new-"):
			other = name
		}
	}
	if other != "" {
		return fmt.Errorf("%s holds something else (%s): want a directory that is empty, new, or has backups", dir, other)
	}
	return nil
}

// Close lets go of the directory.
func (d *Dir) Close() error {
	if d.unlock == nil {
		return nil
	}
	return d.unlock()
}

func (d *Dir) path(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("%q is no name", name)
	}
	return filepath.Join(d.dir, filepath.FromSlash(name)), nil
}

// Put implements Target.
func (d *Dir) Put(_ context.Context, name string, r io.Reader, size int64) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(d.dir, dirTemp), "put-*")
	if err != nil {
		return storage.Classify(err)
	}
	n, err := io.Copy(f, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = durable.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is of no use
	}
	return storage.Classify(err)
}

// Open implements Target.
func (d *Dir) Open(_ context.Context, name string) (io.ReadCloser, error) {
	path, err := d.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, storage.Classify(err)
	}
	return f, nil
}

// List implements Target, with one directory of names in memory at a time.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		root, err := d.path(strings.TrimSuffix(prefix, "/"))
		if err == nil {
			err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				fi, err := e.Info()
				if errors.Is(err, fs.ErrNotExist) {
					return nil // gone since
				}
				name, rerr := filepath.Rel(d.dir, path)
				if err := errors.Join(err, rerr); err != nil {
					return err
				}
				if !yield(Object{Name: filepath.ToSlash(name), Size: fi.Size()}, nil) {
					return fs.SkipAll
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield(Object{}, storage.Classify(err))
		}
	}
}

// Remove implements Target.
func (d *Dir) Remove(_ context.Context, name string) error {
	path, err := d.path(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storage.Classify(err)
	}
	return nil
}
