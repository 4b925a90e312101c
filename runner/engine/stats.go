package engine

import (
	"context"
	"iter"

	"github.com/moby/moby/api/types/container"

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
	target, runs := e.statsTarget(c)
	if !opts.Stream && (!runs || opts.OneShot) {
		var sample container.StatsResponse
		if s, err := e.stats.Read(target); runs && err == nil {
			sample = *s
		}
		return func(yield func(*container.StatsResponse) bool) { yield(named(sample)) }, nil
	}
	return func(yield func(*container.StatsResponse) bool) {
		reader := e.stats.Watch(c.id, func() (stats.Target, bool) { return e.statsTarget(c) })
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
	t := stats.Target{Cgroup: spec.CgroupsPath(e.cgroupParent(), rec)}
	if !rec.HostConfig.NetworkMode.IsHost() {
		t.PID = st.PID
	}
	return t, true
}
