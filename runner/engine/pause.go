package engine

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
)

// PauseContainer implements runner/api's Containers.
func (e *Engine) PauseContainer(ctx context.Context, ref string) error {
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx)
	if err := c.may(containers.Pause); err != nil {
		return err
	}
	if err := e.shim.Pause(ctx, c.id); err != nil {
		return err
	}
	if err := e.transition(c, containers.Pause, func(*runner.State) {}); err != nil {
		return errors.Join(err, ignoreEnded(e.shim.Resume(ctx, c.id)))
	}
	c.notePause()
	e.containerEvent(c, events.ActionPause)
	return nil
}

// UnpauseContainer implements runner/api's Containers.
func (e *Engine) UnpauseContainer(ctx context.Context, ref string) error {
	c, unlock, err := e.findLocked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.may(containers.Resume); err != nil {
		return err
	}
	return e.thaw(context.WithoutCancel(ctx), c)
}
