package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Start lets the first process of a container that was created go on to its
// command. It returns an error of runner.ErrConflict if the container was started
// before, or has ended.
func (s *Shim) Start(ctx context.Context, id string) error {
	b, err := s.lock(id)
	if err != nil {
		return err
	}
	defer b.op.Unlock()
	if err := s.awaitCreated(ctx, b); err != nil {
		return err
	}
	if b.record.Runtime.direct() && !b.record.Hooks {
		err := s.openGate(b)
		if !errors.Is(err, errNoGate) {
			return err
		}
	}
	_, init := b.processes()
	waited := s.waits(b, init)
	said, err := s.runRuntime(context.WithoutCancel(ctx), b.record.Runtime, "start", id)
	if err == nil {
		return nil
	}
	// A runtime that an earlier process had run may have been quicker.
	for round := 0; b.adopted && waited && round < 100; round++ {
		if !s.waits(b, init) {
			return nil
		}
		if !init.alive() {
			break
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return startError(b.record, said)
}

// createTimeout bounds the wait for a container that an earlier process was
// making when it ended.
const createTimeout = 30 * time.Second

func (s *Shim) awaitCreated(ctx context.Context, b *bundle) error {
	for deadline := time.Now().Add(createTimeout); ; {
		b.findInit()
		monitor, init := b.processes()
		if init.alive() {
			return nil
		}
		if !monitor.alive() || init != nil || time.Now().After(deadline) {
			return runner.Errorf(runner.ErrConflict, "container %s has ended, or was never whole: it cannot be started", b.id)
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

var errNoGate = errors.New("the runtime's fifo is not where it was expected")

// gate is the fifo at which the first process of crun waits for one byte.
func (s *Shim) gate(b *bundle) string {
	return filepath.Join(s.stateDir(b.record.Runtime), b.id, "exec.fifo")
}

// openGate does what crun start does, without running it. The fifo is removed
// after the byte is written: with the fifo gone and no byte written, nobody could
// start the container any more.
func (s *Shim) openGate(b *bundle) error {
	fd, err := unix.Open(s.gate(b), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, err := os.Stat(filepath.Dir(s.gate(b))); err != nil {
			return errNoGate
		}
		return runner.Errorf(runner.ErrConflict, "container %s is running already", b.id)
	case errors.Is(err, unix.ENXIO) && b.adopted:
		// An earlier process was killed between writing the byte and what follows.
		return ignoreGone(unix.Unlink(s.gate(b)))
	case errors.Is(err, unix.ENXIO): // nobody waits there
		return runner.Errorf(runner.ErrConflict, "container %s is running already, or has ended", b.id)
	case err != nil:
		return fmt.Errorf("start container %s: %w", b.id, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("start container %s: %w", b.id, err)
	}
	if err := ignoreGone(unix.Unlink(s.gate(b))); err != nil {
		return fmt.Errorf("start container %s: %w", b.id, err)
	}
	return nil
}

// waits says whether the first process, alive, has not been started yet.
func (s *Shim) waits(b *bundle, init *process) bool {
	if b.record.Runtime.sandboxed() {
		return s.sandboxWaits(b)
	}
	var fifo, open unix.Stat_t
	if unix.Stat(s.gate(b), &fifo) != nil {
		return false
	}
	if !b.record.Runtime.direct() {
		return true
	}
	// The fifo outlives the start if this process is killed between the two; the
	// descriptor does not.
	dir := fmt.Sprintf("/proc/%d/fd", init.pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return true
	}
	for _, e := range entries {
		if unix.Stat(filepath.Join(dir, e.Name()), &open) == nil && open.Dev == fifo.Dev && open.Ino == fifo.Ino {
			return true
		}
	}
	return false
}

// runRuntime runs a command of the runtime to its end, and returns what it wrote
// to standard error.
func (s *Shim) runRuntime(ctx context.Context, r runtimeProgram, args ...string) (said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Path, slices.Concat([]string{"--root=" + s.stateDir(r)}, r.Args, args)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = s.environment(filepath.Join(s.dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = onThread(func() error {
		if s.cgroups.hybrid {
			if err := errors.Join(privateMounts(), s.cgroups.hideUnified()); err != nil {
				return err
			}
		}
		return cmd.Run()
	})
	said = strings.TrimSpace(stderr.String())
	if err != nil && said == "" {
		said = err.Error()
	}
	return said, err
}

// Kill sends a signal to the container's first process; with SIGKILL, in a
// container that shares the PID namespace of others, to all of its processes. A
// paused container is thawed to die. It returns an error of runner.ErrConflict if
// the container is not running.
func (s *Shim) Kill(ctx context.Context, id string, sig syscall.Signal) error {
	b, err := s.get(id)
	if err != nil {
		return err
	}
	b.findInit()
	init, err := b.running()
	if err != nil {
		return err
	}
	signal := func() error { return init.signal(sig) }
	if b.record.Runtime.sandboxed() && sig != syscall.SIGKILL {
		signal = func() error { return s.signalSandbox(ctx, b, sig) }
	}
	if err := signal(); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return runner.Errorf(runner.ErrConflict, "container %s is not running", id)
		}
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	if sig != syscall.SIGKILL {
		return nil
	}
	if !b.record.OwnPIDs {
		return s.cgroups.killAll(ctx, b.record.Cgroup)
	}
	if s.cgroups.frozen(b.record.Cgroup) {
		return s.cgroups.setFrozen(b.record.Cgroup, false)
	}
	return nil
}

// Pause stops all processes of a running container, and returns when they stand.
func (s *Shim) Pause(ctx context.Context, id string) error { return s.freeze(ctx, id, true) }

// Resume lets the processes of a paused container go on.
func (s *Shim) Resume(ctx context.Context, id string) error { return s.freeze(ctx, id, false) }

func (s *Shim) freeze(ctx context.Context, id string, freeze bool) error {
	b, err := s.lock(id)
	if err != nil {
		return err
	}
	defer b.op.Unlock()
	if _, err := b.running(); err != nil {
		return err
	}
	return s.cgroups.freeze(ctx, b.record.Cgroup, freeze)
}

// Update changes the limits of a container.
func (s *Shim) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	b, err := s.lock(id)
	if err != nil {
		return err
	}
	defer b.op.Unlock()
	if _, err := b.running(); err != nil {
		return err
	}
	path := b.path("resources.json")
	resources, devices := s.deviceLimits(resources)
	resources, own := s.spare(b.record.Runtime, resources)
	if err := writeJSON(path, resources); err != nil {
		return err
	}
	if said, err := s.runRuntime(ctx, b.record.Runtime, "update", "--resources", path, id); err != nil {
		return fmt.Errorf("update container %s: %s", id, runtimeDetail(b.record.Runtime, "update", "", "", said))
	}
	return append(own, devices...).set(b.record.Cgroup)
}

// PIDs returns the processes of a container, those of execs included, as the
// host numbers them.
func (s *Shim) PIDs(id string) ([]int, error) {
	b, err := s.get(id)
	if err != nil {
		return nil, err
	}
	return s.cgroups.pids(b.record.Cgroup)
}
