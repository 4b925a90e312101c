package registry_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// An upload that is refused leaves nothing behind.
func TestRefusedUploadLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	l := onDisk(t, dir)
	id, err := l.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.WriteUpload(t.Context(), "a", id, registry.Chunk{Last: 9, Known: true}, strings.NewReader("short")); !errors.Is(err, registry.ErrSizeInvalid) {
		t.Errorf("a chunk that is too short: %v", err)
	}
	if _, err := l.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("x"), digest.FromString("y")); !errors.Is(err, registry.ErrDigestInvalid) {
		t.Errorf("a wrong digest: %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "uploads"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
