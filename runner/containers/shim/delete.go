package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// monitorWait is how long a monitor is given to end after its container: it
// empties the streams and writes the exit.
const monitorWait = 5 * time.Second

// unmountWait is how long one may take to be gone with the file tree.
const unmountWait = time.Minute

// Delete ends whatever is left of a container, and removes the runtime's state,
// cgroups, bundle and exit file. The exit of a container that still ran is told
// first. It does nothing for a container that is not there; after an error it can
// be called again.
func (s *Shim) Delete(ctx context.Context, id string) error {
	b, err := s.lock(id)
	if err != nil {
		return nil
	}
	defer b.op.Unlock()
	return s.destroy(ctx, b)
}

// destroy deletes a container whose lock is held.
func (s *Shim) destroy(ctx context.Context, b *bundle) error {
	b.findInit()
	monitor, init := b.processes()
	if whole := init != nil || readPID(b.path("pid")) != 0; whole {
		if err := s.finish(ctx, b, monitor, init); err != nil {
			return err
		}
		b.finished = monitor != nil
	}
	// From here on a monitor that was just being started finds no bundle, and
	// fails; one that is there already is found.
	if err := os.Rename(b.dir, b.dir+goneSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.clear(ctx, b)
}

// finish ends the processes of a container that was whole, and sees to it that
// all exits are told.
func (s *Shim) finish(ctx context.Context, b *bundle, monitor, init *process) error {
	if init.alive() || !b.record.OwnPIDs {
		if err := init.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		if err := s.cgroups.killAll(ctx, b.record.Cgroup); err != nil {
			return err
		}
	}
	for _, e := range b.executions() {
		if err := s.finishExec(ctx, e); err != nil {
			return err
		}
	}
	err := endMonitor(ctx, monitor, func() bool { return s.noteExit(b) })
	if err != nil {
		return err
	}
	if !s.noteExit(b) {
		s.setExit(b, Exit{ID: b.id, Code: killedCode, At: time.Now()})
	}
	return nil
}

// endMonitor waits for a monitor to write down an exit, and ends it: it has
// nothing to do then, or is stuck. Its own end is not awaited: with the last one
// the file tree is unmounted, for which the kernel writes out the whole file system
// that the writable layer is on.
func endMonitor(ctx context.Context, monitor *process, noted func() bool) error {
	for step, deadline := time.Millisecond, time.Now().Add(monitorWait); !noted() && monitor.alive() && time.Now().Before(deadline); step = min(2*step, 10*time.Millisecond) {
		if err := pause(ctx, step); err != nil {
			return err
		}
	}
	monitor.killGroup()
	return nil
}

// clear removes all of a container whose bundle has been renamed.
func (s *Shim) clear(ctx context.Context, b *bundle) error {
	if err := s.killHelpers(ctx, b); err != nil {
		return err
	}
	s.unwatchOOM(b)
	if b.record.Cgroup != "" {
		if err := s.cgroups.killAll(ctx, b.record.Cgroup); err != nil {
			return err
		}
		if err := s.removeState(ctx, b); err != nil {
			return err
		}
		if err := s.cgroups.remove(ctx, b.record.Cgroup); err != nil {
			return err
		}
	}
	temporary, _ := filepath.Glob(s.exitFile(b.id) + ".*") // of a monitor that was killed while it wrote
	for _, path := range append(temporary, s.exitFile(b.id), s.consoles(b.id), b.dir+goneSuffix) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if s.containers[b.id] == b {
		delete(s.containers, b.id)
	}
	s.dying[b.id] = b
	s.mu.Unlock()
	if !b.monitor.alive() {
		s.bury(b)
	}
	return nil
}

// bury lets go of a deleted container whose monitor is gone.
func (s *Shim) bury(b *bundle) {
	b.monitor.reap()
	s.mu.Lock()
	if s.dying[b.id] == b {
		delete(s.dying, b.id)
	}
	s.mu.Unlock()
	b.release()
}

// killHelpers kills the monitors of a container and of its execs that are left,
// known or not, and the runtimes that they run: one that is at work would make
// cgroups and state anew.
func (s *Shim) killHelpers(ctx context.Context, b *bundle) error {
	if b.finished {
		return nil // it was whole, and all its monitors were ended
	}
	for {
		p, err := helper(b)
		if p == nil || err != nil {
			return err
		}
		_ = p.signal(unix.SIGKILL)
		ended := s.waitThawed(ctx, b, p)
		p.release()
		if !ended {
			return fmt.Errorf("process %d of container %s does not end", p.pid, b.id)
		}
	}
}

// waitThawed waits for the end of a process that was killed. It may be in the
// container's cgroup already, and that be frozen, now or in a moment, by somebody
// who was killed too: then it dies when it is thawed.
func (s *Shim) waitThawed(ctx context.Context, b *bundle, p *process) bool {
	const again = 100 * time.Millisecond
	for deadline := time.Now().Add(unmountWait); ; {
		if b.record.Cgroup != "" {
			s.cgroups.thaw(b.record.Cgroup)
		}
		if p.wait(ctx, again) {
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
	}
}

// removeState removes what the runtime keeps of a container.
func (s *Shim) removeState(ctx context.Context, b *bundle) error {
	files := s.stateFiles(b)
	if _, err := os.Stat(files[0]); err != nil {
		return nil //nolint:nilerr // the runtime has nothing, or has not come so far
	}
	if !b.record.Runtime.direct() || b.record.Hooks {
		if said, err := s.runRuntime(context.WithoutCancel(ctx), b.record.Runtime, "delete", "--force", b.id); err != nil {
			s.log.WarnContext(ctx, "the runtime did not delete its state", "container", b.id, "said", said)
		}
	}
	for _, path := range files {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// helper finds a process that works on a bundle: a monitor of the container or of
// one of its execs, or a runtime. All have its path in their command lines.
func helper(b *bundle) (*process, error) {
	prefix := []byte("\x00" + b.dir)
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	is := func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		_, rest, found := bytes.Cut(line, prefix)
		return err == nil && found && len(rest) > 0 && (rest[0] == 0 || rest[0] == '/')
	}
	for _, pid := range pids {
		if is(pid) {
			if p, err := openProcess(pid, is); err == nil {
				return p, nil
			}
		}
	}
	return nil, nil
}
