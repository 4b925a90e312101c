package engine

import (
	"context"
	"errors"
	"math"
	"strconv"
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
	// One with --rm is removed by who has its turn now: its name is free then.
	if rec, _ := c.snapshot(); rec.HostConfig.AutoRemove {
		if unlock, err := c.lock(ctx); err == nil {
			unlock()
		}
	}
	return nil
}

// RestartContainer implements runner/api's Containers.
func (e *Engine) RestartContainer(ctx context.Context, ref string, opts runner.StopOptions) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	// The end of this run is not the end of the container: --rm must wait.
	c.keep(true)
	stopped, err := e.halt(ctx, c, opts)
	if stopped && err == nil {
		e.containerEvent(c, events.ActionStop)
	}
	ctx = context.WithoutCancel(ctx)
	unlock, lockErr := c.lock(ctx)
	c.keep(false)
	if lockErr != nil {
		return errors.Join(err, lockErr)
	}
	defer unlock()
	rec, st := c.snapshot()
	switch {
	case err != nil && rec.HostConfig.AutoRemove && st.Status == container.StateExited:
		return errors.Join(err, e.remove(ctx, c, true))
	case err != nil:
		return err
	case !st.Running():
		c.startAnew()
		if err := e.startOrRemove(ctx, c); err != nil {
			return err
		}
	}
	e.containerEvent(c, events.ActionRestart)
	return nil
}

// halt ends a container as its user wants it: the signal, a while, then SIGKILL.
// It returns false if there is nothing to end.
func (e *Engine) halt(ctx context.Context, c *ctr, opts runner.StopOptions) (bool, error) {
	rec, _ := c.snapshot()
	sig, err := stopSignal(opts.Signal, rec.Config.StopSignal)
	if err != nil {
		return false, err
	}
	r, was, err := e.order(ctx, c, sig, true)
	if r == nil || err != nil {
		return was == container.StateRestarting, err
	}
	patience := e.stopTimeout(opts.Timeout, rec.Config.StopTimeout)
	if patience >= 0 {
		// A client that leaves does not take back what it has asked for.
		ctx = context.WithoutCancel(ctx)
	} else {
		patience = math.MaxInt64
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-r.ended:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	case <-e.lifetime().Done():
		return true, errStopping()
	case <-timer.C:
	}
	return true, e.killAndWait(ctx, c, r)
}

// order sends a signal to a container. A final one is meant to end it: no restart
// policy undoes that, and a frozen container is thawed for it. order returns the
// run that goes on, or nil if there is none, and the status that it has found.
func (e *Engine) order(ctx context.Context, c *ctr, sig syscall.Signal, final bool) (*run, container.ContainerState, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	_, st := c.snapshot()
	switch {
	case st.Status == container.StateRestarting && final:
		c.cancelRetry()
		err := e.transition(c, containers.Exit, func(st *runner.State) { st.StoppedByUser = true })
		c.notify()
		return nil, st.Status, err
	case !st.Running():
		return nil, st.Status, nil
	}
	if final && !st.StoppedByUser {
		st.StoppedByUser = true
		if err := e.change(c, st); err != nil {
			return nil, st.Status, err
		}
	}
	e.containerEvent(c, events.ActionKill, "signal", strconv.Itoa(int(sig)))
	if err := e.signal(ctx, c, sig); err != nil {
		return nil, st.Status, err
	}
	if final && st.Status == container.StatePaused {
		err = e.thaw(ctx, c)
	}
	return c.currentRun(), st.Status, err
}

// thaw lets a paused container go on, whose turn the caller has.
func (e *Engine) thaw(ctx context.Context, c *ctr) error {
	if err := ignoreEnded(e.shim.Resume(ctx, c.id)); err != nil {
		return err
	}
	if err := e.transition(c, containers.Resume, func(*runner.State) {}); err != nil {
		return err
	}
	e.containerEvent(c, events.ActionUnPause)
	return nil
}

// signal sends a signal to the first process of a container. One that is gone
// needs none: its exit is on the way.
func (e *Engine) signal(ctx context.Context, c *ctr, sig syscall.Signal) error {
	return ignoreEnded(e.shim.Kill(ctx, c.id, sig))
}

// ignoreEnded drops the errors of the shim that say that a container has ended.
func ignoreEnded(err error) error {
	if errors.Is(err, runner.ErrNotFound) || errors.Is(err, runner.ErrConflict) {
		return nil
	}
	return err
}

const (
	killAgain    = 2 * time.Second  // between two tries to kill
	killPatience = 30 * time.Second // until a container is given up that does not die
)

// killAndWait ends a run that does not end by itself.
func (e *Engine) killAndWait(ctx context.Context, c *ctr, r *run) error {
	again := time.NewTicker(killAgain)
	defer again.Stop()
	enough := time.NewTimer(killPatience)
	defer enough.Stop()
	for {
		if err := e.signal(ctx, c, syscall.SIGKILL); err != nil {
			return err
		}
		select {
		case <-r.ended:
			return nil
		case <-again.C:
		case <-enough.C:
			return errors.New("tried to kill container, but did not receive an exit event")
		case <-ctx.Done():
			return ctx.Err()
		case <-e.lifetime().Done():
			return errStopping()
		}
	}
}

// stopTimeout is how long a container has between the signal and SIGKILL;
// negative is for ever.
func (e *Engine) stopTimeout(asked, own *int) time.Duration {
	for _, seconds := range []*int{asked, own} {
		if seconds == nil {
			continue
		}
		if *seconds < 0 || *seconds > math.MaxInt32 {
			return -1
		}
		return time.Duration(*seconds) * time.Second
	}
	return e.opts.StopTimeout
}

func stopSignal(names ...string) (syscall.Signal, error) {
	for _, name := range names {
		if name != "" {
			return parseSignal(name)
		}
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
	rec, _ := c.snapshot()
	own, err := stopSignal(rec.Config.StopSignal)
	final := sig == syscall.SIGKILL || err == nil && sig == own
	r, was, err := e.order(ctx, c, sig, final)
	switch {
	case err != nil:
		return err
	case r == nil && was != container.StateRestarting:
		return runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	case r == nil || sig != syscall.SIGKILL:
		return nil
	}
	return e.killAndWait(context.WithoutCancel(ctx), c, r)
}
