package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
	"github.com/berth-registry/berth/runner/containers/shim"
)

// tree is a container's file tree, open to be worked on.
type tree struct {
	root *os.File
	// within is the path in root of what the client named: the container's own,
	// or that in the volume or bind which it lies on.
	within   string
	readOnly bool
	users    rootfs.IDs // who the owners of files are in the container
	close    func()     // nil until it is all open, or for nothing but root
}

// openTree opens the tree that a path of a container lies on. Of a running
// container it is what its processes see. One that does not run keeps its turn
// until close if it is to be written to, so that it does not start meanwhile.
func (e *Engine) openTree(ctx context.Context, c *ctr, name string, write bool) (tree, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return tree{}, err
	}
	release := unlock
	rec, st := c.snapshot()
	t := tree{within: name}
	switch {
	case st.Running():
		if t.root, err = e.runningRoot(c); err == nil {
			t.users, err = usersOf(st.PID)
		}
		_, t.readOnly = mountOf(rec, name)
	case write:
		release = func() {}
		t, err = e.openStopped(ctx, rec, name, e.rootfsOf(rec))
	default:
		t, err = e.openStopped(ctx, rec, name, e.readOnly(rec))
	}
	if err != nil {
		if t.root != nil {
			t.root.Close()
		}
		unlock()
		return tree{}, err
	}
	release()
	unmount := t.close
	t.close = func() {
		t.root.Close()
		if unmount != nil {
			unmount()
		}
		if write && !st.Running() {
			unlock()
		}
	}
	return t, nil
}

// runningRoot opens the root of a running container's first process.
func (e *Engine) runningRoot(c *ctr) (*os.File, error) {
	_, st := c.snapshot()
	notRunning := runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	if !st.Running() {
		return nil, notRunning
	}
	root, err := shim.OpenRunningRoot(st.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notRunning
	}
	if err != nil {
		return nil, err
	}
	// The number may be another's if the process has ended.
	if !e.alive(c, st.PID) {
		root.Close()
		return nil, notRunning
	}
	return root, nil
}

// alive says whether a process is the first one of a container that runs. One
// whose program is gone is about to end, after all others of the container.
func (e *Engine) alive(c *ctr, pid int) bool {
	now, err := e.shim.Status(c.id)
	if err != nil || now.Process.PID != pid {
		return false
	}
	_, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil
}

// openStopped opens a container's own tree, or the mount that a path lies on.
func (e *Engine) openStopped(ctx context.Context, rec *runner.Container, name string, own shim.Rootfs) (tree, error) {
	m, ro := mountOf(rec, name)
	if m == nil {
		root, err := shim.OpenRootfs(own)
		return tree{root: root, within: name, readOnly: ro}, err
	}
	root, unmount, err := e.openMount(ctx, rec, *m)
	if err != nil {
		return tree{}, err
	}
	if info, err := root.Stat(); err != nil || !info.IsDir() {
		root.Close()
		unmount()
		return tree{}, runner.Errorf(runner.ErrInvalid, "%s is a file mounted from the host: start the container to copy it", m.Destination)
	}
	within := "/" + strings.TrimPrefix(path.Clean("/"+name), path.Clean(m.Destination))
	if strings.HasSuffix(name, "/.") {
		within += "/."
	}
	return tree{root: root, within: within, readOnly: ro, close: unmount}, nil
}

// mountOf returns the mount that a path lies on, or nil, and whether it may not
// be written to.
func mountOf(rec *runner.Container, name string) (*container.MountPoint, bool) {
	name = path.Clean("/" + name)
	var found *container.MountPoint
	for i, m := range rec.Mounts {
		dest := path.Clean(m.Destination)
		if (name == dest || strings.HasPrefix(name, dest+"/")) && m.Source != "" &&
			(found == nil || len(dest) > len(found.Destination)) {
			found = &rec.Mounts[i]
		}
	}
	if found != nil {
		return found, !found.RW
	}
	return nil, rec.HostConfig.ReadonlyRootfs
}

// notFoundIn says which path of which container is missing.
func notFoundIn(err error, c *ctr, name string) error {
	if errors.Is(err, runner.ErrNotFound) {
		return runner.Errorf(runner.ErrNotFound, "Could not find the file %s in container %s", name, c.id)
	}
	return err
}

// StatContainerPath implements runner/api's ContainerFiles.
func (e *Engine) StatContainerPath(ctx context.Context, ref, name string) (container.PathStat, error) {
	c, err := e.find(ref)
	if err != nil {
		return container.PathStat{}, err
	}
	t, err := e.openTree(ctx, c, name, false)
	if err != nil {
		return container.PathStat{}, err
	}
	defer t.close()
	stat, err := rootfs.Stat(t.root, t.within)
	return stat, notFoundIn(err, c, name)
}

// ReadContainerArchive implements runner/api's ContainerFiles.
func (e *Engine) ReadContainerArchive(ctx context.Context, ref, name string) (io.ReadCloser, container.PathStat, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	t, err := e.openTree(ctx, c, name, false)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	r, stat, err := t.users.Archive(t.root, t.within)
	if err != nil {
		t.close()
		return nil, stat, notFoundIn(err, c, name)
	}
	e.containerEvent(c, events.ActionArchivePath)
	return archiveReader{ReadCloser: r, then: t.close}, stat, nil
}

// archiveReader closes the tree with the archive.
type archiveReader struct {
	io.ReadCloser
	then func()
}

func (r archiveReader) Close() error {
	defer r.then()
	return r.ReadCloser.Close()
}

// WriteContainerArchive implements runner/api's ContainerFiles.
func (e *Engine) WriteContainerArchive(ctx context.Context, ref, dir string, opts runner.ArchiveOptions, r io.Reader) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	t, err := e.openTree(ctx, c, dir, true)
	if err != nil {
		return err
	}
	defer t.close()
	if t.readOnly {
		return runner.Errorf(runner.ErrForbidden, "container rootfs is marked read-only")
	}
	if err := t.users.Extract(t.root, t.within, opts, r); err != nil {
		return notFoundIn(err, c, dir)
	}
	e.containerEvent(c, events.ActionExtractToDir)
	return nil
}

// ContainerChanges implements runner/api's ContainerFiles.
func (e *Engine) ContainerChanges(_ context.Context, ref string) ([]container.FilesystemChange, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	rec, _ := c.snapshot()
	changes, err := rootfs.Changes(rec.Lower, e.store.Upper(rec.ID), mountedPaths(rec))
	if changes == nil {
		changes = []container.FilesystemChange{}
	}
	return changes, err
}

// mountedPaths are the places over which something is mounted in every
// container, and in this one: what lies there in the writable layer is only a
// mount point.
func mountedPaths(rec *runner.Container) []string {
	paths := []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
	if rec.HostConfig.Init != nil && *rec.HostConfig.Init {
		paths = append(paths, "/sbin/docker-init")
	}
	for _, m := range rec.Mounts {
		paths = append(paths, m.Destination)
	}
	for dest := range rec.HostConfig.Tmpfs {
		paths = append(paths, dest)
	}
	return paths
}

// ExportContainer implements runner/api's ContainerFiles.
func (e *Engine) ExportContainer(ctx context.Context, ref string, w io.Writer) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	rec, _ := c.snapshot()
	root, err := shim.OpenRootfs(e.readOnly(rec))
	if err != nil {
		return err
	}
	defer root.Close()
	e.containerEvent(c, events.ActionExport)
	return rootfs.Export(ctx, root, w)
}
