package deploy

import (
	"context"
	"iter"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"

	"github.com/berth-registry/berth/runner"
)

// Engine is what is needed of the engine that runs containers. Errors are of the
// kinds of package runner.
type Engine interface {
	Containers
	Traffic

	PullImage(ctx context.Context, req runner.PullRequest, progress runner.Progress) error
	InspectImage(ctx context.Context, ref, platform string, manifests bool) (image.InspectResponse, error)

	CreateNetwork(ctx context.Context, req network.CreateRequest) (network.CreateResponse, error)
	InspectNetwork(ctx context.Context, ref string) (network.Inspect, error)
	ListNetworks(ctx context.Context, filters runner.Filters) ([]network.Inspect, error)
	RemoveNetwork(ctx context.Context, ref string) error
	CreateVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error)
	InspectVolume(ctx context.Context, name string) (volume.Volume, error)
	ListVolumes(ctx context.Context, filters runner.Filters) (volume.ListResponse, error)
	RemoveVolume(ctx context.Context, name string, force bool) error

	Events(ctx context.Context, since, until time.Time, filters runner.Filters) iter.Seq[events.Message]
}

// Containers is what is needed of containers.
type Containers interface {
	CreateContainer(ctx context.Context, req runner.CreateRequest) (container.CreateResponse, error)
	StartContainer(ctx context.Context, ref string) error
	StopContainer(ctx context.Context, ref string, opts runner.StopOptions) error
	RemoveContainer(ctx context.Context, ref string, opts runner.RemoveOptions) error
	InspectContainer(ctx context.Context, ref string, size bool) (container.InspectResponse, error)
	ListContainers(ctx context.Context, opts runner.ListOptions) ([]container.Summary, error)
	ContainerLogs(ctx context.Context, ref string, opts runner.LogOptions) (runner.Stream, error)
	WaitContainer(ctx context.Context, ref string, until container.WaitCondition) (<-chan container.WaitResponse, error)
	// ProbeContainer runs the health check of a running container once, now, without
	// waiting for its interval; its states go on as if it had not. It returns
	// runner.ErrNotFound if it has none, and otherwise what the check answered.
	ProbeContainer(ctx context.Context, ref string) (exitCode int, output string, err error)
}

// Traffic is where published ports and names of services lead. What it is told is on
// disk and in force when it returns, for all services of an owner in one transaction;
// what it was told before stays in force until then, over restarts too.
type Traffic interface {
	// SetTraffic replaces what an owner has; an empty list lets go of all. It returns
	// the host's ports that each service was given, and fails with runner.ErrConflict
	// if one is taken, leaving all as it was.
	SetTraffic(ctx context.Context, owner string, services []runner.Service) (map[string]network.PortMap, error)
	// Traffic returns what an owner has, in the order in which it was set.
	Traffic(ctx context.Context, owner string) ([]runner.Service, error)
	// Connections counts the established connections that lead to a container by
	// published ports.
	Connections(ctx context.Context, containerID string) (int, error)
}
