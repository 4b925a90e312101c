package berthtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups are the directories of a machine in the hierarchies of this host, one
// in each.
type cgroups []cgroup

type cgroup struct {
	controllers string // as mount(8) wants them; "unified" for version 2
	dir         string
}

const unifiedHierarchy = "unified"

// make makes the directories: in all hierarchies, or only in that of version 2.
func (c *cgroups) make(unifiedOnly bool) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	name := fmt.Sprintf("berth-test-%d-%x", os.Getpid(), time.Now().UnixNano()&0xffffff)
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		g := cgroup{dir: filepath.Join(f[1], name)}
		switch {
		case f[2] == "cgroup2":
			g.controllers = unifiedHierarchy
		case f[2] == "cgroup" && !unifiedOnly:
			g.controllers = controllers(f[3])
		default:
			continue
		}
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			return errors.Join(err, c.remove())
		}
		*c = append(*c, g)
		if err := g.initialize(); err != nil {
			return errors.Join(err, c.remove())
		}
	}
	if len(*c) == 0 {
		return errors.New("this host has no cgroups for a machine")
	}
	return nil
}

// controllers returns those among the options of a mount.
func controllers(options string) string {
	var found []string
	for o := range strings.SplitSeq(options, ",") {
		if strings.HasPrefix(o, "name=") {
			return o
		}
		if !slices.Contains([]string{"rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr"}, o) && !strings.Contains(o, "=") {
			found = append(found, o)
		}
	}
	return strings.Join(found, ",")
}

// initialize gives a new directory what processes need in it.
func (g cgroup) initialize() error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(g.dir), file))
		if err != nil || g.controllers == unifiedHierarchy {
			continue // it is another controller's
		}
		if err := os.WriteFile(filepath.Join(g.dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mounts names the hierarchies for the machine to mount; none are named if there
// is only that of version 2.
func (c cgroups) mounts() string {
	var names []string
	for _, g := range c {
		names = append(names, g.controllers)
	}
	if len(names) == 1 && names[0] == unifiedHierarchy {
		return ""
	}
	return strings.Join(names, " ")
}

// add moves a process into the cgroups.
func (c cgroups) add(pid int) error {
	for _, g := range c {
		if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// addThread moves a thread of this process into those of version 1: what it
// starts is then in them from its first instant.
func (c cgroups) addThread(tid int) error {
	for _, g := range c {
		if g.controllers == unifiedHierarchy {
			continue
		}
		if err := os.WriteFile(filepath.Join(g.dir, "tasks"), []byte(strconv.Itoa(tid)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// unified opens the directory of version 2; nil if there is none.
func (c cgroups) unified() (*os.File, error) {
	for _, g := range c {
		if g.controllers == unifiedHierarchy {
			return os.Open(g.dir)
		}
	}
	return nil, nil //nolint:nilnil // the host may have none
}

// list returns the cgroups below the directories, as CONTROLLERS/PATH.
func (c cgroups) list() ([]string, error) {
	var found []string
	for _, g := range c {
		below, err := g.below()
		if err != nil {
			return nil, err
		}
		for _, dir := range below {
			found = append(found, g.controllers+strings.TrimPrefix(dir, g.dir))
		}
	}
	return found, nil
}

// below returns the directories below the cgroup, parents first.
func (g cgroup) below() ([]string, error) {
	var found []string
	err := filepath.WalkDir(g.dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // it went just now
		case err != nil:
			return err
		case e.IsDir() && path != g.dir:
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// thaw lets go on what is frozen in version 1, where that holds even the dying.
func (c cgroups) thaw() error {
	for _, g := range c {
		below, err := g.below()
		if err != nil {
			return err
		}
		for _, dir := range below {
			state := filepath.Join(dir, "freezer.state")
			if _, err := os.Stat(state); err != nil {
				continue // it is another controller's
			}
			if err := os.WriteFile(state, []byte("THAWED"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// empty removes all cgroups below the directories, in which no process is left.
func (c cgroups) empty() error {
	for _, g := range c {
		below, err := g.below()
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(below) {
			if err := removeCgroup(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove removes the directories and all below them.
func (c *cgroups) remove() error {
	if err := c.empty(); err != nil {
		return err
	}
	for _, g := range *c {
		if err := removeCgroup(g.dir); err != nil {
			return err
		}
	}
	*c = nil
	return nil
}

// removeCgroup removes a cgroup, for which the kernel may still count processes
// that have ended.
func removeCgroup(dir string) error {
	for deadline := time.Now().Add(stopTime); ; time.Sleep(5 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}
