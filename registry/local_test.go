package registry_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/registrytest"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/mem"
)

func newLocal(t *testing.T, blobs storage.Blobs, meta storage.Meta) *registry.Local {
	t.Helper()
	l, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// onDisk opens the embedded default in a directory.
func onDisk(t *testing.T, dir string) *registry.Local {
	t.Helper()
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return newLocal(t, blobs, meta)
}

func TestLocalOnDisk(t *testing.T) {
	registrytest.Test(t, func(t *testing.T) registry.Registry { return onDisk(t, t.TempDir()) })
}

func TestLocalInMemory(t *testing.T) {
	registrytest.Test(t, func(t *testing.T) registry.Registry { return newLocal(t, mem.NewBlobs(), mem.NewMeta()) })
}
