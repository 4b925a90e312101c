package engine

import (
	"context"
	"os"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/network"
)

// adoptUnread registers a container whose record cannot be read. It is dead, as Docker
// calls what can only be removed, and all is kept that it may need when its file has
// been put back: what runs of it runs on, with its place in the networks, if its state
// can be read; every image and every volume that there is counts as one that it uses.
func (e *Engine) adoptUnread(ctx context.Context, one containers.Saved) (at network.Attached, runs bool, err error) {
	rec := &runner.Container{ID: one.ID, Name: shortName(one.ID), Config: &container.Config{}, HostConfig: &container.HostConfig{}}
	if fi, err := os.Stat(e.store.Dir(one.ID)); err == nil {
		rec.Created = fi.ModTime()
	}
	c := newCtr(e.work, rec, runner.State{Status: container.StateDead})
	c.unread = runner.Errorf(runner.ErrConflict, "container %s: %w; put the file back from a backup and start berth-runner again, or remove it: docker rm --force %s",
		rec.Name, one.RecordErr, rec.Name)
	e.containers[rec.ID], e.names[rec.Name] = c, rec.ID
	e.log.ErrorContext(ctx, "a container is left as it is", "error", c.unread)
	list, err := e.volumes.List(ctx, nil)
	if err != nil {
		return at, false, err
	}
	for _, v := range list {
		if err := e.volumes.Ref(v.Name, rec.ID); err != nil {
			return at, false, err
		}
	}
	now, err := e.shim.Status(one.ID)
	runs = err == nil && one.State.Running() && (now.State == shim.StateRunning || now.State == shim.StatePaused)
	return attachedOf(rec, one.State), runs, nil
}

// shortName is what a container is called whose name is not known, or is another's.
func shortName(id string) string { return id[:min(len(id), 12)] }

// youngestFirst has the younger of two containers with one name be adopted first: it
// was given the name when the record of the other could not be read.
func youngestFirst(saved []containers.Saved) {
	created := func(one containers.Saved) (at time.Time) {
		if one.Container != nil {
			at = one.Container.Created
		}
		return at
	}
	slices.SortStableFunc(saved, func(a, b containers.Saved) int { return created(b).Compare(created(a)) })
}

// register makes a recorded container known.
func (e *Engine) register(ctx context.Context, one containers.Saved) *ctr {
	rec := one.Container
	if holder, taken := e.names[rec.Name]; taken {
		e.log.WarnContext(ctx, "the name of a container is another's by now", "container", rec.ID, "name", rec.Name, "holder", holder, "called", shortName(rec.ID))
		renamed := *rec
		renamed.Name = shortName(rec.ID)
		rec = &renamed
	}
	c := newCtr(e.work, rec, one.State)
	e.containers[rec.ID], e.names[rec.Name] = c, rec.ID
	return c
}

// loseRun ends what runs of a container whose state cannot be read, as its networks and
// ports are not known: it is as if the host had gone down, and a restart policy has it
// start again.
func (e *Engine) loseRun(ctx context.Context, c *ctr, why error) error {
	e.log.ErrorContext(ctx, "a container has lost its state: what runs of it is ended", "container", c.id, "error", why)
	e.clear(ctx, c.id)
	st := lost(runner.State{})
	st.Error = why.Error()
	return e.change(c, st)
}
