package runner

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestReboot takes the power from a host: all processes, all of /run and all
// that the kernel knew are gone, and what is on the disk is whole.
func TestReboot(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	ctx, busybox := t.Context(), h.image("busybox")
	before := h.usedCensus()
	if _, err := h.api.pull(ctx, h.image("layers"), ""); err != nil {
		t.Fatal(err)
	}
	images := h.imageIDs()
	port := network.MustParsePort("80/tcp")
	for _, s := range []spec{
		{"running", busybox, []string{"sh", "-c", "[ -e /kept ] && echo again; echo first >/kept; echo started; exec httpd -f -p 80 -h /"}, func(c *container.Config, hc *container.HostConfig) {
			c.ExposedPorts, c.Volumes = network.PortSet{port: {}}, map[string]struct{}{"/data": {}}
			hc.PortBindings = network.PortMap{port: {{HostPort: "8080"}}}
		}},
		{"paused", busybox, []string{"sleep", "1000"}, nil},
		{"ended", busybox, []string{"sh", "-c", "echo last words; exit 7"}, nil},
		{"passing", busybox, []string{"sleep", "1000"}, func(_ *container.Config, hc *container.HostConfig) { hc.AutoRemove = true }},
	} {
		if _, err := h.api.run(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.api.create(ctx, spec{"created", busybox, []string{"true"}, nil}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.ContainerPause(ctx, "paused", client.ContainerPauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, err := h.api.wait(ctx, "ended"); err != nil || code != 7 {
		t.Fatalf("ended with %d: %v", code, err)
	}
	if err := eventually(func() error { return fetch(h.Machine, "http://127.0.0.1:8080/kept", "first\n") }); err != nil {
		t.Fatal(err)
	}

	h.reboot()

	for name, want := range map[string]container.ContainerState{"running": "exited", "paused": "exited", "ended": "exited", "created": "created"} {
		c, err := h.api.inspect(ctx, name)
		switch {
		case err != nil:
			t.Error(err)
		case c.State.Status != want || c.State.Pid != 0 || c.State.Running || c.State.Paused:
			t.Errorf("after the reboot, %s is %+v: want %s", name, c.State, want)
		case name == "ended" && c.State.ExitCode != 7 || name == "running" && c.State.ExitCode == 0:
			t.Errorf("after the reboot, %s has the exit code %d", name, c.State.ExitCode)
		case want == "exited" && !strings.HasPrefix(c.State.FinishedAt, "2"):
			t.Errorf("after the reboot, %s has ended at %s", name, c.State.FinishedAt)
		}
	}
	if _, err := h.api.inspect(ctx, "passing"); !errdefs.IsNotFound(err) {
		t.Errorf("a container that was to be removed at its end: %v", err)
	}
	if got := h.imageIDs(); got != images {
		t.Errorf("images were\n%sand are\n%s", images, got)
	}
	if got, err := h.api.logs(ctx, "ended"); err != nil || got != "last words\n" {
		t.Errorf("the log of before is %q: %v", got, err)
	}
	h.startsAgain(before)
}

// startsAgain starts what ran before the reboot, and removes everything.
func (h *host) startsAgain(before berthtest.Census) {
	t, ctx := h.t, h.t.Context()
	t.Helper()
	for _, name := range []string{"running", "paused", "created"} {
		if err := h.api.start(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := eventually(func() error { return fetch(h.Machine, "http://127.0.0.1:8080/kept", "first\n") }); err != nil {
		t.Errorf("the writable layer: %v", err)
	}
	if got, err := h.api.logs(ctx, "running"); err != nil || got != "started\nagain\nstarted\n" {
		t.Errorf("the log of both runs is %q: %v", got, err)
	}
	if got := h.docker.Run("run", "--rm", h.image("layers"), "cat", "/data/added", "/data/kept"); got != "three\none\n" {
		t.Errorf("the image's files are %q", got)
	}
	for _, name := range []string{"running", "paused", "ended", "created"} {
		if err := h.api.remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := h.api.removeImage(ctx, h.image("layers")); err != nil {
		t.Error(err)
	}
	h.Settle(t, before)
}

// reboot reboots the host with registry and runner.
func (h *host) reboot() {
	h.t.Helper()
	h.Machine.Reboot()
	h.registry.Restart()
	h.Restart()
	h.docker = h.Docker(h.t)
}

// imageIDs lists the images by their IDs, names and digests.
func (h *host) imageIDs() string {
	h.t.Helper()
	return h.docker.Run("images", "--no-trunc", "--digests", "--format", "{{.ID}} {{.Repository}}:{{.Tag}} {{.Digest}}")
}
