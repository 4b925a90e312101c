package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

func joinCommand(args []string) string { return strings.Join(args, " ") }

// layerOf returns the archive of the layer that a container's upper directory is.
func layerOf(ctx context.Context, c Commit) io.ReadCloser {
	r, w := io.Pipe()
	t := &layerTar{ctx: ctx, root: c.Upper, lower: c.Lower, tw: tar.NewWriter(w), skip: map[string]bool{}, inodes: map[uint64]string{}, buf: make([]byte, copyBuffer)}
	for _, p := range c.Skip {
		t.skip[strings.TrimPrefix(path.Clean("/"+p), "/")] = true
	}
	go func() {
		err := filepath.WalkDir(c.Upper, t.entry)
		if err == nil {
			err = t.tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// layerTar writes the archive of a layer.
type layerTar struct {
	ctx    context.Context //nolint:containedctx // it lives for one call
	root   string
	lower  []string
	tw     *tar.Writer
	skip   map[string]bool   // mount points
	dirs   []*tar.Header     // that are as below, until something in them is not
	inodes map[uint64]string // of files with several names, by the first
	buf    []byte
}

// entry is called with each path of the tree, in the order of their names.
func (t *layerTar) entry(full string, d fs.DirEntry, err error) error {
	if err == nil {
		err = t.ctx.Err()
	}
	var info fs.FileInfo
	if err == nil {
		info, err = d.Info()
	}
	name, rerr := filepath.Rel(t.root, full)
	if errors.Is(err, fs.ErrNotExist) && name != "." {
		return nil // the container has removed it meanwhile
	}
	if err = firstError(err, rerr); err != nil || name == "." {
		return err
	}
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return runner.Errorf(runner.ErrPrecondition, "the container has a file %q: in an image that is a deletion", shorten(name))
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no inode", full)
	}
	for len(t.dirs) > 0 && !strings.HasPrefix(name, t.dirs[len(t.dirs)-1].Name) {
		t.dirs = t.dirs[:len(t.dirs)-1]
	}
	switch {
	case t.skip[name] && isMountPoint(full, st):
		return nil
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
		return t.marker(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)))
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return nil
	}
	return t.write(full, name, info, st)
}

// isMountPoint says whether a file is as an OCI runtime makes it to mount
// something over it: empty.
func isMountPoint(full string, st *syscall.Stat_t) bool {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return st.Size == 0
	case unix.S_IFDIR:
		list, err := os.ReadDir(full)
		return err == nil && len(list) == 0
	}
	return false
}

// header begins an entry, after those of the directories that it is in.
func (t *layerTar) header(hdr *tar.Header) error {
	for _, d := range t.dirs {
		if err := t.tw.WriteHeader(d); err != nil {
			return err
		}
	}
	t.dirs = nil
	return t.tw.WriteHeader(hdr)
}

// asBelow says whether a directory is what the layers below have already.
func (t *layerTar) asBelow(name string, st *syscall.Stat_t) bool {
	if len(t.lower) == 0 {
		return false
	}
	_, was, err := lookup(t.lower, name)
	return err == nil && was.Mode == st.Mode && was.Uid == st.Uid && was.Gid == st.Gid
}

// marker writes an empty file that means a deletion.
func (t *layerTar) marker(name string) error {
	return t.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (t *layerTar) write(full, name string, info fs.FileInfo, st *syscall.Stat_t) error {
	hdr := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: info.ModTime(), Format: tar.FormatPAX,
	}
	opaque, err := t.xattrs(full, hdr)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return t.file(full, hdr, info, st)
	case unix.S_IFDIR:
		hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
		if hdr.Linkname, err = os.Readlink(full); err != nil {
			return err
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if hdr.Typeflag == tar.TypeDir && !opaque && t.asBelow(name, st) {
		t.dirs = append(t.dirs, hdr)
		return nil
	}
	if err := t.header(hdr); err != nil {
		return err
	}
	if opaque {
		return t.marker(path.Join(name, whiteoutOpaque))
	}
	return nil
}

// xattrs adds the extended attributes of a file, and says whether it is an opaque
// directory.
func (t *layerTar) xattrs(full string, hdr *tar.Header) (opaque bool, err error) {
	names, err := xattrNames(full)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if name == "trusted.overlay.redirect" || name == "trusted.overlay.metacopy" {
			return false, runner.Errorf(runner.ErrPrecondition, "%q cannot be read without its lower layers (%s)", shorten(hdr.Name), name)
		}
		if strings.HasPrefix(name, "trusted.overlay.") && name != opaqueXattr || name == "security.selinux" {
			continue
		}
		value, err := xattr(full, name)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return false, err
		}
		if name == opaqueXattr {
			opaque = string(value) == "y"
			continue
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[xattrRecord+name] = string(value)
	}
	return opaque, nil
}

// file writes a regular file, or a hard link if it was written under another
// name.
func (t *layerTar) file(full string, hdr *tar.Header, info fs.FileInfo, st *syscall.Stat_t) error {
	hdr.Typeflag = tar.TypeReg
	if st.Nlink > 1 {
		if first, ok := t.inodes[st.Ino]; ok {
			hdr.Typeflag, hdr.Linkname, hdr.PAXRecords = tar.TypeLink, first, nil
			return t.header(hdr)
		}
		t.inodes[st.Ino] = hdr.Name
	}
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		delete(t.inodes, st.Ino)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	hdr.Size = info.Size()
	if err := t.header(hdr); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{t.tw}, io.LimitReader(contextReader{t.ctx, f}, hdr.Size), t.buf)
	if err == nil && n < hdr.Size { // it has become shorter
		_, err = io.CopyN(t.tw, zeros{}, hdr.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
