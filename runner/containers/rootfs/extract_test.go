package rootfs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
)

// listing describes all below a directory, one line each.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(dir, name)
		content := ""
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			content = string(data)
		case fi.Mode()&fs.ModeSymlink != 0:
			content, _ = os.Readlink(name)
		}
		var value [100]byte
		n, _ := unix.Lgetxattr(name, "user.test", value[:])
		fmt.Fprintf(&b, "%s %s %d:%d %d %d %s %q %q\n", rel, fi.Mode(), st.Uid, st.Gid, st.Rdev, st.Nlink, fi.ModTime().UTC().Format(time.RFC3339), value[:max(n, 0)], content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// everything fills a directory with one of each kind of file.
func everything(t testing.TB, dir string) {
	t.Helper()
	at := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	p := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("long/", 40)
	err := errors.Join(
		os.MkdirAll(p("sub/empty"), 0o750),
		os.MkdirAll(p(long), 0o755),
		os.WriteFile(p("file"), []byte("content"), 0o640),
		os.WriteFile(p(long+strings.Repeat("n", 200)), bytes.Repeat([]byte("x"), 1000), 0o600),
		os.Chown(p("file"), 1000, 70000),
		os.Link(p("file"), p("sub/hard")),
		os.WriteFile(p("setuid"), nil, 0o755),
		os.Chown(p("setuid"), 12, 13),
		os.Chmod(p("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid),
		os.Chmod(p("sub"), 0o777|os.ModeSticky),
		os.Symlink("../file", p("sub/link")),
		os.Symlink("/nowhere", p("dangling")),
		os.Lchown(p("dangling"), 5, 6),
		unix.Mkfifo(p("fifo"), 0o600),
		unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(p("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))),
		unix.Setxattr(p("file"), "user.test", []byte("a\x00b"), 0),
		unix.Setxattr(p("sub"), "user.test", []byte("dir"), 0),
		os.Chtimes(p("sub/empty"), at, at), os.Chtimes(p("file"), at, at), os.Chtimes(p("sub"), at, at), os.Chtimes(dir, at, at),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func TestArchiveAndExtract(t *testing.T) {
	root, dir := tree(t)
	src := filepath.Join(dir, "src")
	must(t, os.Mkdir(src, 0o711))
	everything(t, src)
	r, st, err := rootfs.Archive(root, "/src")
	must(t, err)
	if st.Name != "src" || !st.Mode.IsDir() {
		t.Errorf("described as %+v", st)
	}
	must(t, os.Mkdir(filepath.Join(dir, "dst"), 0o755))
	must(t, rootfs.Extract(root, "/dst", runner.ArchiveOptions{}, r))
	must(t, r.Close())
	if want, got := listing(t, src), listing(t, filepath.Join(dir, "dst/src")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// GNU tar, which others use, reads it too.
	other := t.TempDir()
	r, _, err = rootfs.Archive(root, "/src/.")
	must(t, err)
	cmd := exec.CommandContext(t.Context(), "tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", other)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, r.Close())
	if want, got := listing(t, src), listing(t, other); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func names(t *testing.T, r io.Reader) []string {
	t.Helper()
	var all []string
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all = append(all, hdr.Name)
	}
}

func TestArchiveNames(t *testing.T) {
	root, dir := tree(t)
	write(t, filepath.Join(dir, "d/f"), "1")
	symlink(t, "/d", filepath.Join(dir, "l"))
	for path, want := range map[string]string{
		"/d": "d/ d/f", "/d/": "d/ d/f", "/d/.": "./ ./f", "/d/f": "f", "/l": "l", "/l/": "l/ l/f", "/l/.": "./ ./f", "/l/f": "f",
		"/": "/ /d/ /d/f /l",
	} {
		r, _, err := rootfs.Archive(root, path)
		must(t, err)
		if got := strings.Join(names(t, r), " "); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		must(t, r.Close())
	}
	if _, _, err := rootfs.Archive(root, "/none"); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
}

// TestArchiveClosedEarly reads a little of a large archive.
func TestArchiveClosedEarly(t *testing.T) {
	root, dir := tree(t)
	must(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 10<<20), 0o600))
	r, _, err := rootfs.Archive(root, "/big")
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 1024))
	must(t, err)
	must(t, r.Close())
}

// TestChangingFile reads a file that becomes shorter, and one that grows.
func TestChangingFile(t *testing.T) {
	root, dir := tree(t)
	for name, change := range map[string]int64{"shrinks": 10, "grows": 30 << 20} {
		must(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 20<<20), 0o600))
		r, _, err := rootfs.Archive(root, name)
		must(t, err)
		tr := tar.NewReader(r)
		_, err = tr.Next()
		must(t, err)
		must(t, os.Truncate(filepath.Join(dir, name), change))
		data, err := io.ReadAll(tr)
		if len(data) != 20<<20 || err != nil {
			t.Fatalf("%s: %d, %v", name, len(data), err)
		}
		if got, want := data[len(data)-1], map[string]byte{"shrinks": 0, "grows": 'x'}[name]; got != want {
			t.Errorf("%s: ends in %q", name, got)
		}
		must(t, r.Close())
	}
}

func TestExport(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"proc", "data", "etc"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	write(t, filepath.Join(dir, "etc/hosts"), "")
	write(t, filepath.Join(dir, "etc/conf"), "conf")
	write(t, filepath.Join(dir, "data/hidden"), "by the mount")
	other := t.TempDir()
	write(t, filepath.Join(other, "secret"), "of a volume")
	var buf bytes.Buffer
	inNamespace(t, func() error {
		err := errors.Join(
			unix.Mount(dir, dir, "", unix.MS_BIND, ""),
			unix.Mount(other, filepath.Join(dir, "data"), "", unix.MS_BIND, ""),
			unix.Mount(filepath.Join(other, "secret"), filepath.Join(dir, "etc/hosts"), "", unix.MS_BIND, ""),
			unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""),
		)
		if err != nil {
			return err
		}
		return rootfs.Export(t.Context(), open(t, dir), &buf)
	})
	var got []string
	for tr := tar.NewReader(&buf); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		got = append(got, fmt.Sprint(hdr.Name, ":", hdr.Size))
	}
	if want := "data/:0 etc/:0 etc/conf:4 etc/hosts:0 proc/:0"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExtractCompressed(t *testing.T) {
	plain := archiveOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg}).Bytes()
	for _, program := range []string{"cat", "gzip", "bzip2", "xz", "zstd"} {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Stdin = bytes.NewReader(plain)
		packed, err := cmd.Output()
		must(t, err)
		root, dir := tree(t)
		if err := rootfs.Extract(root, "/", runner.ArchiveOptions{}, bytes.NewReader(packed)); err != nil {
			t.Errorf("%s: %v", program, err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "f")); string(got) != "f" {
			t.Errorf("%s: unpacked %q", program, got)
		}
		if len(packed) > len(plain)-1 {
			continue
		}
		if err := rootfs.Extract(root, "/", runner.ArchiveOptions{}, bytes.NewReader(packed[:len(packed)/2])); err == nil {
			t.Errorf("%s: half of it is an archive too", program)
		}
	}
	root, _ := tree(t)
	must(t, rootfs.Extract(root, "/", runner.ArchiveOptions{}, strings.NewReader("")))
}

func TestExtractOverwrites(t *testing.T) {
	dirEntry, fileEntry := tar.Header{Name: "x", Typeflag: tar.TypeDir}, tar.Header{Name: "x", Typeflag: tar.TypeReg}
	for _, test := range []struct {
		name   string
		before func(path string) error
		entry  tar.Header
		strict bool
		want   string // of an error
	}{
		{"file by file", func(p string) error { return os.WriteFile(p, []byte("longer than before"), 0o600) }, fileEntry, true, ""},
		{"directory by directory", func(p string) error { return os.MkdirAll(p+"/kept", 0o700) }, dirEntry, true, ""},
		{"directory by file", func(p string) error { return os.MkdirAll(p+"/gone", 0o700) }, fileEntry, false, ""},
		{"file by directory", func(p string) error { return os.WriteFile(p, nil, 0o600) }, dirEntry, false, ""},
		{"link by file", func(p string) error { return os.Symlink("../../secret", p) }, fileEntry, true, ""},
		{"strictly: directory by file", func(p string) error { return os.MkdirAll(p, 0o700) }, fileEntry, true, `cannot overwrite directory "/d/x" with non-directory "/d"`},
		{"strictly: file by directory", func(p string) error { return os.WriteFile(p, nil, 0o600) }, dirEntry, true, `cannot overwrite non-directory "/d/x" with directory "/d"`},
	} {
		root, dir := tree(t)
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		must(t, test.before(filepath.Join(dir, "d/x")))
		err := rootfs.Extract(root, "/d", runner.ArchiveOptions{NoOverwriteDirNonDir: test.strict}, archiveOf(t, test.entry))
		if test.want != "" {
			if err == nil || err.Error() != test.want || !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		must(t, err)
		fi, err := os.Lstat(filepath.Join(dir, "d/x"))
		if err != nil || fi.IsDir() != (test.entry.Typeflag == tar.TypeDir) || !fi.IsDir() && fi.Size() != 1 {
			t.Errorf("%s: %v, %v", test.name, fi, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "d/x/kept")); strings.HasPrefix(test.name, "directory by directory") && err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestExtractOwned(t *testing.T) {
	root, dir := tree(t)
	must(t, rootfs.ExtractOwned(root, "/", runner.ArchiveOptions{}, &rootfs.Owner{UID: 3, GID: 4}, archiveOf(t,
		tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Uid: 1000, Gid: 1000},
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "a"})))
	for _, name := range []string{"a", "a/b", "l"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		must(t, err)
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 3 || st.Gid != 4 {
			t.Errorf("%s is of %d:%d", name, st.Uid, st.Gid)
		}
	}
}

func TestExtractInto(t *testing.T) {
	root, dir := tree(t)
	write(t, filepath.Join(dir, "file"), "")
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	symlink(t, "/real", filepath.Join(dir, "link"))
	one := func() io.Reader { return archiveOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg}) }
	must(t, rootfs.Extract(root, "/link", runner.ArchiveOptions{}, one()))
	if _, err := os.Lstat(filepath.Join(dir, "real/f")); err != nil {
		t.Error(err)
	}
	if err := rootfs.Extract(root, "/none", runner.ArchiveOptions{}, one()); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
	if err := rootfs.Extract(root, "/file", runner.ArchiveOptions{}, one()); !errors.Is(err, runner.ErrInvalid) || err.Error() != "extraction point is not a directory" {
		t.Errorf("a file: %v", err)
	}
	if err := rootfs.Extract(root, "/", runner.ArchiveOptions{}, strings.NewReader(strings.Repeat("no archive", 1000))); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("no archive: %v", err)
	}
}

// hostile are archives that try to write outside of where they are unpacked.
func hostile(t testing.TB) map[string]*bytes.Buffer {
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o777} }
	return map[string]*bytes.Buffer{
		"climbs":              archiveOf(t, file("../secret")),
		"climbs late":         archiveOf(t, file("a/b/../../../secret")),
		"absolute climbs":     archiveOf(t, file("/../secret")),
		"link out":            archiveOf(t, link("l", "../.."), file("l/secret")),
		"link out, absolute":  archiveOf(t, link("l", "/"), link("l/m", ".."), file("l/m/secret")),
		"link to proc":        archiveOf(t, link("l", "/proc/self/root"), file("l/secret")),
		"links in a row":      archiveOf(t, link("a", ".."), link("b", "a/.."), link("c", "b/.."), file("c/secret")),
		"over a link":         archiveOf(t, link("l", "../../secret"), file("l")),
		"directory to a link": archiveOf(t, dir("d"), link("d", "../.."), file("d/secret")),
		"merged with a link":  archiveOf(t, link("d", "../.."), dir("d"), file("d/secret")),
		"hard link out":       archiveOf(t, hard("h", "../secret"), file("h")),
		"hard link by a link": archiveOf(t, link("l", "../.."), hard("h", "l/secret"), file("h")),
		"hard link, absolute": archiveOf(t, hard("h", "/../../secret")),
		"hard link of a link": archiveOf(t, link("l", "../../secret"), hard("h", "l"), file("h")),
		"name of dots":        archiveOf(t, file(".."), file("."), dir("..")),
		"loop":                archiveOf(t, link("l", "l"), file("l/f")),
		"whiteout":            archiveOf(t, tar.Header{Name: "w", Typeflag: tar.TypeChar}),
		"attribute":           archiveOf(t, tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/x"}}),
		"owner of nobody":     archiveOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: -1}),
		"far future":          archiveOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, ModTime: time.Unix(1<<40, 0)}),
	}
}

func TestHostileArchives(t *testing.T) {
	for name, content := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			root, dir := tree(t)
			must(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
			err := rootfs.Extract(root, "/in", runner.ArchiveOptions{}, content)
			outside(t, dir)
			if strings.Contains(name, "climbs") && !errors.Is(err, runner.ErrInvalid) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// outside checks that nothing beside the root has changed.
func outside(t testing.TB, dir string) {
	t.Helper()
	top := filepath.Dir(dir)
	found, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 {
		t.Errorf("beside the root: %v", found)
	}
	fi, err := os.Lstat(filepath.Join(top, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(filepath.Join(top, "secret"))
	if st := fi.Sys().(*syscall.Stat_t); string(data) != "secret" || st.Nlink != 1 || fi.Mode() != 0o644 || st.Uid != 0 {
		t.Errorf("the file beside the root is now %q, %v, %d links, of %d", data, fi.Mode(), st.Nlink, st.Uid)
	}
}

// TestRacingContainer unpacks while a process of the container swaps directories
// for links that lead out.
func TestRacingContainer(t *testing.T) {
	root, dir := tree(t)
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	symlink(t, "../..", filepath.Join(dir, "evil"))
	must(t, os.Mkdir(filepath.Join(dir, "d/x"), 0o755))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "evil"), unix.RENAME_EXCHANGE)
			}
		}
	})
	var entries []tar.Header
	for i := range 50 {
		entries = append(entries,
			tar.Header{Name: fmt.Sprintf("d/f%d", i), Typeflag: tar.TypeReg},
			tar.Header{Name: "d/secret", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 9},
			tar.Header{Name: "d/x", Typeflag: tar.TypeDir, Mode: 0o777},
			tar.Header{Name: fmt.Sprintf("h%d", i), Typeflag: tar.TypeLink, Linkname: "d/secret"})
	}
	data := archiveOf(t, entries...).Bytes()
	for range 50 {
		_ = rootfs.Extract(root, "/", runner.ArchiveOptions{}, bytes.NewReader(data)) // may fail, must not get out
	}
	close(stop)
	wg.Wait()
	outside(t, dir)
}

func FuzzExtract(f *testing.F) {
	for _, content := range hostile(f) {
		f.Add(content.Bytes())
	}
	src := f.TempDir()
	everything(f, src)
	src2, err := os.Open(src)
	if err != nil {
		f.Fatal(err)
	}
	defer src2.Close()
	var buf, packed bytes.Buffer
	if err := rootfs.Export(f.Context(), src2, &buf); err != nil {
		f.Fatal(err)
	}
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(buf.Bytes())
	_ = z.Close()
	f.Add(buf.Bytes())
	f.Add(packed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte("\xfd7zXZ")) {
			return // a process each: too slow
		}
		top := t.TempDir()
		dir := filepath.Join(top, "root")
		if err := errors.Join(os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o644), os.MkdirAll(filepath.Join(dir, "in"), 0o755)); err != nil {
			t.Fatal(err)
		}
		root, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = rootfs.Extract(root, "/in", runner.ArchiveOptions{}, io.LimitReader(bytes.NewReader(data), 1<<20))
		outside(t, dir)
	})
}

func TestPopulate(t *testing.T) {
	for name, staging := range map[string]string{"beside": "vol/_data", "inside": "vol/_data/.berth"} {
		t.Run(name, func(t *testing.T) { testPopulate(t, staging) })
	}
}

func testPopulate(t *testing.T, staging string) {
	t.Helper()
	root, dir := tree(t)
	src := filepath.Join(dir, "src")
	must(t, os.Mkdir(src, 0o711))
	must(t, os.Chown(src, 33, 34))
	everything(t, src)
	symlink(t, "/src", filepath.Join(dir, "link"))
	want := listing(t, src)
	top := t.TempDir()
	dst := filepath.Join(top, "vol/_data")
	staging = filepath.Join(top, staging)
	must(t, os.MkdirAll(dst, 0o755))
	must(t, os.Mkdir(staging+".new", 0o755)) // left by an earlier try
	write(t, staging+".new/half", "")
	must(t, rootfs.Populate(root, "/link", dst, staging))
	if got := listing(t, dst); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// It is not empty now, so nothing comes into it.
	write(t, filepath.Join(dir, "other/f"), "")
	must(t, rootfs.Populate(root, "/other", dst, staging))
	must(t, rootfs.Populate(root, "/none", dst, staging))
	if got := listing(t, dst); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Interrupted while it was moved into place: the rest follows.
	must(t, os.Mkdir(staging+".full", 0o700))
	must(t, os.Rename(filepath.Join(dst, "file"), filepath.Join(staging+".full", "file")))
	if wanted, err := rootfs.Populates(dst, staging); !wanted || err != nil {
		t.Errorf("not to be finished: %v", err)
	}
	must(t, rootfs.Populate(root, "/src", dst, staging))
	if wanted, err := rootfs.Populates(dst, staging); wanted || err != nil {
		t.Errorf("to be finished: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dst, "file")); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{filepath.Dir(dst), dst} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".berth*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(dst)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}
