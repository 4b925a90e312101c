package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/rootfs"
	"github.com/berth-registry/berth/runner/containers/shim"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/network"
)

// findUsers makes out which users of the host those of containers are.
func (e *Engine) findUsers() (err error) {
	if e.opts.UsernsRemap == "" {
		return nil
	}
	if e.userns, err = spec.FindRemap(e.opts.UsernsRemap); err != nil {
		return fmt.Errorf("userns_remap: %w", err)
	}
	if err := shim.CanMap(e.opts.Data, shim.IDMaps{UIDs: e.userns.UIDs, GIDs: e.userns.GIDs}); err != nil {
		return fmt.Errorf("userns_remap: %w", err)
	}
	return e.openToOthers()
}

// openToOthers returns an error if the trees of containers are in a directory that
// is closed to their root, which is one of the others.
func (e *Engine) openToOthers() error {
	for dir := filepath.Dir(e.opts.Run); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&1 == 0 {
			return fmt.Errorf("userns_remap: root of containers cannot get through %s to the run directory: chmod o+x it, or choose another with --run", dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

// remapped says whether a container has a user namespace of its own.
func (e *Engine) remapped(rec *runner.Container) bool {
	return spec.Remapped(e.specHost(), rec.HostConfig)
}

// userNamespace returns the user namespace for the next run of a container. That
// which other namespaces belong to has to be joined with them.
func (e *Engine) userNamespace(rec *runner.Container) (spec.UserNamespace, error) {
	if !e.remapped(rec) {
		return spec.UserNamespace{}, nil
	}
	hc, users, from := rec.HostConfig, e.userns, ""
	for _, ref := range []string{hc.PidMode.Container(), hc.IpcMode.Container(), hc.NetworkMode.ConnectedContainer()} {
		if ref == "" {
			continue
		}
		c, err := e.find(ref)
		if err != nil {
			return users, err
		}
		_, st := c.snapshot()
		other, err := spec.FindUserNamespace(st.PID)
		switch {
		case err != nil:
			return users, runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
		case !other.Own():
			return users, runner.Errorf(runner.ErrInvalid, "cannot join the namespaces of container %s: it has the host's users, which needs --userns host", c.id)
		case from != "" && from != c.id:
			return users, runner.Errorf(runner.ErrInvalid, "cannot join the namespaces of containers %s and %s: each has a user namespace of its own", from, c.id)
		}
		users, from = other, c.id
	}
	return users, nil
}

// ownNetNS opens the network namespace that a container's process has made, if it
// has one. One with a user namespace of its own makes it, as it would have no say
// in another.
func ownNetNS(rec *runner.Container, pid int) (*os.File, error) {
	if !hasOwnNetwork(rec) {
		return nil, nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	if err := network.SetUpNetNS(ns); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// usersOf returns the maps of the users of a running container.
func usersOf(pid int) (rootfs.IDs, error) {
	users, err := spec.FindUserNamespace(pid)
	return rootfs.IDs{UIDs: users.UIDs, GIDs: users.GIDs}, err
}

// isVolume says whether a mount is of a volume that is nothing but a directory of
// ours.
func (e *Engine) isVolume(m container.MountPoint) bool {
	if m.Type != mount.TypeVolume {
		return false
	}
	v, err := e.volumes.Get(e.lifetime(), m.Name)
	return err == nil && len(v.Options) == 0
}

// joinIPC adds the IPC namespace and the shared memory of another container.
func (e *Engine) joinIPC(rec *runner.Container, in *input) (err error) {
	ref := rec.HostConfig.IpcMode.Container()
	if ref == "" {
		return nil
	}
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	if in.JoinIPC, err = e.namespaceOf(ref, "ipc", "IPC"); err != nil {
		return err
	}
	donor, st := c.snapshot()
	mode := donor.HostConfig.IpcMode
	switch {
	case mode.IsHost():
		in.Files.Shm = "/dev/shm"
		return nil
	case !mode.IsShareable() && !mode.IsContainer():
		err = runner.ErrNotFound
	default:
		in.shm, err = shim.OpenShm(st.PID)
	}
	if errors.Is(err, runner.ErrNotFound) {
		return runner.Errorf(runner.ErrInvalid,
			"failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", c.id)
	}
	if err != nil {
		return err
	}
	in.Files.Shm = in.shm.Name()
	return nil
}
