package rootfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// How overlayfs keeps what plain files cannot say (Documentation/filesystems/
// overlayfs.rst of Linux).
const (
	opaqueXattr   = "trusted.overlay.opaque"   // "y": hides the directories below
	redirectXattr = "trusted.overlay.redirect" // where the directories below are
	whiteoutXattr = "trusted.overlay.whiteout" // of an empty file: deleted
)

// found is what overlayfs merges under a name.
type found struct {
	exists bool
	stat   *syscall.Stat_t // of the topmost
	dirs   []*os.File      // if it is a directory: all of them, the topmost first
}

// findBelow looks a name up in directories that are merged, the topmost first.
func findBelow(dirs []*os.File, base string) (found, error) {
	var all found
	for _, dir := range dirs {
		f, err := openAt(dir, base, unix.O_PATH, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(all.dirs)
			return found{}, err
		}
		goOn, err := all.merge(dir, base, f)
		f.Close()
		if err != nil {
			closeAll(all.dirs)
			return found{}, err
		}
		if !goOn {
			break
		}
	}
	return all, nil
}

// merge adds what one directory has under the name, and says whether those below
// it matter.
func (m *found) merge(dir *os.File, base string, f *os.File) (goOn bool, err error) {
	st, err := sysStat(f)
	if err != nil {
		return false, err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isWhiteout(dir, base, st):
		return false, nil
	case !m.exists:
		m.exists, m.stat = true, st
		if !isDir {
			return false, nil
		}
	case !isDir:
		return false, nil // a directory above hides it
	}
	child, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	m.dirs = append(m.dirs, child)
	_, opaque := xattr(child, opaqueXattr)
	return !opaque, nil
}

// redirected opens the lower directories that a moved directory is merged with.
// The redirect is a path from the root, or another name in the same directory.
func (c *changes) redirected(to, name string) ([]*os.File, error) {
	if !strings.HasPrefix(to, "/") {
		to = path.Join(path.Dir(name), to)
	}
	at := slices.Clone(c.lower)
	owned := false
	for part := range strings.SplitSeq(strings.Trim(path.Clean(to), "/"), "/") {
		next, err := findBelow(at, part)
		if owned {
			closeAll(at)
		}
		if err != nil {
			return nil, err
		}
		at, owned = next.dirs, true
	}
	return at, nil
}

// isWhiteout says whether a name in an overlayfs layer stands for a deleted one.
func isWhiteout(dir *os.File, base string, st *syscall.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return st.Rdev == 0
	case unix.S_IFREG:
		if st.Size != 0 {
			return false
		}
		var buf [1]byte
		_, err := unix.Lgetxattr(descriptor(dir)+"/"+base, whiteoutXattr, buf[:])
		return err == nil || errors.Is(err, unix.ERANGE)
	}
	return false
}

// xattr returns an attribute of a directory that is open to be read. For the
// opaque one, only the value "y" counts.
func xattr(dir *os.File, name string) (string, bool) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Fgetxattr(int(dir.Fd()), name, buf)
	if err != nil || name == opaqueXattr && !bytes.Equal(buf[:n], []byte("y")) {
		return "", false
	}
	return string(buf[:n]), true
}

func sysStat(f *os.File) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	return &st, nil
}

// sortedNames reads a directory, anew each time.
func sortedNames(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
