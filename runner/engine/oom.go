package engine

import (
	"context"

	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

// ranOutOfMemory records that the kernel has killed in a container for want of
// memory while its first process lives on.
func (e *Engine) ranOutOfMemory(ctx context.Context, id string) {
	c, unlock, err := e.findLocked(ctx, id)
	if err != nil {
		return // it is gone, or told by the next engine
	}
	defer unlock()
	if !c.newKills(e.shim.OOMKills(id)) {
		return
	}
	if _, st := c.snapshot(); !st.OOMKilled {
		st.OOMKilled = true
		if err := e.change(c, st); err != nil {
			e.log.ErrorContext(ctx, "save that a container ran out of memory", "container", id, "error", err)
		}
	}
	e.containerEvent(c, events.ActionOOM)
}

// newKills says whether the count of processes of this run that the kernel has
// killed for want of memory is more than was told.
func (c *ctr) newKills(count int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run == nil || count <= c.run.kills {
		return false
	}
	c.run.kills = count
	return true
}

// recountKills tells of what the kernel has killed while no engine was there, in a
// container that is taken over.
func (e *Engine) recountKills(ctx context.Context, c *ctr, st runner.State) {
	if st.OOMKilled {
		c.newKills(e.shim.OOMKills(c.id)) // the engine before has told
		return
	}
	e.ranOutOfMemory(ctx, c.id)
}
