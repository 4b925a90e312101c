package api

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// Engine is what the API serves. A container, an image or an exec is named by
// what the client gave: a name, a full ID, or the beginning of one that only one
// object has. Errors are of the kinds of package runner.
type Engine interface {
	Containers
	ContainerFiles
	ContainerStreams
	Execs
	Images
	ImageTransfers
	Networks
	Volumes
	Builder
	Statistics
	DiskUsages
	System
}

// Containers is the life of containers.
type Containers interface {
	CreateContainer(ctx context.Context, req runner.CreateRequest) (container.CreateResponse, error)
	// StartContainer returns runner.ErrNotModified if it runs already.
	StartContainer(ctx context.Context, ref string) error
	// StopContainer returns runner.ErrNotModified if it does not run.
	StopContainer(ctx context.Context, ref string, opts runner.StopOptions) error
	RestartContainer(ctx context.Context, ref string, opts runner.StopOptions) error
	// KillContainer says in its error only why: that it could not kill which
	// container is put before it here.
	KillContainer(ctx context.Context, ref, signal string) error
	PauseContainer(ctx context.Context, ref string) error
	UnpauseContainer(ctx context.Context, ref string) error
	RenameContainer(ctx context.Context, ref, name string) error
	UpdateContainer(ctx context.Context, ref string, update container.UpdateConfig) (container.UpdateResponse, error)
	RemoveContainer(ctx context.Context, ref string, opts runner.RemoveOptions) error
	// WaitContainer returns as soon as the waiter is registered; the channel
	// then gets one response.
	WaitContainer(ctx context.Context, ref string, until container.WaitCondition) (<-chan container.WaitResponse, error)
	InspectContainer(ctx context.Context, ref string, size bool) (container.InspectResponse, error)
	ListContainers(ctx context.Context, opts runner.ListOptions) ([]container.Summary, error)
	TopContainer(ctx context.Context, ref, psArgs string) (container.TopResponse, error)
	PruneContainers(ctx context.Context, filters runner.Filters) (container.PruneReport, error)
}

// ContainerFiles reads and writes the files of containers, running or not.
type ContainerFiles interface {
	ContainerChanges(ctx context.Context, ref string) ([]container.FilesystemChange, error)
	ExportContainer(ctx context.Context, ref string, w io.Writer) error
	StatContainerPath(ctx context.Context, ref, path string) (container.PathStat, error)
	// ReadContainerArchive returns a tar archive of what is at path.
	ReadContainerArchive(ctx context.Context, ref, path string) (io.ReadCloser, container.PathStat, error)
	// WriteContainerArchive unpacks a tar archive, compressed or not, into the
	// directory path.
	WriteContainerArchive(ctx context.Context, ref, path string, opts runner.ArchiveOptions, r io.Reader) error
	CommitContainer(ctx context.Context, req runner.CommitRequest) (imageID string, err error)
}

// ContainerStreams is what goes into and comes out of containers.
type ContainerStreams interface {
	AttachContainer(ctx context.Context, ref string, opts runner.AttachOptions) (runner.Stream, error)
	ContainerLogs(ctx context.Context, ref string, opts runner.LogOptions) (runner.Stream, error)
	// ResizeContainer returns runner.ErrConflict if it does not run.
	ResizeContainer(ctx context.Context, ref string, height, width uint16) error
}

// Execs are further processes of running containers.
type Execs interface {
	// CreateExec keeps the request for StartExec. Its DetachKeys are the bytes
	// themselves, as InspectExec gives them back; empty means the default.
	CreateExec(ctx context.Context, ref string, req container.ExecCreateRequest) (execID string, err error)
	// StartExec starts the process when the stream is copied, so that nothing
	// that it writes is lost.
	StartExec(ctx context.Context, execID string, req container.ExecStartRequest, stdin, stdout, stderr bool) (runner.Stream, error)
	// StartExecDetached returns when the process runs.
	StartExecDetached(ctx context.Context, execID string, req container.ExecStartRequest) error
	ResizeExec(ctx context.Context, execID string, height, width uint16) error
	InspectExec(ctx context.Context, execID string) (container.ExecInspectResponse, error)
}

// Images are the images of this host.
type Images interface {
	ListImages(ctx context.Context, opts runner.ImageListOptions) ([]image.Summary, error)
	InspectImage(ctx context.Context, ref, platform string, manifests bool) (image.InspectResponse, error)
	ImageHistory(ctx context.Context, ref, platform string) ([]image.HistoryResponseItem, error)
	TagImage(ctx context.Context, ref, repo, tag string) error
	RemoveImage(ctx context.Context, ref string, opts runner.ImageRemoveOptions) ([]image.DeleteResponse, error)
	PruneImages(ctx context.Context, filters runner.Filters) (image.PruneReport, error)
	SaveImages(ctx context.Context, refs []string, platforms []string, w io.Writer) error
	LoadImages(ctx context.Context, r io.Reader, quiet bool, progress runner.Progress) error
	ImportImage(ctx context.Context, req runner.ImportRequest, r io.Reader, progress runner.Progress) (imageID string, err error)
}

// ImageTransfers go to registries.
type ImageTransfers interface {
	PullImage(ctx context.Context, req runner.PullRequest, progress runner.Progress) error
	PushImage(ctx context.Context, req runner.PushRequest, progress runner.Progress) error
	SearchImages(ctx context.Context, req runner.SearchRequest) ([]registry.SearchResult, error)
	InspectDistribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error)
	// Login checks the credentials with their registry.
	Login(ctx context.Context, auth registry.AuthConfig) (registry.AuthResponse, error)
}

// Volumes outlive containers.
type Volumes interface {
	CreateVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error)
	ListVolumes(ctx context.Context, filters runner.Filters) (volume.ListResponse, error)
	InspectVolume(ctx context.Context, name string) (volume.Volume, error)
	RemoveVolume(ctx context.Context, name string, force bool) error
	PruneVolumes(ctx context.Context, filters runner.Filters) (volume.PruneReport, error)
}

// System is the engine itself.
type System interface {
	Info(ctx context.Context) (system.Info, error)
	Version(ctx context.Context) (system.VersionResponse, error)
	// Events yields what happened since, if not zero, and what happens from now
	// on, until until, or for ever if it is zero. The client is told that it will
	// hear of what happens when Events has returned.
	Events(ctx context.Context, since, until time.Time, filters runner.Filters) iter.Seq[events.Message]
}
