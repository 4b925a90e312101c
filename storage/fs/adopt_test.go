package fs_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/storage/fs"
)

func TestAdopt(t *testing.T) {
	dir, elsewhere := t.TempDir(), otherFileSystem(t)
	blobs, err := fs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := blobs.Close(); err != nil {
			t.Error(err)
		}
	}()
	large := bytes.Repeat([]byte("large"), 100_000)
	for name, c := range map[string]struct {
		dir    string
		data   []byte
		linked bool
		gone   bool // its name is, before it is adopted
		mode   os.FileMode
	}{
		"large":                      {filepath.Dir(dir), large, true, false, 0o644},
		"the same again":             {filepath.Dir(dir), large, true, false, 0o644},
		"small":                      {filepath.Dir(dir), []byte("small"), false, false, 0o644},
		"empty":                      {filepath.Dir(dir), nil, false, false, 0o644},
		"of another file system":     {elsewhere, append(bytes.Clone(large), 'x'), false, false, 0o644},
		"without a name any more":    {filepath.Dir(dir), append(bytes.Clone(large), 'y'), false, true, 0o644},
		"that others may write to":   {filepath.Dir(dir), append(bytes.Clone(large), 'z'), false, false, 0o664},
		"in place of what is stored": {elsewhere, large, false, false, 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.CreateTemp(c.dir, "adopt")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			defer os.Remove(f.Name())
			if _, err := f.Write(c.data); err != nil {
				t.Fatal(err)
			}
			if err := f.Chmod(c.mode); err != nil {
				t.Fatal(err)
			}
			if c.gone {
				if err := os.Remove(f.Name()); err != nil {
					t.Fatal(err)
				}
			}
			d := digest.FromBytes(c.data)
			for range 2 { // the second time, it is the same file already
				linked, err := blobs.Adopt(t.Context(), d, f)
				if err != nil || linked != c.linked {
					t.Fatalf("linked %v, %v", linked, err)
				}
			}
			r, err := blobs.Open(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, c.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			mine, err := r.(*os.File).Stat()
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := f.Stat()
			if err != nil || os.SameFile(mine, theirs) != c.linked {
				t.Errorf("the same file: %v, %v", !c.linked, err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "uploads")); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

// otherFileSystem is a directory of another file system than that of TempDir.
func otherFileSystem(t *testing.T) string {
	t.Helper()
	var here, there unix.Stat_t
	dir, err := os.MkdirTemp("/dev/shm", "berth-adopt-") //nolint:usetesting // not where TempDir is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := unix.Stat(t.TempDir(), &here); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(dir, &there); err != nil {
		t.Fatal(err)
	}
	if here.Dev == there.Dev {
		t.Fatal("this test needs two file systems: set TMPDIR to a directory that is not in /dev/shm")
	}
	return dir
}
