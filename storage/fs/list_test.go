package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// What is no blob is not listed, wherever it lies among them; nor does it end the
// list.
func TestListStrays(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	want := []digest.Digest{put(t, b, []byte("one")), put(t, b, []byte("two")), put(t, b, bytes.Repeat([]byte("3"), small+1))}
	slices.Sort(want)
	place := b.path(want[0])
	other := filepath.Join(filepath.Dir(filepath.Dir(place)), "zz", filepath.Base(place))
	for _, name := range []string{place + ".new", filepath.Join(filepath.Dir(place), "notes"), other, filepath.Join(b.blobs, "md5/aa/aa")} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(b.path(digest.FromString("a directory")), 0o700); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var got []digest.Digest
	for info, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Digest)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
}

// A file that was renamed or linked to its place just now came just now, however
// old what is in it.
func TestListModified(t *testing.T) {
	b := openFS(t, t.TempDir())
	d := put(t, b, []byte("old"))
	old := time.Now().Add(-1000 * time.Hour)
	if err := os.Chtimes(b.path(d), old, old); err != nil {
		t.Fatal(err)
	}
	for info, err := range b.List(t.Context(), "") {
		if err != nil || time.Since(info.Modified) > time.Minute {
			t.Errorf("%s came at %v, %v", info.Digest, info.Modified, err)
		}
	}
}

// What was moved away does not come back with the journal, and can be looked at.
func TestQuarantineJournal(t *testing.T) {
	dir := t.TempDir()
	b := openFS(t, dir)
	put(t, b, []byte("another"))
	d := put(t, b, []byte("bytes"))
	if err := os.WriteFile(b.path(d), []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Quarantine(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	after := afterPowerCut(t, dir, func(string) {})
	b = openFS(t, after)
	if _, err := b.Open(t.Context(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what was moved away is %v", err)
	}
	got, err := os.ReadFile(filepath.Join(after, "quarantine/sha256", d.Encoded()))
	if string(got) != "rotten" || err != nil {
		t.Errorf("to be looked at is %q, %v", got, err)
	}
}
