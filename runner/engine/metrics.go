package engine

import (
	"context"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/spec"
)

// ContainerUsage is what the metrics of a container are made of.
type ContainerUsage struct {
	Container *runner.Container // not to be changed
	State     runner.State
	Health    container.HealthStatus
	Cgroup    string // path below the root of each hierarchy
	OOMs      uint64 // times that the kernel killed for want of memory, since the engine started
	// Sample is nil if the container does not run, or could not be sampled.
	Sample *container.StatsResponse
	// OwnNetwork says that the interfaces of the sample are no other container's.
	OwnNetwork bool
}

// Usage samples all containers, as often as it is asked. Those for which there is
// no time before ctx is done come without a sample.
func (e *Engine) Usage(ctx context.Context) []ContainerUsage {
	all := e.all()
	list := make([]ContainerUsage, 0, len(all))
	for _, c := range all {
		rec, st := c.snapshot()
		u := ContainerUsage{
			Container: rec, State: st,
			Health:     healthStatus(c.healthOf()),
			Cgroup:     spec.CgroupsPath(e.cgroupParent(), rec),
			OOMs:       c.oomCount(),
			OwnNetwork: hasOwnNetwork(rec),
		}
		if ctx.Err() == nil {
			u.Sample, _ = e.readStats(c) // why it failed is logged
		}
		list = append(list, u)
	}
	return list
}

// ImageUsage returns how many images there are, and the bytes of their layers.
func (e *Engine) ImageUsage() (images int, bytes int64) {
	bytes, shared := e.images.Usage()
	return len(shared), bytes
}

// EventCounts counts the events since the engine started.
func (e *Engine) EventCounts() map[EventKind]uint64 { return e.events.counted() }

func (c *ctr) oomCount() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ooms
}

func (c *ctr) countOOM() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ooms++
}
