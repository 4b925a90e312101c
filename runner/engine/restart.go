package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers/shim"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
	steadyRun  = 10 * time.Second // after a run that long the delays start anew
)

// retryAfter says whether a restart policy wants another run after an exit, and
// after how long: 100 ms, doubled with each start in a row up to a minute.
func (c *ctr) retryAfter(p container.RestartPolicy, st runner.State, x shim.Exit) (time.Duration, bool) {
	if st.StoppedByUser {
		return 0, false
	}
	switch p.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
	case container.RestartPolicyOnFailure:
		if x.Code == 0 || p.MaximumRetryCount > 0 && st.RestartCount >= p.MaximumRetryCount {
			return 0, false
		}
	default:
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.At.Sub(st.StartedAt) > steadyRun {
		c.tries = 0
	}
	delay := min(firstRetry<<min(c.tries, 16), lastRetry)
	c.tries++
	return delay, true
}

// retry starts a container again after a while, unless somebody stops or starts
// it before.
func (e *Engine) retry(c *ctr, delay time.Duration) {
	ctx, cancel := context.WithCancel(e.lifetime())
	c.mu.Lock()
	c.stopping = cancel
	c.mu.Unlock()
	e.work.run(func() {
		defer cancel()
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		unlock, err := c.lock(ctx)
		if err != nil {
			return
		}
		defer unlock()
		if _, st := c.snapshot(); ctx.Err() != nil || st.Status != container.StateRestarting {
			return
		}
		if err := e.startOrRemove(context.WithoutCancel(ctx), c); err != nil {
			e.log.WarnContext(ctx, "restart a container", "container", c.id, "error", err)
			c.notify()
		}
	})
}

// cancelRetry ends the wait for the next try, if there is one.
func (c *ctr) cancelRetry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping != nil {
		c.stopping()
		c.stopping = nil
	}
}

func dieAttributes(st runner.State, x shim.Exit) []string {
	return []string{
		"exitCode", strconv.Itoa(x.Code),
		"execDuration", strconv.Itoa(int(x.At.Sub(st.StartedAt).Seconds())),
	}
}
