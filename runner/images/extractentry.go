package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// make makes what is not a whiteout.
func (x *extractor) make(hdr *tar.Header, base string, r io.Reader) error {
	mode := uint32(hdr.Mode) & 0o7777
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return x.file(hdr, base, r)
	case tar.TypeDir:
		return x.directory(hdr, base)
	case tar.TypeLink:
		return x.link(hdr, base)
	case tar.TypeSymlink:
		if err := x.create(base, func() error { return unix.Symlinkat(hdr.Linkname, x.parent, base) }); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		kind := uint32(unix.S_IFCHR)
		if hdr.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		} else if dev == 0 {
			return badEntry("a character device 0/0, which overlayfs takes for a deletion")
		}
		if err := x.create(base, func() error { return unix.Mknodat(x.parent, base, kind|mode, int(dev)) }); err != nil {
			return err
		}
	case tar.TypeFifo:
		if err := x.create(base, func() error { return unix.Mknodat(x.parent, base, unix.S_IFIFO|mode, 0) }); err != nil {
			return err
		}
	default:
		return badEntry("of an unknown type %q", hdr.Typeflag)
	}
	return x.attributes(x.parent, base, hdr, hdr.Typeflag != tar.TypeSymlink)
}

// create calls f, and if something of that name is there, removes it and calls f
// again.
func (x *extractor) create(base string, f func() error) error {
	err := f()
	if errors.Is(err, unix.EEXIST) {
		if err := x.remove(base); err != nil {
			return err
		}
		err = f()
	}
	if err == nil && len(x.tree.links) > 0 {
		x.dropLinks(x.join(base)) // what a later entry replaces
	}
	return err
}

// remove removes what is at base in the parent directory.
func (x *extractor) remove(base string) error {
	x.stale = true
	err := unix.Unlinkat(x.parent, base, 0)
	if errors.Is(err, unix.EISDIR) {
		name := x.join(base)
		for dir := range x.implied {
			if dir == name || strings.HasPrefix(dir, name+"/") {
				delete(x.implied, dir)
			}
		}
		x.dropLinks(name)
		return os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", x.parent, base))
	}
	return err
}

func (x *extractor) dropLinks(name string) {
	kept := x.tree.links[:0]
	for _, l := range x.tree.links {
		if l.name != name && !strings.HasPrefix(l.name, name+"/") {
			kept = append(kept, l)
		}
	}
	x.tree.links = kept
}

func (x *extractor) join(base string) string { return path.Join(x.parentName, base) }

// file makes a regular file.
func (x *extractor) file(hdr *tar.Header, base string, r io.Reader) error {
	var fd int
	err := x.create(base, func() (err error) {
		fd, err = unix.Openat(x.parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = x.fill(fd, r)
	if err == nil {
		err = x.fileAttributes(fd, base, hdr)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

// fill copies r to a file.
func (x *extractor) fill(fd int, r io.Reader) error {
	for {
		n, rerr := r.Read(x.buf)
		if n > 0 {
			if err := x.budget.file(int64(n)); err != nil {
				return err
			}
			x.tree.size += int64(n)
			for p := x.buf[:n]; len(p) > 0; {
				w, err := unix.Write(fd, p)
				if err != nil && !errors.Is(err, unix.EINTR) {
					return err
				}
				p = p[max(w, 0):]
			}
		}
		if errors.Is(rerr, io.EOF) {
			return nil
		}
		if errors.Is(rerr, errBudget) {
			return rerr
		}
		if rerr != nil {
			return streamError{rerr}
		}
	}
}

// directory makes a directory, or gives new attributes to one that is there.
func (x *extractor) directory(hdr *tar.Header, base string) error {
	name := x.join(base)
	err := unix.Mkdirat(x.parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err = unix.Fstatat(x.parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = x.create(base, func() error { return unix.Mkdirat(x.parent, base, 0o700) }); err == nil && isWhiteout(&st) {
				err = x.setOpaque(x.parent, base) // what is below stays deleted
			}
		}
	}
	if err != nil {
		return err
	}
	delete(x.implied, name)
	if x.kept += len(name) + 64; x.kept > maxRemembered {
		return badEntry("too many directories")
	}
	x.dirs = append(x.dirs, dirTime{name, times(hdr)})
	return x.attributes(x.parent, base, hdr, true)
}

// link makes a hard link. One to a file that is not of this layer is left for
// when those below are known.
func (x *extractor) link(hdr *tar.Header, base string) error {
	target, err := cleanName(hdr.Linkname)
	if err != nil {
		return badEntry("a hard link to %q, which climbs out of its layer", shorten(hdr.Linkname))
	}
	dir, tbase := path.Split(target)
	if tbase == "" {
		return badEntry("a hard link to the root")
	}
	holder, err := x.resolve(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	target = path.Join(holder, tbase)
	if target == x.join(base) {
		return badEntry("a hard link to itself")
	}
	fd, err := openBeneath(x.root, holder)
	var st unix.Stat_t
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		err = unix.Fstatat(fd, tbase, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || err == nil && isWhiteout(&st) {
		if x.kept += len(target) + len(base) + len(x.parentName); x.kept > maxRemembered {
			return badEntry("too many hard links to other layers")
		}
		_ = x.remove(base)
		x.dropLinks(x.join(base))
		x.tree.links = append(x.tree.links, hardLink{x.join(base), target})
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return badEntry("a hard link to a directory")
	}
	return x.create(base, func() error { return unix.Linkat(fd, tbase, x.parent, base, 0) })
}

// whiteout makes what overlayfs takes for a deletion. It concerns the layers
// below alone: what this layer has of that name stays, whichever comes first.
func (x *extractor) whiteout(hdr *tar.Header, base string) error {
	if hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeLink {
		return badEntry("a deletion that is no regular file")
	}
	if base == whiteoutOpaque {
		if x.parentName == "" {
			x.tree.opaque = true
			return nil
		}
		return x.setOpaque(x.parent, ".")
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return nil
	}
	target := strings.TrimPrefix(base, whiteoutPrefix)
	if target == "" || target == "." || target == ".." {
		return badEntry("deletes %q", target)
	}
	err := unix.Mknodat(x.parent, target, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(x.parent, target, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return x.setOpaque(x.parent, target)
	}
	return nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func (x *extractor) setOpaque(dir int, base string) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), opaqueXattr, []byte("y"), 0)
}
