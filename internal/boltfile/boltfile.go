// Package boltfile opens databases of bbolt whose files may have suffered: bbolt maps
// them into memory, so that the kernel ends a program that reads behind the end of one
// that was cut.
//
// It looks at the size of a file alone. What else is wrong in it is found, or not, by
// who reads it.
package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ErrCut says that the end of a file is missing.
var ErrCut = errors.New("the end of the file is missing")

// Damaged says whether an error of Open or Check tells of damage, and not of a file that
// another process has or that may not be read.
func Damaged(err error) bool {
	return errors.Is(err, ErrCut) || errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum)
}

// Open is bbolt.Open, and fails with ErrCut for a file that is shorter than what was
// written into it. Such a file is not changed.
func Open(path string, mode fs.FileMode, o bbolt.Options) (*bbolt.DB, error) {
	if err := Check(path, o.Timeout); err != nil {
		return nil, err
	}
	return bbolt.Open(path, mode, &o)
}

// Check fails with ErrCut for such a file, and otherwise as bbolt.Open does. It waits for
// another process that has the file no longer than limit; 0 is for ever. A file that is
// not there, or is empty, is a new one.
func Check(path string, limit time.Duration) (err error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: limit}) // reads no more than where the end is
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		if fi.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes, and had %d at least", ErrCut, fi.Size(), tx.Size())
		}
		return nil
	})
}
