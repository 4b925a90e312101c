package deploy

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/berth-registry/berth/internal/durable"
)

// Remove removes a stack: its containers, traffic, networks and files, and if asked
// for its volumes. What is its own is found by its labels, so that a stack whose files
// cannot be read can be removed, too. It fails with runner.ErrNotFound, and with
// runner.ErrConflict if the stack is being deployed. The end of ctx ends the watching,
// not the removal.
func (m *Manager) Remove(ctx context.Context, stack string, volumes bool, watch func(Event)) error {
	u, err := m.unit(stack)
	if err != nil {
		return err
	}
	opCtx, op, err := u.begin("removed", "", watch != nil)
	if err != nil {
		return err
	}
	if len(u.record().Revisions) > 0 { // else what cannot be read stays until all the rest is gone
		if err := u.update(func(r *record) { r.Removing, r.Volumes = true, volumes }); err != nil {
			u.end(op, Revision{}, err)
			return err
		}
	}
	u.run(opCtx, op, func(ctx context.Context) (Revision, error) {
		return Revision{}, u.removeAll(ctx, op, volumes)
	})
	_, err = op.watch(ctx, watch)
	return err
}

// removeAll is what Remove does. It can be cut short, and repeated.
func (u *unit) removeAll(ctx context.Context, op *operation, volumes bool) error {
	rec := u.record()
	var drained []string
	for _, dr := range rec.Draining {
		drained = append(drained, dr.ID)
	}
	if _, err := u.undrain(ctx, drained, forever); err != nil {
		return err
	}
	if err := u.tellRoutes(ctx, nil); err != nil {
		return err
	}
	if err := u.setTraffic(ctx, nil); err != nil {
		return err
	}
	if err := u.removeContainers(ctx, op, rec); err != nil {
		return err
	}
	if err := u.removeNetworks(ctx); err != nil {
		return err
	}
	if volumes {
		if err := u.removeVolumes(ctx, op); err != nil {
			return err
		}
	}
	// The record goes last of what counts: without it Open removes the rest.
	err := durable.Remove(u.store.path(recordFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	u.mu.Lock()
	u.gone, u.rec = true, record{Name: u.name}
	u.mu.Unlock()
	u.m.drop(u)
	return u.store.removeDir()
}

// removeContainers stops and removes all containers, each service before those that it
// needs.
func (u *unit) removeContainers(ctx context.Context, op *operation, rec record) error {
	found, err := u.m.find(ctx, u.name)
	if err != nil {
		return err
	}
	var order []*Service
	if v, err := u.stack(rec.Current); err == nil {
		if order, err = ordered(v.Stack); err != nil {
			order = nil // all at once
		}
	}
	for _, svc := range slices.Backward(order) {
		err := each(len(found), func(i int) error {
			if r := found[i]; r.Service == svc.Name && r.active() {
				u.say(op, EventStep, svc.Name, r.Name, "stop "+r.Name)
				return u.stop(ctx, r.ID, svc)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return each(len(found), func(i int) error {
		r := found[i]
		if err := u.stop(ctx, r.ID, nil); err != nil {
			return err
		}
		u.say(op, EventStep, r.Service, r.Name, "remove "+r.Name)
		return u.remove(ctx, r.ID)
	})
}

// removeNetworks removes the networks that the stack has made. One that somebody else
// uses is left.
func (u *unit) removeNetworks(ctx context.Context) error {
	list, err := u.m.engine.ListNetworks(ctx, madeFor(u.name))
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := known(u.m.engine.RemoveNetwork(ctx, n.Name)); err != nil {
			u.m.log.WarnContext(ctx, "remove a network", "stack", u.name, "network", n.Name, "error", err)
		}
	}
	return nil
}

// removeVolumes removes the volumes that the stack has made.
func (u *unit) removeVolumes(ctx context.Context, op *operation) error {
	list, err := u.m.engine.ListVolumes(ctx, madeFor(u.name))
	if err != nil {
		return err
	}
	for _, vol := range list.Volumes {
		u.say(op, EventStep, "", "", "remove volume "+vol.Name)
		if err := known(u.m.engine.RemoveVolume(ctx, vol.Name, false)); err != nil {
			return err
		}
	}
	return nil
}
