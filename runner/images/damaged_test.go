package images

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDamagedDatabase removes nothing because the database that names it is lost.
func TestDamagedDatabase(t *testing.T) {
	s := newStore(t)
	id := s.localImage(t, "", "some")
	root := s.opts.Root
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(root, "images.db")
	kept, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	layers, blobs, _ := s.files(t)
	if layers == 0 || blobs == 0 {
		t.Fatalf("there are %d layers, %d blobs", layers, blobs)
	}
	for what, harm := range map[string]func() error{
		"missing": func() error { return os.Remove(db) },
		"empty":   func() error { return os.WriteFile(db, nil, 0o600) },
		"garbage": func() error { return os.WriteFile(db, []byte("gar{bage"), 0o600) },
		"cut":     func() error { return os.WriteFile(db, kept[:len(kept)/4], 0o600) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), Options{Root: root})
		if err == nil || !strings.Contains(err.Error(), db) || !strings.Contains(err.Error(), "put the file back from a backup, or move "+root+" away") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(db, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	again := openStore(t, root, Limits{})
	again.wantFiles(t, layers, blobs)
	if _, err := again.Get(t.Context(), id); err != nil {
		t.Error(err)
	}
}
