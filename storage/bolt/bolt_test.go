package bolt_test

import (
	"errors"
	"os"
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

// A damaged file is told from one that is there.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meta.db")
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{"cut": whole[:5*os.Getpagesize()], "garbage": []byte("gar{bage"), "zeros": make([]byte, len(whole))} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Open(path); !errors.Is(err, storage.ErrUnreadable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A file that is open is not opened again, also by the same process.
func TestOpenTwice(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := bolt.Open(filepath.Join(dir, "meta.db")); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}
