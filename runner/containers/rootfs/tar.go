package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	copySize    = 128 << 10
	xattrPrefix = "SCHILY.xattr." // of the PAX record of an extended attribute
)

// tarWriter adds files of a tree to an archive.
type tarWriter struct {
	ctx   context.Context //nolint:containedctx // of the one call that the writer lives in
	w     *tar.Writer
	buf   []byte
	links map[inode]string // names of files with several
	// mount is the only one whose files are archived; 0: those of all.
	mount uint64
	// exact keeps the fractions of seconds in times.
	exact bool
	ids   IDs
}

// inode is what the names of one file have in common.
type inode struct {
	major, minor uint32
	number       uint64
}

func newTarWriter(ctx context.Context, w io.Writer) *tarWriter {
	return &tarWriter{
		ctx:   ctx,
		w:     tar.NewWriter(w),
		buf:   make([]byte, copySize),
		links: make(map[inode]string),
	}
}

// add writes f, which is open as a path only, and all below it if it is a
// directory. What vanishes meanwhile is left out, and so are sockets.
func (t *tarWriter) add(f *os.File, name string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	var st unix.Statx_t
	if err := statx(f, &st); err != nil {
		return err
	}
	hdr := t.header(&st, name)
	over := t.mount != 0 && st.Mnt_id != t.mount
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		return t.addDir(f, hdr, name, over)
	}
	if over {
		hdr.Typeflag, hdr.Mode, hdr.Size = tar.TypeReg, hdr.Mode&0o777, 0
		return t.w.WriteHeader(hdr)
	}
	if st.Nlink > 1 {
		id := inode{st.Dev_major, st.Dev_minor, st.Ino}
		if first, ok := t.links[id]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
			return t.w.WriteHeader(hdr)
		}
		t.links[id] = name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.addFile(f, hdr)
	case unix.S_IFLNK:
		var err error
		if hdr.Linkname, err = readlink(f); err != nil {
			return err
		}
	}
	return t.w.WriteHeader(hdr)
}

// header makes an entry of what the kernel says of a file.
func (t *tarWriter) header(st *unix.Statx_t, name string) *tar.Header {
	owner := t.ids.inside(Owner{int(st.Uid), int(st.Gid)})
	hdr := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    name,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     owner.UID,
		Gid:     owner.GID,
		ModTime: time.Unix(st.Mtime.Sec, 0),
	}
	if t.exact {
		hdr.ModTime = time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, int64(st.Size)
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		hdr.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		hdr.Typeflag = tar.TypeBlock
	}
	if hdr.Typeflag == tar.TypeChar || hdr.Typeflag == tar.TypeBlock {
		hdr.Devmajor, hdr.Devminor = int64(st.Rdev_major), int64(st.Rdev_minor)
	}
	return hdr
}

// addXattrs adds the extended attributes of a file that is open to be read.
func addXattrs(hdr *tar.Header, f *os.File) error {
	found, err := xattrs(f)
	if err != nil || len(found) == 0 {
		return err
	}
	hdr.PAXRecords = make(map[string]string, len(found))
	for name, value := range found {
		hdr.PAXRecords[xattrPrefix+name] = value
	}
	return nil
}

func (t *tarWriter) addFile(f *os.File, hdr *tar.Header) error {
	r, err := os.Open(descriptor(f))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := addXattrs(hdr, r); err != nil {
		return err
	}
	if err := t.w.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{t.w}, &io.LimitedReader{R: ctxReader{t.ctx, r}, N: hdr.Size}, t.buf)
	if err != nil {
		return err
	}
	clear(t.buf)
	for n < hdr.Size { // it has become shorter
		m, err := t.w.Write(t.buf[:min(int64(len(t.buf)), hdr.Size-n)])
		if err != nil {
			return err
		}
		n += int64(m)
	}
	return nil
}

// addDir writes a directory, and what is in it unless it is a mount point.
func (t *tarWriter) addDir(f *os.File, hdr *tar.Header, name string, over bool) error {
	if over {
		return t.w.WriteHeader(hdr)
	}
	dir, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := addXattrs(hdr, dir); err != nil {
		return err
	}
	if err := t.w.WriteHeader(hdr); err != nil {
		return err
	}
	return t.addNames(dir, name+"/")
}

// addAll writes what is in a directory that is open as a path only.
func (t *tarWriter) addAll(f *os.File, prefix string) error {
	dir, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return t.addNames(dir, prefix)
}

func (t *tarWriter) addNames(dir *os.File, prefix string) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := openAt(dir, name, unix.O_PATH, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = t.add(f, prefix+name)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// onlyWriter hides that a writer could read by itself, which needs no buffer but
// takes one.
type onlyWriter struct{ io.Writer }

// ctxReader ends reading when its context is done.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // of the one copy that the reader lives in
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
