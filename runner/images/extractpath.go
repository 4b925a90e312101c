package images

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a directory below root, without following a symbolic link.
func openBeneath(root int, name string) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// enter makes the directory of a name the parent of what is made next. Its
// missing parts are made.
func (x *extractor) enter(name string) error {
	if x.parent >= 0 && x.parentAs == name && !x.stale {
		return nil
	}
	x.forget()
	as := name
	fd, err := openBeneath(x.root, name)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if name, err = x.resolve(name); err != nil {
			return err
		}
		fd, err = x.mkdirs(name)
	}
	if err != nil {
		return err
	}
	x.parent, x.parentName, x.parentAs, x.stale = fd, name, as, false
	return nil
}

func (x *extractor) forget() {
	if x.parent >= 0 {
		_ = unix.Close(x.parent)
	}
	x.parent, x.parentName = -1, ""
}

// resolve returns the name of a directory with all symbolic links resolved, as
// if the layer's root were the host's. What does not exist is taken as it is.
func (x *extractor) resolve(name string) (string, error) {
	todo := strings.Split(name, "/")
	var done []string
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(done) == 0 {
				return "", badEntry("goes through a symbolic link that climbs out of its layer")
			}
			done = done[:len(done)-1]
			continue
		}
		done = append(done, part)
		if len(done) > maxDepth {
			return "", badEntry("more than %d directories deep", maxDepth)
		}
		target := make([]byte, maxName)
		n, err := unix.Readlinkat(x.root, strings.Join(done, "/"), target)
		if err != nil {
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			return "", err
		}
		if hops++; hops > 40 {
			return "", badEntry("goes through too many symbolic links")
		}
		done = done[:len(done)-1]
		if target[0] == '/' {
			done = done[:0]
		}
		todo = append(strings.Split(string(target[:n]), "/"), todo...)
	}
	return strings.Join(done, "/"), nil
}

// mkdirs opens a directory, and makes those of its parts that are not there.
func (x *extractor) mkdirs(name string) (int, error) {
	fd, err := openBeneath(x.root, "")
	if err != nil {
		return -1, err
	}
	for part, done := range partsOf(name) {
		next, err := openBeneath(fd, part)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			next, err = x.mkdir(fd, part, done)
		}
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// partsOf yields the parts of a name, each with the name up to it.
func partsOf(name string) func(yield func(part, done string) bool) {
	return func(yield func(part, done string) bool) {
		if name == "" {
			return
		}
		for i := 0; i < len(name); {
			j := strings.IndexByte(name[i:], '/')
			if j < 0 {
				j = len(name) - i
			}
			if !yield(name[i:i+j], name[:i+j]) {
				return
			}
			i += j + 1
		}
	}
}

// mkdir makes a directory that no entry has told of, and opens it.
func (x *extractor) mkdir(dir int, base, name string) (int, error) {
	err := unix.Mkdirat(dir, base, 0o755)
	if errors.Is(err, unix.EEXIST) { // not a directory
		var st unix.Stat_t
		if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return -1, err
		}
		if !isWhiteout(&st) {
			return -1, badEntry("%s is not a directory", shorten(name))
		}
		if err = unix.Unlinkat(dir, base, 0); err == nil {
			err = unix.Mkdirat(dir, base, 0o755)
		}
		if err == nil {
			err = x.setOpaque(dir, base)
		}
	}
	if err != nil {
		return -1, err
	}
	if x.kept += len(name) + 64; x.kept > maxRemembered {
		return -1, badEntry("too many directories")
	}
	if err := x.budget.entry(); err != nil {
		return -1, err
	}
	x.implied[name] = true
	// The mode that was asked for, whatever the umask is.
	if err := unix.Fchmodat(dir, base, 0o755, 0); err != nil {
		return -1, err
	}
	return openBeneath(dir, base)
}

// lookup finds a name in a stack of layers, the topmost first, as a mount of them
// would show it, and returns the directory of the layer that has it.
func lookup(layers []string, name string) (layer string, st unix.Stat_t, err error) {
	for _, layer := range layers {
		st, hidden, err := lookupIn(layer, name)
		if err == nil {
			return layer, st, nil
		}
		if hidden || !errors.Is(err, unix.ENOENT) {
			return "", st, err
		}
	}
	return "", st, unix.ENOENT
}

// lookupIn finds a name in one layer; hidden says that those below do not count.
func lookupIn(layer, name string) (st unix.Stat_t, hidden bool, err error) {
	for part, done := range partsOf(name) {
		full := path.Join(layer, done)
		if err := unix.Lstat(full, &st); err != nil {
			return st, hidden, err
		}
		if isWhiteout(&st) {
			return st, true, unix.ENOENT
		}
		if done == name {
			break
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return st, true, &os.PathError{Op: "lookup", Path: part, Err: unix.ENOTDIR}
		}
		b := make([]byte, 2)
		if n, err := unix.Lgetxattr(full, opaqueXattr, b); err == nil && n > 0 && b[0] == 'y' {
			hidden = true
		}
	}
	return st, hidden, nil
}
