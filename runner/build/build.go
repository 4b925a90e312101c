package build

import (
	"context"
	"net"

	"github.com/moby/buildkit/client"
	apibuild "github.com/moby/moby/api/types/build"

	"github.com/berth-registry/berth/runner"
)

// Builder builds images. Its methods may be called concurrently.
type Builder struct{}

// Control serves BuildKit's gRPC services on a connection until it or ctx ends:
// the control API, sessions over it, the gateway and health.
func (b *Builder) Control(ctx context.Context, conn net.Conn) error {
	return runner.Errorf(runner.ErrNotImplemented, "building is not there yet")
}

// Session serves builds with what a client has, until the connection or ctx ends.
// meta are the headers of the request, with the session's ID and name and the
// methods that the client serves.
func (b *Builder) Session(ctx context.Context, conn net.Conn, proto string, meta map[string][]string) error {
	return runner.Errorf(runner.ErrNotImplemented, "building is not there yet")
}

// Build makes an image. progress hears what goes on, one call after the other and
// never after Build has returned.
func (b *Builder) Build(ctx context.Context, req runner.BuildRequest, progress func(*client.SolveStatus)) (runner.BuildResult, error) {
	return runner.BuildResult{}, runner.Errorf(runner.ErrNotImplemented, "building is not there yet")
}

// Cancel ends the build of an ID. Its error is runner.ErrNotFound.
func (b *Builder) Cancel(id string) error {
	return runner.Errorf(runner.ErrNotFound, "no build with ID %s", id)
}

// Prune removes what of the cache is not in use.
func (b *Builder) Prune(ctx context.Context, opts runner.BuildPruneOptions) (apibuild.CachePruneReport, error) {
	return apibuild.CachePruneReport{}, nil
}

// DiskUsage lists what the cache is made of.
func (b *Builder) DiskUsage(ctx context.Context) ([]apibuild.CacheRecord, error) { return nil, nil }
