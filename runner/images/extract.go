package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// In a layer's archive a file of the name .wh.NAME deletes NAME of the layers
// below, and .wh..wh..opq all of them in its directory.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	opaqueXattr = "trusted.overlay.opaque"
)

const (
	maxName  = 4096 // bytes of an entry's name, as in the kernel
	maxDepth = 255  // directories, one in the other

	// maxRemembered bounds the bytes of names that an extractor keeps.
	maxRemembered = 64 << 20

	copyBuffer = 256 << 10
)

// tree is what an archive left in its directory, and what is still to be done
// when the layers below are known.
type tree struct {
	size    int64 // of its files
	entries int64
	opaque  bool // hides all that is below
	implied []string
	links   []hardLink
}

// standsAlone says whether the tree is the same whatever is below it.
func (t tree) standsAlone() bool { return len(t.implied) == 0 && len(t.links) == 0 }

// hardLink is a file whose content is that of a file of a layer below.
type hardLink struct{ name, target string }

// extractor unpacks one layer into a directory that no one else has.
//
// Every entry is made relative to the open directory that holds it, which is
// reached from the root without following a symbolic link: one that is in the way
// is resolved here, by name, as if the layer's root were the host's, and one that
// climbs above it is an error.
type extractor struct {
	root    int // the open directory
	budget  *budget
	buf     []byte
	tree    tree
	implied map[string]bool
	dirs    []dirTime
	kept    int // bytes of names in implied and dirs

	parent     int // the directory of the last entry, open; -1 if none
	parentName string
	parentAs   string // its name as the entry had it
	stale      bool   // something was removed since: the name may mean another
}

type dirTime struct {
	name  string
	times [2]unix.Timespec
}

// extract unpacks the tar archive r into the directory dir.
func extract(ctx context.Context, dir string, r io.Reader, b *budget) (tree, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	x := &extractor{root: root, budget: b, buf: make([]byte, copyBuffer), implied: map[string]bool{}, parent: -1}
	defer x.forget()

	tr := tar.NewReader(bufio.NewReaderSize(r, copyBuffer))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if errors.Is(err, errBudget) {
				return tree{}, err
			}
			return tree{}, streamError{err}
		}
		if err := ctx.Err(); err != nil {
			return tree{}, err
		}
		if err := b.entry(); err != nil {
			return tree{}, err
		}
		x.tree.entries++
		if err := x.entry(hdr, tr); err != nil {
			if errors.Is(err, errBudget) {
				return tree{}, err
			}
			return tree{}, fmt.Errorf("entry %q: %w", shorten(hdr.Name), err)
		}
	}
	x.finish()
	return x.tree, nil
}

// streamError says that the archive could not be read: what feeds it may know
// why.
type streamError struct{ error }

func (e streamError) Unwrap() error { return e.error }

// badEntry is the error of an entry that no honest archive has.
func badEntry(format string, args ...any) error {
	return runner.Errorf(runner.ErrInvalid, format, args...)
}

func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// entry makes one entry.
func (x *extractor) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return badEntry("the root of a layer is no directory")
		}
		return x.attributes(x.root, ".", hdr, true)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if strings.HasPrefix(name, whiteoutMeta) && base != whiteoutOpaque {
		return nil // what AUFS kept for itself
	}
	if err := x.enter(dir); err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(hdr, base)
	}
	return x.make(hdr, base, r)
}

// cleanName returns the name of an entry relative to the root, without a slash at
// its ends; it is empty for the root.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", badEntry("a name of %d bytes", len(name))
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == "." {
		return "", nil
	}
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", badEntry("climbs out of its layer")
	}
	if strings.Count(clean, "/") > maxDepth {
		return "", badEntry("more than %d directories deep", maxDepth)
	}
	return clean, nil
}

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
	real, err := x.resolve(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	target = path.Join(real, tbase)
	if target == x.join(base) {
		return badEntry("a hard link to itself")
	}
	fd, err := openBeneath(x.root, real)
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

// finish gives directories the times that making their entries has changed.
func (x *extractor) finish() {
	for _, d := range x.dirs {
		dir, base := path.Split(d.name)
		fd, err := openBeneath(x.root, strings.TrimSuffix(dir, "/"))
		if err != nil {
			continue // a later entry replaced it
		}
		_ = unix.UtimesNanoAt(fd, base, d.times[:], unix.AT_SYMLINK_NOFOLLOW)
		_ = unix.Close(fd)
	}
	for name := range x.implied {
		x.tree.implied = append(x.tree.implied, name)
	}
}
