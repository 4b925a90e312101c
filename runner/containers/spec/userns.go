package spec

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// UserNamespace is the user namespace of a container. The zero value is the
// host's.
type UserNamespace struct {
	// Path is that of another container's, to be joined: /proc/PID/ns/user. Empty
	// is a new one.
	Path string
	// UIDs and GIDs are its maps: which users and groups of the host the
	// container's are.
	UIDs, GIDs []specs.LinuxIDMapping
}

// Own says whether it is another than the host's.
func (u UserNamespace) Own() bool { return len(u.UIDs) > 0 }

// FindUserNamespace returns the user namespace that a process is in.
func FindUserNamespace(pid int) (UserNamespace, error) {
	u := UserNamespace{Path: fmt.Sprintf("/proc/%d/ns/user", pid)}
	own, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return UserNamespace{}, err
	}
	other, err := os.Stat(u.Path)
	if err != nil {
		return UserNamespace{}, err
	}
	if os.SameFile(own, other) {
		return UserNamespace{}, nil
	}
	if u.UIDs, err = readIDMap(fmt.Sprintf("/proc/%d/uid_map", pid)); err != nil {
		return UserNamespace{}, err
	}
	u.GIDs, err = readIDMap(fmt.Sprintf("/proc/%d/gid_map", pid))
	return u, err
}

func readIDMap(path string) ([]specs.LinuxIDMapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var maps []specs.LinuxIDMapping
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var m specs.LinuxIDMapping
		if _, err := fmt.Sscan(scan.Text(), &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// Remapped says whether a container gets a user namespace of its own.
func Remapped(h Host, hc *container.HostConfig) bool {
	return h.Remap && !hc.UsernsMode.IsHost()
}

// checkUserns refuses what needs the host's users.
func checkUserns(h Host, hc *container.HostConfig) error {
	switch {
	case !Remapped(h, hc):
	case hc.Privileged:
		return invalid("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
	case hc.NetworkMode.IsHost():
		return invalid("cannot share the host's network namespace when user namespaces are enabled")
	case hc.PidMode.IsHost():
		return invalid("cannot share the host PID namespace when user namespaces are enabled")
	}
	return nil
}

// userNamespace adapts a specification to the user namespace of its container.
func userNamespace(in Input, s *specs.Spec) {
	if !in.User.Own() {
		return
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: in.User.Path})
	s.Linux.UIDMappings, s.Linux.GIDMappings = in.User.UIDs, in.User.GIDs
	if _, asked := in.Container.HostConfig.Sysctls[pingGroups]; !asked {
		delete(s.Linux.Sysctl, pingGroups) // its default names groups that are not mapped
	}
	if in.Container.HostConfig.IpcMode.IsHost() { // of the host's queues a user namespace has no file system
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
	}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		switch {
		case m.Type == "cgroup": // a user namespace cannot mount it read-only
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "ro" })
		case m.Type == "bind" && ownFiles(in, *m):
			m.UIDMappings, m.GIDMappings = in.User.UIDs, in.User.GIDs
		}
	}
}

// ownFiles says whether a mount is of files of the engine, which are on disk as
// the container sees them. What else is mounted belongs to users of the host.
func ownFiles(in Input, m specs.Mount) bool {
	files := []string{in.Files.Hosts, in.Files.Hostname, in.Files.ResolvConf}
	if slices.Contains(files, m.Source) {
		return true
	}
	return in.IsVolume != nil && slices.ContainsFunc(in.Container.Mounts, func(p container.MountPoint) bool {
		return p.Destination == m.Destination && strings.HasPrefix(m.Source, p.Source) && in.IsVolume(p)
	})
}
