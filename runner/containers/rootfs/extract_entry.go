package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// impliedMode is the mode of a directory that the archive has no entry of.
const impliedMode = 0o755

// openParent returns the directory that an entry goes to, making it where it is
// missing. It stays open until the next entry goes elsewhere.
func (x *extractor) openParent(name string) (*os.File, error) {
	if x.parent != nil && x.parentName == name {
		return x.parent, nil
	}
	x.close()
	f, err := openIn(x.root, path.Join(x.dir, name), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = x.mkdirAll(name)
	}
	if err != nil {
		return nil, entryError(name, err)
	}
	x.parent, x.parentName = f, name
	return f, nil
}

func (x *extractor) mkdirAll(name string) (*os.File, error) {
	dir, err := openIn(x.root, x.dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	sofar := x.dir
	for part := range strings.SplitSeq(name, "/") {
		sofar = path.Join(sofar, part)
		next, err := openIn(x.root, sofar, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) {
			next, err = x.mkdir(dir, part)
		}
		dir.Close()
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

func (x *extractor) mkdir(dir *os.File, name string) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), name, impliedMode); err != nil {
		return nil, err
	}
	f, err := openAt(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	meta := metadata{mode: impliedMode, kind: unix.S_IFDIR}
	if x.owner != nil {
		meta.owner = *x.owner
	}
	if meta.owner, err = x.ids.outside(meta.owner); err != nil {
		f.Close()
		return nil, err
	}
	if err := meta.apply(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// create makes what an entry describes. Nothing has its name now, but for a
// directory that merge says to go into.
func (x *extractor) create(parent *os.File, base string, hdr *tar.Header, content io.Reader, meta metadata, merge bool) error {
	fd := int(parent.Fd())
	var err error
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return x.createFile(parent, base, content, meta)
	case tar.TypeLink:
		return x.link(parent, base, hdr.Linkname)
	case tar.TypeDir:
		if !merge {
			err = unix.Mkdirat(fd, base, 0o700)
		}
	case tar.TypeSymlink:
		err = unix.Symlinkat(hdr.Linkname, fd, base)
	case tar.TypeChar, tar.TypeBlock:
		err = unix.Mknodat(fd, base, meta.kind|0o600, int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))))
	case tar.TypeFifo:
		err = unix.Mknodat(fd, base, meta.kind|0o600, 0)
	default:
		return runner.Errorf(runner.ErrInvalid, "unhandled tar header type %d", hdr.Typeflag)
	}
	if err != nil {
		return err
	}
	f, err := openAt(parent, base, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return meta.apply(f)
}

func (x *extractor) createFile(parent *os.File, base string, content io.Reader, meta metadata) error {
	f, err := openAt(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyBuffer(onlyWriter{f}, content, x.buf); err != nil {
		return err
	}
	return meta.apply(f)
}

// link makes a hard link to an entry before. Its owner and mode are that one's.
func (x *extractor) link(parent *os.File, base, target string) error {
	name, ok := local(target)
	if !ok || name == "." {
		return runner.Errorf(runner.ErrInvalid, "invalid hardlink target %q", target)
	}
	dir, err := openIn(x.root, path.Join(x.dir, path.Dir(name)), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Linkat(int(dir.Fd()), path.Base(name), int(parent.Fd()), base, 0)
}

// metadata is what an entry says of a file beside its content.
type metadata struct {
	owner  Owner
	mode   uint32 // permissions
	kind   uint32 // S_IFMT
	mtime  time.Time
	xattrs map[string]string
}

func (x *extractor) metadata(hdr *tar.Header) (metadata, error) {
	m := metadata{
		owner: Owner{hdr.Uid, hdr.Gid},
		mode:  uint32(hdr.Mode) & 0o7777,
		mtime: hdr.ModTime,
	}
	if x.owner != nil {
		m.owner = *x.owner
	}
	const most = 1<<32 - 2 // the greatest value means: as it is
	if m.owner.UID < 0 || m.owner.GID < 0 || m.owner.UID > most || m.owner.GID > most {
		return m, runner.Errorf(runner.ErrInvalid, "invalid owner %d:%d of %q", m.owner.UID, m.owner.GID, hdr.Name)
	}
	var err error
	if m.owner, err = x.ids.outside(m.owner); err != nil {
		return m, err
	}
	if m.mtime.Before(time.Unix(0, 0)) {
		m.mtime = time.Unix(0, 0)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		m.kind = unix.S_IFREG
	case tar.TypeDir:
		m.kind = unix.S_IFDIR
	case tar.TypeSymlink:
		m.kind = unix.S_IFLNK
	case tar.TypeChar:
		m.kind = unix.S_IFCHR
	case tar.TypeBlock:
		m.kind = unix.S_IFBLK
	case tar.TypeFifo:
		m.kind = unix.S_IFIFO
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		// trusted.* are the filesystem's own, those of overlayfs above all.
		if ok && !strings.HasPrefix(name, "trusted.") {
			if m.xattrs == nil {
				m.xattrs = make(map[string]string)
			}
			m.xattrs[name] = value
		}
	}
	return m, nil
}

// apply sets owner, mode, attributes and time of f, in the order in which one
// does not undo another.
func (m metadata) apply(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != m.kind {
		return fmt.Errorf("%q was replaced while it was unpacked", f.Name())
	}
	if err := unix.Fchownat(int(f.Fd()), "", m.owner.UID, m.owner.GID, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if m.kind != unix.S_IFLNK {
		if err := unix.Chmod(descriptor(f), m.mode); err != nil {
			return err
		}
		if err := m.setXattrs(f); err != nil {
			return err
		}
	}
	return m.setTime(f)
}

// setXattrs sets the extended attributes that this filesystem and this kernel
// have.
func (m metadata) setXattrs(f *os.File) error {
	for name, value := range m.xattrs {
		err := unix.Setxattr(descriptor(f), name, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func (m metadata) setTime(f *os.File) error {
	if m.mtime.IsZero() {
		return nil
	}
	ts, err := unix.TimeToTimespec(m.mtime)
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "invalid time of %q", f.Name())
	}
	return unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}
