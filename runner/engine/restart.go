package engine

import (
	"context"
	"errors"
	"strconv"
	"strings"
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
	return c.nextDelay(), true
}

// nextDelay is the one before the next try. The caller holds mu.
func (c *ctr) nextDelay() time.Duration {
	delay := min(firstRetry<<min(c.tries, 16), lastRetry)
	c.tries++
	return delay
}

// retry starts a container again after a while, unless somebody stops or starts
// it before.
func (e *Engine) retry(c *ctr, delay time.Duration) {
	ctx := c.beginRetry(e.lifetime())
	e.work.run(func() { e.tryAgain(ctx, c, delay) })
}

// othersPatience bounds the wait for containers that are started before: each
// might wait for the other.
const othersPatience = 30 * time.Second

// retryAll starts containers with the engine, each after those that it needs.
func (e *Engine) retryAll(all []*ctr) {
	tried := map[*ctr]chan struct{}{}
	for _, c := range all {
		tried[c] = make(chan struct{})
	}
	for _, c := range all {
		ctx, others := c.beginRetry(e.lifetime()), e.needs(c)
		e.work.run(func() {
			defer close(tried[c])
			patience, enough := context.WithTimeout(ctx, othersPatience)
			defer enough()
			for _, other := range others {
				select {
				case <-tried[other]:
				case <-patience.Done():
				}
			}
			e.tryAgain(ctx, c, 0)
		})
	}
}

// needs returns the containers whose namespaces a container joins, or that it is
// linked to, as far as they are started with it.
func (e *Engine) needs(c *ctr) []*ctr {
	rec, _ := c.snapshot()
	hc := rec.HostConfig
	refs := []string{hc.NetworkMode.ConnectedContainer(), hc.PidMode.Container(), hc.IpcMode.Container()}
	for _, link := range hc.Links {
		name, _, _ := strings.Cut(link, ":")
		refs = append(refs, name)
	}
	var found []*ctr
	for _, ref := range refs {
		other, err := e.find(ref)
		if err != nil || other == c {
			continue
		}
		if _, st := other.snapshot(); st.Status == container.StateRestarting {
			found = append(found, other)
		}
	}
	return found
}

// beginRetry returns a context that ends when the wait for the next try does.
func (c *ctr) beginRetry(lifetime context.Context) context.Context {
	ctx, cancel := context.WithCancel(lifetime)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = cancel
	return ctx
}

// tryAgain starts a container that is restarting, after a while.
func (e *Engine) tryAgain(ctx context.Context, c *ctr, delay time.Duration) {
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
	c.cancelRetry()
	if err := e.startOrRemove(context.WithoutCancel(ctx), c); err != nil {
		e.log.WarnContext(ctx, "restart a container", "container", c.id, "error", err)
		if errors.Is(err, runner.ErrUnavailable) && e.startsLater(c) {
			return
		}
		c.notify()
	}
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
