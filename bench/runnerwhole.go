package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// withAll is how figures call containers that have all that a container can have
// for long: a user network, a volume of their own, a health check and limits.
const withAll = "with user network, volume, health check and limits"

// wholeNetwork is the network that such containers share.
const wholeNetwork = "whole"

// Limits that no container of the works comes near.
const (
	wholeMemory = 64 * mb
	wholeCPUs   = 1
	wholePIDs   = 100
)

// wholeContainer is newContainer with all of it.
func (b *bench) wholeContainer(command ...string) container {
	c := newContainer(b.smallImage(), command...)
	c.Volumes = map[string]struct{}{"/data": {}}
	c.Healthcheck = &healthcheck{Test: []string{"CMD", "true"}, Interval: b.checkEvery}
	c.HostConfig = hostConfig{NetworkMode: wholeNetwork, Memory: wholeMemory, NanoCPUs: wholeCPUs * 1e9, PidsLimit: wholePIDs}
	return c
}

// wholeArgs are those of docker run for the same.
func (b *bench) wholeArgs(command ...string) []string {
	return append([]string{
		"run", "--rm", "--network", wholeNetwork, "--volume", "/data",
		"--health-cmd", "true", "--health-interval", b.checkEvery.String(),
		"--memory", fmt.Sprint(wholeMemory), "--cpus", fmt.Sprint(wholeCPUs), "--pids-limit", fmt.Sprint(wholePIDs), b.smallImage(),
	}, command...)
}

// createNetwork creates the network of such containers.
func (e *engine) createNetwork(ctx context.Context) error {
	return e.call(ctx, http.MethodPost, "/networks/create", map[string]any{"Name": wholeNetwork, "Driver": "bridge"}, nil)
}

// startWhole starts engines that have the image small, and the network. podman,
// which would write the network's configuration to the machine's /etc, does without:
// its health checks are left to a systemd that the host does not have, too.
func (b *bench) startWhole(ctx context.Context, names ...string) ([]*engine, error) {
	engines, err := b.startEngines(ctx, names...)
	if err != nil {
		return nil, err
	}
	for _, e := range engines {
		if e.name == namePodman {
			continue
		}
		if err := e.createNetwork(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return engines, nil
}

// healthy waits until the check of n containers has succeeded.
func (e *engine) healthy(ctx context.Context, n int) error {
	path := runningPath + "?" + url.Values{"filters": {`{"health":["healthy"]}`}}.Encode()
	for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := e.list(ctx, path, n)
		if err == nil || ctx.Err() != nil || time.Now().After(limit) {
			return err
		}
	}
}
