package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// rollback measures the whole command that returns to the version before, whose
// containers are kept, stopped. Each leads back to the version of the one before it.
func rollback(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startShopEngines(ctx, nameRunner)
	if err != nil {
		return nil, err
	}
	e := engines[0]
	f := &figure{Name: "berth-runner rollback, containers kept and stopped", Unit: "s"}
	for i, replicas := range []int{1, 3} {
		s := shop{fmt.Sprint("shop", replicas), 7001 + i, "", replicas, gate}
		versions := []string{"v1", "v2"}
		for _, s.version = range versions {
			if err := b.deploy(ctx, e, s); err != nil {
				return nil, err
			}
		}
		of, now := plural(replicas, "replica"), 1
		measure := func() (float64, error) {
			var took []time.Duration
			for range b.moves {
				if err := e.awaitRest(ctx, s.name); err != nil {
					return 0, err
				}
				now = 1 - now
				start := time.Now()
				if err := runQuietly(b.berth(ctx, e, "rollback", s.name)); err != nil {
					return 0, err
				}
				took = append(took, time.Since(start))
				if name, _, err := exchange(ctx, s.addr(), 0, nil); err != nil || name != versions[now] {
					return 0, fmt.Errorf("after the rollback version %q answers, %w: want %s", name, err, versions[now])
				}
			}
			return quantile(took, 0.5).Seconds(), nil
		}
		if err := b.interleave(ctx, f, turn{of, e.server, measure}); err != nil {
			return nil, err
		}
		f.value(of, atMost(1))
	}
	return []*figure{f}, nil
}

// nameComposeTool is the program of docker compose.
const nameComposeTool = "docker-compose"

// nameCompose is what it does, with Docker.
const nameCompose = "docker compose up, with docker"

// updates counts the requests that fail while a service of one replica is updated
// several times: by berth-runner deploy, and by docker compose up as people do it who
// have nothing that deploys. The server goes on with what it was asked before it ends,
// and accepts connections as soon as it runs.
func updates(ctx context.Context, b *bench) ([]*figure, error) {
	engines, err := b.startShopEngines(ctx, nameRunner, nameDocker)
	if err != nil {
		return nil, err
	}
	compose, _ := lookup(nameComposeTool)
	runner, docker := shop{"berth", 7001, "v0", 1, gate}, shop{"docker", 7002, "v0", 1, gate}
	f := &figure{Name: fmt.Sprintf("requests that fail of %d clients while a service is updated %s", loadAskers, times(b.updates)), Unit: "requests"}
	serial := 0
	turns := []turn{
		{nameRunner, engines[0].server, func() (float64, error) {
			return b.failed(ctx, runner, &serial, func(s shop) error { return b.deploy(ctx, engines[0], s) })
		}},
		{nameCompose, engines[1].server, func() (float64, error) {
			return b.failed(ctx, docker, &serial, func(s shop) error {
				path, err := s.write(b)
				if err != nil {
					return err
				}
				cmd := exec.CommandContext(ctx, compose, "-f", path, "up", "--detach")
				cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+engines[1].socket, "DOCKER_CONFIG="+filepath.Join(runDir, "config"))
				return runQuietly(cmd)
			})
		}},
	}
	if err := b.interleave(ctx, f, turns...); err != nil {
		return nil, err
	}
	f.value(nameRunner, atMost(0))
	f.value(nameCompose, bound{})
	return []*figure{f}, nil
}

func times(n int) string { return plural(n, "time") }

// failed counts the requests that fail while a service is updated.
func (b *bench) failed(ctx context.Context, s shop, serial *int, update func(shop) error) (float64, error) {
	next := func() error {
		*serial++
		s.version = fmt.Sprint("v", *serial)
		if err := update(s); err != nil {
			return err
		}
		return s.awaitVersion(ctx, s.version)
	}
	if err := next(); err != nil {
		return 0, err
	}
	clients := startAsking(ctx, s.addr())
	for range b.updates {
		if err := next(); err != nil {
			clients.stop()
			return 0, err
		}
	}
	return clients.end()
}
