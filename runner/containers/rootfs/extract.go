package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Owner is the user and the group that own files.
type Owner struct{ UID, GID int }

// Extract unpacks a tar archive into the directory dir of the tree. The archive
// may be compressed by gzip, bzip2, zstd, or xz if the host has that program. A
// file replaces what is at its name, a directory is merged with a directory
// there; symbolic links on the way to a name lead as inside the container.
//
// It returns runner.ErrNotFound if there is no dir, and runner.ErrInvalid if it
// is no directory, if a name in the archive or the target of a hard link climbs
// out of dir, and if the archive is broken. What was unpacked until an error
// stays.
func Extract(root *os.File, dir string, opts runner.ArchiveOptions, r io.Reader) error {
	return ExtractOwned(root, dir, opts, nil, r)
}

// Extract is the function of that name for a tree of a user namespace. It returns
// runner.ErrInvalid for an owner who is not in the namespace, too.
func (ids IDs) Extract(root *os.File, dir string, opts runner.ArchiveOptions, r io.Reader) error {
	return ids.extract(root, dir, opts, nil, r)
}

// ExtractOwned is Extract, and all that is unpacked is the owner's if there is
// one, whomever the archive names.
func ExtractOwned(root *os.File, dir string, opts runner.ArchiveOptions, owner *Owner, r io.Reader) error {
	return IDs{}.extract(root, dir, opts, owner, r)
}

func (ids IDs) extract(root *os.File, dir string, opts runner.ArchiveOptions, owner *Owner, r io.Reader) error {
	z, err := decompress(context.Background(), r)
	if err != nil {
		return broken(err)
	}
	defer z.Close()
	x, err := newExtractor(root, dir, opts, owner)
	if err != nil {
		return err
	}
	x.ids = ids
	defer x.close()
	return x.all(tar.NewReader(z))
}

func broken(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
		return runner.Errorf(runner.ErrInvalid, "archive: %w", err)
	}
	return err
}

// extractor unpacks an archive.
type extractor struct {
	root  *os.File
	dir   string // absolute and clean
	opts  runner.ArchiveOptions
	owner *Owner
	// top makes the entry of dir itself count, which otherwise stays as it is.
	top bool
	ids IDs
	buf []byte

	parent     *os.File // the directory that the last entry went to
	parentName string   // its name; unknown if names may lead elsewhere now
	dirs       []dirTime
}

// unknown is no name of a directory.
const unknown = ".."

// dirTime is the time that a directory gets when all is in it.
type dirTime struct {
	name string
	meta metadata
}

// maxDirTimes bounds the directories whose times are remembered. If there are
// more, those until then get their times at once, and a file that comes into one
// of them after all changes it again.
const maxDirTimes = 1 << 16

func newExtractor(root *os.File, dir string, opts runner.ArchiveOptions, owner *Owner) (*extractor, error) {
	x := &extractor{root: root, dir: filepath.Clean("/" + dir), opts: opts, owner: owner, buf: make([]byte, copySize)}
	f, err := openIn(root, x.dir, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, runner.Errorf(runner.ErrInvalid, "extraction point is not a directory")
	}
	if err != nil {
		return nil, pathError("lstat", x.dir, err)
	}
	return x, f.Close()
}

// close closes the directory of the last entry.
func (x *extractor) close() {
	if x.parent != nil {
		x.parent.Close()
		x.parent = nil
	}
}

func (x *extractor) all(tr *tar.Reader) error {
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return x.setDirTimes()
		}
		if err != nil {
			return broken(err)
		}
		if err := x.entry(hdr, tr); err != nil {
			return err
		}
	}
}

// local returns the clean name of an entry, relative to the directory that the
// archive is unpacked into.
func local(name string) (string, bool) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	return clean, filepath.IsLocal(clean) && !strings.Contains(clean, "\x00")
}

func (x *extractor) entry(hdr *tar.Header, content io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, ok := local(hdr.Name)
	if !ok {
		return runner.Errorf(runner.ErrInvalid, "invalid entry name %q: it is outside of %q", hdr.Name, x.dir)
	}
	meta, err := x.metadata(hdr)
	if err != nil {
		return err
	}
	if name == "." {
		return x.entryOfTop(meta)
	}
	parent, err := x.openParent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	merge, err := x.makeWay(parent, base, name, hdr.Typeflag)
	if err != nil {
		return err
	}
	if err := x.create(parent, base, hdr, content, meta, merge); err != nil {
		return entryError(name, err)
	}
	if hdr.Typeflag == tar.TypeDir {
		return x.remember(name, meta)
	}
	return nil
}

func entryError(name string, err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // the path is a descriptor's
	}
	if errors.Is(err, fs.ErrNotExist) {
		return runner.Errorf(runner.ErrInvalid, "extract %s: %w", name, err)
	}
	return pathError("extract", name, broken(err))
}

func (x *extractor) entryOfTop(meta metadata) error {
	if !x.top {
		return nil
	}
	f, err := openIn(x.root, x.dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return pathError("open", x.dir, err)
	}
	defer f.Close()
	if err := meta.apply(f); err != nil {
		return entryError(".", err)
	}
	return x.remember(".", meta)
}

// makeWay removes what is at the name of an entry, unless it and the entry are
// directories.
func (x *extractor) makeWay(parent *os.File, base, name string, typeflag byte) (merge bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, entryError(name, err)
	}
	isDir, toDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, typeflag == tar.TypeDir
	switch {
	case isDir && toDir:
		return true, nil
	case isDir && x.opts.NoOverwriteDirNonDir:
		return false, runner.Errorf(runner.ErrInvalid, "cannot overwrite directory %q with non-directory %q", path.Join(x.dir, name), x.dir)
	case toDir && x.opts.NoOverwriteDirNonDir:
		return false, runner.Errorf(runner.ErrInvalid, "cannot overwrite non-directory %q with directory %q", path.Join(x.dir, name), x.dir)
	}
	if err := os.RemoveAll(descriptor(parent) + "/" + base); err != nil {
		return false, entryError(name, err)
	}
	x.parentName = unknown
	return false, nil
}

// remember has a directory's time set when all is unpacked.
func (x *extractor) remember(name string, meta metadata) error {
	meta.xattrs = nil
	x.dirs = append(x.dirs, dirTime{name, meta})
	if len(x.dirs) < maxDirTimes {
		return nil
	}
	return x.setDirTimes()
}

func (x *extractor) setDirTimes() error {
	for _, d := range x.dirs {
		f, err := openIn(x.root, path.Join(x.dir, d.name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // the archive, or the container, has replaced it
		}
		if err != nil {
			return entryError(d.name, err)
		}
		err = d.meta.setTime(f)
		f.Close()
		if err != nil {
			return entryError(d.name, err)
		}
	}
	x.dirs = x.dirs[:0]
	return nil
}
