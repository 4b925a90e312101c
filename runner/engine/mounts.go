package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// mounted are the mounts of a container that are made for a run of it.
type mounted struct {
	// byDestination are those that have no path on the host: a part of a volume,
	// and what is of an image.
	byDestination map[string]*os.File
	sources       map[string]source // what those are, by the path that they go by
}

// source is what has to be known of the source of a mount.
type source struct {
	file    bool // something other than a directory
	options []string
}

func (m mounted) close() {
	for _, f := range m.byDestination {
		f.Close()
	}
}

// isFile says whether a source is something other than a directory.
func (m mounted) isFile(path string) bool {
	if s, ok := m.sources[path]; ok {
		return s.file
	}
	return isFile(path)
}

// options are those by which a source is mounted.
func (m mounted) options(path string) []string {
	if s, ok := m.sources[path]; ok {
		return s.options
	}
	return spec.FindSourceOptions(path)
}

// mountVolumes makes the sources of a container's mounts ready for a run:
// volumes are mounted, until unmountVolumes. The record that it returns has the
// sources of this run.
func (e *Engine) mountVolumes(ctx context.Context, rec *runner.Container) (*runner.Container, mounted, error) {
	ready := mounted{byDestination: map[string]*os.File{}, sources: map[string]source{}}
	run := *rec
	run.Mounts = slices.Clone(rec.Mounts)
	for i := range run.Mounts {
		if err := e.mountOne(ctx, rec, &run.Mounts[i], ready); err != nil {
			ready.close()
			return nil, mounted{}, err
		}
	}
	return &run, ready, nil
}

func (e *Engine) mountOne(ctx context.Context, rec *runner.Container, m *container.MountPoint, ready mounted) error {
	switch m.Type {
	case mount.TypeBind:
		return findBindSource(rec, *m)
	case mount.TypeVolume:
		if err := e.volumes.Mount(ctx, m.Name, rec.ID); err != nil {
			return err
		}
		e.volumeEvent(events.ActionMount, m.Name, "container", rec.ID, "destination", m.Destination,
			"read/write", strconv.FormatBool(m.RW), "propagation", string(m.Propagation))
	case mount.TypeImage:
	default:
		return nil
	}
	users, err := e.userNamespace(rec)
	if err != nil {
		return err
	}
	f, err := e.openSource(ctx, rec, *m, users)
	if f == nil || err != nil {
		return err
	}
	ready.byDestination[m.Destination] = f
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m.Source = f.Name()
	ready.sources[m.Source] = source{
		file:    !info.IsDir(),
		options: spec.FindSourceOptions(fmt.Sprintf("/proc/self/fd/%d", f.Fd())),
	}
	return nil
}

// openSource opens what a mount is of that is not simply a path of the host, or
// returns nil.
func (e *Engine) openSource(ctx context.Context, rec *runner.Container, m container.MountPoint, users spec.UserNamespace) (*os.File, error) {
	subpath := spec.Subpath(spec.Asked(rec, m.Destination))
	switch {
	case m.Type == mount.TypeImage:
		lower, err := e.images.Layers(ctx, m.Name)
		if err != nil {
			return nil, err
		}
		return shim.OpenTreeSubpath(shim.Rootfs{Lower: lower, ReadOnly: true}, subpath, shim.IDMaps{UIDs: users.UIDs, GIDs: users.GIDs})
	case m.Type == mount.TypeVolume && subpath != "":
		return shim.OpenSubpath(m.Source, subpath)
	default:
		return nil, nil
	}
}

// openMount opens a mount of a container that does not run. A volume is mounted
// until unmount is called.
func (e *Engine) openMount(ctx context.Context, rec *runner.Container, m container.MountPoint) (root *os.File, unmount func(), err error) {
	unmount = func() {}
	if m.Type == mount.TypeVolume {
		user := "files " + newID()
		unmount = func() {
			if _, err := e.volumes.Unmount(user); err != nil {
				e.log.ErrorContext(ctx, "unmount a volume", "volume", m.Name, "error", err)
			}
		}
		if err := e.volumes.Mount(ctx, m.Name, user); err != nil {
			return nil, nil, err
		}
	}
	root, err = e.openSource(ctx, rec, m, spec.UserNamespace{})
	if root == nil && err == nil {
		root, err = os.Open(m.Source)
	}
	if err != nil {
		unmount()
		return nil, nil, err
	}
	return root, unmount, nil
}

// unmountVolumes ends the use of volumes by a run of a container. It can be
// repeated.
func (e *Engine) unmountVolumes(ctx context.Context, id string) {
	names, err := e.volumes.Unmount(id)
	if err != nil {
		e.log.ErrorContext(ctx, "unmount the volumes of a container", "container", id, "error", err)
	}
	for _, name := range names {
		e.volumeEvent(events.ActionUnmount, name, "container", id)
	}
}

// adoptVolumes finds out which containers use volumes since before this engine,
// and unmounts what none does.
func (e *Engine) adoptVolumes(ctx context.Context) {
	for _, c := range e.all() {
		rec, st := c.snapshot()
		for _, m := range rec.Mounts {
			if m.Type != mount.TypeVolume || !st.Running() {
				continue
			}
			if err := e.volumes.Adopt(m.Name, rec.ID); err != nil {
				e.log.WarnContext(ctx, "find a volume of a container again", "container", rec.ID, "error", err)
			}
		}
	}
	if err := e.volumes.Settle(); err != nil {
		e.log.ErrorContext(ctx, "unmount volumes that nobody uses", "error", err)
	}
}
