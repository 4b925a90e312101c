package rootfs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// Archive returns a tar archive of what is at path, and its description. Names in
// it begin with the last element of path: "dir/…" for a directory, "./…" if path
// ends in "/.", "/…" for the root. A symbolic link is archived as such, unless
// path ends in a slash.
//
// The archive is read from the tree as it is read from the reader, which must be
// closed; the root may be closed at once. A file that grows meanwhile is cut to
// its size before, one that shrinks is filled up with zeros.
func Archive(root *os.File, path string) (io.ReadCloser, container.PathStat, error) {
	return IDs{}.Archive(root, path)
}

// Archive is the function of that name for a tree of a user namespace.
func (ids IDs) Archive(root *os.File, path string) (io.ReadCloser, container.PathStat, error) {
	path = absolute(path)
	f, err := lookup(root, path)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	st, err := stat(root, f, path)
	if err != nil {
		f.Close()
		return nil, container.PathStat{}, err
	}
	name := filepath.Base(path)
	if name == "/" {
		name = ""
	}
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer f.Close()
		pw.CloseWithError(archive(ctx, pw, func(t *tarWriter) error {
			t.ids = ids
			return t.add(f, name)
		}))
	}()
	return &archiveReader{PipeReader: pr, cancel: cancel}, st, nil
}

// archiveReader ends the writing of an archive when it is closed.
type archiveReader struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (r *archiveReader) Close() error {
	r.cancel()
	return r.PipeReader.Close()
}

// archive writes the tar archive of what walk adds.
func archive(ctx context.Context, w io.Writer, walk func(*tarWriter) error) error {
	buf := bufio.NewWriterSize(w, copySize)
	t := newTarWriter(ctx, buf)
	if err := walk(t); err != nil {
		return err
	}
	if err := t.w.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

// Export writes a tar archive of the whole tree, without its root. Of what is
// mounted over it, only the mount points are in the archive: a directory without
// what is in it, or an empty file.
func Export(ctx context.Context, root *os.File, w io.Writer) error {
	var st unix.Statx_t
	if err := statx(root, &st); err != nil {
		return err
	}
	return archive(ctx, w, func(t *tarWriter) error {
		t.mount = st.Mnt_id
		return t.addAll(root, "")
	})
}

// statx describes what f stands for, and which mount it is on.
func statx(f *os.File, st *unix.Statx_t) error {
	return unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, st)
}

// xattrs returns the extended attributes that an archive holds: those of users,
// and the capabilities of a program. f must be open to be read.
func xattrs(f *os.File) (map[string]string, error) {
	fd := int(f.Fd())
	buf := make([]byte, 1024)
	n, err := unix.Flistxattr(fd, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10) // the kernel's limit
		n, err = unix.Flistxattr(fd, buf)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found map[string]string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = make(map[string]string)
		}
		found[name] = string(value[:n])
	}
	return found, nil
}
