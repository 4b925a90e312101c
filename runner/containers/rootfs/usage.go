package rootfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Usage is the size in bytes of the files below a directory, as "docker ps -s"
// counts it: their lengths, that of a file with several names once, and of
// directories nothing.
func Usage(upper string) (int64, error) {
	return UsageAll([]string{upper})
}

// UsageAll is the size in bytes of the files below all the directories.
func UsageAll(dirs []string) (int64, error) {
	var sum int64
	for _, name := range dirs {
		dir, err := os.Open(name)
		if err != nil {
			return 0, err
		}
		n, err := usage(dir, make(map[uint64]bool))
		dir.Close()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// usage counts what is in a directory. What vanishes meanwhile counts nothing.
func usage(dir *os.File, seen map[uint64]bool) (sum int64, err error) {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		n, err := usageAt(dir, name, seen)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func usageAt(dir *os.File, name string, seen map[uint64]bool) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		child, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return 0, err
		}
		defer child.Close()
		return usage(child, seen)
	}
	if st.Nlink > 1 {
		if seen[st.Ino] {
			return 0, nil
		}
		seen[st.Ino] = true
	}
	return st.Size, nil
}
