package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
)

// movedMark is a file in a data directory whose registry, the metadata at least, was
// moved.
const movedMark = "moved"

// storesKind says where a registry keeps its data: its blobs, and its metadata if that
// is elsewhere.
func storesKind(c config.Storage) string {
	switch {
	case c.S3.On() && c.Postgres.On():
		return "s3+postgres"
	case c.S3.On():
		return "s3+file"
	case c.Postgres.On():
		return "file+postgres"
	}
	return "file"
}

// migrated fails if a registry must not be served, as it was moved, or has come from
// another by halves. The caller has opened its metadata.
func migrated(ctx context.Context, c config.Storage, meta storage.Meta) error {
	if !c.Postgres.On() {
		switch m, there, err := readMoved(c.Data); {
		case err != nil:
			return err
		case there:
			return fmt.Errorf("the registry of %s was moved to %s on %s: serve that; remove %s to go back to what it was then", c.Data, m.To, m.At.Format(time.RFC3339), filepath.Join(c.Data, movedMark))
		}
	}
	return migrating.Check(ctx, meta)
}

// readMoved reads the mark of a directory.
func readMoved(dir string) (m migrating.Moved, there bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, movedMark))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		_ = json.Unmarshal(data, &m) // that it is there says enough
	}
	return m, err == nil, err
}

// markMoved marks a registry as one that was moved.
func markMoved(ctx context.Context, c config.Storage, meta storage.Meta, m migrating.Moved) error {
	if c.Postgres.On() {
		return migrating.PutMoved(ctx, meta, m)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(c.Data, movedMark), append(data, '\n'))
}

// isMoved says whether it is marked.
func isMoved(ctx context.Context, c config.Storage, meta storage.Meta) (bool, error) {
	if c.Postgres.On() {
		err := migrating.Check(ctx, meta)
		if errors.Is(err, migrating.ErrMoved) {
			return true, nil
		}
		return false, err
	}
	_, there, err := readMoved(c.Data)
	return there, err
}

// migrateTarget is where a registry goes. Parts that are not there yet, and must not be
// made, are nil.
type migrateTarget struct{ stores }

// open opens the target of a request.
func (s *migrateSource) open(ctx context.Context, r admin.MigrateRequest) (to *migrateTarget, err error) {
	c := targetStorage(r, s.storage.Data)
	if err := s.otherMeta(c); err != nil {
		return nil, err
	}
	to = &migrateTarget{}
	defer func() {
		if err != nil {
			err = errors.Join(err, to.close())
			to = nil
		}
	}()
	same := r.Dir == "" || sameFile(r.Dir, s.storage.Data)
	if r.DryRun {
		err = to.look(ctx, c, s, same)
		return to, err
	}
	if !same {
		unlock, err := lockOffline(c.Data)
		if err != nil {
			return to, err
		}
		to.closes = append(to.closes, unlock)
		if inDirectory(c) { // else what is in the bucket may be what another try has copied
			if err := usableStores(ctx, c); err != nil {
				return to, err
			}
		}
		if _, there, err := readMoved(c.Data); err != nil || there {
			return to, errors.Join(err, fmt.Errorf("%s is what is left of a registry that was moved away: take another directory", c.Data))
		}
	}
	if same && !c.S3.On() && !s.storage.S3.On() {
		to.blobs, to.notes = s.data.blobs, s.data.notes
		to.meta, err = openMeta(ctx, c, s.log)
		if err == nil {
			to.closes = append(to.closes, to.meta.Close)
		}
		return to, err
	}
	opened, err := openStores(ctx, c, s.log)
	if err != nil {
		return to, err
	}
	to.blobs, to.notes, to.meta, to.closes = opened.blobs, opened.notes, opened.meta, slices.Concat(to.closes, opened.closes)
	return to, nil
}

// otherMeta fails if the target has the metadata of the source.
func (s *migrateSource) otherMeta(c config.Storage) error {
	from := s.storage
	if c.Postgres.On() && from.Postgres.On() {
		dsn, err := secret(from.Postgres.DSN, from.Postgres.DSNFile)
		if err != nil {
			return err
		}
		if dsn == c.Postgres.DSN && from.Postgres.Schema == c.Postgres.Schema {
			return errors.New("it has the same metadata as the source: give it another storage.postgres.schema, in a configuration of its own (--from-config)")
		}
	}
	if !c.Postgres.On() && !from.Postgres.On() && sameFile(c.Data, from.Data) {
		return errors.New("it has the same metadata as the source: take another directory")
	}
	return nil
}

// look opens of the target what is there, and makes nothing.
func (t *migrateTarget) look(ctx context.Context, c config.Storage, s *migrateSource, same bool) error {
	exists, err := hasMeta(ctx, c)
	if err != nil {
		return err
	}
	if exists && !same {
		unlock, err := lockOffline(c.Data)
		if err != nil {
			return err
		}
		t.closes = append(t.closes, unlock)
	}
	opened := &stores{meta: mem.NewMeta()} // a bucket that is only listed writes nothing there
	if exists {
		if t.meta, err = openMeta(ctx, c, s.log); err != nil {
			return err
		}
		opened.meta, t.closes = t.meta, append(t.closes, t.meta.Close)
	}
	switch {
	case c.S3.On():
		err = opened.openS3(ctx, c, s.log)
	case same && !s.storage.S3.On():
		opened.blobs = s.data.blobs
	case exists && !c.Postgres.On():
		err = opened.openDir(c, s.log)
	}
	t.blobs, t.closes = opened.blobs, append(t.closes, opened.closes...)
	return err
}

// hasMeta says whether there is metadata, empty or not.
func hasMeta(ctx context.Context, c config.Storage) (bool, error) {
	if c.Postgres.On() {
		return postgres.Exists(ctx, postgres.Options{DSN: c.Postgres.DSN, Schema: c.Postgres.Schema})
	}
	missing, err := lacksMeta(c.Data)
	return !missing, err
}

// targetStorage is the target of a request as a configuration names it. Where it has no
// directory, temporary files go into dir.
func targetStorage(r admin.MigrateRequest, dir string) config.Storage {
	c := config.Default().Storage
	c.Data = dir
	if r.Dir != "" {
		c.Data = r.Dir
	}
	if s := r.S3; s != nil {
		c.S3 = config.S3{
			Endpoint: s.Endpoint, Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey,
			PathStyle: s.PathStyle, CA: s.CA, Encryption: s.Encryption, KMSKey: s.KMSKey,
		}
	}
	if p := r.Postgres; p != nil {
		c.Postgres.DSN, c.Postgres.Schema, c.Postgres.MaxConns = p.DSN, p.Schema, p.MaxConns
	}
	return c
}

// sameFile says whether two names lead to one directory.
func sameFile(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && resolved(absA) == resolved(absB)
}
