package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// disk is a small ext4 file system of the test's own, in a file.
type disk struct {
	t     *testing.T
	image string
	dir   string // where it is mounted
}

// newDisk makes and mounts a disk of so many MiB. It goes with the test.
func newDisk(t *testing.T, size int) *disk {
	t.Helper()
	berthtest.Root(t)
	dir := t.TempDir()
	d := &disk{t, filepath.Join(dir, "image"), filepath.Join(dir, "mounted")}
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	berthtest.NewCommand(t, "mkfs.ext4").Run("-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image, strconv.Itoa(size)+"M")
	t.Cleanup(func() {
		if err := d.tryUnmount(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: it is not mounted
			t.Errorf("unmount %s: %v", d.dir, err)
		}
	})
	d.mount()
	return d
}

// mount mounts what the disk holds, on a copy of it: what was mounted before may
// live on in the mount namespaces of others, such as containers, and would come
// back as it was left, or write to the same blocks.
func (d *disk) mount() {
	d.t.Helper()
	fresh := d.image + ".fresh"
	berthtest.NewCommand(d.t, "cp").Run("--sparse=always", d.image, fresh)
	if err := os.Rename(fresh, d.image); err != nil {
		d.t.Fatal(err)
	}
	berthtest.NewCommand(d.t, "mount").Run("-o", "loop", d.image, d.dir)
}

func (d *disk) unmount() {
	d.t.Helper()
	if err := d.tryUnmount(); err != nil {
		d.t.Fatalf("unmount %s: %v", d.dir, err)
	}
}

// tryUnmount waits for what has just ended to let go of the disk.
func (d *disk) tryUnmount() (err error) {
	for range 100 {
		if err = syscall.Unmount(d.dir, 0); !errors.Is(err, syscall.EBUSY) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(err, syscall.Unmount(d.dir, syscall.MNT_DETACH))
}

// abort turns the disk read-only under whoever uses it, as the kernel does after
// an error that it cannot mend. It stays so until it is mounted anew.
func (d *disk) abort() {
	d.t.Helper()
	berthtest.NewCommand(d.t, "mount").Run("-o", "remount,abort", d.dir)
}

// cut takes the power away: what was not synced is lost, and what is mounted can
// do nothing more.
func (d *disk) cut() {
	d.t.Helper()
	const (
		shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN
		noFlush  = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	how := uint32(noFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		d.t.Fatalf("shut the file system down: %v", errno)
	}
}

// fill takes all the space that is left, but for so many bytes, with a file, and
// returns how to give it back.
func (d *disk) fill(name string, leave int64) (release func()) {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	f, err := os.Create(path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &fs); err != nil {
		d.t.Fatal(err)
	}
	free := int64(fs.Bavail)*fs.Bsize - leave
	if free <= 0 {
		return func() {}
	}
	// The file system needs a little to note down where the file is.
	err = syscall.Fallocate(int(f.Fd()), 0, 0, free)
	if errors.Is(err, syscall.ENOSPC) {
		err = nil
	}
	if err != nil {
		d.t.Fatalf("fill the disk: %v", err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			d.t.Error(err)
		}
	}
}
