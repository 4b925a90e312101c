package volumes_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/volumes"
)

// withOwnMounts runs a test in a mount namespace that ends with it.
func withOwnMounts(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The first thread does not end. While it is held the test runs on another.
		defer runtime.UnlockOSThread()
		t.Run("on a thread", func(t *testing.T) { withOwnMounts(t, do) })
		return
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatalf("the test needs to be root: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	do(t)
}

func createWith(t *testing.T, s *volumes.Store, name string, options map[string]string) volume.Volume {
	t.Helper()
	v, made, err := s.Create(t.Context(), volume.CreateRequest{Name: name, DriverOpts: options})
	if err != nil || !made {
		t.Fatal(made, err)
	}
	return v
}

func wantMounted(t *testing.T, v volume.Volume, want bool) {
	t.Helper()
	if got, err := mountinfo.Mounted(v.Mountpoint); err != nil || got != want {
		t.Errorf("%s is mounted: %t, %v; want %t", v.Name, got, err, want)
	}
}

func TestMount(t *testing.T) { withOwnMounts(t, testMount) }

func testMount(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir)
	ram := createWith(t, s, "ram", map[string]string{"type": "tmpfs", "device": "tmpfs"})
	plain := createWith(t, s, "plain", nil)
	for _, user := range []string{"one", "one", "two"} {
		for _, name := range []string{"ram", "plain"} {
			if err := s.Mount(t.Context(), name, user); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantMounted(t, ram, true)
	wantMounted(t, plain, false)
	unmount := func(user string, want ...string) {
		t.Helper()
		if got, err := s.Unmount(user); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s used %v, want %v: %v", user, got, want, err)
		}
	}
	unmount("one", "plain", "ram")
	unmount("one")
	wantMounted(t, ram, true)
	if err := s.Remove(t.Context(), "ram", true); !errors.Is(err, runner.ErrConflict) {
		t.Errorf("a volume that is used: %v", err)
	}

	// The next daemon finds it mounted.
	s = open(t, dir)
	if err := errors.Join(s.Adopt("ram", "two"), s.Settle()); err != nil {
		t.Fatal(err)
	}
	wantMounted(t, ram, true)
	s = open(t, dir)
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
	wantMounted(t, ram, false)
	if u, err := s.Usage(t.Context(), "ram"); err != nil || u.Size != -1 {
		t.Errorf("%+v, %v", u, err)
	}
	for what, err := range map[string]error{"mount": s.Mount(t.Context(), "none", "one"), "adopt": s.Adopt("none", "one")} {
		if !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("%s of none: %v", what, err)
		}
	}
}

// TestMountFails leaves nothing mounted and nobody who uses it.
func TestMountFails(t *testing.T) { withOwnMounts(t, testMountFails) }

func testMountFails(t *testing.T) {
	t.Helper()
	s := open(t, t.TempDir())
	v := createWith(t, s, "bad", map[string]string{"type": "nofs", "device": "none", "o": "password=hunter2,x=y"})
	err := s.Mount(t.Context(), "bad", "one")
	want := "error while mounting volume '" + v.Mountpoint + "': failed to mount local volume: mount none:" + v.Mountpoint + ", data: password=********,x=y: no such device"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if got, err := s.Unmount("one"); len(got) > 0 || err != nil {
		t.Errorf("used are %v, %v", got, err)
	}
	if err := s.Remove(t.Context(), "bad", false); err != nil {
		t.Error(err)
	}
}

// TestRemoveMounted removes a volume that somebody has mounted by hand, twice: what
// is mounted stays.
func TestRemoveMounted(t *testing.T) { withOwnMounts(t, testRemoveMounted) }

func testRemoveMounted(t *testing.T) {
	t.Helper()
	s, disk := open(t, t.TempDir()), t.TempDir()
	if err := os.WriteFile(filepath.Join(disk, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v := createWith(t, s, "disk", map[string]string{"type": "none", "device": disk, "o": "bind"})
	for range 2 {
		if err := unix.Mount(disk, v.Mountpoint, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), "disk", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "f")); err != nil {
		t.Errorf("it was removed with the volume: %v", err)
	}
}

// TestFill is told where it may work on the file system of the volume.
func TestFill(t *testing.T) { withOwnMounts(t, testFill) }

func testFill(t *testing.T) {
	t.Helper()
	s, disk := open(t, t.TempDir()), t.TempDir()
	plain := createWith(t, s, "plain", nil)
	bound := createWith(t, s, "bound", map[string]string{"type": "none", "device": disk, "o": "bind"})
	for _, test := range []struct {
		v       volume.Volume
		staging string
	}{{plain, plain.Mountpoint}, {bound, filepath.Join(bound.Mountpoint, ".berth")}} {
		err := s.Fill(t.Context(), test.v.Name, func(dir, staging string) error {
			wantMounted(t, test.v, test.v.Name == "bound")
			if dir != test.v.Mountpoint || staging != test.staging {
				t.Errorf("%s is filled in %s by %s", test.v.Name, dir, staging)
			}
			return errors.New("stop")
		})
		if err == nil || err.Error() != "stop" {
			t.Error(err)
		}
		wantMounted(t, test.v, false)
	}
}

func TestOtherOptions(t *testing.T) {
	s := open(t, t.TempDir())
	ram := map[string]string{"type": "tmpfs", "device": "tmpfs"}
	createWith(t, s, "ram", ram)
	for _, same := range []map[string]string{ram, nil} {
		if _, made, err := s.Create(t.Context(), volume.CreateRequest{Name: "ram", DriverOpts: same}); made || err != nil {
			t.Errorf("once more: %t, %v", made, err)
		}
	}
	_, _, err := s.Create(t.Context(), volume.CreateRequest{Name: "ram", DriverOpts: map[string]string{"type": "tmpfs", "device": "other"}})
	if !errors.Is(err, runner.ErrConflict) || err.Error() != "create ram: volume name must be unique: there is one with other options" {
		t.Error(err)
	}
}
