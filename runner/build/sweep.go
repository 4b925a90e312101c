package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Sweep clears what the steps of a process that was killed have left: containers,
// mounts, cgroups, their bundles and temporary files. It is to be called once at the
// beginning, whether or not anything is built, and costs nothing if nothing was.
func Sweep(ctx context.Context, o Options) error {
	if err := sweepTemp(o); err != nil {
		return err
	}
	if _, err := os.Stat(o.Run); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	bundles, err := filepath.Glob(filepath.Join(o.Run, "executor", "*", "config.json"))
	if err != nil {
		return err
	}
	for _, config := range bundles {
		id := filepath.Base(filepath.Dir(config))
		// It may have ended by itself, and the next lines tell if it has not.
		_ = exec.CommandContext(ctx, filepath.Join(o.Run, "runtime"), "delete", "--force", id).Run()
	}
	if err := unmountAll(o); err != nil {
		return err
	}
	return removeRun(o)
}

// sweepTemp removes the directory of temporary files with what is mounted in it,
// such as the secrets of a step.
func sweepTemp(o Options) error {
	if _, err := os.Stat(o.Temp); o.Temp == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountAll(o); err != nil {
		return err
	}
	return os.RemoveAll(o.Temp)
}

// unmountAll unmounts what is below Run and among the temporary files, and what
// BuildKit has mounted of the cache where those of others are.
func unmountAll(o Options) error {
	ours, err := mounts(o)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(ours) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
		_ = os.Remove(m.Mountpoint) // what is not empty was not ours alone
	}
	return nil
}

// placeOf is the device of a directory, and its path in the file system there.
func placeOf(all []*mountinfo.Info, dir string) (dev, path string) {
	longest := -1
	for _, m := range all {
		if rel, err := filepath.Rel(m.Mountpoint, dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") && len(m.Mountpoint) >= longest {
			longest = len(m.Mountpoint)
			dev, path = fmt.Sprint(m.Major, ":", m.Minor), filepath.Join(m.Root, rel)
		}
	}
	return dev, path
}

// mounts are those that unmountAll unmounts, the innermost last.
func mounts(o Options) ([]*mountinfo.Info, error) {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	dev, inFS := placeOf(all, o.Root)
	return slices.DeleteFunc(all, func(m *mountinfo.Info) bool {
		if strings.HasPrefix(m.Mountpoint, o.Run+"/") || o.Temp != "" && strings.HasPrefix(m.Mountpoint, o.Temp+"/") {
			return false
		}
		if name := filepath.Base(m.Mountpoint); !strings.HasPrefix(name, "buildkit-mount") && !strings.HasPrefix(name, "containerd-mount") {
			return true
		}
		return !strings.Contains(m.VFSOptions, "="+o.Root+"/") && !strings.Contains(m.VFSOptions, ":"+o.Root+"/") &&
			(fmt.Sprint(m.Major, ":", m.Minor) != dev || !strings.HasPrefix(m.Root, inFS+"/"))
	}), nil
}

// settleTime is how long steps may take to end when their builds were cancelled.
const settleTime = 10 * time.Second

// settle waits until the steps of builds that were cancelled have ended: BuildKit
// answers a request that is cancelled before they have. What takes too long is
// ended by who calls.
func settle(o Options) {
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left, err := mounts(o); err != nil || len(left) == 0 {
			return
		}
	}
}

// removeRun removes what is below Run, and the cgroups of steps.
func removeRun(o Options) error {
	for _, parent := range cgroups(o.CgroupParent) {
		if err := killCgroups(parent); err != nil {
			return err
		}
	}
	return os.RemoveAll(o.Run)
}

// killCgroups ends what is left in the cgroups of steps below a directory, and
// removes them.
func killCgroups(dir string) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range list {
		if !strings.HasPrefix(d.Name(), cgroupPrefix) {
			continue
		}
		path := filepath.Join(dir, d.Name())
		for range 200 {
			err = unix.Rmdir(path)
			if !errors.Is(err, unix.EBUSY) {
				break
			}
			killProcs(path)
			time.Sleep(5 * time.Millisecond) // the kernel tells nobody when a cgroup is empty
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove the cgroup of a step: %w", err)
		}
	}
	return nil
}

func killProcs(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return // it has gone
	}
	for pid := range strings.FieldsSeq(string(text)) {
		var n int
		if _, err := fmt.Sscan(pid, &n); err == nil && n > 1 {
			_ = unix.Kill(n, unix.SIGKILL)
		}
	}
}
