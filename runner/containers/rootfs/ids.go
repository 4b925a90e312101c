package rootfs

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// IDs are the maps of the user namespace that a tree belongs to: those who own its
// files for this process are others in archives. The zero value is no namespace.
type IDs struct{ UIDs, GIDs []specs.LinuxIDMapping }

// nobody stands for a user or a group that is not in the namespace, as in the
// kernel.
const nobody = 65534

// inside is who an owner is inside of the namespace.
func (ids IDs) inside(o Owner) Owner {
	return Owner{insideID(ids.UIDs, o.UID), insideID(ids.GIDs, o.GID)}
}

func insideID(maps []specs.LinuxIDMapping, id int) int {
	for _, m := range maps {
		if n := id - int(m.HostID); n >= 0 && n < int(m.Size) {
			return n + int(m.ContainerID)
		}
	}
	if len(maps) > 0 {
		return nobody
	}
	return id
}

// outside is who an owner inside of the namespace is for this process.
func (ids IDs) outside(o Owner) (Owner, error) {
	uid, ok1 := outsideID(ids.UIDs, o.UID)
	gid, ok2 := outsideID(ids.GIDs, o.GID)
	if !ok1 || !ok2 {
		return o, runner.Errorf(runner.ErrInvalid, "owner %d:%d is not in the container's user namespace", o.UID, o.GID)
	}
	return Owner{uid, gid}, nil
}

func outsideID(maps []specs.LinuxIDMapping, id int) (int, bool) {
	for _, m := range maps {
		if n := id - int(m.ContainerID); n >= 0 && n < int(m.Size) {
			return n + int(m.HostID), true
		}
	}
	return id, len(maps) == 0
}
