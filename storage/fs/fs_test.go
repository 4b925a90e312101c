package fs_test

import (
	"testing"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/fs"
	"github.com/berth-registry/berth/storage/storagetest"
)

func open(t *testing.T, dir string) storage.Blobs {
	t.Helper()
	b, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestBlobs(t *testing.T) {
	storagetest.TestBlobs(t, func(t *testing.T) storage.Blobs { return open(t, t.TempDir()) })
}

func TestNotes(t *testing.T) {
	storagetest.TestNotes(t, open(t, t.TempDir()).(storage.Notes))
}

func TestBlobsReopen(t *testing.T) { storagetest.TestBlobsReopen(t, open) }
