package rootfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
)

// tree is a directory for a root, with a secret beside it.
func tree(t *testing.T) (root *os.File, dir string) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "root")
	write(t, filepath.Join(top, "secret"), "secret")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return open(t, dir), dir
}

func open(t *testing.T, dir string) *os.File {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	t.Cleanup(func() { f.Close() })
	return f
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inNamespace calls f on a thread with a mount namespace of its own, which ends
// with it.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is not to be used again
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	must(t, <-done)
}

func TestStat(t *testing.T) {
	root, dir := tree(t)
	write(t, filepath.Join(dir, "d/f"), "12345")
	symlink(t, "/d/f", filepath.Join(dir, "abs"))
	symlink(t, "../../../../../secret", filepath.Join(dir, "out"))
	symlink(t, "/d", filepath.Join(dir, "dir"))
	symlink(t, "loop", filepath.Join(dir, "loop"))
	for _, test := range []struct {
		path, name, target string
		size               int64
		mode               os.FileMode
	}{
		{"d/f", "f", "", 5, 0o644},
		{"/../../d/./f", "f", "", 5, 0o644},
		{"/dir/f", "f", "", 5, 0o644},
		{"/d", "d", "", -1, os.ModeDir | 0o755},
		{"/dir", "dir", "/d", -1, os.ModeSymlink | 0o777},
		{"/dir/", "dir", "", -1, os.ModeDir | 0o755},
		{"/dir/.", ".", "", -1, os.ModeDir | 0o755},
		{"/abs", "abs", "/d/f", -1, os.ModeSymlink | 0o777},
		{"/out", "out", "/secret", -1, os.ModeSymlink | 0o777},
		{"", "/", "", -1, os.ModeDir | 0o755},
	} {
		st, err := rootfs.Stat(root, test.path)
		if err != nil || st.Name != test.name || st.LinkTarget != test.target || st.Mode != test.mode || test.size >= 0 && st.Size != test.size {
			t.Errorf("%s: %+v, %v", test.path, st, err)
		}
	}
	for path, kind := range map[string]error{
		"/none": runner.ErrNotFound, "/none/x": runner.ErrNotFound, "/out/": runner.ErrNotFound,
		"/d/f/": runner.ErrInvalid, "/d/f/x": runner.ErrInvalid, "/loop/": runner.ErrInvalid,
	} {
		if _, err := rootfs.Stat(root, path); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
}

func TestOpen(t *testing.T) {
	root, dir := tree(t)
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0")
	symlink(t, "/etc/passwd", filepath.Join(dir, "link"))
	symlink(t, "../secret", filepath.Join(dir, "out"))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "big"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(dir, "big"), rootfs.MaxOpen+1))
	for _, path := range []string{"/etc/passwd", "link", "/../etc/passwd"} {
		f, err := rootfs.Open(root, path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got, err := io.ReadAll(f); string(got) != "root:x:0:0" || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		f.Close()
	}
	for path, kind := range map[string]error{
		"/none": runner.ErrNotFound, "/out": runner.ErrNotFound,
		"/etc": runner.ErrInvalid, "/fifo": runner.ErrInvalid, "/big": runner.ErrInvalid,
	} {
		if _, err := rootfs.Open(root, path); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", path, err, kind)
		}
	}
}

// TestMagicLinks has /proc of the host in the tree, as with --pid=host: its links
// to the roots of processes lead out, and must not be followed.
func TestMagicLinks(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "proc"), 0o755))
	symlink(t, "/proc/1/root/etc", filepath.Join(dir, "out"))
	inNamespace(t, func() error {
		if err := unix.Mount("proc", filepath.Join(dir, "proc"), "proc", 0, ""); err != nil {
			return err
		}
		root := open(t, dir)
		if f, err := rootfs.Open(root, "/out/passwd"); err == nil {
			f.Close()
			t.Error("a file of the host is opened through /proc")
		}
		if err := rootfs.Extract(root, "/out", runner.ArchiveOptions{}, archiveOf(t, tar.Header{Name: "berth-test-escaped", Typeflag: tar.TypeReg})); err == nil {
			t.Error("an archive is unpacked through /proc")
		}
		return nil
	})
	if _, err := os.Lstat("/etc/berth-test-escaped"); err == nil {
		_ = os.Remove("/etc/berth-test-escaped")
		t.Error("a file of the host was made")
	}
}

// archiveOf returns an archive of entries; the content of a file is its name.
func archiveOf(t testing.TB, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, hdr := range entries {
		if hdr.Typeflag == tar.TypeReg && hdr.Size == 0 {
			hdr.Size = int64(len(hdr.Name))
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o755
		}
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(hdr.Name)[:hdr.Size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestUsage(t *testing.T) {
	_, dir := tree(t)
	write(t, filepath.Join(dir, "a/b/c"), strings.Repeat("x", 1000))
	write(t, filepath.Join(dir, "d"), strings.Repeat("x", 234))
	must(t, os.Link(filepath.Join(dir, "d"), filepath.Join(dir, "e")))
	symlink(t, "/etc/passwd", filepath.Join(dir, "link"))
	if n, err := rootfs.Usage(dir); n != 1234+11 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := rootfs.UsageAll([]string{dir, dir}); n != 2*(1234+11) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// overlay is a mounted overlayfs.
type overlay struct {
	lower []string // the topmost first
	upper string
	path  string
}

// withOverlay mounts an overlay over two lower directories that fill makes, and
// has change called with where it is mounted.
func withOverlay(t *testing.T, options string, fill func(top, bottom string), change func(merged string) error) overlay {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"top", "bottom", "upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	o := overlay{
		lower: []string{filepath.Join(dir, "top"), filepath.Join(dir, "bottom")},
		upper: filepath.Join(dir, "upper"),
		path:  filepath.Join(dir, "merged"),
	}
	fill(o.lower[0], o.lower[1])
	inNamespace(t, func() error {
		data := "lowerdir=" + strings.Join(o.lower, ":") + ",upperdir=" + o.upper + ",workdir=" + filepath.Join(dir, "work") + options
		if err := unix.Mount("overlay", o.path, "overlay", 0, data); err != nil {
			return err
		}
		return change(o.path)
	})
	return o
}

func changesOf(t *testing.T, o overlay, skip ...string) []string {
	t.Helper()
	list, err := rootfs.Changes(o.lower, o.upper, skip)
	must(t, err)
	var got []string
	for _, c := range list {
		got = append(got, c.Kind.String()+" "+c.Path)
	}
	return got
}

func TestChanges(t *testing.T) {
	fill := func(top, bottom string) {
		for _, name := range []string{"etc/hosts", "etc/conf", "data/kept", "data/gone", "data/same", "opq/old", "opq/again", "opq/sub/deep", "tree/x/y", "todir"} {
			write(t, filepath.Join(bottom, name), name)
		}
		write(t, filepath.Join(top, "data/fromtop"), "top")
		write(t, filepath.Join(top, "opq/top"), "top")
		symlink(t, "data", filepath.Join(top, "link"))
		// deleted in the upper of the two already
		must(t, unix.Mknod(filepath.Join(top, "never"), unix.S_IFCHR, 0))
		write(t, filepath.Join(bottom, "never"), "x")
	}
	o := withOverlay(t, ",redirect_dir=off", fill, func(m string) error {
		p := func(name string) string { return filepath.Join(m, name) }
		write(t, p("data/mine"), "new")
		write(t, p("data/kept"), "other")
		write(t, p("new/dir/file"), "new")
		write(t, p("etc/hosts"), "mounted over")
		write(t, p("never"), "again")
		return errors.Join(
			os.Remove(p("data/gone")), os.RemoveAll(p("opq")), os.MkdirAll(p("opq/sub"), 0o755), os.WriteFile(p("opq/again"), nil, 0o600),
			os.RemoveAll(p("tree")), os.Remove(p("todir")), os.Mkdir(p("todir"), 0o755),
			os.Remove(p("link")), os.Mkdir(p("link"), 0o755), os.WriteFile(p("link/kept"), nil, 0o600),
			os.WriteFile(p("temporary"), nil, 0o600), os.Remove(p("temporary")),
			os.Mkdir(p("proc"), 0o755),
		)
	})
	want := []string{
		"C /data", "D /data/gone", "C /data/kept", "A /data/mine", "C /link", "A /link/kept", "A /never", "A /new", "A /new/dir", "A /new/dir/file",
		"C /opq", "C /opq/again", "D /opq/old", "C /opq/sub", "D /opq/sub/deep", "D /opq/top", "C /todir", "D /tree",
	}
	if got := changesOf(t, o, "/etc/hosts", "/proc"); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if _, err := rootfs.Changes(o.lower, filepath.Join(o.upper, "none"), nil); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("no upper directory: %v", err)
	}
}

func TestChangesOfModes(t *testing.T) {
	fill := func(_, bottom string) {
		write(t, filepath.Join(bottom, "mode/f"), "")
		write(t, filepath.Join(bottom, "owner/f"), "")
		write(t, filepath.Join(bottom, "file"), "")
	}
	o := withOverlay(t, "", fill, func(m string) error {
		return errors.Join(os.Chmod(filepath.Join(m, "mode"), 0o700), os.Chown(filepath.Join(m, "owner"), 7, 7), os.Chmod(filepath.Join(m, "file"), 0o600))
	})
	if got, want := changesOf(t, o), []string{"C /file", "C /mode", "C /owner"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChangesOfMovedDirectory(t *testing.T) {
	fill := func(top, bottom string) {
		write(t, filepath.Join(bottom, "a/old/deep/f"), "")
		write(t, filepath.Join(bottom, "a/old/gone"), "")
		write(t, filepath.Join(top, "a/old/fromtop"), "")
	}
	o := withOverlay(t, ",redirect_dir=on", fill, func(m string) error {
		return errors.Join(
			os.Rename(filepath.Join(m, "a/old"), filepath.Join(m, "a/new")),
			os.Remove(filepath.Join(m, "a/new/gone")),
			os.WriteFile(filepath.Join(m, "a/new/more"), nil, 0o600),
			os.Rename(filepath.Join(m, "a/new"), filepath.Join(m, "moved")),
		)
	})
	want := []string{"C /a", "D /a/old", "A /moved", "A /moved/deep", "A /moved/deep/f", "A /moved/fromtop", "A /moved/more"}
	if got := changesOf(t, o); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
