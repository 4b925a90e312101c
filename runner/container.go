package runner

import (
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Container is the record of a container: what was asked for and what was made
// of it at create. It is on disk before create is acknowledged, and changes only
// by rename and update.
type Container struct {
	ID       string // 64 hexadecimal digits
	Name     string // without a slash
	Created  time.Time
	Path     string   // the command
	Args     []string // and its arguments
	ImageID  string   // digest of the image's configuration, "sha256:…"
	Manifest *ocispec.Descriptor
	Platform string // operating system

	// Config is the container's with what the image adds to it.
	Config     *container.Config
	HostConfig *container.HostConfig
	// Networks is what was asked for, by the name of the network.
	Networks map[string]*network.EndpointSettings
	// Mounts are binds, volumes and images, their sources made out. The Name of an
	// image's is the image's ID.
	Mounts []container.MountPoint
	// Inherited is what was asked of the mounts that --volumes-from has brought.
	Inherited []mount.Mount
	// Lower are the directories of the image's layers, the topmost first.
	Lower []string
}

// State is where a container is in its life, and what is left of the runs
// before. It is on disk before the API acknowledges what changed it.
type State struct {
	Status       container.ContainerState
	PID          int // of the first process; 0 unless running or paused
	MonitorPID   int
	ExitCode     int
	OOMKilled    bool
	Error        string // why the last start failed
	StartedAt    time.Time
	FinishedAt   time.Time
	RestartCount int
	// StoppedByUser says that the end was asked for: a restart policy heeds it.
	StoppedByUser bool
	// Networks is what the network gave to this run, by the name of the network.
	Networks map[string]*network.EndpointSettings
	// Ports are the published ports of this run.
	Ports network.PortMap
}

// Running says whether the container has processes.
func (s State) Running() bool {
	return s.Status == container.StateRunning || s.Status == container.StatePaused
}

// CreateRequest asks for a container.
type CreateRequest struct {
	Name     string // empty: one is made up
	Platform string // as os[/arch[/variant]], or empty for the host's
	container.CreateRequest
}

// StopOptions say how a container is asked to end. A nil Timeout and an empty
// Signal mean the container's own, or ten seconds and SIGTERM.
type StopOptions struct {
	Signal  string
	Timeout *int // seconds until SIGKILL; negative waits for ever
}

// RemoveOptions say how a container is removed.
type RemoveOptions struct {
	Force   bool // kill it first if it runs
	Volumes bool // with its anonymous volumes
	Link    bool // remove a link, not the container
}

// ListOptions choose among containers.
type ListOptions struct {
	All     bool // also those that do not run
	Limit   int  // only the newest, running or not; 0 is no limit
	Size    bool // with the sizes of their files
	Filters Filters
}

// LogOptions choose among the lines of a container's log.
type LogOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Timestamps     bool
	Details        bool      // with the attributes that --log-opt labels and env name
	Since, Until   time.Time // zero: no bound
	Tail           int       // last lines only; negative: all
}

// AttachOptions say which streams of a container an attachment carries.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Logs                  bool // what was written before, first
	Stream                bool // what is written from now on
	DetachKeys            string
}

// ArchiveOptions say how an archive is unpacked into a container.
type ArchiveOptions struct {
	// NoOverwriteDirNonDir refuses to replace a directory by a file or a file by
	// a directory.
	NoOverwriteDirNonDir bool
	CopyUIDGID           bool // owners are those of the archive, not the container's user
}

// CommitRequest asks for an image of a container's files.
type CommitRequest struct {
	Container string
	Repo, Tag string
	Author    string
	Comment   string
	Pause     bool     // while its files are read
	Changes   []string // instructions of a Dockerfile
	Config    *container.Config
}
