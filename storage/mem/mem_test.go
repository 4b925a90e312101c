package mem_test

import (
	"testing"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/storagetest"
)

func TestMeta(t *testing.T) {
	storagetest.TestMeta(t, func(*testing.T) storage.Meta { return mem.NewMeta() })
}

func TestBlobs(t *testing.T) {
	storagetest.TestBlobs(t, func(*testing.T) storage.Blobs { return mem.NewBlobs() })
}

func TestNotes(t *testing.T) { storagetest.TestNotes(t, mem.NewBlobs()) }
