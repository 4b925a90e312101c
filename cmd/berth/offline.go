package main

import (
	"cmp"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
)

// restoreMark is a file that is in a data directory until a restore has come to its
// end.
const restoreMark = "restoring"

// lockOffline locks the data directory for a command that must be alone.
func lockOffline(dir string) (unlock func() error, err error) {
	unlock, err = durable.Lock(dir)
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: stop what uses it first", err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the data directory: %w", err)
	}
	return unlock, nil
}

// notRestoring fails for a data directory that a restore has left by halves.
func notRestoring(dir string) error {
	_, err := os.Stat(filepath.Join(dir, restoreMark))
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return cmp.Or(err, fmt.Errorf("a restore into %s was cut short: do it again with 'berth restore'", dir))
}

// lacksMeta says whether there is no metadata, or an empty file.
func lacksMeta(dir string) (bool, error) {
	fi, err := os.Stat(filepath.Join(dir, metaFile))
	if errors.Is(err, iofs.ErrNotExist) {
		return true, nil
	}
	return err == nil && fi.Size() == 0, err
}

// replaceMeta has fill write new metadata, and puts it in its place when all of it is
// durable. What fill leaves by halves is removed the next time.
func replaceMeta(dir string, fill func(storage.Meta) error) (err error) {
	temp := filepath.Join(dir, metaFile+".new")
	if err := os.Remove(temp); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	meta, err := bolt.Open(temp)
	if err != nil {
		return fmt.Errorf("cannot make the metadata: %w", err)
	}
	err = errors.Join(fill(meta), meta.Close())
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return durable.Rename(temp, filepath.Join(dir, metaFile))
}
