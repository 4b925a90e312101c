package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/s3"
)

// stores are where a registry keeps its data.
type stores struct {
	blobs  storage.Blobs
	notes  storage.Notes
	meta   storage.Meta
	closes []func() error
}

// openStores opens the stores that the configuration names. The caller has the lock of
// the data directory.
func openStores(ctx context.Context, c config.Storage, log *slog.Logger) (s *stores, err error) {
	s = &stores{}
	if s.meta, err = openMeta(ctx, c, log); err != nil {
		err = fmt.Errorf("cannot open the metadata: %w", err)
		if errors.Is(err, storage.ErrUnreadable) && !c.Postgres.On() {
			err = fmt.Errorf("%w; move the file away and run 'berth rebuild', or 'berth restore' a backup into another directory", err)
		}
		return nil, err
	}
	s.closes = append(s.closes, s.meta.Close)
	if c.S3.On() {
		err = s.openS3(ctx, c, log)
	} else {
		err = s.openDir(c, log)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the blobs: %w", err), s.close())
	}
	return s, nil
}

// databasePatience is how long a request waits for a database that is not there: one
// that is started again, or another one that takes over, is back by then, and clients
// do not give up yet.
const databasePatience = 15 * time.Second

// openUsable is openStores for who uses them as they are: it fails if their metadata is
// lost.
func openUsable(ctx context.Context, c config.Storage, log *slog.Logger) (*stores, error) {
	s, err := openStores(ctx, c, log)
	if err != nil {
		return nil, err
	}
	if err := s.notLost(ctx, c); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func openMeta(ctx context.Context, c config.Storage, log *slog.Logger) (storage.Meta, error) {
	if !c.Postgres.On() {
		return bolt.Open(filepath.Join(c.Data, metaFile))
	}
	dsn, err := secret(c.Postgres.DSN, c.Postgres.DSNFile)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Options{DSN: dsn, Schema: c.Postgres.Schema, MaxConns: c.Postgres.MaxConns, Patience: databasePatience, Log: log})
}

func (s *stores) openDir(c config.Storage, log *slog.Logger) error {
	blobs, err := fs.Open(c.Data, log)
	if err != nil {
		return err
	}
	s.blobs, s.notes, s.closes = blobs, blobs, append(s.closes, blobs.Close)
	return nil
}

func (s *stores) openS3(ctx context.Context, c config.Storage, log *slog.Logger) error {
	key, err := secret(c.S3.SecretKey, c.S3.SecretKeyFile)
	if err != nil {
		return err
	}
	o := s3.Options{
		Endpoint: c.S3.Endpoint, Bucket: c.S3.Bucket, Prefix: c.S3.Prefix, Region: c.S3.Region,
		AccessKey: c.S3.AccessKey, SecretKey: key, PathStyle: c.S3.PathStyle, CA: c.S3.CA, KMSKey: c.S3.KMSKey,
		Redirect: c.S3.Redirect, RedirectExpiry: c.S3.RedirectExpiry, RedirectEndpoint: c.S3.RedirectEndpoint,
		Temp: c.Data, Meta: s.meta, Log: log,
	}
	if c.S3.Encryption != "none" {
		o.Encryption = c.S3.Encryption
	}
	blobs, err := s3.Open(ctx, o)
	if err != nil {
		return err
	}
	s.blobs, s.notes, s.closes = blobs, blobs, append(s.closes, blobs.Close)
	return nil
}

// close closes what was opened, last first.
func (s *stores) close() (err error) {
	for _, closeOne := range slices.Backward(s.closes) {
		err = errors.Join(err, closeOne())
	}
	return err
}

// inDirectory says whether all data is in the data directory, so that who has its
// lock is alone.
func inDirectory(c config.Storage) bool { return !c.S3.On() && !c.Postgres.On() }
