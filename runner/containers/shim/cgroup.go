package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

const (
	cgroupRoot    = "/sys/fs/cgroup"
	hybridCgroup2 = cgroupRoot + "/unified"
)

// cgroups is how this host's control groups are laid out.
type cgroups struct {
	unified bool // one hierarchy, version 2
	hybrid  bool // version 1 with a version 2 hierarchy beside it
	// mounts are the mount points of all hierarchies, the one for PIDs first.
	mounts []string
	// freezer is that of the hierarchy that can freeze; empty if none can.
	freezer string
	memory  string
	blkio   string
	// pidsMount is that of the hierarchy that limits processes.
	pidsMount string
}

func findCgroups() (cgroups, error) {
	var c cgroups
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return c, err
	}
	for _, m := range mounts {
		switch {
		case m.Mountpoint == cgroupRoot && m.FSType == "cgroup2":
			return cgroups{unified: true, mounts: []string{cgroupRoot}, freezer: cgroupRoot, memory: cgroupRoot, blkio: cgroupRoot, pidsMount: cgroupRoot}, nil
		case m.Mountpoint == hybridCgroup2 && m.FSType == "cgroup2":
			c.hybrid = true
		case m.FSType == "cgroup" && filepath.Dir(m.Mountpoint) == cgroupRoot:
			for option := range strings.SplitSeq(m.VFSOptions, ",") {
				switch option {
				case "freezer":
					c.freezer = m.Mountpoint
				case "memory":
					c.memory = m.Mountpoint
				case "blkio":
					c.blkio = m.Mountpoint
				case "pids":
					c.pidsMount = m.Mountpoint
				}
			}
		default:
			continue
		}
		c.mounts = append(c.mounts, m.Mountpoint)
	}
	if len(c.mounts) == 0 {
		return c, fmt.Errorf("no control groups are mounted below %s", cgroupRoot)
	}
	if c.freezer != "" {
		c.mounts = append([]string{c.freezer}, c.mounts...)
	}
	return c, nil
}

// warm makes the kernel ready to move processes between cgroups, which the
// runtime is about to do: after a while without such moves the first one waits,
// some milliseconds, until no processor is in the middle of a fork or exit. Moving
// this process to where it is has that effect, and no other; so the wait runs
// beside the start of the monitor and the runtime. It fails harmlessly.
func (c cgroups) warm() {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controller, path, _ := strings.Cut(rest, ":")
		mount := cgroupRoot
		if !c.unified {
			if controller != "freezer" || c.freezer == "" {
				continue
			}
			mount = c.freezer
		}
		f, err := os.OpenFile(filepath.Join(mount, path, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return
		}
		_, _ = f.WriteString("0")
		_ = f.Close()
		return
	}
}

// hideUnified takes the version 2 hierarchy of a hybrid host out of the mount
// namespace of the calling thread: crun before 1.9 refuses to run when it sees
// it. The mount above it is private first, so that the host's stays.
func (c cgroups) hideUnified() error {
	if !c.hybrid {
		return nil
	}
	if err := unix.Mount("", cgroupRoot, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", cgroupRoot, err)
	}
	if err := unix.Unmount(hybridCgroup2, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", hybridCgroup2, err)
	}
	return nil
}

// pids returns all processes of a cgroup and those below it.
func (c cgroups) pids(path string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(filepath.Join(c.mounts[0], path), func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return ignoreGone(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return ignoreGone(err)
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// ignoreGone drops the errors of a file or cgroup that somebody else removes.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// killAll kills all processes of a cgroup, and returns when none is left. What
// multiplies faster than it can be killed is frozen first.
func (c cgroups) killAll(ctx context.Context, path string) error {
	if c.unified {
		err := os.WriteFile(filepath.Join(cgroupRoot, path, "cgroup.kill"), []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // Linux before 5.14 has no such file
			return err
		}
	}
	for round := range 200 {
		freeze := round >= 3 && c.freezer != ""
		if freeze {
			_ = c.setFrozen(path, true)
		}
		pids, err := c.pids(path)
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if freeze || len(pids) > 0 {
			c.thaw(path) // it may have been frozen before
		}
		if err != nil || len(pids) == 0 {
			return err
		}
		// The kernel tells version 1's users nothing about a cgroup that empties.
		if err := pause(ctx, min(time.Duration(round+1)*time.Millisecond/2, 50*time.Millisecond)); err != nil {
			return err
		}
	}
	return fmt.Errorf("processes of cgroup %s do not end", path)
}

// remove removes a cgroup in all hierarchies, with those below it.
func (c cgroups) remove(ctx context.Context, path string) error {
	var errs []error
	for _, mount := range c.mounts {
		dir := filepath.Join(mount, path)
		for round := 0; ; round++ {
			err := removeTree(dir)
			if err == nil {
				break
			}
			// Processes that were killed are in it until they are gone.
			if !errors.Is(err, unix.EBUSY) || round == 100 || pause(ctx, min(time.Duration(round+1)*time.Millisecond, 50*time.Millisecond)) != nil {
				errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
				break
			}
		}
	}
	return errors.Join(errs...)
}

func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if rerr != nil {
		return ignoreGone(rerr)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// setFrozen asks the kernel to freeze or to thaw a cgroup.
func (c cgroups) setFrozen(path string, freeze bool) error {
	file, value := "freezer.state", "THAWED"
	if freeze {
		value = "FROZEN"
	}
	if c.unified {
		file, value = "cgroup.freeze", "0"
		if freeze {
			value = "1"
		}
	}
	f, err := os.OpenFile(filepath.Join(c.freezer, path, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// thaw lets what was killed while it was frozen die. A cgroup that is not there
// is no error.
func (c cgroups) thaw(path string) {
	if c.freezer != "" {
		_ = c.setFrozen(path, false)
	}
}

// frozen says whether all of a cgroup stands still.
func (c cgroups) frozen(path string) bool {
	if c.freezer == "" {
		return false
	}
	if c.unified {
		return readKey(filepath.Join(c.freezer, path, "cgroup.events"), "frozen") == 1
	}
	state, err := os.ReadFile(filepath.Join(c.freezer, path, "freezer.state"))
	return err == nil && strings.TrimSpace(string(state)) == "FROZEN"
}

// freezeWait is how long processes are given to stand still: one that waits for a
// disk cannot.
const freezeWait = 10 * time.Second

// freeze freezes or thaws a cgroup and waits until it is so. The kernel gives
// version 1's users no event for that, so its state is read again and again.
func (c cgroups) freeze(ctx context.Context, path string, freeze bool) error {
	if c.freezer == "" {
		return runner.Errorf(runner.ErrNotImplemented, "this host has no freezer cgroup: containers cannot be paused")
	}
	for round, deadline := 0, time.Now().Add(freezeWait); ; round++ {
		// Version 1 can get stuck on the way, with a process that is just being
		// made; going back and beginning anew helps.
		if freeze && !c.unified && round%32 == 31 {
			if err := c.setFrozen(path, false); err != nil {
				return err
			}
		}
		if err := c.setFrozen(path, freeze); err != nil {
			return err
		}
		if c.frozen(path) == freeze {
			return nil
		}
		err := pause(ctx, min(time.Duration(round+1)*time.Millisecond/4, 20*time.Millisecond))
		if err == nil && time.Now().After(deadline) {
			err = errors.New("processes do not stand still")
		}
		if err != nil {
			if freeze {
				_ = c.setFrozen(path, false)
			}
			return err
		}
	}
}

// oomKills counts the processes of a cgroup that the kernel has killed for want of
// memory.
func (c cgroups) oomKills(path string) int {
	if c.memory == "" {
		return 0
	}
	file := "memory.oom_control"
	if c.unified {
		file = "memory.events"
	}
	return readKey(filepath.Join(c.memory, path, file), "oom_kill")
}

// readKey returns the number beside a key in a file of lines of both.
func readKey(path, key string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == key {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

// pause lets d pass, or returns the error of ctx if it is done before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
