package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// defaultShmSize is the size of /dev/shm, in bytes, unless --shm-size says
// another.
const defaultShmSize = 64 << 20

// defaultMounts are what every container has.
func defaultMounts(shmSize int64) []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shmSize, 10)},
		},
	}
}

// mounts lists the mounts of a container, in the order in which they are made,
// and how its root is shared.
func mounts(in Input, security securityOptions) (list []specs.Mount, rootfs string, err error) {
	hc := in.Container.HostConfig
	own, rootfs, err := userMounts(in)
	if err != nil {
		return nil, "", err
	}
	taken := func(destination string) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool { return m.Destination == destination })
	}
	for _, m := range defaultMounts(shmSize(hc)) {
		switch {
		case taken(m.Destination), taken("/dev") && strings.HasPrefix(m.Destination, "/dev/"):
			continue
		case m.Destination == "/dev/shm" && hc.IpcMode.IsNone():
			continue
		case m.Destination == "/sys" && hc.Privileged, m.Type == "cgroup" && (hc.Privileged || security.writableCgroups):
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		}
		list = append(list, m)
	}
	list = append(list, own...)
	if withInit(hc) {
		list = append(list, specs.Mount{Destination: initPath, Type: "bind", Source: in.Files.Init, Options: []string{"bind", "ro"}})
	}
	return list, rootfs, nil
}

func shmSize(hc *container.HostConfig) int64 {
	if hc.ShmSize == 0 {
		return defaultShmSize
	}
	return hc.ShmSize
}

// userMounts are the mounts of one container: binds, volumes, tmpfs and the
// files that the engine makes, those nearer to the root first.
func userMounts(in Input) (list []specs.Mount, rootfs string, err error) {
	c := in.Container
	for _, m := range c.Mounts {
		made, share, err := userMount(in, m)
		if err != nil {
			return nil, "", err
		}
		if share == "shared" || rootfs == "" {
			rootfs = share
		}
		list = append(list, made)
	}
	for destination, options := range c.HostConfig.Tmpfs {
		m, err := tmpfsMount(destination, options)
		if err != nil {
			return nil, "", err
		}
		list = slices.DeleteFunc(list, func(other specs.Mount) bool { return other.Destination == m.Destination })
		list = append(list, m)
	}
	for _, m := range fileMounts(in) {
		if !slices.ContainsFunc(list, func(other specs.Mount) bool { return other.Destination == m.Destination }) {
			list = append(list, m)
		}
	}
	if m, ok, err := shmMount(in); err != nil {
		return nil, "", err
	} else if ok && !slices.ContainsFunc(list, func(other specs.Mount) bool { return other.Destination == m.Destination }) {
		list = append(list, m)
	}
	slices.SortStableFunc(list, func(a, b specs.Mount) int {
		return cmp.Or(cmp.Compare(depth(a.Destination), depth(b.Destination)), cmp.Compare(a.Destination, b.Destination))
	})
	return list, rootfs, nil
}

// depth is how far below the root a path is.
func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// fileMounts are the files that the engine writes for a container.
func fileMounts(in Input) []specs.Mount {
	var list []specs.Mount
	for _, f := range []struct{ destination, source string }{
		{"/etc/resolv.conf", in.Files.ResolvConf}, {"/etc/hostname", in.Files.Hostname}, {"/etc/hosts", in.Files.Hosts},
	} {
		if f.source == "" {
			continue
		}
		options := []string{"rbind", "rprivate"}
		if in.Container.HostConfig.ReadonlyRootfs {
			options = append(options, "ro")
		}
		list = append(list, specs.Mount{Destination: f.destination, Type: "bind", Source: f.source, Options: options})
	}
	return list
}

// shmMount is /dev/shm of a container that shares it.
func shmMount(in Input) (m specs.Mount, ok bool, err error) {
	mode, source := in.Container.HostConfig.IpcMode, in.Files.Shm
	switch {
	case mode.IsHost() && source == "":
		source = "/dev/shm"
	case mode.IsContainer() && source == "":
		return m, false, runner.Errorf(runner.ErrInvalid, "can't join IPC of container %s: non-shareable IPC", mode.Container())
	case source == "", !mode.IsHost() && !mode.IsContainer() && !mode.IsShareable():
		return m, false, nil
	}
	return specs.Mount{Destination: "/dev/shm", Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}}, true, nil
}

// userMount makes a mount of a mount point, and says how the root must be shared
// for it.
func userMount(in Input, m container.MountPoint) (made specs.Mount, rootfs string, err error) {
	asked := Asked(in.Container, m.Destination)
	if m.Type == mount.TypeTmpfs {
		options, err := tmpfsOptions(asked.TmpfsOptions, !m.RW)
		if err != nil {
			return made, "", runner.Errorf(runner.ErrInvalid, "%w", err)
		}
		made, err = tmpfsMount(m.Destination, options)
		return made, "", err
	}
	if rootfs, err = rootPropagation(in, m); err != nil {
		return made, "", err
	}
	bind := &mount.BindOptions{}
	if asked.BindOptions != nil {
		bind = asked.BindOptions
	}
	options := []string{"rbind"}
	if bind.NonRecursive {
		options = []string{"bind"}
	}
	switch {
	case m.RW:
	case in.IsFile != nil && in.IsFile(m.Source):
		// Nothing is mounted below a file, and crun takes rro for directories only.
		options = append(options, "ro")
	case in.Host.RecursiveReadOnly && !bind.ReadOnlyNonRecursive && !bind.NonRecursive:
		options = append(options, "rro")
	case bind.ReadOnlyForceRecursive:
		return made, "", runner.Errorf(runner.ErrInvalid, "the kernel cannot make the mount %s recursively read-only", m.Destination)
	default:
		options = append(options, "ro")
	}
	if in.SourceOptions != nil {
		for _, o := range in.SourceOptions(m.Source) {
			if o != "ro" || m.RW {
				options = append(options, o)
			}
		}
	}
	propagation := m.Propagation
	if propagation == "" {
		propagation = mount.PropagationRPrivate
	}
	if bind.NonRecursive {
		// There is nothing below to share, and crun takes the r for that of rbind.
		propagation = mount.Propagation(strings.TrimPrefix(string(propagation), "r"))
	}
	options = append(options, string(propagation))
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options}, rootfs, nil
}

// rootPropagation says how the root of a container has to be shared so that a
// mount of it can be, and checks that its source is.
func rootPropagation(in Input, m container.MountPoint) (string, error) {
	switch m.Propagation {
	case mount.PropagationShared, mount.PropagationRShared, mount.PropagationSlave, mount.PropagationRSlave:
	default:
		return "", nil
	}
	if in.Propagation == nil {
		return "", fmt.Errorf("how %s is mounted is not known", m.Source)
	}
	p, err := in.Propagation(m.Source)
	if err != nil {
		return "", runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	if m.Propagation == mount.PropagationShared || m.Propagation == mount.PropagationRShared {
		if !p.Shared {
			return "", runner.Errorf(runner.ErrInvalid, "path %s is mounted on %s but it is not a shared mount", m.Source, p.MountPoint)
		}
		return "shared", nil
	}
	if !p.Shared && !p.Slave {
		return "", runner.Errorf(runner.ErrInvalid, "path %s is mounted on %s but it is not a shared or slave mount", m.Source, p.MountPoint)
	}
	return "rslave", nil
}
