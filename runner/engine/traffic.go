package engine

import (
	"context"

	apinetwork "github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// SetTraffic implements deploy's Traffic. It returns runner.ErrNotFound for a backend
// that is no container.
func (e *Engine) SetTraffic(_ context.Context, owner string, services []runner.Service) (map[string]apinetwork.PortMap, error) {
	for _, s := range services {
		for _, b := range s.Backends {
			e.mu.RLock()
			c := e.containers[b.Container]
			e.mu.RUnlock()
			if c == nil {
				return nil, noSuchContainer(b.Container)
			}
		}
	}
	return e.network.SetServices(owner, services)
}

// Traffic implements deploy's Traffic.
func (e *Engine) Traffic(_ context.Context, owner string) ([]runner.Service, error) {
	return e.network.Services(owner), nil
}

// Connections implements deploy's Traffic.
func (e *Engine) Connections(_ context.Context, containerID string) (int, error) {
	return e.network.Connections(containerID)
}

// leaveTraffic takes a container that is being removed out of the traffic: before
// its record goes, so that none is left there that nobody knows of.
func (e *Engine) leaveTraffic(ctx context.Context, id string) {
	if err := e.network.Forget(id); err != nil {
		e.log.ErrorContext(ctx, "take a removed container out of the traffic", "container", id, "error", err)
	}
}

// ProbeContainer implements deploy's Containers. A check that does not end in time
// has the exit code -1.
func (e *Engine) ProbeContainer(ctx context.Context, ref string) (exitCode int, output string, err error) {
	c, err := e.find(ref)
	if err != nil {
		return 0, "", err
	}
	rec, st := c.snapshot()
	cmd := probeCommand(rec.Config)
	if cmd == nil {
		return 0, "", runner.Errorf(runner.ErrNotFound, "container %s has no health check", c.id)
	}
	r := c.currentRun()
	if r == nil || !st.Running() {
		return 0, "", runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	timeout := orDefault(rec.Config.Healthcheck.Timeout, probeTimeout)
	result := e.probe(ctx, c, r, cmd, timeout)
	switch {
	case ctx.Err() != nil:
		return 0, "", ctx.Err()
	case isClosed(r.ended):
		return 0, "", runner.Errorf(runner.ErrConflict, "container %s is not running", c.id)
	}
	return result.ExitCode, result.Output, nil
}
