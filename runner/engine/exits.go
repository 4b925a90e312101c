package engine

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// watchExits hands each exit to the container or exec that it is of, until the
// engine stops.
func (e *Engine) watchExits() {
	ctx := e.lifetime()
	for {
		select {
		case x, ok := <-e.shim.Exits():
			if !ok {
				return
			}
			e.work.run(func() { e.exited(ctx, x) })
		case id := <-e.shim.OOMs():
			e.work.run(func() { e.ranOutOfMemory(ctx, id) })
		case <-ctx.Done():
			return // the next engine is told again
		}
	}
}

func (e *Engine) exited(ctx context.Context, x shim.Exit) {
	if x.ExecID != "" {
		e.execExited(x)
		return
	}
	err := e.containerExited(ctx, x)
	if err != nil && ctx.Err() == nil && !errors.Is(err, runner.ErrNotFound) {
		e.log.ErrorContext(ctx, "end the run of a container", "container", x.ID, "error", err)
	}
}

func (e *Engine) containerExited(ctx context.Context, x shim.Exit) error {
	e.mu.RLock()
	c := e.containers[x.ID]
	e.mu.RUnlock()
	if c == nil {
		return e.shim.Delete(ctx, x.ID)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, st := c.snapshot(); !st.Running() {
		return nil
	}
	// The exit may be of a start that failed, and the container have been started
	// again while this waited.
	if now, err := e.shim.Status(x.ID); err == nil {
		if now.Exit == nil {
			return nil
		}
		x = *now.Exit
	}
	return e.finish(context.WithoutCancel(ctx), c, x)
}

// finish records the exit of a run, whose container's turn the caller has, clears
// what the run had, and does what the container's options want at its end.
func (e *Engine) finish(ctx context.Context, c *ctr, x shim.Exit) error {
	rec, st := c.snapshot()
	delay, again := c.retryAfter(rec.HostConfig.RestartPolicy, st, x)
	event := containers.Exit
	if again {
		event = containers.Retry
	}
	next, err := st, c.may(event)
	if err != nil {
		return err
	}
	next.Status, _ = containers.Next(st.Status, event)
	next.PID, next.MonitorPID = 0, 0
	next.ExitCode, next.OOMKilled, next.FinishedAt = x.Code, x.OOMKilled, x.At.UTC()
	next.Networks, next.Ports = nil, nil
	if again {
		next.RestartCount++
	}
	// The code is on disk before the monitor's file with it is removed. If it
	// cannot be written, the container has ended all the same.
	if err := e.store.SaveState(c.id, next); err != nil {
		e.log.ErrorContext(ctx, "save the exit of a container", "container", c.id, "error", err)
	}
	e.stats.Stopped(c.id)
	e.tearDown(ctx, c.id)
	e.endExecs(c.id)
	killed := c.newKills(x.OOMKills)
	c.finished(next)
	e.networkEvents(events.ActionDisconnect, rec, st)
	if killed {
		e.containerEvent(c, events.ActionOOM)
	}
	e.containerEvent(c, events.ActionDie, dieAttributes(st, x)...)
	c.notify()
	switch {
	case again:
		e.retry(c, delay)
	case rec.HostConfig.AutoRemove && !c.kept():
		return e.remove(ctx, c, true)
	}
	return nil
}

// finished makes the state that of the ended run.
func (c *ctr) finished(st runner.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = st
	if c.run != nil {
		close(c.run.ended)
		c.run = nil
	}
}
