package engine

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// cgroupParent is above the cgroups of all containers that name no other.
func (e *Engine) cgroupParent() string { return "/berth-" + e.instance }

// removeCgroupParent removes it from all hierarchies where no container is left.
func (e *Engine) removeCgroupParent() error {
	const root = "/sys/fs/cgroup"
	dirs, err := filepath.Glob(filepath.Join(root, "*", e.cgroupParent()))
	if err != nil {
		return err
	}
	for _, dir := range append(dirs, filepath.Join(root, e.cgroupParent())) { // of version 1, and 2
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
