package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
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

// usableData fails for a data directory, which is locked, that a restore has left by
// halves, or whose metadata is lost. To start anew over the bytes of that would have
// the notes of its repositories overwritten, and the bytes collected.
func usableData(ctx context.Context, dir string) error {
	_, err := os.Stat(filepath.Join(dir, restoreMark))
	if err == nil {
		return fmt.Errorf("a restore into %s was cut short: do it again with 'berth restore'", dir)
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	if missing, err := lacksMeta(dir); !missing || err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "blobs")); err != nil {
		return nil //nolint:nilerr // nothing is there that could be harmed
	}
	return lost(ctx, dir)
}

// lacksMeta says whether there is no metadata, or an empty file.
func lacksMeta(dir string) (bool, error) {
	fi, err := os.Stat(filepath.Join(dir, metaFile))
	if errors.Is(err, iofs.ErrNotExist) {
		return true, nil
	}
	return err == nil && fi.Size() == 0, err
}

// lost fails if there is content that no metadata tells of.
func lost(ctx context.Context, dir string) (err error) {
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		return fmt.Errorf("cannot use the data directory: %w", err)
	}
	defer func() { err = errors.Join(err, blobs.Close()) }()
	for _, err := range blobs.NoteNames(ctx) {
		if err != nil {
			return err
		}
		return fmt.Errorf("the metadata (%s) is lost, but there are notes to make it anew from: run 'berth rebuild --data %s', or 'berth restore' a backup into another directory", filepath.Join(dir, metaFile), dir)
	}
	for _, err := range blobs.List(ctx, "") {
		if err != nil {
			return err
		}
		return fmt.Errorf("the metadata (%s) is lost, and nothing tells what the blobs are for: 'berth restore' a backup into another directory, or move %s away to start anew", filepath.Join(dir, metaFile), filepath.Join(dir, "blobs"))
	}
	return nil
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
