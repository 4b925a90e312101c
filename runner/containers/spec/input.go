package spec

import (
	"io"

	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// Input is what a container's specification is made of.
type Input struct {
	Host      Host
	Container *runner.Container
	Files     Files

	// CgroupsPath is where the container's cgroups are below the root of each
	// hierarchy; see CgroupsPath.
	CgroupsPath string
	// NetNSPath is the container's network namespace. Empty with a network mode
	// other than host and container means a new, empty one.
	NetNSPath string
	// User is the container's user namespace.
	User UserNamespace
	// JoinPID, JoinNet and JoinIPC are the namespaces of the container that a mode
	// container:NAME names: /proc/PID/ns/pid.
	JoinPID, JoinNet, JoinIPC string

	// Passwd and Group read the files of the image. One that is missing may be an
	// error or nil.
	Passwd, Group func() (io.ReadCloser, error)
	// Device finds the device at a path of the host, or those in the directory
	// there; FindDevices does.
	Device func(path string) ([]specs.LinuxDevice, error)
	// Propagation tells how the mount is shared that a path of the host is on;
	// FindPropagation does.
	Propagation func(path string) (Propagation, error)
	// IsVolume says whether a mount point is a volume whose files the engine keeps,
	// so that their users are the container's.
	IsVolume func(m container.MountPoint) bool
	// SourceOptions are those by which what a path of the host is on is mounted
	// there, as far as a bind of it is to have them too; FindSourceOptions does.
	SourceOptions func(path string) []string
	// IsFile says whether a path of the host is something other than a directory.
	IsFile func(path string) bool
}

// Files are paths of the host that become files of the container. What is empty
// is not mounted.
type Files struct {
	Hosts, Hostname, ResolvConf string // at their places in /etc
	Init                        string // docker-init, for --init
	// Shm is the host's directory behind /dev/shm of a container that shares it:
	// needed to join another one's IPC, possible for a shareable one, and the
	// host's own /dev/shm by default with the host's IPC.
	Shm string
}

// Propagation says how the mount that a path is on is shared.
type Propagation struct {
	MountPoint    string
	Shared, Slave bool
}
