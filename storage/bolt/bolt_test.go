package bolt_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/storagetest"
)

func open(t *testing.T, dir string) storage.Meta {
	t.Helper()
	m, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMeta(t *testing.T) {
	storagetest.TestMeta(t, func(t *testing.T) storage.Meta { return open(t, t.TempDir()) })
}

func TestMetaReopen(t *testing.T) { storagetest.TestMetaReopen(t, open) }

// A file that is open is not opened again, also by the same process.
func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := bolt.Open(filepath.Join(dir, "meta.db")); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}
