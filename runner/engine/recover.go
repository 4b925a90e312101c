package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/network"
)

// lostExit is the exit code of a container whose own is not known, because the
// host went down with it.
const lostExit = 255

// recover brings what is recorded in line with what runs. The daemon before may
// have ended at any instant:
//
//   - what runs is adopted, with the network that its state names;
//   - what ended meanwhile is reported by the shim once its exits are watched;
//   - what was made but not started is cleared, and is as it was before;
//   - what ran when the host went down has exited;
//   - what no record names is cleared;
//   - what has a record that cannot be read is left as it is: see unread.go.
func (e *Engine) recover(ctx context.Context) error {
	saved, err := e.store.Load()
	if err != nil {
		return err
	}
	var alive []network.Attached
	youngestFirst(saved)
	for _, one := range saved {
		if one.Container == nil {
			at, runs, err := e.adoptUnread(ctx, one)
			if err != nil {
				return err
			}
			if runs {
				alive = append(alive, at)
			}
			continue
		}
		c, err := e.adopt(ctx, one)
		if err != nil {
			return err
		}
		if rec, st := c.snapshot(); st.Running() {
			alive = append(alive, attachedOf(rec, st))
			if err := e.watchLog(ctx, rec); err != nil {
				return err
			}
		} else if err := e.settleLog(ctx, rec); err != nil {
			e.log.WarnContext(ctx, "trim the log of a container", "container", rec.ID, "error", err)
		}
	}
	if err := e.clearUnfinished(ctx); err != nil {
		return err
	}
	if err := e.clearUnknown(ctx); err != nil {
		return err
	}
	e.adoptVolumes(ctx)
	if err := e.network.Restore(ctx, alive); err != nil {
		return err
	}
	if err := e.recoverExecs(); err != nil {
		return fmt.Errorf("find the execs again: %w", err)
	}
	e.resume(ctx)
	return nil
}

// attachedOf is where a container that runs is in the networks.
func attachedOf(rec *runner.Container, st runner.State) network.Attached {
	return network.Attached{
		ContainerID: rec.ID, Name: rec.Name, Hostname: rec.Config.Hostname,
		Endpoint: network.Endpoint{Networks: st.Networks, Ports: st.Ports},
		NetNS:    netNSPath(rec, st), DNS: rec.HostConfig.DNS,
	}
}

// adopt registers a container with the state that it really has.
func (e *Engine) adopt(ctx context.Context, one containers.Saved) (*ctr, error) {
	c := e.register(ctx, one)
	rec, st := c.snapshot()
	for _, m := range rec.Mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		if err := e.volumes.Ref(m.Name, rec.ID); err != nil && !errors.Is(err, runner.ErrNotFound) {
			return nil, err
		}
	}
	if one.StateErr != nil {
		return c, e.loseRun(ctx, c, one.StateErr)
	}
	now, err := e.shim.Status(rec.ID)
	if errors.Is(err, runner.ErrNotFound) {
		if st.Running() { // nothing is left of it: the host went down
			return c, e.change(c, lost(st))
		}
		return c, nil
	}
	switch {
	case err != nil:
		return nil, err
	case now.State == shim.StateCreated || !st.Running(): // it was being started or cleared
		if err := e.change(c, unstarted(rec, st)); err != nil {
			return nil, err
		}
		e.clear(ctx, rec.ID)
		return c, nil
	default:
		return c, e.adoptRunning(ctx, c, st, now)
	}
}

// adoptRunning takes over a container that runs, or whose exit is yet to be
// recorded.
func (e *Engine) adoptRunning(ctx context.Context, c *ctr, saved runner.State, now shim.Status) error {
	st := saved
	switch {
	case now.State != shim.StatePaused:
		st.Status = container.StateRunning
	case saved.Status != container.StatePaused:
		// The daemon before was about to pause it, or froze it for a commit.
		if err := ignoreEnded(e.shim.Resume(ctx, c.id)); err != nil {
			return err
		}
	}
	if now.Process.PID > 0 {
		st.PID, st.MonitorPID = now.Process.PID, now.Process.MonitorPID
	}
	if st.Status != saved.Status || st.PID != saved.PID {
		if err := e.store.SaveState(c.id, st); err != nil {
			return err
		}
	}
	c.begin(st)
	return nil
}

// unstarted is the state of a container whose start was cut short. One with a
// restart policy is started once more; one with --rm has come to its end.
func unstarted(rec *runner.Container, st runner.State) runner.State {
	if !st.Running() {
		return st
	}
	st.PID, st.MonitorPID, st.Networks, st.Ports = 0, 0, nil, nil
	switch {
	case !rec.HostConfig.RestartPolicy.IsNone():
		st.Status = container.StateRestarting
	case rec.HostConfig.AutoRemove || !st.FinishedAt.IsZero():
		st.Status = container.StateExited
	default:
		st.Status = container.StateCreated
	}
	return st
}

func lost(st runner.State) runner.State {
	st.Status = container.StateExited
	st.ExitCode = lostExit
	st.FinishedAt = time.Now().UTC()
	st.PID, st.MonitorPID, st.Networks, st.Ports = 0, 0, nil, nil
	return st
}

// clearUnknown ends what runs without a record: it was being created or removed.
func (e *Engine) clearUnknown(ctx context.Context) error {
	ids, err := e.shim.List()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, known := e.containers[id]; known {
			continue
		}
		e.clear(ctx, id)
	}
	return nil
}

// clear removes what is left of a container's run. What cannot be cleared, such as
// a process that does not end, must not keep all others from their engine: the
// next one tries again.
func (e *Engine) clear(ctx context.Context, id string) {
	if err := e.shim.Delete(ctx, id); err != nil {
		e.log.ErrorContext(ctx, "clear what a container left", "container", id, "error", err)
	}
}

// resume does what the options of containers want when an engine starts: those
// that are removed at their end are, and those with a restart policy start.
func (e *Engine) resume(ctx context.Context) {
	var again []*ctr
	for _, c := range e.all() {
		rec, st := c.snapshot()
		switch {
		case st.Running():
			e.recountKills(ctx, c, st)
			e.watchHealth(c, c.currentRun())
		case rec.HostConfig.AutoRemove && st.Status == container.StateExited:
			if err := e.remove(ctx, c, true); err != nil {
				e.log.ErrorContext(ctx, "remove a container that has ended", "container", c.id, "error", err)
			}
		case st.Status == container.StateRestarting, startsWithEngine(rec, st):
			if st.Status != container.StateRestarting {
				st.Status = container.StateRestarting
				if err := e.change(c, st); err != nil {
					e.log.ErrorContext(ctx, "restart a container", "container", c.id, "error", err)
					continue
				}
			}
			again = append(again, c)
		}
	}
	e.retryAll(again)
}

// startsWithEngine says whether a restart policy wants a container that does not
// run to be started with the engine.
func startsWithEngine(rec *runner.Container, st runner.State) bool {
	if st.Status != container.StateExited {
		return false
	}
	switch rec.HostConfig.RestartPolicy.Name {
	case container.RestartPolicyAlways:
		return true
	case container.RestartPolicyUnlessStopped:
		return !st.StoppedByUser
	case container.RestartPolicyOnFailure:
		tries := rec.HostConfig.RestartPolicy.MaximumRetryCount
		return !st.StoppedByUser && st.ExitCode == lostExit && (tries == 0 || st.RestartCount < tries)
	default:
		return false
	}
}
