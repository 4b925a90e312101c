package engine

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

// WaitContainer implements runner/api's Containers.
func (e *Engine) WaitContainer(ctx context.Context, ref string, until container.WaitCondition) (<-chan container.WaitResponse, error) {
	if until == "" {
		until = container.WaitConditionNotRunning
	}
	switch until {
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, runner.Errorf(runner.ErrInvalid, "invalid condition: %q", until)
	}
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	done := make(chan container.WaitResponse, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	over := !c.state.Running() && c.state.Status != container.StateRestarting
	if until == container.WaitConditionNotRunning && over {
		done <- c.response()
		return done, nil
	}
	select {
	case <-c.removed:
		done <- c.response()
		return done, nil
	default:
	}
	c.waiters = append(c.waiters, waiter{until: until, done: done})
	context.AfterFunc(ctx, func() { c.forget(done) })
	return done, nil
}

// forget drops a waiter that is gone.
func (c *ctr) forget(done chan container.WaitResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters = slices.DeleteFunc(c.waiters, func(w waiter) bool { return w.done == done })
}
