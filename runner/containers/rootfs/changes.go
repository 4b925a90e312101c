package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Changes lists, sorted by path, what the upper directory of an overlayfs mount
// changes of its lower directories, the topmost first: as "docker diff" shows it.
// A directory is changed if its owner, mode or time is another's, or if something
// in it, however deep, was added or deleted. Below a deleted directory nothing
// more is listed.
//
// The paths in skip, absolute and clean, and all below them are left out: they
// are there only because something was mounted over them.
func Changes(lower []string, upper string, skip []string) ([]container.FilesystemChange, error) {
	c := &changes{skip: skip, listed: make(map[string]bool)}
	var below []*os.File
	defer func() { closeAll(below) }()
	for _, dir := range lower {
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		below = append(below, f)
	}
	f, err := os.Open(upper)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, runner.Errorf(runner.ErrNotFound, "%w", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.lower = below
	if _, err := c.dir(f, "/", below, false); err != nil {
		return nil, err
	}
	slices.SortFunc(c.list, func(a, b container.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return c.list, nil
}

// changes collects the differences of a tree.
type changes struct {
	lower  []*os.File // the roots
	skip   []string
	list   []container.FilesystemChange
	listed map[string]bool // what is in the list
}

func (c *changes) add(kind container.ChangeType, name string) {
	c.list = append(c.list, container.FilesystemChange{Kind: kind, Path: name})
	c.listed[name] = true
	if kind == container.ChangeModify {
		return
	}
	for dir := path.Dir(name); dir != "/" && !c.listed[dir]; dir = path.Dir(dir) {
		c.add(container.ChangeModify, dir)
	}
}

// dir compares an upper directory with those below it, the topmost first, which
// it hides if a directory that it is in, or itself, is opaque. It says whether
// something in it was left out.
func (c *changes) dir(upper *os.File, name string, below []*os.File, hides bool) (skipped bool, err error) {
	if _, opaque := xattr(upper, opaqueXattr); opaque {
		hides = true
	}
	names, err := sortedNames(upper)
	if err != nil {
		return false, err
	}
	for _, base := range names {
		child := path.Join(name, base)
		if slices.Contains(c.skip, child) {
			skipped = true
			continue
		}
		if err := c.entry(upper, base, child, below, hides); err != nil {
			return false, err
		}
	}
	if hides {
		return skipped, c.hidden(names, name, below)
	}
	return skipped, nil
}

// entry compares one name of an upper directory.
func (c *changes) entry(upper *os.File, base, name string, below []*os.File, hides bool) error {
	f, err := openAt(upper, base, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := sysStat(f)
	if err != nil {
		return err
	}
	old, err := findBelow(below, base)
	if err != nil {
		return err
	}
	defer closeAll(old.dirs)
	switch {
	case isWhiteout(upper, base, st):
		if old.exists {
			c.add(container.ChangeDelete, name)
		}
		return nil
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return c.directory(f, st, name, old, hides)
	case old.exists:
		c.add(container.ChangeModify, name)
	default:
		c.add(container.ChangeAdd, name)
	}
	return nil
}

// directory compares a directory of the upper tree with what was at its name.
func (c *changes) directory(f *os.File, st *syscall.Stat_t, name string, old found, hides bool) error {
	dir, err := openAt(f, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	from, moved := xattr(dir, redirectXattr)
	if moved {
		source, err := c.redirected(from, name)
		if err != nil {
			return err
		}
		defer closeAll(source)
		c.add(container.ChangeAdd, name)
		return c.moved(dir, name, source)
	}
	if !old.exists {
		c.add(container.ChangeAdd, name)
	}
	before := len(c.list)
	skipped, err := c.dir(dir, name, old.dirs, hides)
	if err != nil || !old.exists {
		return err
	}
	// The mount point that was made in it has changed its time, not the user.
	byMount := skipped && before == len(c.list)
	if !c.listed[name] && (len(old.dirs) == 0 || !sameDir(st, old.stat, byMount)) {
		c.add(container.ChangeModify, name)
	}
	return nil
}

func sameDir(a, b *syscall.Stat_t, ignoreTime bool) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && (ignoreTime || sameTime(a.Mtim, b.Mtim))
}

// sameTime allows for trees that an archive carried, which has whole seconds only.
func sameTime(a, b syscall.Timespec) bool {
	return a.Sec == b.Sec && (a.Nsec == b.Nsec || a.Nsec == 0 || b.Nsec == 0)
}

// hidden lists as deleted what an opaque directory hides and does not replace.
func (c *changes) hidden(present []string, name string, below []*os.File) error {
	gone := make(map[string]bool)
	for _, dir := range below {
		names, err := sortedNames(dir)
		if err != nil {
			return err
		}
		for _, base := range names {
			if _, here := slices.BinarySearch(present, base); !here {
				gone[base] = true
			}
		}
	}
	for base := range gone {
		child := path.Join(name, base)
		if slices.Contains(c.skip, child) {
			continue
		}
		old, err := findBelow(below, base)
		if err != nil {
			return err
		}
		closeAll(old.dirs)
		if old.exists {
			c.add(container.ChangeDelete, child)
		}
	}
	return nil
}

// moved lists as added all that is in a directory that was moved from elsewhere
// in the lower tree.
func (c *changes) moved(upper *os.File, name string, below []*os.File) error {
	seen := make(map[string]bool)
	for _, dir := range append([]*os.File{upper}, below...) {
		names, err := sortedNames(dir)
		if err != nil {
			return err
		}
		for _, base := range names {
			if seen[base] {
				continue
			}
			seen[base] = true
			if err := c.movedEntry(append([]*os.File{upper}, below...), base, path.Join(name, base)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *changes) movedEntry(dirs []*os.File, base, name string) error {
	now, err := findBelow(dirs, base)
	if err != nil || !now.exists {
		return err
	}
	defer closeAll(now.dirs)
	c.add(container.ChangeAdd, name)
	if len(now.dirs) == 0 {
		return nil
	}
	return c.moved(now.dirs[0], name, now.dirs[1:])
}
