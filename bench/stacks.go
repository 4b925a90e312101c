package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/berth-registry/berth/deploy"
	"github.com/berth-registry/berth/deploy/api"
)

// shop is a stack of one service: the server of exchange, by the image tools, from
// this program. Its version is the name that the server has.
type shop struct {
	name     string
	port     int // of the host
	version  string
	replicas int
	monitor  time.Duration // for which its gate has to hold, after its port accepts
}

// gate is the monitor of stacks in works that time what comes beside it.
const gate = 500 * time.Millisecond

const shopText = `name: %s
services:
  web:
    image: %s
    command: [/bench, %s, %q]
    volumes: ["/usr:/usr:ro", %q]
    ports: ["%d:%s"]
    stop_grace_period: 10s
    deploy: {replicas: %d, update_config: {monitor: %s}}
`

// write writes the Compose file of the stack and returns its path.
func (s shop) write(b *bench) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, s.name+".yaml")
	text := fmt.Sprintf(shopText, s.name, b.images.tools(), helperServeName, s.version, self+":/bench:ro", s.port, exchangePort, s.replicas, s.monitor)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// addr is where the stack is reached from its host.
func (s shop) addr() string { return fmt.Sprint("127.0.0.1:", s.port) }

// berth returns a command line of berth-runner for an engine that is one.
func (b *bench) berth(ctx context.Context, e *engine, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.runner, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.socket, "DOCKER_CONFIG="+runDir)
	return cmd
}

// deploy has berth-runner deploy a stack.
func (b *bench) deploy(ctx context.Context, e *engine, s shop) error {
	path, err := s.write(b)
	if err != nil {
		return err
	}
	return runQuietly(b.berth(ctx, e, "deploy", "-f", path))
}

// startShopEngines starts engines that have the image of the stacks.
func (b *bench) startShopEngines(ctx context.Context, names ...string) ([]*engine, error) {
	r, err := b.startImages(ctx)
	if err != nil {
		return nil, err
	}
	engines := make([]*engine, len(names))
	for i, name := range names {
		if engines[i], err = b.startEngine(ctx, name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := engines[i].pull(ctx, r.tools()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return engines, nil
}

// stacks is a client for what berth-runner knows of stacks.
func (e *engine) stacks() *api.Client {
	var d net.Dialer
	return api.NewClient(func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", e.socket) })
}

// rests says whether a stack is not being deployed, and nothing of it runs but what
// has the traffic.
func rests(s deploy.Status) bool {
	if s.Deploying != 0 || s.Revision == 0 {
		return false
	}
	for _, svc := range s.Services {
		for _, c := range svc.Containers {
			if (c.State == "running") != (c.Weight > 0) {
				return false
			}
		}
	}
	return true
}

// await waits until there is what is asked for.
func await(ctx context.Context, pause time.Duration, what string, there func() (bool, error)) error {
	for limit := time.Now().Add(time.Minute); ; time.Sleep(pause) {
		ok, err := there()
		switch {
		case ok && err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(limit):
			return errors.Join(fmt.Errorf("within a minute there is not: %s", what), err)
		}
	}
}

// awaitRest waits until a stack rests.
func (e *engine) awaitRest(ctx context.Context, name string) error {
	c := e.stacks()
	defer c.Close()
	return await(ctx, 20*time.Millisecond, "a stack at rest", func() (bool, error) {
		s, err := c.Status(ctx, name)
		return rests(s), err
	})
}

// awaitVersion waits until a version answers those who connect.
func (s shop) awaitVersion(ctx context.Context, version string) error {
	return await(ctx, 2*time.Millisecond, "an answer of version "+version, func() (bool, error) {
		name, _, err := exchange(ctx, s.addr(), 0, nil)
		return name == version, err
	})
}
