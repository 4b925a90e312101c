package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
	"github.com/berth-registry/berth/runner/stats"
)

// ContainerStats implements runner/api's Statistics.
func (e *Engine) ContainerStats(ctx context.Context, ref string, opts runner.StatsOptions) (iter.Seq[*container.StatsResponse], error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	named := func(s container.StatsResponse) *container.StatsResponse {
		rec, _ := c.snapshot() // its name may change meanwhile
		s.ID, s.Name = rec.ID, "/"+rec.Name
		return &s
	}
	if _, st := c.snapshot(); !opts.Stream && (!st.Running() || opts.OneShot) {
		var sample container.StatsResponse
		switch s, err := e.readStats(c); {
		case err != nil:
			return nil, err
		case s != nil:
			sample = *s
		}
		return func(yield func(*container.StatsResponse) bool) { yield(named(sample)) }, nil
	}
	return func(yield func(*container.StatsResponse) bool) {
		reader := e.stats.Watch(c.id, stats.Subject{
			Find:   func() (stats.Target, bool) { return e.statsTarget(c) },
			Failed: func(err error) { _ = e.statsFailed(c, err) },
		})
		defer reader.Close()
		before := container.StatsResponse{}
		for first := true; ; first = false {
			var sample *container.StatsResponse
			select {
			case sample = <-reader.C:
			case <-c.removed:
			case <-ctx.Done():
			}
			if sample == nil {
				return
			}
			one := named(*sample)
			one.PreRead, one.PreCPUStats = before.Read, before.CPUStats
			before = *sample
			if first && !opts.Stream {
				continue // shares of a processor are computed of two
			}
			if !yield(one) || !opts.Stream {
				return
			}
		}
	}, nil
}

// statsTarget is what is sampled of a container, or false if it does not run. The
// interfaces of the host are nobody's.
func (e *Engine) statsTarget(c *ctr) (stats.Target, bool) {
	rec, st := c.snapshot()
	if !st.Running() {
		return stats.Target{}, false
	}
	t := stats.Target{Cgroup: spec.CgroupsPath(e.cgroupParent(), rec), Limits: &rec.HostConfig.Resources}
	if !rec.HostConfig.NetworkMode.IsHost() {
		t.PID = st.PID
	}
	return t, true
}

// readStats samples a container once. It returns nil if the container does not run.
func (e *Engine) readStats(c *ctr) (*container.StatsResponse, error) {
	target, runs := e.statsTarget(c)
	if !runs {
		return nil, nil //nolint:nilnil // there is nothing to sample, and nothing failed
	}
	sample, err := e.stats.Read(target)
	if err != nil {
		return nil, e.statsFailed(c, err)
	}
	return sample, nil
}

// statsFailed logs why a container could not be sampled, each cause once. It
// returns no error if that is only because the container has just ended.
func (e *Engine) statsFailed(c *ctr, err error) error {
	if _, st := c.snapshot(); errors.Is(err, stats.ErrGone) && (!st.Running() || unix.Kill(st.PID, 0) != nil) {
		return nil //nolint:nilerr // no sample of it is what there is
	}
	c.mu.Lock()
	cause := err.Error()
	told := c.unsampled[cause]
	if c.unsampled == nil {
		c.unsampled = map[string]bool{}
	}
	c.unsampled[cause] = true
	c.mu.Unlock()
	if !told {
		e.log.Error("sample a container", "container", c.id, "error", err)
	}
	return fmt.Errorf("statistics of container %s: %w", c.id, err)
}
