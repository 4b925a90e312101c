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
	"github.com/moby/moby/api/types/mount"
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
			err = findBindSource(rec, *m)
		case mount.TypeVolume:
			var fresh bool
			fresh, err = e.makeVolume(ctx, rec, m, slices.Contains(anonymous, m.Name))
			if fresh {
				made = append(made, m.Name)
			}
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

// findBindSource looks for the source of a bind. The folder of a -v that is not
// there is made, as Docker does, each time the container starts.
func findBindSource(rec *runner.Container, m container.MountPoint) error {
	_, err := os.Stat(m.Source)
	if errors.Is(err, fs.ErrNotExist) {
		if o := spec.Asked(rec, m.Destination).BindOptions; o == nil || !o.CreateMountpoint {
			return runner.Errorf(runner.ErrInvalid, "invalid mount config for type %q: bind source path does not exist: %s", m.Type, m.Source)
		}
		err = os.MkdirAll(m.Source, 0o755) //nolint:gosec // whoever the container is must be able to enter
	}
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "error while creating mount source path '%s': %w", m.Source, err)
	}
	return nil
}

// makeVolume makes a volume, or takes the one of that name, and fills an empty one
// with what the image has at its place.
func (e *Engine) makeVolume(ctx context.Context, rec *runner.Container, m *container.MountPoint, anonymous bool) (made bool, err error) {
	opts := mount.VolumeOptions{}
	if o := spec.Asked(rec, m.Destination).VolumeOptions; o != nil {
		opts = *o
	}
	if isInherited(rec, m.Destination) {
		return false, e.volumes.Ref(m.Name, rec.ID)
	}
	v, made, err := e.volumes.Create(ctx, volumeRequest(*m, opts, anonymous))
	if errors.Is(err, runner.ErrNotFound) { // of the driver: it would make the docker command pull the image
		err = runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if err != nil {
		return false, err
	}
	m.Name, m.Source, m.Driver = v.Name, v.Mountpoint, v.Driver
	if err := e.volumes.Ref(v.Name, rec.ID); err != nil {
		return made, err
	}
	if opts.NoCopy || opts.Subpath != "" {
		return made, nil
	}
	if err := e.fillVolume(ctx, rec, *m); err != nil {
		return made, err
	}
	return made, nil
}

func volumeRequest(m container.MountPoint, opts mount.VolumeOptions, anonymous bool) volume.CreateRequest {
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
	return req
}

func (e *Engine) fillVolume(ctx context.Context, rec *runner.Container, m container.MountPoint) error {
	return e.volumes.Fill(ctx, m.Name, func(dir, staging string) error {
		if fresh, err := rootfs.Populates(dir, staging); !fresh || err != nil {
			return err
		}
		root, err := shim.OpenRootfs(shim.Rootfs{Lower: rec.Lower, ReadOnly: true})
		if err != nil {
			return err
		}
		defer root.Close()
		if err := rootfs.Populate(root, m.Destination, dir, staging); err != nil && !errors.Is(err, runner.ErrNotFound) {
			return fmt.Errorf("fill volume %s: %w", m.Name, err)
		}
		return nil
	})
}
