package engine

import (
	"context"
	"errors"
	"strconv"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// CreateVolume implements runner/api's Volumes.
func (e *Engine) CreateVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, _, err := e.volumes.Create(ctx, req)
	return v, err
}

// ListVolumes implements runner/api's Volumes.
func (e *Engine) ListVolumes(ctx context.Context, filters runner.Filters) (volume.ListResponse, error) {
	list, err := e.volumes.List(ctx, filters)
	if list == nil {
		list = []volume.Volume{}
	}
	return volume.ListResponse{Volumes: list}, err
}

// InspectVolume implements runner/api's Volumes.
func (e *Engine) InspectVolume(ctx context.Context, name string) (volume.Volume, error) {
	return e.volumes.Get(ctx, name)
}

// RemoveVolume implements runner/api's Volumes.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	return e.volumes.Remove(ctx, name, force)
}

// PruneVolumes implements runner/api's Volumes.
func (e *Engine) PruneVolumes(ctx context.Context, filters runner.Filters) (volume.PruneReport, error) {
	report, err := e.volumes.Prune(ctx, filters)
	if err == nil {
		e.events.publish(events.Message{
			Type: events.VolumeEventType, Action: events.ActionPrune,
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)}},
		})
	}
	return report, err
}

// removeVolumes removes volumes that nobody uses.
func (e *Engine) removeVolumes(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		err := e.volumes.Remove(ctx, name, true)
		if err != nil && !errors.Is(err, runner.ErrConflict) && !errors.Is(err, runner.ErrInvalid) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// clearUnfinished removes the volumes of containers that were being created when
// the daemon ended.
func (e *Engine) clearUnfinished(ctx context.Context) error {
	for id, names := range e.store.Unfinished() {
		if err := e.removeVolumes(ctx, names); err != nil {
			return err
		}
		if err := e.store.Discard(id); err != nil {
			return err
		}
	}
	return nil
}

// removeAnonymousVolumes removes the volumes of a container that nobody has given
// a name, but those that other containers use.
func (e *Engine) removeAnonymousVolumes(ctx context.Context, rec *runner.Container) {
	for _, m := range rec.Mounts {
		if m.Type != mount.TypeVolume || spec.Asked(rec, m.Destination).Source != "" {
			continue
		}
		err := e.volumes.Remove(ctx, m.Name, true)
		if err != nil && !errors.Is(err, runner.ErrConflict) {
			e.log.WarnContext(ctx, "remove an anonymous volume", "volume", m.Name, "error", err)
		}
	}
}

// volumeEvent tells of a volume, with further attributes as key and value in turn.
func (e *Engine) volumeEvent(action events.Action, name string, extra ...string) {
	attrs := map[string]string{"driver": "local"}
	for i := 0; i+1 < len(extra); i += 2 {
		attrs[extra[i]] = extra[i+1]
	}
	e.events.publish(events.Message{
		Type: events.VolumeEventType, Action: action,
		Actor: events.Actor{ID: name, Attributes: attrs},
	})
}
