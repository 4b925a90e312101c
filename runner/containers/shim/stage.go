package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// shmPath is where a container has its shared memory.
const shmPath = "/dev/shm"

// idmapOption asks for a bind that is mapped by the container's user namespace.
const idmapOption = "idmap"

// staged is a mount of a container that the runtime cannot make by itself: it is
// made in the monitor's mount namespace, and the runtime binds that.
type staged struct {
	at     string   // below staging
	mount  *os.File // detached; nil for a new bind
	source string
	rbind  bool
	mapped bool // by the container's user namespace
}

// staging is where mounts are staged: in each monitor's mount namespace that needs
// it a tmpfs is mounted there.
func (s *Shim) staging() string { return filepath.Join(s.mounts(), "staging") }

// idMaps are those of the container's own user namespace.
func (req CreateRequest) idMaps() IDMaps {
	return IDMaps{UIDs: req.Spec.Linux.UIDMappings, GIDs: req.Spec.Linux.GIDMappings}
}

// stagedMounts returns the mounts of the container as the runtime is to make them,
// and what is to be staged for that. In a user namespace all binds are: paths of
// the host may be closed to its root, and runtimes that map a mount are few.
func (s *Shim) stagedMounts(req CreateRequest) (mounts []specs.Mount, stage []staged) {
	mapped := !req.idMaps().None()
	mounts = slices.Clone(req.Spec.Mounts)
	for i := range mounts {
		m := &mounts[i]
		if m.Type != "bind" {
			continue
		}
		st := staged{at: filepath.Join(s.staging(), strconv.Itoa(i)), source: m.Source}
		switch {
		case req.Shm != nil && m.Source == req.Shm.Name():
			st.mount = req.Shm
		case req.Mounts[m.Destination] != nil:
			st.mount, st.mapped = req.Mounts[m.Destination], mapped && len(m.UIDMappings) > 0
		case mapped:
			st.rbind, st.mapped = slices.Contains(m.Options, "rbind"), len(m.UIDMappings) > 0 || slices.Contains(m.Options, idmapOption)
		default:
			continue
		}
		m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == idmapOption })
		m.Source, m.UIDMappings, m.GIDMappings = st.at, nil, nil
		stage = append(stage, st)
	}
	return mounts, stage
}

// mountAll mounts the container's file tree and what is staged, in the mount
// namespace of the calling thread.
func (s *Shim) mountAll(req CreateRequest) error {
	maps := req.idMaps()
	_, stage := s.stagedMounts(req)
	if maps.None() && len(stage) == 0 {
		return req.Rootfs.mount(s.rootfs())
	}
	if err := unix.Mount("berth", s.staging(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", s.staging(), err)
	}
	if maps.None() {
		return s.stageAll(req, stage, nil)
	}
	ns, err := s.users.get(maps)
	if err != nil {
		return err
	}
	return s.stageAll(req, stage, ns)
}

// stageAll mounts the tree and all that is staged, mapped by ns if that is not nil.
func (s *Shim) stageAll(req CreateRequest, stage []staged, ns *os.File) error {
	for _, st := range stage {
		if err := st.attach(ns); err != nil {
			return err
		}
	}
	if ns == nil {
		return req.Rootfs.mount(s.rootfs())
	}
	lower, upper := filepath.Join(s.staging(), "lower"), filepath.Join(s.staging(), "upper")
	for _, dir := range []string{lower, upper} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	return req.Rootfs.mountMapped(s.rootfs(), lower, upper, ns)
}

// attach makes the mount at its place.
func (st staged) attach(ns *os.File) error {
	if st.mount != nil {
		return st.attachMount(ns)
	}
	info, err := os.Stat(st.source)
	if err != nil {
		return runner.Errorf(runner.ErrInvalid, "error mounting %q: %w", st.source, err)
	}
	if err := makePlace(st.at, info.IsDir()); err != nil {
		return err
	}
	if st.mapped {
		return idmapped(st.source, st.at, ns)
	}
	flags := uintptr(unix.MS_BIND)
	if st.rbind {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(st.source, st.at, "", flags, ""); err != nil {
		return fmt.Errorf("bind %s: %w", st.source, err)
	}
	return nil
}

// attachMount attaches a mount that was made before.
func (st staged) attachMount(ns *os.File) error {
	info, err := st.mount.Stat()
	if err != nil {
		return err
	}
	if err := makePlace(st.at, info.IsDir()); err != nil {
		return err
	}
	if st.mapped {
		if err := mapMount(int(st.mount.Fd()), st.source, ns); err != nil {
			return err
		}
	}
	return attach(int(st.mount.Fd()), st.at)
}

// makePlace makes what a directory or a file can be mounted on.
func makePlace(path string, dir bool) error {
	if dir {
		return os.Mkdir(path, 0o700)
	}
	return os.WriteFile(path, nil, 0o600)
}

func noShm() error {
	return runner.Errorf(runner.ErrNotFound, "there is no shared memory at %s", shmPath)
}

// OpenShm returns a copy of the mount at /dev/shm of a running process, attached
// nowhere, for another container to have too: CreateRequest.Shm. It is the memory
// itself, which lives as long as one of the mounts. It fails with
// runner.ErrNotFound if the process has no such mount.
func OpenShm(pid int) (*os.File, error) {
	var mount *os.File
	err := onThread(func() error {
		root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return runner.Errorf(runner.ErrConflict, "process %d has ended: %w", pid, err)
		}
		defer unix.Close(root)
		// A mount can be copied only by who is in its namespace.
		if err := joinMounts(pid); err != nil {
			return err
		}
		// What the container may have put in its place is not followed.
		dir, err := unix.Openat2(root, shmPath[1:], &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
		})
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return noShm()
		case err != nil:
			return &os.PathError{Op: "open", Path: shmPath, Err: err}
		}
		defer unix.Close(dir)
		var fs unix.Statfs_t
		if err := unix.Fstatfs(dir, &fs); err != nil {
			return err
		}
		if fs.Type != unix.TMPFS_MAGIC {
			return noShm()
		}
		fd, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("open_tree", err)
		}
		mount = os.NewFile(uintptr(fd), fmt.Sprintf("/proc/%d/root%s", pid, shmPath))
		return nil
	})
	return mount, err
}
