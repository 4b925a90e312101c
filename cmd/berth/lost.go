package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// To start anew over the content of a registry whose metadata is lost would have the
// notes of its repositories overwritten, and the bytes collected.

// usableStores fails for stores that must not be opened: whose data directory, which is
// locked, a restore has left by halves, or whose metadata was there, and is lost. Where
// that is in PostgreSQL, notLost tells.
func usableStores(ctx context.Context, c config.Storage) (err error) {
	if err := notRestoring(c.Data); err != nil {
		return err
	}
	if c.Postgres.On() {
		return nil
	}
	if missing, err := lacksMeta(c.Data); !missing || err != nil {
		return err
	}
	s := &stores{meta: mem.NewMeta()} // what is only listed writes nothing there
	switch _, serr := os.Stat(filepath.Join(c.Data, "blobs")); {
	case c.S3.On():
		err = s.openS3(ctx, c, nil)
	case serr != nil:
		return nil //nolint:nilerr // nothing is there that could be harmed
	default:
		err = s.openDir(c, nil)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot look for content: the metadata is missing, and the blobs cannot be opened: %w", err), s.close())
	}
	return errors.Join(s.tellLost(ctx, c), s.close())
}

// notLost fails if stores that were just opened, and that nothing was written to, have
// content that no metadata tells of.
func (s *stores) notLost(ctx context.Context, c config.Storage) error {
	if !c.Postgres.On() {
		return nil // usableStores has looked
	}
	empty := false
	err := s.meta.View(ctx, func(tx storage.Tx) (err error) {
		empty, err = isEmpty(tx)
		return err
	})
	if !empty || err != nil {
		return err
	}
	return s.tellLost(ctx, c)
}

// isEmpty says whether there is no row at all.
func isEmpty(tx storage.Tx) (bool, error) {
	for _, table := range storage.Tables() {
		for _, err := range tx.Scan(table, nil, nil) {
			return false, err
		}
	}
	return true, nil
}

// keptContent is what there is beside metadata.
type keptContent uint8

const (
	noContent keptContent = iota
	onlyBlobs
	withNotes
)

// kept looks what there is beside metadata.
func (s *stores) kept(ctx context.Context) (keptContent, error) {
	for _, err := range s.notes.NoteNames(ctx) {
		return withNotes, err
	}
	for _, err := range s.blobs.List(ctx, "") {
		return onlyBlobs, err
	}
	return noContent, nil
}

// tellLost fails if there is content, and says what to do then.
func (s *stores) tellLost(ctx context.Context, c config.Storage) error {
	found, err := s.kept(ctx)
	if found == noContent || err != nil {
		return err
	}
	meta, place, anew := filepath.Join(c.Data, metaFile), c.Data, "move "+filepath.Join(c.Data, "blobs")+" away to start anew"
	if c.S3.On() {
		place, anew = bucketName(c.S3), "name an empty bucket, or another storage.s3.prefix, to start anew"
	}
	restore := "'berth restore' a backup into another directory"
	switch {
	case c.Postgres.On() && found == withNotes:
		return fmt.Errorf("the metadata is lost: schema %s of the database is empty, but there are notes in %s to make it anew from: restore the database; or take storage.postgres out of the configuration, run 'berth rebuild' with it, and move the metadata back with 'berth migrate'", c.Postgres.Schema, place)
	case c.Postgres.On():
		return fmt.Errorf("the metadata is lost: schema %s of the database is empty, and nothing tells what the blobs in %s are for: restore the database, or %s; or %s", c.Postgres.Schema, place, restore, anew)
	case c.S3.On() && found == withNotes:
		return fmt.Errorf("the metadata (%s) is lost, or elsewhere, but there are notes in %s to make it anew from: if it is in another directory, or on another machine, use that; else run 'berth rebuild' with this configuration, or %s", meta, place, restore)
	case c.S3.On():
		return fmt.Errorf("the metadata (%s) is lost, or elsewhere, and nothing tells what the blobs in %s are for: if it is in another directory, or on another machine, use that; else %s; or %s", meta, place, restore, anew)
	case found == withNotes:
		return fmt.Errorf("the metadata (%s) is lost, but there are notes to make it anew from: run 'berth rebuild --data %s', or %s", meta, c.Data, restore)
	}
	return fmt.Errorf("the metadata (%s) is lost, and nothing tells what the blobs are for: %s, or %s", meta, restore, anew)
}

// bucketName names a bucket, and where in it a registry is.
func bucketName(s config.S3) string {
	if s.Prefix == "" {
		return "bucket " + s.Bucket
	}
	return "bucket " + s.Bucket + " below " + s.Prefix
}
