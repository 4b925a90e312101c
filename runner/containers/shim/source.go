package shim

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// OpenSubpath returns a copy of the mount that a directory of the host is on, with
// what is at subpath as its root, attached nowhere: for CreateRequest.Mounts, or to
// be looked into. Nothing at subpath leads out of the directory, whoever changes it
// meanwhile. It fails with runner.ErrInvalid if there is nothing.
func OpenSubpath(dir, subpath string) (*os.File, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return cloneIn(root, subpath)
}

// OpenTreeSubpath is OpenSubpath for a file tree that is only read, as the users
// of a container with the maps see it.
func OpenTreeSubpath(r Rootfs, subpath string, maps IDMaps) (mount *os.File, err error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	var ns *os.File
	if !maps.None() {
		if ns, err = maps.namespace(); err != nil {
			return nil, err
		}
		defer ns.Close()
	}
	err = onThread(func() error {
		root, err := r.mountHidden(ns)
		if err != nil {
			return err
		}
		defer root.Close()
		mount, err = cloneIn(root, subpath)
		return err
	})
	return mount, err
}

// cloneIn copies the mount at a path in root, which the calling thread's mount
// namespace has.
func cloneIn(root *os.File, subpath string) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	const tries = 1000 // if names change while the kernel looks at them
	fd, err := -1, error(unix.EAGAIN)
	for i := 0; i < tries && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); i++ {
		fd, err = unix.Openat2(int(root.Fd()), filepath.Clean("/"+subpath), how)
	}
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "cannot access path %s: %w", filepath.Join(root.Name(), subpath), err)
	}
	defer unix.Close(fd)
	mount, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(mount), filepath.Join(root.Name(), subpath)), nil
}
