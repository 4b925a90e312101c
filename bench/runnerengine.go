package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The names of the engines in figures.
const (
	nameRunner = "berth-runner"
	nameDocker = "docker"
	namePodman = "podman"
)

// runnerNote says what the figures of the runner have in common.
const runnerNote = "Each engine runs with its default configuration on a fresh host of its own (namespaces for processes, network, mounts and cgroups); what is short is done 20 times in each run, of which the median is taken.\n"

// runDir is of the host of their own, and in memory as /run is.
const runDir = "/run/bench"

// engine is a container engine that serves Docker's API.
type engine struct {
	*server

	socket string
	http   *http.Client
}

// startEngine starts one of the engines with no image and no container, and with
// more arguments.
func (b *bench) startEngine(ctx context.Context, name string, more ...string) (*engine, error) {
	e := &engine{server: &server{name: name, dir: filepath.Join(b.dir, name)}, socket: filepath.Join(runDir, name+".sock")}
	var d net.Dialer
	e.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", e.socket)
	}, MaxIdleConnsPerHost: 64}}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, err
	}
	program, args := "", []string(nil)
	switch name {
	case nameRunner:
		metrics, err := freeAddr()
		if err != nil {
			return nil, err
		}
		e.metrics = metrics
		program, args = b.runner, []string{"serve", "--socket", e.socket, "--data", e.data(), "--run", runnerRun, "--metrics-addr", metrics}
	case nameDocker:
		program, args = "dockerd", []string{"--host", "unix://" + e.socket, "--data-root", e.data(), "--log-level", "error"}
	case namePodman:
		program, args = namePodman, append(e.podman(), "system", "service", "--time", "0", "unix://"+e.socket)
	}
	var err error
	if e.proc, err = startProcess(e.dir, program, append(args, more...)...); err != nil {
		return nil, err
	}
	b.servers = append(b.servers, e.server)
	return e, e.proc.await(ctx, e.http, "http://"+name+"/_ping")
}

// runnerRun is where berth-runner has what runs.
const runnerRun = "/run/berth-runner"

// podman returns podman's options: data beside that of the others, and what it
// would leave to a systemd that the host does not have.
func (e *engine) podman() []string {
	return []string{"--root", e.data(), "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
}

// startEngines starts engines that have the image small.
func (b *bench) startEngines(ctx context.Context, names ...string) ([]*engine, error) {
	r, err := b.startImages(ctx)
	if err != nil {
		return nil, err
	}
	engines := make([]*engine, len(names))
	for i, name := range names {
		if engines[i], err = b.startEngine(ctx, name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if err := engines[i].pull(ctx, r.small()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return engines, nil
}

// command returns the command line of an engine: its own of podman, docker's of
// the others.
func (e *engine) command(ctx context.Context, args ...string) *exec.Cmd {
	if e.name == namePodman {
		return exec.CommandContext(ctx, namePodman, append(e.podman(), args...)...)
	}
	return dockerCommand(ctx, "unix://"+e.socket, args...)
}

// dockerCommand returns a docker command for an engine, without what the
// machine's users have configured.
func dockerCommand(ctx context.Context, host string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_CONFIG="+runDir, "DOCKER_CLI_HINTS=false")
	return cmd
}

// runQuietly runs a command and returns what it said if it fails.
func runQuietly(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// output returns a command's output, and what it said on both of its streams if
// it fails.
func output(cmd *exec.Cmd) (string, error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(cmd.Args, " "), err, out.String(), said.String())
	}
	return out.String(), nil
}

// apiVersion is what Docker 20.10 speaks.
const apiVersion = "/v1.41"

// call does a request of the API. Of in and out either may be nil: what is sent,
// and where the answer goes.
func (e *engine) call(ctx context.Context, method, path string, in, out any) error {
	body, err := e.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	return json.NewDecoder(body).Decode(out)
}

// open does a request of the API and returns the body of the answer.
func (e *engine) open(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var content io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+e.name+apiVersion+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp.Body, nil
	}
	text, err := io.ReadAll(resp.Body)
	return nil, errors.Join(fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text)), err, resp.Body.Close())
}
