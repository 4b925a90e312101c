package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/internal/netns"
)

// chore is something that a client does from its beginning to its end, after which
// nothing of it is there. Names of what it makes begin with name; of networks and
// volumes, steps is told.
type chore struct {
	name string
	do   func(ctx context.Context, b *builder, name string, steps *steps) error
}

// chores are one for each kind of thing that a runner keeps.
var chores = []chore{
	{"networks", inNetworks},
	{"volumes", withVolumes},
	{"health", untilHealthy},
	{"restarts", restarted},
	{"logs", logged},
	{"build", builds},
	{"buildx", buildsByCommand},
	{"stats", watched},
}

// image is how the image of a build is named in tests that have one client for each
// chore, and what else it makes.
func (c chore) image() string { return "chore-" + c.name }

// steps are what a chore asked for last of things without a process, and what was
// acknowledged.
type steps struct{ things map[string]*kept }

// kept is a network or a volume.
type kept struct {
	asked, done string // create or remove
	find        func(context.Context) error
}

func newSteps() *steps { return &steps{map[string]*kept{}} }

// make makes a thing, and end removes it.
func (s *steps) make(name string, find func(context.Context) error, do func() error) error {
	s.things[name] = &kept{asked: "create", find: find}
	err := do()
	if err == nil {
		s.things[name].done = "create"
	}
	return wrap(err, "create %s", name)
}

func (s *steps) end(name string, do func() error) error {
	s.things[name].asked = "remove"
	if err := do(); err != nil {
		return wrap(err, "remove %s", name)
	}
	delete(s.things, name) // another may have its name next
	return nil
}

// check says whether what was acknowledged is there.
func (s *steps) check(ctx context.Context) error {
	var errs []error
	for name, t := range s.things {
		if err := t.find(ctx); err != nil && (!errdefs.IsNotFound(err) || t.asked == "create" && t.done == "create") {
			errs = append(errs, wrap(err, "%s: asked for %s, acknowledged %q", name, t.asked, t.done))
		}
	}
	return errors.Join(errs...)
}

func (h *host) createNetwork(ctx context.Context, s *steps, name string) error {
	return s.make("network "+name, func(ctx context.Context) error {
		_, err := h.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
		return err
	}, func() error {
		_, err := h.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge"})
		return err
	})
}

func (h *host) removeNetwork(ctx context.Context, s *steps, name string) error {
	return s.end("network "+name, func() error {
		_, err := h.api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
		return err
	})
}

// inNetworks has two containers find each other in a network, of which one comes
// and goes.
func inNetworks(ctx context.Context, b *builder, name string, s *steps) error {
	one, two := name+"-n1", name+"-n2"
	if err := errors.Join(b.createNetwork(ctx, s, one), b.createNetwork(ctx, s, two)); err != nil {
		return err
	}
	var ids []string
	for _, c := range []struct{ name, network string }{{name + "-a", one}, {name + "-b", two}} {
		id, err := b.api.run(ctx, spec{c.name, b.image("busybox"), []string{"sleep", "1000"}, func(_ *container.Config, hc *container.HostConfig) {
			hc.NetworkMode = container.NetworkMode(c.network)
			hc.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{}}}
		}})
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	_, err := b.api.NetworkConnect(ctx, one, client.NetworkConnectOptions{Container: ids[1], EndpointConfig: &network.EndpointSettings{Aliases: []string{"other"}}})
	if err != nil {
		return wrap(err, "connect")
	}
	if out, code, err := b.api.exec(ctx, ids[0], "ping", "-c", "1", "-W", "5", "other"); err != nil || code != 0 {
		return fmt.Errorf("ping of another by name ends with %d: %s: %w", code, out, err)
	}
	if _, err := b.api.NetworkDisconnect(ctx, one, client.NetworkDisconnectOptions{Container: ids[1]}); err != nil {
		return wrap(err, "disconnect")
	}
	for _, id := range ids {
		if err := b.api.remove(ctx, id); err != nil {
			return err
		}
	}
	return errors.Join(b.removeNetwork(ctx, s, one), b.removeNetwork(ctx, s, two))
}

// withVolumes has one container write what another reads.
func withVolumes(ctx context.Context, b *builder, name string, s *steps) error {
	volume := name + "-v"
	err := s.make("volume "+volume, func(ctx context.Context) error {
		_, err := b.api.VolumeInspect(ctx, volume, client.VolumeInspectOptions{})
		return err
	}, func() error {
		_, err := b.api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: volume})
		return err
	})
	if err != nil {
		return err
	}
	for i, script := range []string{"echo kept >/data/f", `[ "$(cat /data/f)" = kept ]`} {
		err := b.host.ends(ctx, spec{fmt.Sprint(name, "-", i), b.image("busybox"), []string{"sh", "-c", script}, func(c *container.Config, hc *container.HostConfig) {
			hc.Binds = []string{volume + ":/data"}
			c.Volumes = map[string]struct{}{"/more": {}}
		}}, 0)
		if err != nil {
			return err
		}
	}
	return s.end("volume "+volume, func() error {
		_, err := b.api.VolumeRemove(ctx, volume, client.VolumeRemoveOptions{})
		return err
	})
}

// ends runs a container to its end, and removes it.
func (h *host) ends(ctx context.Context, s spec, want int64) error {
	id, err := h.api.run(ctx, s)
	if err != nil {
		return err
	}
	code, err := h.api.wait(ctx, id)
	if err == nil && code != want {
		err = fmt.Errorf("%s ends with %d, want %d", s.name, code, want)
	}
	if err != nil {
		return err
	}
	return h.api.remove(ctx, id)
}

// becomes waits until a container is as it is to be.
func (h *host) becomes(ctx context.Context, id, what string, is func(*container.State, int) bool) error {
	for {
		c, err := h.api.inspect(ctx, id)
		if err != nil || is(c.State, c.RestartCount) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not become %s: %w", c.Name, what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// untilHealthy has a container checked, also while it is removed, by a check that
// leaves a process behind.
func untilHealthy(ctx context.Context, b *builder, name string, _ *steps) error {
	id, err := b.api.run(ctx, spec{name, b.image("busybox"), []string{"sleep", "1000"}, func(c *container.Config, hc *container.HostConfig) {
		c.Healthcheck = &container.HealthConfig{Test: []string{"CMD-SHELL", "sleep 1000 & true"}, Interval: 50 * time.Millisecond}
		hc.Memory, hc.NanoCPUs = 64<<20, 1e9
	}})
	if err != nil {
		return err
	}
	err = b.becomes(ctx, id, "healthy", func(s *container.State, _ int) bool { return s.Health != nil && s.Health.Status == container.Healthy })
	if err != nil {
		return err
	}
	return b.api.remove(ctx, id)
}

// restarted has a container fail again and again, and removes another while it
// waits for its next start.
func restarted(ctx context.Context, b *builder, name string, _ *steps) error {
	for _, policy := range []container.RestartPolicy{{Name: "on-failure", MaximumRetryCount: 2}, {Name: "always"}} {
		id, err := b.api.run(ctx, spec{name, b.image("busybox"), []string{"false"}, func(_ *container.Config, hc *container.HostConfig) { hc.RestartPolicy = policy }})
		if err != nil {
			return err
		}
		err = b.becomes(ctx, id, "started again", func(s *container.State, n int) bool {
			return n >= 2 && (policy.Name == "always" || s.Status == container.StateExited)
		})
		if err != nil {
			return err
		}
		if err := b.api.remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// logged has containers write by drivers that need no server, and to one: what was
// not sent when a container is removed is kept for a while on purpose.
func logged(ctx context.Context, b *builder, name string, _ *steps) error {
	for _, l := range []container.LogConfig{
		{Type: "none"},
		{Type: "local"},
		{Type: "json-file", Config: map[string]string{"max-size": "1k", "max-file": "2"}},
		{Type: "syslog", Config: map[string]string{"syslog-address": "udp://127.0.0.1:514", "mode": "non-blocking"}},
	} {
		err := b.host.ends(ctx, spec{name, b.image("busybox"), []string{"sh", "-c", "seq 1000"}, func(_ *container.Config, hc *container.HostConfig) { hc.LogConfig = l }}, 0)
		if err != nil {
			return wrap(err, "with %s", l.Type)
		}
	}
	return nil
}

// takeLogs has a server of logs on the machine, which takes what logged sends.
func (h *host) takeLogs() {
	h.t.Helper()
	ns, err := os.Open(h.Machine.Path("proc", "1", "ns", "net"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer ns.Close()
	var server net.PacketConn
	if err := netns.Do(ns, func() (err error) {
		server, err = (&net.ListenConfig{}).ListenPacket(h.t.Context(), "udp", "127.0.0.1:514")
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = server.Close() })
	go func() {
		for buf := make([]byte, 64<<10); ; {
			if _, _, err := server.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
}

// watched reads the statistics, the events and the log of a container and goes away
// in between.
func watched(ctx context.Context, b *builder, name string, _ *steps) error {
	id, err := b.api.run(ctx, spec{name, b.image("busybox"), []string{"sh", "-c", "while :; do echo line; sleep 0.1; done"}, nil})
	if err != nil {
		return err
	}
	while, cancel := context.WithCancel(ctx)
	defer cancel()
	b.api.Events(while, client.EventsListOptions{})
	b.api.ContainerWait(while, id, client.ContainerWaitOptions{})
	stats, err := b.api.ContainerStats(while, id, client.ContainerStatsOptions{Stream: true})
	if err != nil {
		return wrap(err, "stats")
	}
	defer stats.Body.Close()
	logs, err := b.api.ContainerLogs(while, id, client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		return wrap(err, "logs")
	}
	defer logs.Close()
	if err := errors.Join(read(stats.Body), read(logs)); err != nil {
		return err
	}
	return b.api.remove(ctx, id)
}

func read(r io.Reader) error {
	_, err := r.Read(make([]byte, 1))
	return err
}

// buildFile is built with nothing of before, and of a stage nothing comes.
const buildFile = "FROM IMAGE AS base\nRUN cat /proc/sys/kernel/random/uuid >/uuid\nFROM IMAGE\nCOPY --from=base /uuid /\nRUN cp /uuid /again\n"

// builds has an image built by the request of a client without BuildKit.
func builds(ctx context.Context, b *builder, name string, _ *steps) error {
	file := strings.ReplaceAll(buildFile, "IMAGE", b.image("busybox"))
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(file))})
	if err == nil {
		_, err = w.Write([]byte(file))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	res, err := b.api.ImageBuild(ctx, &archive, client.ImageBuildOptions{Tags: []string{name}, NoCache: true, Remove: true})
	if err != nil {
		return wrap(err, "build")
	}
	defer res.Body.Close()
	var said bytes.Buffer
	if _, err := said.ReadFrom(res.Body); err != nil || !strings.Contains(said.String(), "Successfully tagged") {
		return fmt.Errorf("build says %s: %w", said.String(), err)
	}
	return b.api.removeImage(ctx, name)
}

// buildsByCommand has an image built by the docker command with buildx.
func buildsByCommand(ctx context.Context, b *builder, name string, _ *steps) error {
	file := strings.ReplaceAll(buildFile, "IMAGE", b.image("busybox"))
	said, errs, err := b.docker.Input(file).Try("buildx", "build", "--progress", "plain", "--no-cache", "-t", name, "-")
	if err != nil {
		return wrap(err, "buildx build says %s%s", said, errs)
	}
	return b.api.removeImage(ctx, name)
}

// clearBuilds removes the build cache.
func (e engine) clearBuilds(ctx context.Context) error {
	_, err := e.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: true})
	return wrap(err, "prune the build cache")
}
