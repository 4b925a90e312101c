package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/runner"
)

func tarOf(tb testing.TB, headers ...tar.Header) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := "body of " + h.Name
		if h.Typeflag == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, body); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestUnpack(t *testing.T) {
	when := time.Unix(1_700_000_000, 0)
	archive := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir},
		tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o500, ModTime: when},
		tar.Header{Name: "dir/file", Mode: 0o4751, ModTime: when, Uid: 77},
		tar.Header{Name: "a/b/implied"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/file"},
		tar.Header{Name: "soft", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		tar.Header{Name: "pipe", Typeflag: tar.TypeFifo},
		tar.Header{Name: "twice", Typeflag: tar.TypeSymlink, Linkname: "hard"},
		tar.Header{Name: "twice"},
	)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{"plain": bytes.NewReader(archive), "gzip": &packed} {
		dir := t.TempDir()
		if err := unpack(t.Context(), dir, r, io.Discard); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		info, err := os.Lstat(filepath.Join(dir, "dir/file"))
		if err != nil || info.Mode() != 0o751|fs.ModeSetuid || !info.ModTime().Equal(when) {
			t.Errorf("%s: the file is %v, %v", name, info, err)
		}
		if info, err := os.Lstat(filepath.Join(dir, "dir")); err != nil || info.Mode().Perm() != 0o500 || !info.ModTime().Equal(when) {
			t.Errorf("%s: the directory is %v, %v", name, info, err)
		}
		for file, want := range map[string]string{"a/b/implied": "body of a/b/implied", "hard": "body of dir/file", "twice": "body of twice"} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(b) != want {
				t.Errorf("%s: %s has %q, %v", name, file, b, err)
			}
		}
		if link, err := os.Readlink(filepath.Join(dir, "soft")); err != nil || link != "/etc/passwd" {
			t.Errorf("%s: the link leads to %q, %v", name, link, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "pipe")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a pipe was made: %v", name, err)
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	whole := tarOf(t, tar.Header{Name: "file"})
	for name, archive := range map[string][]byte{
		"a name that climbs":          tarOf(t, tar.Header{Name: "a/../../evil"}),
		"a file through a link":       tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, tar.Header{Name: "l/outside"}),
		"a link to a file outside":    tarOf(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../../etc/passwd"}),
		"a link to what is not there": tarOf(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "nothing"}),
		"a directory over a link":     tarOf(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/outside/", Typeflag: tar.TypeDir}),
		"too deep":                    tarOf(t, tar.Header{Name: strings.Repeat("d/", 300) + "f"}),
		"the end is missing":          whole[:515],
		"no archive":                  []byte(strings.Repeat("FROM scratch\n", 100)),
		"a broken gzip":               append([]byte{0x1f, 0x8b, 8, 0}, whole...),
	} {
		dir := t.TempDir()
		if err := unpack(t.Context(), dir, bytes.NewReader(archive), io.Discard); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("%s: it made a file outside", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := unpack(ctx, t.TempDir(), bytes.NewReader(whole), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("after the client left: %v", err)
	}
}

// FuzzUnpack checks that no archive makes a file outside of its directory.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a/b"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "l/x"}))
	f.Add(tarOf(f, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../x"}, tar.Header{Name: "d/", Typeflag: tar.TypeDir}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		inner := filepath.Join(dir, "in", "context")
		if err := os.MkdirAll(inner, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = unpack(t.Context(), inner, bytes.NewReader(archive), io.Discard)
		for _, d := range []string{dir, filepath.Dir(inner)} {
			if list, err := os.ReadDir(d); err != nil || len(list) != 1 {
				t.Errorf("%s has %v, %v", d, list, err)
			}
		}
	})
}
