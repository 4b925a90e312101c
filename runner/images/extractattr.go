package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const xattrRecord = "SCHILY.xattr."

// attributes gives what is at base in an open directory the owner, mode,
// attributes and times of its header.
func (x *extractor) attributes(dir int, base string, hdr *tar.Header, chmod bool) error {
	uid, gid, err := owner(hdr)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", uid, gid, err)
	}
	if chmod { // after chown, which clears set-user-ID
		if err := unix.Fchmodat(dir, base, uint32(hdr.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	err = eachXattr(hdr, func(name string, value []byte) error {
		return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), name, value, 0)
	})
	if err != nil {
		return err
	}
	t := times(hdr)
	return unix.UtimesNanoAt(dir, base, t[:], unix.AT_SYMLINK_NOFOLLOW)
}

// fileAttributes is attributes of an open file.
func (x *extractor) fileAttributes(fd int, base string, hdr *tar.Header) error {
	uid, gid, err := owner(hdr)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return fmt.Errorf("owner %d:%d: %w", uid, gid, err)
	}
	if err := unix.Fchmod(fd, uint32(hdr.Mode)&0o7777); err != nil {
		return err
	}
	err = eachXattr(hdr, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	t := times(hdr)
	return unix.UtimesNanoAt(x.parent, base, t[:], unix.AT_SYMLINK_NOFOLLOW)
}

func owner(hdr *tar.Header) (uid, gid int, err error) {
	const limit = 1<<32 - 1 // which means "leave it" to the kernel
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid >= limit || hdr.Gid >= limit {
		return 0, 0, badEntry("no such owner: %d:%d", hdr.Uid, hdr.Gid)
	}
	return hdr.Uid, hdr.Gid, nil
}

// eachXattr calls set for each extended attribute of an entry, but not for those
// by which overlayfs would be told where else to look for files. One that this
// file system cannot hold is left out, as other engines do.
func eachXattr(hdr *tar.Header, set func(name string, value []byte) error) error {
	for record, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		err := set(name, []byte(value))
		if err == nil || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") {
			continue
		}
		return fmt.Errorf("attribute %q: %w", shorten(name), err)
	}
	return nil
}

// times are the times of access and change of an entry, within what file systems
// can hold.
func times(hdr *tar.Header) [2]unix.Timespec {
	bound := func(t time.Time) unix.Timespec {
		if sec := t.Unix(); t.IsZero() || sec < 0 || sec >= 1<<33 {
			return unix.Timespec{}
		}
		return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
	}
	mtime, atime := bound(hdr.ModTime), bound(hdr.AccessTime)
	if atime.Sec < mtime.Sec {
		atime = mtime
	}
	return [2]unix.Timespec{atime, mtime}
}
