package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// mountPoints are those that a container is to have: those that --volumes-from
// brings, with what was asked of them, and its own.
func (e *Engine) mountPoints(cfg *container.Config, hc *container.HostConfig) (list []container.MountPoint, inherited []mount.Mount, err error) {
	var points []container.MountPoint
	for _, text := range hc.VolumesFrom {
		if points, inherited, err = e.inherit(text, points, inherited); err != nil {
			return nil, nil, err
		}
	}
	list, err = spec.ParseBinds(cfg, hc, points)
	if err != nil {
		return nil, nil, err
	}
	inherited = slices.DeleteFunc(inherited, func(m mount.Mount) bool {
		return !slices.ContainsFunc(list, func(p container.MountPoint) bool { return p.Destination == m.Target }) || ownMount(hc, m.Target)
	})
	return list, inherited, nil
}

// ownMount says whether a container has a mount by its own --volume or --mount.
func ownMount(hc *container.HostConfig, destination string) bool {
	own := spec.Asked(&runner.Container{HostConfig: hc}, destination)
	return own.Type != ""
}

// inherit adds the mount points of the container that the value of --volumes-from
// names. They beat those of the containers before.
func (e *Engine) inherit(text string, points []container.MountPoint, asked []mount.Mount) ([]container.MountPoint, []mount.Mount, error) {
	name, mode, err := spec.ParseVolumesFrom(text)
	if err != nil {
		return nil, nil, err
	}
	c, err := e.find(name)
	if err != nil {
		// A 404 would make the docker command pull the image.
		return nil, nil, runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	other, _ := c.snapshot()
	readOnly := slices.Contains(strings.Split(mode, ","), "ro")
	for _, m := range other.Mounts {
		said := spec.Asked(other, m.Destination)
		said.Target = m.Destination
		m.Mode, m.RW = "", m.RW && !readOnly
		points = slices.DeleteFunc(points, func(p container.MountPoint) bool { return p.Destination == m.Destination })
		asked = slices.DeleteFunc(asked, func(a mount.Mount) bool { return a.Target == m.Destination })
		points, asked = append(points, m), append(asked, said)
	}
	return points, asked, nil
}

// isInherited says whether a container has a mount by --volumes-from.
func isInherited(rec *runner.Container, destination string) bool {
	return slices.ContainsFunc(rec.Inherited, func(m mount.Mount) bool { return m.Target == destination })
}

// holdMountedImages finds the images that a container mounts, and keeps them until
// release is called.
func (e *Engine) holdMountedImages(ctx context.Context, rec *runner.Container) (release func(), err error) {
	var held []func()
	release = func() {
		for _, f := range held {
			f()
		}
	}
	for i := range rec.Mounts {
		m := &rec.Mounts[i]
		if m.Type != mount.TypeImage {
			continue
		}
		if m.Name == "" {
			img, err := e.images.Get(ctx, m.Source)
			if err != nil {
				release()
				return nil, runner.Errorf(runner.ErrInvalid, "%w", err) // for the same reason
			}
			m.Name = img.ID
		}
		f, err := e.images.Hold(m.Name)
		if err != nil {
			release()
			return nil, runner.Errorf(runner.ErrInvalid, "%w", err)
		}
		held = append(held, f)
	}
	return release, nil
}

// mountsImage says whether a container stands on an image by a mount.
func mountsImage(rec *runner.Container, imageID string) bool {
	return slices.ContainsFunc(rec.Mounts, func(m container.MountPoint) bool {
		return m.Type == mount.TypeImage && m.Name == imageID
	})
}
