package engine

import (
	"context"
	"net"

	buildclient "github.com/moby/buildkit/client"
	apibuild "github.com/moby/moby/api/types/build"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/build"
)

func (e *Engine) builder(context.Context) (*build.Builder, error) { return &build.Builder{}, nil }

// BuildControl implements runner/api's Builder.
func (e *Engine) BuildControl(ctx context.Context, conn net.Conn) error {
	b, err := e.builder(ctx)
	if err != nil {
		return err
	}
	return b.Control(ctx, conn)
}

// BuildSession implements runner/api's Builder.
func (e *Engine) BuildSession(ctx context.Context, conn net.Conn, proto string, meta map[string][]string) error {
	b, err := e.builder(ctx)
	if err != nil {
		return err
	}
	return b.Session(ctx, conn, proto, meta)
}

// Build implements runner/api's Builder.
func (e *Engine) Build(ctx context.Context, req runner.BuildRequest, progress func(*buildclient.SolveStatus)) (runner.BuildResult, error) {
	b, err := e.builder(ctx)
	if err != nil {
		return runner.BuildResult{}, err
	}
	return b.Build(ctx, req, progress)
}

// CancelBuild implements runner/api's Builder.
func (e *Engine) CancelBuild(ctx context.Context, id string) error {
	b, err := e.builder(ctx)
	if err != nil {
		return err
	}
	return b.Cancel(id)
}

// PruneBuildCache implements runner/api's Builder.
func (e *Engine) PruneBuildCache(ctx context.Context, opts runner.BuildPruneOptions) (apibuild.CachePruneReport, error) {
	b, err := e.builder(ctx)
	if err != nil {
		return apibuild.CachePruneReport{}, err
	}
	return b.Prune(ctx, opts)
}

// BuildCache implements runner/api's Builder.
func (e *Engine) BuildCache(ctx context.Context) ([]apibuild.CacheRecord, error) {
	b, err := e.builder(ctx)
	if err != nil {
		return nil, err
	}
	return b.DiskUsage(ctx)
}
