package e2e

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/registrytest"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/s3"
)

// TestScaleStores runs the registry's suite on each kind of store for blobs with each
// kind for metadata.
func TestScaleStores(t *testing.T) {
	t.Parallel()
	stores := berthtest.StartStores(t)
	for _, blobs := range []string{"fs", "s3"} {
		for _, meta := range []string{"bolt", "postgres"} {
			t.Run(blobs+" and "+meta, func(t *testing.T) {
				n := 0
				registrytest.Test(t, func(t *testing.T) registry.Registry {
					n++
					at := &emptyStores{t, stores, fmt.Sprintf("%s_%s_%d", blobs, meta, n), t.TempDir()}
					return at.open(blobs, meta)
				})
			})
		}
	}
}

// emptyStores are stores that nobody else uses.
type emptyStores struct {
	t    *testing.T
	on   *berthtest.Stores
	name string
	dir  string
}

// open opens a registry over a kind of store for blobs and one for metadata.
func (e *emptyStores) open(blobs, meta string) *registry.Local {
	e.t.Helper()
	log := slog.New(slog.NewTextHandler(e.t.Output(), nil))
	m := e.meta(meta)
	l, err := registry.NewLocal(e.t.Context(), e.blobs(blobs, m, log), m, registry.Options{Log: log})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(l.Close)
	return l
}

func (e *emptyStores) meta(kind string) (m storage.Meta) {
	e.t.Helper()
	var err error
	if kind == "postgres" {
		m, err = postgres.Open(e.t.Context(), postgres.Options{DSN: e.on.Postgres.DSN(), Schema: e.name})
	} else {
		m, err = bolt.Open(filepath.Join(e.dir, "meta.db"))
	}
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = m.Close() })
	return m
}

func (e *emptyStores) blobs(kind string, meta storage.Meta, log *slog.Logger) storage.Blobs {
	e.t.Helper()
	if kind == "fs" {
		b, err := fs.Open(e.dir, log)
		if err != nil {
			e.t.Fatal(err)
		}
		e.t.Cleanup(func() { _ = b.Close() })
		return b
	}
	b, err := s3.Open(e.t.Context(), s3.Options{
		Endpoint: e.on.S3.Endpoint, Bucket: e.on.S3.Bucket, Region: e.on.S3.Region, PathStyle: true,
		AccessKey: e.on.S3.AccessKey, SecretKey: e.on.S3.SecretKey,
		Prefix: e.name + "/", Temp: e.dir, Meta: meta, Log: log,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = b.Close() })
	return b
}
