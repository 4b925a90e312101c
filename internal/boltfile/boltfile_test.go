package boltfile_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/berth-registry/berth/internal/boltfile"
)

var options = bbolt.Options{Timeout: 5 * time.Second, FreelistType: bbolt.FreelistMapType}

// TestOpen cuts a database at every page, and opens what is left.
func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "some.db")
	db, err := boltfile.Open(path, 0o600, options) // there is none yet
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("b"))
		if err != nil {
			return err
		}
		return b.Put([]byte("key"), bytes.Repeat([]byte("value"), 10_000))
	}))
	size := int64(0)
	must(t, db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }))
	must(t, db.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	page := os.Getpagesize()
	for n := page; n < int(size); n += page {
		must(t, os.WriteFile(path, whole[:n], 0o600))
		if db, err := boltfile.Open(path, 0o600, options); err == nil {
			_ = db.Close()
			t.Fatalf("opened with %d of %d bytes", n, size)
		} else if n >= 2*page && !errors.Is(err, boltfile.ErrCut) { // else not even its begin is there
			t.Errorf("with %d of %d bytes: %v", n, size, err)
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, whole[:n]) {
			t.Fatalf("of %d bytes are left %d, %v", n, len(left), err)
		}
	}
	for _, n := range []int64{size, int64(len(whole))} { // what is behind was made room of
		must(t, os.WriteFile(path, whole[:n], 0o600))
		db, err := boltfile.Open(path, 0o600, options)
		must(t, err)
		must(t, db.View(func(tx *bbolt.Tx) error {
			if n := len(tx.Bucket([]byte("b")).Get([]byte("key"))); n != 50_000 {
				t.Errorf("the value has %d bytes", n)
			}
			return nil
		}))
		must(t, db.Close())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
