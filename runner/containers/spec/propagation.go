package spec

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// FindSourceOptions are the options of the mount that a path of this host is on
// which restrict what can be done there. The kernel gives them to a bind, but some
// runtimes take them away again where they are not asked for.
func FindSourceOptions(path string) []string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil // whoever mounts it will say why
	}
	return optionsOf(st.Flags)
}

// optionsOf names the flags of a mount that statfs(2) returns: they are those of
// mount(2).
func optionsOf(flags int64) (options []string) {
	for _, f := range []struct {
		flag   int64
		option string
	}{{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}} {
		if flags&f.flag != 0 {
			options = append(options, f.option)
		}
	}
	return options
}

// FindPropagation tells how the mount is shared that a path of this host is on.
func FindPropagation(path string) (Propagation, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Propagation{}, err
	}
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(target))
	if err != nil {
		return Propagation{}, err
	}
	if len(infos) == 0 {
		return Propagation{}, fmt.Errorf("cannot find the mount point of %s", path)
	}
	nearest := infos[0]
	for _, info := range infos {
		if len(info.Mountpoint) >= len(nearest.Mountpoint) { // the last of several hides the others
			nearest = info
		}
	}
	p := Propagation{MountPoint: nearest.Mountpoint}
	for option := range strings.FieldsSeq(nearest.Optional) {
		p.Shared = p.Shared || strings.HasPrefix(option, "shared:")
		p.Slave = p.Slave || strings.HasPrefix(option, "master:")
	}
	return p, nil
}
