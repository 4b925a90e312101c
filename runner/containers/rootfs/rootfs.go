// Package rootfs reads and writes the file tree of a container: stat, copy in
// and out, export, changes, sizes.
//
// A tree is given as a descriptor of its root directory (O_PATH suffices), which
// the caller keeps open for the call. Every path is resolved by the kernel as a
// process inside the container would see it (openat2(2) with RESOLVE_IN_ROOT and
// RESOLVE_NO_MAGICLINKS, Linux 5.6): a link or ".." that leads out of the root
// leads to the root, and /proc/PID/root leads nowhere. What is at a path is then
// used by descriptor, never by its name again, so that processes of the
// container that change the tree meanwhile, or an archive made for it, can move
// nothing outside of it.
//
// The package knows no containers: whether a tree may be written to, and which
// error names which container, is for its caller.
package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// MaxOpen is the largest file that Open opens, in bytes.
const MaxOpen = 16 << 20

// Stat describes what is at path, itself and not what it leads to if it is a
// symbolic link, unless path ends in a slash. LinkTarget is where a link leads to
// in the end, whether that exists or not. It returns runner.ErrNotFound if
// nothing is there.
func Stat(root *os.File, path string) (container.PathStat, error) {
	path = absolute(path)
	f, err := lookup(root, path)
	if err != nil {
		return container.PathStat{}, err
	}
	defer f.Close()
	return stat(root, f, path)
}

func stat(root, f *os.File, path string) (container.PathStat, error) {
	fi, err := f.Stat()
	if err != nil {
		return container.PathStat{}, err
	}
	st := container.PathStat{
		Name:  filepath.Base(path),
		Size:  fi.Size(),
		Mode:  fi.Mode(),
		Mtime: fi.ModTime(),
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		st.LinkTarget, err = securejoin.SecureJoinVFS("/", path, tree{root})
	}
	return st, err
}

// Open opens a regular file of at most MaxOpen bytes to be read, following
// symbolic links. It returns runner.ErrNotFound if there is none and
// runner.ErrInvalid if something else is there.
func Open(root *os.File, path string) (*os.File, error) {
	path = absolute(path)
	f, err := openIn(root, path, unix.O_PATH)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !fi.Mode().IsRegular():
		return nil, runner.Errorf(runner.ErrInvalid, "%s is not a regular file", path)
	case fi.Size() > MaxOpen:
		return nil, runner.Errorf(runner.ErrInvalid, "%s is larger than %d bytes", path, MaxOpen)
	}
	return os.Open(descriptor(f))
}

// absolute makes path begin at the root and takes its dots away, but for a slash
// or a dot at the end, which say that a directory is meant.
func absolute(path string) string {
	clean := filepath.Clean("/" + path)
	switch {
	case clean == "/":
		return clean
	case strings.HasSuffix(path, "/."):
		return clean + "/."
	case strings.HasSuffix(path, "/"):
		return clean + "/"
	}
	return clean
}

// lookup opens what is at path, not following a symbolic link there.
func lookup(root *os.File, path string) (*os.File, error) {
	f, err := openIn(root, path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, pathError("lstat", path, err)
	}
	return f, nil
}

// tries bounds how often a resolution is tried anew, because names changed while
// the kernel looked at them.
const tries = 1000

// openIn opens path as from inside the root.
func openIn(root *os.File, path string, flags int) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	var fd int
	var err error
	for range tries {
		fd, err = unix.Openat2(int(root.Fd()), path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openAt opens a name in a directory, never following a symbolic link.
func openAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case !errors.Is(err, unix.EINTR):
			return nil, err
		}
	}
}

// descriptor is a path of what an O_PATH descriptor stands for, for the calls
// that take no such descriptor. It does not follow a symbolic link there.
func descriptor(f *os.File) string {
	return "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
}

// pathError gives an error its kind, and a text that names the path.
func pathError(op, path string, err error) error {
	err = &fs.PathError{Op: op, Path: path, Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return runner.Errorf(runner.ErrNotFound, "%w", err)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENAMETOOLONG):
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return runner.Errorf(runner.ErrForbidden, "%w", err)
	}
	return err
}

// tree lets the resolution of a symbolic link to a text look at the tree.
type tree struct{ root *os.File }

// Lstat implements securejoin.VFS.
func (t tree) Lstat(name string) (fs.FileInfo, error) {
	f, err := openIn(t.root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// Readlink implements securejoin.VFS.
func (t tree) Readlink(name string) (string, error) {
	f, err := openIn(t.root, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readlink(f)
}

// readlink returns the text of the symbolic link that f is.
func readlink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
