package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/images"
)

// tree is a container's file tree, open to be worked on.
type tree struct {
	root *os.File
	// within is the path in root of what the client named: the container's own,
	// or that in the volume or bind which it lies on.
	within   string
	readOnly bool
	close    func()
}

// openTree opens the tree that a path of a container lies on. Of a running
// container it is what its processes see. One that does not run keeps its turn
// until close, so that it does not start meanwhile.
func (e *Engine) openTree(ctx context.Context, c *ctr, name string) (tree, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return tree{}, err
	}
	rec, st := c.snapshot()
	if st.Running() {
		unlock()
		root, err := shim.OpenRunningRoot(st.PID)
		if err != nil {
			return tree{}, err
		}
		_, ro := mountOf(rec, name)
		return tree{root: root, within: name, readOnly: ro, close: func() { root.Close() }}, nil
	}
	t, err := e.openStopped(rec, name)
	if err != nil {
		unlock()
		return tree{}, err
	}
	t.close = func() { t.root.Close(); unlock() }
	return t, nil
}

func (e *Engine) openStopped(rec *runner.Container, name string) (tree, error) {
	m, ro := mountOf(rec, name)
	if m == nil {
		root, err := shim.OpenRootfs(e.rootfsOf(rec))
		return tree{root: root, within: name, readOnly: ro}, err
	}
	root, err := os.Open(m.Source)
	if err != nil {
		return tree{}, err
	}
	if info, err := root.Stat(); err != nil || !info.IsDir() {
		root.Close()
		return tree{}, runner.Errorf(runner.ErrInvalid, "%s is a file mounted from the host: start the container to copy it", m.Destination)
	}
	within := "/" + strings.TrimPrefix(path.Clean("/"+name), path.Clean(m.Destination))
	if strings.HasSuffix(name, "/.") {
		within += "/."
	}
	return tree{root: root, within: within, readOnly: ro}, nil
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
	t, err := e.openTree(ctx, c, name)
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
	t, err := e.openTree(ctx, c, name)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	r, stat, err := rootfs.Archive(t.root, t.within)
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
	t, err := e.openTree(ctx, c, dir)
	if err != nil {
		return err
	}
	defer t.close()
	if t.readOnly {
		return runner.Errorf(runner.ErrForbidden, "container rootfs is marked read-only")
	}
	if err := rootfs.Extract(t.root, t.within, opts, r); err != nil {
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

// CommitContainer implements runner/api's ContainerFiles.
func (e *Engine) CommitContainer(ctx context.Context, req runner.CommitRequest) (string, error) {
	c, unlock, err := e.findLocked(ctx, req.Container)
	if err != nil {
		return "", err
	}
	defer unlock()
	rec, st := c.snapshot()
	cfg := *rec.Config
	if req.Config != nil {
		cfg = *commitConfig(req.Config, rec.Config)
	}
	if err := images.ApplyChanges(&cfg, req.Changes); err != nil {
		return "", err
	}
	if req.Pause && st.Status == container.StateRunning {
		if err := e.shim.Pause(ctx, c.id); err != nil {
			return "", fmt.Errorf("pause the container: %w", err)
		}
		defer func() {
			if err := e.shim.Resume(context.WithoutCancel(ctx), c.id); err != nil {
				e.log.ErrorContext(ctx, "resume a container", "container", c.id, "error", err)
			}
		}()
	}
	id, err := e.images.Commit(ctx, images.Commit{
		Base:        rec.ImageID,
		Upper:       e.store.Upper(rec.ID),
		Lower:       rec.Lower,
		Skip:        mountedPaths(rec),
		Repo:        req.Repo,
		Tag:         req.Tag,
		Author:      req.Author,
		Comment:     req.Comment,
		Config:      &cfg,
		ContainerID: rec.ID,
		Command:     append([]string{rec.Path}, rec.Args...),
	})
	if err != nil {
		return "", err
	}
	e.containerEvent(c, events.ActionCommit, "comment", req.Comment, "imageID", id, "imageRef", req.Repo)
	return id, nil
}
