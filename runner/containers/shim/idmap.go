package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// IDMaps say which users and groups of the host those of a container are that has
// a user namespace of its own. None means the host's.
type IDMaps struct{ UIDs, GIDs []specs.LinuxIDMapping }

// None says that users and groups are those of the host.
func (m IDMaps) None() bool { return len(m.UIDs) == 0 }

// hostRoot is what the host's root is on disk below an idmapped mount: a number
// that no file has. What overlayfs makes in its own name, such as whiteouts, is
// root's.
const hostRoot = 1<<32 - 3

// namespace makes a user namespace with the maps, which mounts are mapped by. It
// lives as long as the file is open.
func (m IDMaps) namespace() (ns *os.File, err error) {
	err = onThread(func() error {
		ns, err = m.makeNamespace()
		return err
	})
	return ns, err
}

// makeNamespace starts a process that is in the namespace and stops before its
// first instruction. The calling thread traces it.
func (m IDMaps) makeNamespace() (*os.File, error) {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"berth-userns"}, &syscall.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: sysMaps(m.UIDs), GidMappings: sysMaps(m.GIDs), GidMappingsEnableSetgroups: true,
			Ptrace: true, Pdeathsig: syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	return ns, errors.Join(err, endTraced(pid))
}

func sysMaps(maps []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, 0, len(maps)+1)
	for _, m := range maps {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return append(out, syscall.SysProcIDMap{ContainerID: hostRoot, HostID: 0, Size: 1})
}

func endTraced(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) || err == nil && status.Stopped() {
			continue
		}
		return err
	}
}

// idmapped attaches at target, which has to be there, the directory or file source
// as users and groups of the host see it that the namespace maps to those on disk.
func idmapped(source, target string, ns *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(fd)
	if err := mapMount(fd, source, ns); err != nil {
		return err
	}
	return attach(fd, target)
}

// mapMount maps the users of a detached mount.
func mapMount(fd int, source string, ns *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("the file system of %s cannot map users: %w", source, &os.PathError{Op: "mount_setattr", Path: source, Err: err})
	}
	return nil
}

// attach attaches a detached mount.
func attach(fd int, target string) error {
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// CanMap returns an error if the file system of a directory does not let its
// users be mapped, which Linux does since 5.12, and for overlayfs since 5.19.
func CanMap(dir string, m IDMaps) error {
	ns, err := m.namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	return onThread(func() error {
		if err := privateMounts(); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return idmapped(dir, dir, ns)
	})
}

// mountMapped is mount for a container with a user namespace of its own: what is
// on disk belongs to the container's users, and the tree to what they are on the
// host. It needs two directories to mount the layers on meanwhile.
func (r Rootfs) mountMapped(target, lowerAt, upperAt string, ns *os.File) error {
	mapped := r
	base := commonDir(r.Lower)
	if err := idmapped(base, lowerAt, ns); err != nil {
		return err
	}
	mapped.Lower = make([]string, len(r.Lower))
	for i, dir := range r.Lower {
		mapped.Lower[i] = moved(dir, base, lowerAt)
	}
	if !r.ReadOnly {
		above := filepath.Dir(r.Upper)
		if filepath.Dir(r.Work) != above {
			return runner.Errorf(runner.ErrInvalid, "directories %q and %q of a file tree are not in one", r.Upper, r.Work)
		}
		if err := idmapped(above, upperAt, ns); err != nil {
			return err
		}
		mapped.Upper, mapped.Work = moved(r.Upper, above, upperAt), moved(r.Work, above, upperAt)
	}
	if err := mapped.mount(target); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// overlayfs has mounts of its own of them.
	err := unix.Unmount(lowerAt, unix.MNT_DETACH)
	if !r.ReadOnly {
		err = errors.Join(err, unix.Unmount(upperAt, unix.MNT_DETACH))
	}
	return err
}

// moved is the path of what is at path below from, below to.
func moved(path, from, to string) string {
	rel, err := filepath.Rel(from, path)
	if err != nil { // both are absolute
		return path
	}
	return filepath.Join(to, rel)
}

// namespaces are the user namespaces that mounts are mapped by, one for all
// containers with the same maps.
type namespaces struct {
	mu     sync.Mutex
	byMaps map[string]*os.File
}

func (n *namespaces) get(m IDMaps) (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	key := fmt.Sprint(m)
	if ns := n.byMaps[key]; ns != nil {
		return ns, nil
	}
	ns, err := m.namespace()
	if err != nil {
		return nil, err
	}
	if n.byMaps == nil {
		n.byMaps = map[string]*os.File{}
	}
	n.byMaps[key] = ns
	return ns, nil
}

func (n *namespaces) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ns := range n.byMaps {
		_ = ns.Close()
	}
	n.byMaps = nil
}
