package engine

import (
	"context"
	"errors"
	"strconv"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/rootfs"
)

// RemoveContainer implements runner/api's Containers.
func (e *Engine) RemoveContainer(ctx context.Context, ref string, opts runner.RemoveOptions) error {
	if opts.Link {
		return e.removeLink(context.WithoutCancel(ctx), ref)
	}
	c, err := e.lookUp(ref)
	if err != nil {
		return err
	}
	if c.unread != nil && !opts.Force {
		return c.unread
	}
	for killed := false; ; killed = true {
		unlock, err := c.lock(ctx)
		if err != nil {
			if killed && errors.Is(err, runner.ErrNotFound) {
				return nil // it had --rm
			}
			return err
		}
		rec, st := c.snapshot()
		r := c.currentRun()
		switch {
		case (r != nil || st.Status == container.StateRestarting) && !opts.Force:
			err = inUse(rec, st)
		case r == nil:
			c.cancelRetry()
			err = e.remove(context.WithoutCancel(ctx), c, opts.Volumes)
		}
		unlock()
		if r == nil || err != nil {
			return err
		}
		if err := e.destroy(ctx, c); err != nil {
			return err
		}
	}
}

// inUse is why a container is not removed without force.
func inUse(rec *runner.Container, st runner.State) error {
	how := ": stop the container before removing or force remove"
	if st.Status == container.StatePaused {
		how = " and must be unpaused first"
	}
	return runner.Errorf(runner.ErrConflict, "cannot remove container %q: container is %s%s", "/"+rec.Name, st.Status, how)
}

// destroy ends a container that is to be removed.
func (e *Engine) destroy(ctx context.Context, c *ctr) error {
	r, _, err := e.order(ctx, c, syscall.SIGKILL, true)
	if r == nil {
		if errors.Is(err, runner.ErrNotFound) {
			return nil
		}
		return err
	}
	return e.killAndWait(context.WithoutCancel(ctx), c, r)
}

// remove removes a container that does not run and whose turn the caller has.
func (e *Engine) remove(ctx context.Context, c *ctr, withVolumes bool) error {
	rec, st := c.snapshot()
	if st.Status == container.StateRestarting {
		st.Status = container.StateExited
	}
	// Only in memory: on disk the container is there until it is gone.
	next, err := containers.Next(st.Status, containers.Remove)
	if err != nil {
		return runner.Errorf(runner.ErrConflict, "container %s %w", c.id, err)
	}
	st.Status = next
	c.set(st)
	e.tearDown(ctx, c.id)
	// The volumes go before the record that names them: a daemon that ends in
	// between leaves none behind that nobody knows of.
	e.volumes.Unref(c.id)
	if withVolumes {
		e.removeAnonymousVolumes(ctx, rec)
	}
	e.leaveLog(ctx, c.id)
	e.leaveTraffic(ctx, c.id)
	if err := e.store.Remove(c.id); err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.containers, c.id)
	delete(e.names, rec.Name)
	e.mu.Unlock()
	e.forgetExecs(c.id)
	if err := e.images.Sweep(ctx, e.users); err != nil {
		e.log.ErrorContext(ctx, "give back the disk of removed images", "error", err)
	}
	e.containerEvent(c, events.ActionDestroy)
	c.notifyRemoved()
	return nil
}

// PruneContainers implements runner/api's Containers.
func (e *Engine) PruneContainers(ctx context.Context, filters runner.Filters) (container.PruneReport, error) {
	var report container.PruneReport
	if err := filters.Allow("label", "label!", "until"); err != nil {
		return report, err
	}
	before, err := untilFilter(filters)
	if err != nil {
		return report, err
	}
	for _, c := range e.all() {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		rec, st := c.snapshot()
		if st.Status != container.StateExited && st.Status != container.StateCreated ||
			!filters.MatchLabels("label", rec.Config.Labels) || hasExcludedLabel(filters, rec.Config.Labels) ||
			!before.IsZero() && !rec.Created.Before(before) {
			continue
		}
		size, err := rootfs.Usage(e.store.Upper(c.id))
		if err != nil {
			size = 0 // it is being removed by somebody else
		}
		switch err := e.RemoveContainer(ctx, c.id, runner.RemoveOptions{}); {
		case err == nil:
			report.ContainersDeleted = append(report.ContainersDeleted, c.id)
			report.SpaceReclaimed += uint64(size)
		case errors.Is(err, runner.ErrNotFound), errors.Is(err, runner.ErrConflict):
		default:
			return report, err
		}
	}
	e.events.publish(events.Message{
		Type: events.ContainerEventType, Action: events.ActionPrune,
		Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)}},
	})
	return report, nil
}
