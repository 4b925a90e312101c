package engine

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	buildclient "github.com/moby/buildkit/client"
	apibuild "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/build"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// lazyBuilder opens the builder when it is first used.
type lazyBuilder struct {
	mu     sync.Mutex
	b      *build.Builder
	closed bool
}

// builder returns the builder, which is there from now on.
func (e *Engine) builder(ctx context.Context) (*build.Builder, error) {
	e.building.mu.Lock()
	defer e.building.mu.Unlock()
	if e.building.closed {
		return nil, runner.Errorf(runner.ErrUnavailable, "the runner is stopping")
	}
	if e.building.b == nil {
		o := e.buildOptions()
		o.Gateway = e.network.HostGateway() // which is not there yet when leftovers are swept
		b, err := build.Open(context.WithoutCancel(ctx), o)
		if err != nil {
			return nil, err
		}
		e.building.b = b
	}
	return e.building.b, nil
}

// cached returns the builder if there is one, or a cache for one.
func (e *Engine) cached(ctx context.Context) (*build.Builder, error) {
	e.building.mu.Lock()
	open := e.building.b != nil
	e.building.mu.Unlock()
	if _, err := os.Stat(e.buildRoot()); !open && errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing was ever built
	}
	return e.builder(ctx)
}

func (e *Engine) closeBuilder() error {
	e.building.mu.Lock()
	defer e.building.mu.Unlock()
	e.building.closed = true
	if e.building.b == nil {
		return nil
	}
	return e.building.b.Close()
}

// sharedTrees are the layers of the image store that the build cache has. If they
// cannot be told, the cache, of which they may go, is begun anew.
func (e *Engine) sharedTrees() ([]string, error) {
	list, err := build.Links(e.buildRoot())
	if err != nil {
		e.log.Error("the build cache cannot be read", "error", err)
	}
	return list, nil
}

// sweepBuilds clears what the builds of a runner that was killed have left. What
// cannot be cleared keeps no container from being run.
func (e *Engine) sweepBuilds(ctx context.Context) {
	if err := build.Sweep(ctx, e.buildOptions()); err != nil {
		e.log.ErrorContext(ctx, "clear what builds have left", "error", err)
	}
}

func (e *Engine) buildRoot() string { return filepath.Join(e.opts.Data, "build") }

func (e *Engine) buildOptions() build.Options {
	o := build.Options{
		Root: e.buildRoot(), Run: filepath.Join(e.opts.Run, "build"), Temp: e.opts.TempDir(),
		Runtime:      e.opts.Runtimes[e.opts.Runtime].Path,
		Images:       buildImages{e.images},
		Hosts:        e.registryHosts,
		Name:         e.registryName,
		MayUse:       e.mayBuildOn,
		Network:      buildNetwork{e},
		CgroupParent: e.cgroupParent(),
		MaxSize:      e.opts.BuildCacheSize,
		Log:          e.log,
	}
	if o.Runtime == "" {
		o.Runtime = e.opts.Runtime
	}
	if o.Runtime == "" {
		o.Runtime, _ = e.shim.Runtime()
	}
	if e.host.AppArmor {
		o.AppArmor = spec.DefaultAppArmor
	}
	return o
}

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
	b, err := e.cached(ctx)
	if err != nil {
		return err
	}
	if b == nil {
		return runner.Errorf(runner.ErrNotFound, "no build with ID %s is under way", id)
	}
	return b.Cancel(id)
}

// PruneBuildCache implements runner/api's Builder.
func (e *Engine) PruneBuildCache(ctx context.Context, opts runner.BuildPruneOptions) (apibuild.CachePruneReport, error) {
	b, err := e.cached(ctx)
	if err != nil || b == nil {
		return apibuild.CachePruneReport{}, err
	}
	report, err := b.Prune(ctx, opts)
	if err == nil {
		e.events.publish(events.Message{
			Type: events.BuilderEventType, Action: events.ActionPrune,
			Actor: events.Actor{Attributes: map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)}},
		})
	}
	return report, err
}

// BuildCache implements runner/api's Builder.
func (e *Engine) BuildCache(ctx context.Context) ([]apibuild.CacheRecord, error) {
	b, err := e.cached(ctx)
	if err != nil || b == nil {
		return nil, err
	}
	return b.DiskUsage(ctx)
}
