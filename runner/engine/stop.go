package engine

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
)

// StopContainer implements runner/api's Containers.
func (e *Engine) StopContainer(ctx context.Context, ref string, opts runner.StopOptions) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	stopped, err := e.halt(ctx, c, opts)
	if err != nil {
		return err
	}
	if !stopped {
		return runner.Errorf(runner.ErrNotModified, "container %s is already stopped", c.id)
	}
	e.containerEvent(c, events.ActionStop)
	return nil
}

// RestartContainer implements runner/api's Containers.
func (e *Engine) RestartContainer(ctx context.Context, ref string, opts runner.StopOptions) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	// The end of this run is not the end of the container: --rm must wait.
	c.keep(true)
	_, err = e.halt(ctx, c, opts)
	unlock, lockErr := c.lock(ctx)
	c.keep(false)
	if err := errors.Join(err, lockErr); err != nil {
		if unlock != nil {
			unlock()
		}
		return err
	}
	defer unlock()
	if _, st := c.snapshot(); !st.Running() {
		if err := e.startOrRemove(ctx, c); err != nil {
			return err
		}
	}
	e.containerEvent(c, events.ActionRestart)
	return nil
}

// halt ends a container as its user wants it: the signal, a while, then SIGKILL.
// It returns false if the container does not run.
func (e *Engine) halt(ctx context.Context, c *ctr, opts runner.StopOptions) (bool, error) {
	rec, _ := c.snapshot()
	sig, err := stopSignal(opts.Signal, rec.Config.StopSignal)
	if err != nil {
		return false, err
	}
	r, err := e.markStopped(ctx, c)
	if r == nil || err != nil {
		return false, err
	}
	// A client that leaves does not take back what it has asked for.
	ctx = context.WithoutCancel(ctx)
	if err := e.signal(ctx, c, sig); err != nil {
		e.log.WarnContext(ctx, "signal a container", "container", c.id, "signal", sig, "error", err)
	}
	var patience <-chan time.Time
	if d := e.stopTimeout(opts.Timeout, rec.Config.StopTimeout); d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-r.ended:
		return true, nil
	case <-patience:
	}
	return true, e.killAndWait(ctx, c, r)
}

// markStopped notes that the end is asked for, so that no restart policy undoes
// it. It returns the run that is to end, or nil if none goes on.
func (e *Engine) markStopped(ctx context.Context, c *ctr) (*run, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, st := c.snapshot()
	switch {
	case st.Status == container.StateRestarting:
		c.cancelRetry()
		err := e.transition(c, containers.Exit, func(st *runner.State) { st.StoppedByUser = true })
		c.notify()
		return nil, err
	case !st.Running():
		return nil, nil
	case st.StoppedByUser:
		return c.currentRun(), nil
	}
	st.StoppedByUser = true
	return c.currentRun(), e.change(c, st)
}

// killAndWait ends a run that does not end by itself.
func (e *Engine) killAndWait(ctx context.Context, c *ctr, r *run) error {
	const again = 2 * time.Second
	for {
		if err := e.signal(ctx, c, syscall.SIGKILL); err != nil {
			return err
		}
		select {
		case <-r.ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// signal sends a signal to the first process of a running container. A frozen
// one is thawed for SIGKILL, and for a signal that shall end it.
func (e *Engine) signal(ctx context.Context, c *ctr, sig syscall.Signal) error {
	// A process that is gone needs no signal: its exit is on the way.
	if err := e.shim.Kill(ctx, c.id, sig); err != nil && !errors.Is(err, runner.ErrNotFound) {
		return err
	}
	if _, st := c.snapshot(); st.Status == container.StatePaused && (sig == syscall.SIGKILL || st.StoppedByUser) {
		return e.shim.Resume(ctx, c.id)
	}
	return nil
}

func (e *Engine) stopTimeout(asked, own *int) time.Duration {
	for _, seconds := range []*int{asked, own} {
		if seconds != nil {
			return time.Duration(*seconds) * time.Second
		}
	}
	return e.opts.StopTimeout
}

func stopSignal(names ...string) (syscall.Signal, error) {
	for _, name := range names {
		if name == "" {
			continue
		}
		return parseSignal(name)
	}
	return syscall.SIGTERM, nil
}

func parseSignal(name string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, runner.Errorf(runner.ErrInvalid, "invalid signal: %s", name)
	}
	return sig, nil
}

// KillContainer implements runner/api's Containers.
func (e *Engine) KillContainer(ctx context.Context, ref, name string) error {
	if name == "" {
		name = "KILL"
	}
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	rec, st := c.snapshot()
	if !st.Running() {
		return runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	final := sig == syscall.SIGKILL
	if own, err := stopSignal(rec.Config.StopSignal); err == nil && sig == own {
		final = true
	}
	r := c.currentRun()
	if final {
		if r, err = e.markStopped(ctx, c); err != nil {
			return err
		}
	}
	if r == nil {
		return nil // it has ended meanwhile
	}
	e.containerEvent(c, events.ActionKill, "signal", name)
	if sig == syscall.SIGKILL {
		return e.killAndWait(context.WithoutCancel(ctx), c, r)
	}
	return e.signal(ctx, c, sig)
}

// PauseContainer implements runner/api's Containers.
func (e *Engine) PauseContainer(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, containers.Pause, e.shim.Pause, events.ActionPause)
}

// UnpauseContainer implements runner/api's Containers.
func (e *Engine) UnpauseContainer(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, containers.Resume, e.shim.Resume, events.ActionUnPause)
}

func (e *Engine) freeze(ctx context.Context, ref string, event containers.Event, do func(context.Context, string) error, tell events.Action) error {
	ctx = context.WithoutCancel(ctx)
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	_, st := c.snapshot()
	if _, err := containers.Next(st.Status, event); err != nil {
		return runner.Errorf(runner.ErrConflict, "container %s: %w", c.id, err)
	}
	if err := do(ctx, c.id); err != nil {
		return err
	}
	if err := e.transition(c, event, func(*runner.State) {}); err != nil {
		return err
	}
	e.containerEvent(c, tell)
	return nil
}
