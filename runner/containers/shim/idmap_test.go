package shim

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var testMaps = IDMaps{
	UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 500000, Size: 65536}},
	GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 600000, Size: 65536}},
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// TestMountMapped looks at a tree with mapped users from both sides: what is made
// in it by a user of the host is on disk the container's, and the other way round.
func TestMountMapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	low1, low2, at := filepath.Join(dir, "l", "1"), filepath.Join(dir, "l", "2"), filepath.Join(dir, "at")
	r := Rootfs{Lower: []string{low1, low2}, Upper: filepath.Join(dir, "c", "upper"), Work: filepath.Join(dir, "c", "work")}
	tree, a, b := filepath.Join(at, "tree"), filepath.Join(at, "a"), filepath.Join(at, "b")
	for _, d := range []string{low1, low2, r.Upper, r.Work, tree, a, b} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{filepath.Join(low1, "root"), filepath.Join(low2, "user"), filepath.Join(low2, "gone"), filepath.Join(low2, "foreign")} {
		if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(low2, "user"), 1000, 1001); err != nil {
		t.Fatal(err)
	}
	ns, err := testMaps.namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = onThread(func() error {
		if err := privateMounts(); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := r.mountMapped(tree, a, b, ns); err != nil {
			return err
		}
		for name, want := range map[string][2]uint32{".": {500000, 600000}, "root": {500000, 600000}, "user": {501000, 601001}} {
			if uid, gid := owner(t, filepath.Join(tree, name)); [2]uint32{uid, gid} != want {
				t.Errorf("%s is of %d:%d, want %v", name, uid, gid, want)
			}
		}
		if err := os.Remove(filepath.Join(tree, "gone")); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(tree, "user"), 0o600); err != nil { // copied up
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, "new"), nil, 0o600); err != nil { // by the host's root
			return err
		}
		return os.Chown(filepath.Join(tree, "new"), 500007, 600008)
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]uint32{"user": {1000, 1001}, "new": {7, 8}, "gone": {hostRoot, hostRoot}} {
		if uid, gid := owner(t, filepath.Join(r.Upper, name)); [2]uint32{uid, gid} != want {
			t.Errorf("on disk, %s is of %d:%d, want %v", name, uid, gid, want)
		}
	}
}
