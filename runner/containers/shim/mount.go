package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Rootfs is the file tree of a container: read-only directories and, on top of
// them, a writable one.
type Rootfs struct {
	Lower []string // absolute, the topmost first; at least one
	// Upper takes what is written; Work is an empty directory beside it. Two
	// trees must not be mounted with the same Upper at the same time.
	Upper, Work string
	// ReadOnly is a tree without Upper and Work.
	ReadOnly bool
}

func (r Rootfs) check() error {
	dirs := r.Lower
	if !r.ReadOnly {
		dirs = append([]string{r.Upper, r.Work}, r.Lower...)
	}
	if len(r.Lower) == 0 || r.ReadOnly && r.Upper != "" {
		return runner.Errorf(runner.ErrInvalid, "a file tree needs a lower directory, and an upper one unless it is read-only")
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return runner.Errorf(runner.ErrInvalid, "directory %q of a file tree is not an absolute, clean path", dir)
		}
	}
	return nil
}

// mount mounts the tree on target, in the mount namespace of the calling thread,
// whose working directory it changes: options of mount(2) are bounded to a page,
// so layers are named relative to the directory that they share.
func (r Rootfs) mount(target string) error {
	if r.ReadOnly && len(r.Lower) == 1 { // overlayfs wants two
		return bindReadOnly(r.Lower[0], target)
	}
	base := commonDir(r.Lower)
	if err := unix.Chdir(base); err != nil {
		return fmt.Errorf("layers: %w", &os.PathError{Op: "chdir", Path: base, Err: err})
	}
	lower := make([]string, len(r.Lower))
	for i, dir := range r.Lower {
		rel, err := filepath.Rel(base, dir)
		if err != nil {
			return err
		}
		lower[i] = escapeOption(rel, `\:,`)
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	flags := uintptr(unix.MS_RDONLY)
	if !r.ReadOnly {
		flags = 0
		options += ",upperdir=" + escapeOption(r.Upper, `\,`) + ",workdir=" + escapeOption(r.Work, `\,`)
	}
	options += overlayFeatures()
	if len(options) >= os.Getpagesize() {
		return runner.Errorf(runner.ErrInvalid, "cannot mount %d layers: their names take %d bytes, more than a page", len(lower), len(options))
	}
	if err := unix.Mount("overlay", target, "overlay", flags, options); err != nil {
		return fmt.Errorf("mount overlay of %d layers: %w", len(lower), err)
	}
	return nil
}

// overlayFeatures turns off, where the kernel knows them, the features that make
// an upper directory mean something only together with the lower ones that it was
// written over: it is read for differences, and joins others as a layer.
func overlayFeatures() string {
	var options strings.Builder
	for _, name := range []string{"index", "redirect_dir", "metacopy"} {
		if _, err := os.Stat("/sys/module/overlay/parameters/" + name); err == nil {
			options.WriteString("," + name + "=off")
		}
	}
	return options.String()
}

// escapeOption escapes what overlayfs takes for separators.
func escapeOption(path, special string) string {
	if !strings.ContainsAny(path, special) {
		return path
	}
	var b strings.Builder
	for _, c := range []byte(path) {
		if strings.IndexByte(special, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// commonDir returns the deepest directory that all paths are in or are.
func commonDir(paths []string) string {
	common := filepath.Dir(paths[0])
	for _, path := range paths[1:] {
		for common != "/" && !strings.HasPrefix(path, common+"/") {
			common = filepath.Dir(common)
		}
	}
	return common
}

func bindReadOnly(dir, target string) error {
	if err := unix.Mount(dir, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind layer: %w", err)
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make layer read-only: %w", err)
	}
	return nil
}

// OpenRootfs returns a directory descriptor (O_PATH) of the merged tree of a
// container that does not run. The tree is mounted where nobody else sees it;
// closing the descriptor, and what was opened below it, releases the mount.
func OpenRootfs(r Rootfs) (*os.File, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var root *os.File
	err := onThread(func() (err error) {
		root, err = r.mountHidden(nil)
		return err
	})
	return root, err
}

// mountHidden mounts the tree in a mount namespace that goes with the calling
// thread, and opens it: mapped by ns, unless that is nil.
func (r Rootfs) mountHidden(ns *os.File) (*os.File, error) {
	if err := privateMounts(); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	target := r.Lower[0] // any directory will do
	if ns == nil {
		if err := r.mount(target); err != nil {
			return nil, err
		}
		return openDir(target)
	}
	if err := unix.Mount("berth", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return nil, fmt.Errorf("mount tmpfs on %s: %w", target, err)
	}
	at := func(name string) string { return filepath.Join(target, name) }
	for _, name := range []string{"tree", "lower", "upper"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			return nil, err
		}
	}
	if err := r.mountMapped(at("tree"), at("lower"), at("upper"), ns); err != nil {
		return nil, err
	}
	return openDir(at("tree"))
}

// OpenRunningRoot returns a directory descriptor (O_PATH) of the root of a
// running process, with all that is mounted in its namespace.
func OpenRunningRoot(pid int) (*os.File, error) {
	return openDir(fmt.Sprintf("/proc/%d/root", pid))
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// prepareMounts makes the private mount, and what others are mounted on in it.
func (s *Shim) prepareMounts() error {
	if err := mountPrivate(s.mounts()); err != nil {
		return err
	}
	// Root of a user namespace has to get to its tree, and to nothing else.
	for _, dir := range []string{s.dir, s.mounts()} {
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // as said
			return err
		}
	}
	if err := os.MkdirAll(s.rootfs(), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(s.staging(), 0o700); err != nil {
		return err
	}
	for r := range s.runtimes() {
		if err := os.WriteFile(s.runtimeFile(r), nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// mountPrivate makes dir a mount point whose submounts propagate nowhere, unless
// it is one already.
func mountPrivate(dir string) error {
	mounted, err := mountinfo.Mounted(dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount("berth", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=64k,nr_inodes=256"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	// Also if it was there: whoever mounted it may have been killed before this.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s private: %w", dir, err), unix.Unmount(dir, 0))
	}
	return nil
}
