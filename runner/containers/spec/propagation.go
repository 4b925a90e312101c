package spec

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
)

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
