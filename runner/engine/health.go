package engine

import (
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// What a health check has unless it says otherwise, as in Docker.
const (
	probeInterval      = 30 * time.Second
	probeTimeout       = 30 * time.Second
	probeStartInterval = 5 * time.Second
	probeRetries       = 3

	probesKept = 5 // results that an inspection shows
)

// watchHealth runs the container's health check until its run r ends.
func (e *Engine) watchHealth(c *ctr, r *run) {
	rec, st := c.snapshot()
	cmd := probeCommand(rec.Config)
	if cmd == nil || r == nil {
		return
	}
	cfg := rec.Config.Healthcheck
	e.work.run(func() {
		ctx := e.lifetime()
		for {
			timer := time.NewTimer(nextProbe(cfg, time.Since(st.StartedAt), healthStatus(c.healthOf())))
			select {
			case <-timer.C:
			case <-r.ended:
			case <-ctx.Done():
			}
			timer.Stop()
			if isClosed(r.ended) || ctx.Err() != nil {
				return
			}
			// A frozen container answers when it is thawed; what was asked while it
			// froze says nothing.
			paused, pauses := c.pauses(r)
			if paused {
				continue
			}
			result := e.probe(ctx, c, r, cmd, orDefault(cfg.Timeout, probeTimeout))
			if result.ExitCode != 0 { // whoever is pausing it has its turn
				unlock, err := c.lock(ctx)
				if err != nil {
					return
				}
				unlock()
			}
			if _, now := c.pauses(r); now != pauses {
				continue
			}
			e.recordProbe(c, r, cfg, st.StartedAt, result)
		}
	})
}

// nextProbe is how long a container that has run for so long waits for its next
// check: not past the end of its start period, from which on failures count.
func nextProbe(cfg *container.HealthConfig, ran time.Duration, status container.HealthStatus) time.Duration {
	wait := orDefault(cfg.Interval, probeInterval)
	left := cfg.StartPeriod - ran
	if left <= 0 {
		return wait
	}
	if status == container.Starting {
		wait = min(wait, orDefault(cfg.StartInterval, probeStartInterval))
	}
	return min(wait, left)
}

// probeCommand is what the check runs, or nil if there is none.
func probeCommand(cfg *container.Config) []string {
	if cfg.Healthcheck == nil || len(cfg.Healthcheck.Test) < 2 {
		return nil
	}
	test := cfg.Healthcheck.Test
	switch test[0] {
	case "CMD":
		return test[1:]
	case "CMD-SHELL":
		shell := cfg.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		return slices.Concat(shell, test[1:])
	default: // NONE
		return nil
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// recordProbe draws the conclusion from a check of the run r, and tells of it if
// it is new.
func (e *Engine) recordProbe(c *ctr, r *run, cfg *container.HealthConfig, startedAt time.Time, result *container.HealthcheckResult) {
	c.mu.Lock()
	if c.run != r { // it has ended meanwhile: another may go on
		c.mu.Unlock()
		return
	}
	before := c.health.Status
	next := conclude(*c.health, cfg, result.Start.Sub(startedAt), result)
	c.health = &next // who looks at the old one must not see it change
	c.mu.Unlock()
	if next.Status != before {
		e.containerEvent(c, events.Action(string(events.ActionHealthStatus)+": "+string(next.Status)))
	}
}

// conclude returns a container's health after one more check, which began when
// the container had run for so long. Until the first success, failures within the
// start period do not count.
func conclude(h container.Health, cfg *container.HealthConfig, ran time.Duration, result *container.HealthcheckResult) container.Health {
	h.Log = append(slices.Clone(h.Log), result)
	h.Log = h.Log[max(0, len(h.Log)-probesKept):]
	switch {
	case result.ExitCode == 0:
		h.Status, h.FailingStreak = container.Healthy, 0
	case h.Status == container.Starting && ran < cfg.StartPeriod:
	default:
		h.FailingStreak++
		retries := cfg.Retries
		if retries == 0 {
			retries = probeRetries
		}
		if h.FailingStreak >= retries {
			h.Status = container.Unhealthy
		}
	}
	return h
}

// healthOf is what an inspection shows of a container's checks, or nil if it has
// none.
func (c *ctr) healthOf() *container.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.health == nil {
		return nil
	}
	h := *c.health
	if h.Log == nil {
		h.Log = []*container.HealthcheckResult{}
	}
	return &h
}

// pauses says whether the container is paused, and how often it was in its run r.
func (c *ctr) pauses(r *run) (paused bool, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Status != container.StateRunning, r.pauses
}

// notePause counts a pause of the run that goes on.
func (c *ctr) notePause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.run != nil {
		c.run.pauses++
	}
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
