package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/volumes"
)

// makeVolumes makes what the container's mounts need on the host: folders that
// are missing, and volumes. The record's mounts get their sources. It returns the
// names of the volumes that were not there before.
func (e *Engine) makeVolumes(ctx context.Context, rec *runner.Container) (made []string, err error) {
	anonymous, err := e.nameVolumes(rec)
	if err != nil {
		return nil, err
	}
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		switch m.Type {
		case mount.TypeBind:
			err = makeBindSource(m.Source)
		case mount.TypeVolume:
			if _, missing := e.volumes.Get(ctx, m.Name); missing != nil {
				made = append(made, m.Name)
			}
			err = e.makeVolume(ctx, rec, m, slices.Contains(anonymous, m.Name))
		default:
		}
		if err != nil {
			return made, err
		}
	}
	return made, nil
}

// nameVolumes gives names to the volumes without one, and notes them: nobody else
// would know whose they are if the daemon ended before the container is there.
func (e *Engine) nameVolumes(rec *runner.Container) (names []string, err error) {
	for i := range rec.Mounts {
		if m := &rec.Mounts[i]; m.Type == mount.TypeVolume && m.Name == "" {
			m.Name = newID()
			names = append(names, m.Name)
		}
	}
	if names == nil {
		return nil, nil
	}
	return names, e.store.Note(rec.ID, names)
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

// makeBindSource makes the folder of a -v that is not there, as Docker does. A
// --mount without its source has been refused before.
func makeBindSource(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(path, 0o755) //nolint:gosec // whoever the container is must be able to enter
	}
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "error while creating mount source path '%s': %w", path, err)
	}
	return nil
}

// makeVolume makes a volume, or takes the one of that name, and fills a new one
// with what the image has at its place.
func (e *Engine) makeVolume(ctx context.Context, rec *runner.Container, m *container.MountPoint, anonymous bool) error {
	opts := spec.VolumeOptions(rec.HostConfig, *m)
	req := volume.CreateRequest{Name: m.Name, Driver: m.Driver, Labels: opts.Labels}
	if anonymous {
		req.Labels = maps.Clone(opts.Labels)
		if req.Labels == nil {
			req.Labels = map[string]string{}
		}
		req.Labels[volumes.AnonymousLabel] = ""
	}
	if opts.DriverConfig != nil {
		req.Driver, req.DriverOpts = opts.DriverConfig.Name, opts.DriverConfig.Options
	}
	v, err := e.volumes.Create(ctx, req)
	if err != nil {
		return err
	}
	if anonymous {
		e.volumeEvent(events.ActionCreate, v.Name)
	}
	m.Name, m.Source, m.Driver = v.Name, v.Mountpoint, v.Driver
	if err := e.volumes.Ref(v.Name, rec.ID); err != nil {
		return err
	}
	if opts.NoCopy {
		return nil
	}
	if fresh, err := rootfs.Populates(v.Mountpoint); !fresh || err != nil {
		return err
	}
	root, err := shim.OpenRootfs(shim.Rootfs{Lower: rec.Lower, ReadOnly: true})
	if err != nil {
		return err
	}
	defer root.Close()
	if err := rootfs.Populate(root, m.Destination, v.Mountpoint); err != nil && !errors.Is(err, runner.ErrNotFound) {
		return fmt.Errorf("fill volume %s: %w", v.Name, err)
	}
	return nil
}

// CreateVolume implements runner/api's Volumes.
func (e *Engine) CreateVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := e.volumes.Create(ctx, req)
	if err == nil {
		e.volumeEvent(events.ActionCreate, v.Name)
	}
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
	if err := e.volumes.Remove(ctx, name, force); err != nil {
		return err
	}
	e.volumeEvent(events.ActionDestroy, name)
	return nil
}

// PruneVolumes implements runner/api's Volumes.
func (e *Engine) PruneVolumes(ctx context.Context, filters runner.Filters) (volume.PruneReport, error) {
	return e.volumes.Prune(ctx, filters)
}

// ListNetworks implements runner/api's Networks.
func (e *Engine) ListNetworks(ctx context.Context, filters runner.Filters) ([]network.Inspect, error) {
	return e.network.List(ctx, filters)
}

// InspectNetwork implements runner/api's Networks.
func (e *Engine) InspectNetwork(ctx context.Context, ref string) (network.Inspect, error) {
	return e.network.Inspect(ctx, ref)
}
