package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// protectNull makes the host's /dev/null read-only in the mount namespace of the
// calling thread: what is written to it goes nowhere as before, but crun cannot
// give it to the user of a container, nor that user change its mode for everyone.
// Mounts below /dev go no way back to the host then.
func protectNull() error {
	err := unix.Mount("", filepath.Dir(os.DevNull), "", unix.MS_SLAVE, "")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("", "/", "", unix.MS_SLAVE, "") // there are but the root's devices
	}
	if err != nil {
		return fmt.Errorf("make /dev a slave: %w", err)
	}
	return bindReadOnly(os.DevNull, os.DevNull)
}

// ownPipes gives the pipes among the files of a process to the user of a
// container's process: it may open its standard streams by their names only as
// their owner. Runtimes do that by halves: crun not for an exec in a user
// namespace, runc for none there.
func ownPipes(pid int, files []string, u specs.User, maps IDMaps) error {
	uid, gid := hostID(maps.UIDs, u.UID), hostID(maps.GIDs, u.GID)
	for _, name := range files {
		path := fmt.Sprintf("/proc/%d/fd/%s", pid, name)
		info, err := os.Stat(path)
		if err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
			err = os.Chown(path, uid, gid)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended, or closed the file
			return fmt.Errorf("own the streams: %w", err)
		}
	}
	return nil
}

// hostID is a container's user or group on the host.
func hostID(maps []specs.LinuxIDMapping, id uint32) int {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID))
		}
	}
	return int(id)
}

// standardStreams are the names of a process's first files.
func standardStreams() []string { return []string{"0", "1", "2"} }

// openFiles are the names of all files of a process.
func openFiles(pid int) ([]string, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, err
}
